"""Web servers are read on request only, and never from an address that leads inside, whatever name leads there."""

import gzip
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import transforms.encode
from jobs import embed
from schemas import http_store, storage
from tests.benchmarks.corpus import sentences
from tests.fakes import FakeEncoder
from tests.servers.web import WebServer
from tests.stores.datasets import published

ALLOWED = ("--allow_http", "--allow_private_http")


@pytest.fixture(autouse=True)
def no_other_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A refusal that fails must not reach anyone."""
    monkeypatch.setattr(transforms.encode, "Encoder", FakeEncoder)
    real = socket.socket.connect

    def connect(self: socket.socket, address: Any) -> None:
        assert self.family == socket.AF_UNIX or address[0].startswith("127.") or address[0] == "::1", address
        real(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect)
    level = storage.permitted_http()
    yield
    storage.permit_http(level)
    storage.forget_stores()


@pytest.fixture
def web() -> Iterator[WebServer]:
    with WebServer() as web:
        yield web


def test_files_of_a_web_server_make_the_local_dataset(web: WebServer, tmp_path: Path) -> None:
    texts = sentences(400)
    web.files["/shards/a.jsonl.gz"] = gzip.compress("\n".join(json.dumps({"text": t}) for t in texts[:200]).encode())
    web.files["/shards/b%20b.txt"] = "\n".join(texts[200:]).encode()
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "a.jsonl.gz").write_bytes(web.files["/shards/a.jsonl.gz"])
    (tmp_path / "shards" / "b%20b.txt").write_bytes(web.files["/shards/b%20b.txt"])
    for out, inputs, flags in (
        ("local", [f"{tmp_path}/shards/{name}" for name in ("a.jsonl.gz", "b%20b.txt")], ()),
        ("web", [f"{web.url}/shards/{name}" for name in ("a.jsonl.gz", "b%20b.txt")], ALLOWED),
    ):
        small = ("--split_bytes", "5000", "--device", "cpu")
        assert embed.main(["--input", *inputs, "--output", str(tmp_path / out), *small, *flags]) == 0
    assert published(str(tmp_path / "web")) == published(str(tmp_path / "local"))


@pytest.mark.parametrize(
    ("flags", "says"), [((), "--allow_http"), (("--allow_http",), "--allow_private_http")], ids=["none", "public"]
)
def test_http_is_refused_unless_it_is_asked_for(
    web: WebServer, tmp_path: Path, flags: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    web.files["/a.txt"] = b"text\n"
    assert embed.main(["--input", f"{web.url}/a.txt", "--output", str(tmp_path / "out"), *flags]) == 2
    assert says in capsys.readouterr().err
    assert web.requests == []


@pytest.mark.parametrize(
    "host",
    [
        *("localhost", "127.0.0.1", "127.1", "2130706433", "0x7f000001", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0"),
        *("10.0.0.1", "192.168.1.1", "172.16.0.1", "169.254.169.254", "[fe80::1]", "[fd00::1]", "100.100.100.200"),
    ],
)
def test_addresses_that_lead_inside_are_refused_in_any_spelling(
    web: WebServer, tmp_path: Path, host: str, capsys: pytest.CaptureFixture[str]
) -> None:
    web.files["/a.txt"] = b"text\n"
    url = f"http://{host}:{web.url.rsplit(':', 1)[1]}/a.txt"
    assert embed.main(["--input", url, "--output", str(tmp_path / "out"), "--allow_http"]) == 2
    error = capsys.readouterr().err
    assert host.strip("[]") in error and "Traceback" not in error
    assert web.requests == []


def test_a_redirect_to_an_address_that_leads_inside_is_refused(
    web: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """127.0.0.1 plays a public server here, and 127.0.0.2 is what it redirects to."""
    real = http_store.is_public
    monkeypatch.setattr(http_store, "is_public", lambda address: address == "127.0.0.1" or real(address))
    web.files["/a.txt"] = b"text\n"
    web.redirects["/to-itself.txt"] = f"{web.url}/a.txt"
    web.redirects["/inside.txt"] = web.url.replace("127.0.0.1", "127.0.0.2") + "/a.txt"
    flags = ("--device", "cpu", "--allow_http")
    assert embed.main(["--input", f"{web.url}/to-itself.txt", "--output", str(tmp_path / "good"), *flags]) == 0
    assert embed.main(["--input", f"{web.url}/inside.txt", "--output", str(tmp_path / "bad"), *flags]) == 2
    assert "127.0.0.2" in capsys.readouterr().err
    assert not (tmp_path / "bad").exists()
