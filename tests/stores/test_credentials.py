"""Credentials are the environment's: none of them is in what a job prints, writes or sends to its workers, and who may
not do a thing is told which."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from apache_beam.internal import cloudpickle_pickler

import transforms.encode
from jobs import embed
from tests.fakes import FakeEncoder
from tests.faults import harness
from tests.servers import azurite
from tests.servers.faulty_proxy import FaultyProxy
from tests.servers.store import Store, environment
from tests.stores.datasets import files, upload

SECRETS = {
    "AWS_ACCESS_KEY_ID": "AKIACANARYCANARY0001",
    "AWS_SECRET_ACCESS_KEY": "canary/secret+key=0002",
    "AWS_SESSION_TOKEN": "canary-session-token-0003",
    "HF_TOKEN": "hf_canarycanary0004",
    "AZURE_CLIENT_SECRET": "canary~client~secret~0005",
}
CANARY = re.compile(rb"canary", re.IGNORECASE)


@pytest.fixture(autouse=True)
def secrets(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(transforms.encode, "Encoder", FakeEncoder)
    with environment(SECRETS):
        yield


@pytest.fixture
def pickled(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """All that Beam pickles from here on, as it is before Beam compresses it."""
    found: list[bytes] = []
    real = cloudpickle_pickler._dumps

    def dumps(*args: object, **options: object) -> bytes:
        found.append(real(*args, **options))
        return found[-1]

    monkeypatch.setattr(cloudpickle_pickler, "_dumps", dumps)
    return found


@contextlib.contextmanager
def reached(store: Store, **other: str) -> Iterator[str]:
    """A bucket of the store, by the canaries where the store lets anyone in."""
    with environment(store.environment | SECRETS | other):
        yield store.bucket()


def test_no_secret_is_in_what_a_job_prints_writes_or_pickles(
    s3_server: Store, tmp_path: Path, pickled: list[bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    harness.write_corpus(tmp_path / "in", files=2)
    with reached(s3_server) as bucket:
        upload(tmp_path / "in", f"{bucket}/in")
        argv = harness.arguments(f"{bucket}/in", f"{bucket}/out", "--json")
        assert embed.main(argv) == 0
        printed = capsys.readouterr()
        written = files(f"{bucket}/out")
    assert len(pickled) > 10
    assert len(written) > 5
    for text in (printed.out.encode(), printed.err.encode(), *written, *written.values(), *pickled):
        assert not CANARY.search(text if isinstance(text, bytes) else text.encode())


@pytest.mark.parametrize(
    "uri",
    [
        "s3://canary-key:canary-secret@bucket/in",
        "https://user:canary@example.com/a.txt",
        "https://bucket.s3.amazonaws.com/a.txt?X-Amz-Credential=canary&X-Amz-Signature=canary",
        "https://account.blob.core.windows.net/c/a.txt?sv=2024-01-01&sig=canary%2Bcanary",
        "gs://bucket/in?access_token=canary",
        "https://example.com::s3://canary:canary@bucket/in",
    ],
)
@pytest.mark.parametrize("flag", ["--input", "--output"])
def test_credentials_in_a_uri_are_refused_and_not_repeated(
    uri: str, flag: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.txt").write_text("text\n")
    flags = {"--input": str(tmp_path / "a.txt"), "--output": str(tmp_path / "out")} | {flag: uri}
    assert embed.main([word for pair in flags.items() for word in pair] + ["--allow_http", "--device", "cpu"]) == 2
    printed = capsys.readouterr()
    assert not CANARY.search((printed.out + printed.err).encode())
    assert "Traceback" not in printed.err


@pytest.mark.parametrize(
    ("methods", "match", "says"),
    [
        ("GET", "list-type=2", ("s3:ListBucket", "list")),
        ("GET", "/in/shard-1", ("s3:GetObject", "read")),
        ("PUT", "/out/part-", ("s3:PutObject", "write")),
        ("PUT", "/out/.probe", ("s3:PutObject", "write")),
    ],
)
def test_who_may_not_is_told_the_bucket_and_the_permission(
    s3_server: Store,
    tmp_path: Path,
    methods: str,
    match: str,
    says: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
) -> None:
    harness.write_corpus(tmp_path / "in", files=2)
    with FaultyProxy(s3_server.url) as proxy, reached(s3_server, AWS_ENDPOINT_URL=proxy.url) as bucket:
        upload(tmp_path / "in", f"{bucket}/in")
        fault = proxy.fail("403", methods, match, range(1, 10_000))
        assert embed.main(harness.arguments(f"{bucket}/in", f"{bucket}/out")) in (1, 2)
        fault.numbers = ()
        written = files(bucket)
    assert fault.met < 5, "a refusal is not asked again"
    printed = capsys.readouterr()
    for word in (bucket, *says):
        assert word in printed.err
    for text in (printed.out.encode(), printed.err.encode(), *written.values()):
        assert not CANARY.search(text)
    assert "Traceback" not in printed.err


def test_a_wrong_key_of_azure_is_one_clear_line(
    az_server: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = "Y2FuYXJ5Y2FuYXJ5Y2FuYXJ5Y2FuYXJ5"
    connection = az_server.environment["AZURE_STORAGE_CONNECTION_STRING"].replace(azurite.KEY, wrong)
    with reached(az_server, AZURE_STORAGE_CONNECTION_STRING=connection) as bucket:
        assert embed.main(["--input", f"{bucket}/in", "--output", str(tmp_path / "out"), "--device", "cpu"]) == 2
    printed = capsys.readouterr()
    assert bucket in printed.err and "Traceback" not in printed.err
    assert wrong not in printed.err and azurite.KEY not in printed.err
    assert not (tmp_path / "out").exists()
