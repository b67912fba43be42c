"""No secret survives in a text that leaves the process, and none is taken from a URI."""

from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import storage
from schemas.blanking import blanked, refuse_credentials
from schemas.errors import InputError

SECRET_VARIABLES = (
    *("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_CONNECTION_STRING"),
    *("AZURE_STORAGE_SAS_TOKEN", "AZURE_STORAGE_CLIENT_SECRET", "AZURE_CLIENT_SECRET", "HF_TOKEN"),
    *("HUGGING_FACE_HUB_TOKEN", "FSSPEC_S3_SECRET", "FSSPEC_ABFS_ACCOUNT_KEY", "DB_PASSWORD", "SOME_API_KEY"),
)
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
SECRETS = st.text(LETTERS + "0123456789+/-_.~%", min_size=10, max_size=40).filter(
    lambda text: any(c.isdigit() for c in text) and any(c.isalpha() for c in text)
)
CARRIERS = [
    "s3://key:{}@bucket/a.txt",
    "https://user:{}@host.example/a.txt",
    "https://{}:pass@host.example/a.txt?x=1",
    "https://host.example/a.txt?X-Amz-Signature={}&X-Amz-Date=20260101",
    "https://host.example/a.txt?sv=2024&sig={}",
    "https://host.example/a.txt?unheard_of={}",
    "az://container/a.txt?sp=r&sig={}",
    "gs://bucket/a.txt?x-goog-signature={}",
    "AccountName=me;AccountKey={};EndpointSuffix=core.windows.net",
    "Authorization: Bearer {}",
    "aws_secret_access_key={}",
    "aws_session_token = '{}'",
    '{{"private_key": "{}", "type": "service_account"}}',
    '{{"refresh_token":"{}"}}',
    "password={}",
    "ConnectionError: https://host.example/b/c?token={} refused (GET)",
]
WORDS = ["", "cannot read ", "\n  File 'x.py', line 1\n", "503 Slow Down: "]


@settings(deadline=None, max_examples=300)
@given(secret=SECRETS, carrier=st.sampled_from(CARRIERS), before=st.sampled_from(WORDS), after=st.sampled_from(WORDS))
def test_no_secret_survives(secret: str, carrier: str, before: str, after: str) -> None:
    text = blanked(before + carrier.format(secret) + " " + after)
    assert secret not in text
    assert blanked(text) == text


@settings(deadline=None)
@given(secret=SECRETS, name=st.sampled_from(SECRET_VARIABLES), before=st.text(max_size=5), after=st.text(max_size=5))
def test_the_environments_own_secrets_are_blanked_wherever_they_stand(
    secret: str, name: str, before: str, after: str
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(name, secret)
        assert secret not in blanked(before + secret + after)
        for encoded in (quote(secret), quote(secret, safe=""), quote_plus(secret)):
            assert encoded not in blanked(before + encoded + after)
            small = encoded.replace("%2B", "%2b")
            assert small not in blanked(before + small + after)


def test_secrets_in_the_json_of_a_variable_are_blanked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FSSPEC_S3", '{"endpoint_url": "http://store.example", "secret": "hunter2+hunter2"}')
    assert blanked("http://store.example said hunter2+hunter2 or hunter2%2Bhunter2") == (
        "http://store.example said *** or ***"
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GOOGLE_APPLICATION_CREDENTIALS", "/etc/key.json"),
        ("AWS_SHARED_CREDENTIALS_FILE", "/etc/aws.ini"),
        ("AWS_WEB_IDENTITY_TOKEN_FILE", "/var/run/token"),
        ("TOKENIZERS_PARALLELISM", "parallel"),
        ("HF_ENDPOINT", "http://hub.example"),
    ],
)
def test_variables_that_hold_no_secret_are_not_blanked(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    assert blanked(f"{value}: no such file") == f"{value}: no such file"


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/folder/a?.txt",
        "gs://bucket/a=b/c.txt",
        "abfs://container@account.dfs.core.windows.net/a.txt",
        "/data/a.txt: cannot be written: No space left on device; make room or mend it and run again",
        "a pair of tokens: 12 tokens/s, key words",
        "https://host.example/a.txt",
        "--id_column key: a.jsonl has no such column, but token, secret, password",
        "http://127.0.0.1:8080/a.txt",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert blanked(text) == text


@pytest.mark.parametrize(
    "uri",
    [
        "s3://key:hunter2@bucket/a.txt",
        "s3://key:hunter2/x@bucket/a.txt",
        "s3://hunter2@bucket/a.txt",
        "gs://user:hunter2@bucket/a.txt",
        "az://container/a.txt?sv=1&sig=hunter2",
        "az://:hunter2@container/a.txt",
        "https://user:hunter2@host.example/a.txt",
        "https://host.example/a.txt?X-Amz-Credential=hunter2&X-Amz-Signature=hunter2",
        "https://host.example/a.txt?AWSAccessKeyId=hunter2&Signature=hunter2&Expires=1",
        "https://host.example/a.txt?GoogleAccessId=me&Signature=hunter2",
        "https://host.example/a.txt?access_token=hunter2",
        "ftp://user:hunter2@host.example/a.txt",
        "s3://a:hunter2@b::file://c",
        *(
            f"https://host.example/a.txt?{name}=hunter2"
            for name in ("jwt", "pass", "code", "session", "sessionid", "id_token", "Ticket")
        ),
        "https://host.example/a.txt;token=hunter2",
        "https://host.example/a;jwt=hunter2/b.txt",
        "https://host.example/a.txt#access_token=hunter2",
    ],
)
def test_a_uri_that_carries_credentials_is_refused_without_repeating_them(uri: str) -> None:
    with pytest.raises(InputError) as refused:
        storage.resolve(uri)
    assert "hunter2" not in str(refused.value)
    assert "carries credentials" in str(refused.value) or uri.startswith("ftp:") or "::" in uri


@pytest.mark.parametrize(
    "uri", ["s3://bucket/key=5/session=a/b.txt", "gs://bucket/a&token=b.txt", "s3://bucket/a;b/code=1.txt"]
)
def test_folders_that_are_called_like_secrets_are_no_secrets(uri: str) -> None:
    refuse_credentials(uri)
