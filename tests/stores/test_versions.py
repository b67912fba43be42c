"""What is read is what was listed: of its version, of its place, and as it is stored; whatever lies between."""

import datetime
import gzip
import io
import json
import os
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote_plus

import boto3
import pytest
from azure.storage.blob import (
    AccountSasPermissions,
    BlobClient,
    ContentSettings,
    ResourceTypes,
    generate_account_sas,
)

import transforms.encode
from jobs import embed
from schemas import storage, store_faults
from schemas.dataset import open_dataset
from schemas.errors import RunFailed
from schemas.splits import FileInfo
from tests.fakes import FakeEncoder
from tests.servers import azurite
from tests.servers.faulty_proxy import FaultyProxy
from tests.servers.hub import Hub
from tests.servers.store import Store, environment
from tests.servers.web import WebServer

MEGABYTE = 1 << 20
Put = Callable[[str, bytes], None]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_faults, "PAUSE_SECONDS", 0.01)


@pytest.fixture(params=["s3", "gs", "az", "http", "hf"])
def remote(request: pytest.FixtureRequest) -> Iterator[tuple[FaultyProxy, str, Put]]:
    """Each store that is read by ranges, through a proxy: `(proxy, URI of a file, put)`."""
    if request.param == "http":
        with WebServer() as web, FaultyProxy(web.url) as proxy:
            storage.permit_http(storage.ANY_HTTP)
            yield proxy, f"{proxy.url}/a.bin", lambda _, data: web.files.update({"/a.bin": data})
            storage.permit_http(storage.NO_HTTP)
    elif request.param == "hf":
        with Hub("owner/corpus") as hub, FaultyProxy(hub.url) as proxy, environment({"HF_ENDPOINT": proxy.url}):
            yield proxy, "hf://datasets/owner/corpus/a.bin", lambda _, data: hub.put("a.bin", data)
    else:
        bucket, server = request.getfixturevalue(request.param), request.getfixturevalue(f"{request.param}_server")
        with FaultyProxy(server.url) as proxy, environment(server.through(proxy.url) | unsigned(server, proxy.url)):
            yield proxy, f"{bucket}/a.bin", server.put
    storage.forget_stores()


def unsigned(server: Store, url: str) -> dict[str, str]:
    """Azure's key signs each header, which a proxy could not drop then; who has a token instead signs none."""
    if server.scheme != "az":
        return {}
    hour = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=1)
    permission, types = AccountSasPermissions(read=True, list=True), ResourceTypes(object=True, container=True)
    token = generate_account_sas(azurite.ACCOUNT, azurite.KEY, types, permission, hour)
    endpoint = f"BlobEndpoint={url}/{azurite.ACCOUNT}"
    return {"AZURE_STORAGE_CONNECTION_STRING": f"{endpoint};SharedAccessSignature={token}"}


def test_bytes_of_a_newer_version_are_not_taken_for_the_listed_one(remote: tuple[FaultyProxy, str, Put]) -> None:
    """Of the same size, through a proxy that drops the condition: 262,143 old bytes and then new ones came of S3."""
    proxy, uri, put = remote
    put(uri, b"1" * MEGABYTE)
    (file,) = storage.find(uri)
    proxy.dropped = {"if-match", "if-none-match", "if-range"}
    with storage.open_read(file) as opened:
        assert opened.raw.read(262_143) == b"1" * 262_143  # type: ignore[attr-defined]
        put(uri, b"2" * MEGABYTE)
        try:
            rest = opened.raw.read() + opened.read()  # type: ignore[attr-defined]
        except RunFailed as error:
            assert "changed while it was read" in str(error)
        else:
            assert rest.strip(b"1") == b"" or not storage.is_unchanged(file)
    with pytest.raises(RunFailed, match="changed while it was read"):
        read_and_check(file, 300_000, 300_010)
    (now,) = storage.find(uri)
    assert read_and_check(now, 300_000, 300_010) == b"2" * 10


def read_and_check(file: FileInfo, start: int, stop: int) -> bytes:
    """As a split is read: what came counts once the file is found unchanged."""
    with storage.open_random(file) as opened:
        opened.seek(start)
        data = opened.read(stop - start)
    if not storage.is_unchanged(file):
        raise RunFailed("changed while it was read")
    return data


def test_bytes_of_another_place_are_asked_for_again(remote: tuple[FaultyProxy, str, Put]) -> None:
    proxy, uri, put = remote
    content = os.urandom(2 * MEGABYTE)
    put(uri, content)
    (file,) = storage.find(uri)
    fault = proxy.fail("shifted", "GET", "a.bin", numbers=(1, 2, 3))
    for start in (0, 5, MEGABYTE):
        assert read_and_check(file, start, start + 1000) == content[start : start + 1000]
    assert fault.met == 3


@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_a_store_that_does_not_say_what_it_sent_is_not_believed(scheme: str, request: pytest.FixtureRequest) -> None:
    bucket, server = request.getfixturevalue(scheme), request.getfixturevalue(f"{scheme}_server")
    server.put(f"{bucket}/a.bin", b"123")
    with FaultyProxy(server.url) as proxy, environment(server.through(proxy.url)):
        (file,) = storage.find(f"{bucket}/a.bin")
        proxy.dropped = {"if-match", "etag", "x-goog-generation"}
        with pytest.raises(RunFailed, match="does not say which version"):
            read_and_check(file, 0, 3)


def put_encoded(server: Store, uri: str, data: bytes) -> None:
    """An object that says of itself `Content-Encoding: gzip`."""
    bucket, _, key = uri.removeprefix(f"{server.scheme}://").partition("/")
    if server.scheme == "s3":
        keys = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing", "region_name": "us-east-1"}
        client = boto3.client("s3", endpoint_url=server.url, **keys)
        client.put_object(Bucket=bucket, Key=key, Body=data, ContentEncoding="gzip")
    elif server.scheme == "az":
        with BlobClient.from_connection_string(
            server.environment["AZURE_STORAGE_CONNECTION_STRING"], bucket, key
        ) as blob:
            blob.upload_blob(data, content_settings=ContentSettings(content_encoding="gzip"))
    else:
        about = json.dumps({"name": key, "contentEncoding": "gzip", "contentType": "text/plain"}).encode()
        body = b"--x\r\nContent-Type: application/json\r\n\r\n" + about + b"\r\n--x\r\nContent-Type: text/plain\r\n\r\n"
        where = f"{server.url}/upload/storage/v1/b/{quote_plus(bucket)}/o?uploadType=multipart"
        headers = {"Content-Type": 'multipart/related; boundary="x"'}
        with urllib.request.urlopen(urllib.request.Request(where, body + data + b"\r\n--x--", headers)):
            pass


@pytest.mark.parametrize("scheme", ["s3", "gs", "az"])
def test_an_object_that_is_stored_in_gzip_is_read_as_it_is_stored(
    scheme: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clients undo a Content-Encoding by themselves, and what comes is longer than what was listed."""
    monkeypatch.setattr(transforms.encode, "Encoder", FakeEncoder)
    bucket, server = request.getfixturevalue(scheme), request.getfixturevalue(f"{scheme}_server")
    rows = [json.dumps({"text": f"text {number} {os.urandom(9).hex()}"}) + "\n" for number in range(9000)]
    content = "".join(rows).encode()
    stored = gzip.compress(content, mtime=0)
    put_encoded(server, f"{bucket}/in/a.jsonl.gz", stored)
    (file,) = storage.find(f"{bucket}/in")
    assert file.size == len(stored)
    assert storage.read_bytes(file.uri) == stored
    with storage.open_read(file, 1000, 2000) as opened:
        assert opened.read(1000) == stored[1000:2000]
    with storage.open_random(file) as opened:
        assert gzip.GzipFile(fileobj=io.BytesIO(opened.read())).read() == content
    out = str(tmp_path / "out")
    assert embed.main(["--input", f"{bucket}/in", "--output", out, "--device", "cpu"]) == 0
    texts = open_dataset(out).read(["text"])["text"].to_pylist()
    assert texts == [json.loads(line)["text"] for line in content.splitlines()]
