"""No secret survives in a text that leaves the process, and none is taken from a URI."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import storage
from schemas.blanking import SECRET_VARIABLES, blanked
from schemas.errors import InputError

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
    ],
)
def test_a_uri_that_carries_credentials_is_refused_without_repeating_them(uri: str) -> None:
    with pytest.raises(InputError) as refused:
        storage.resolve(uri)
    assert "hunter2" not in str(refused.value)
