"""http(s) is read on request only, and never from where only this machine's network leads, whatever way leads there."""

import socket
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest

from schemas import http_store, storage
from schemas.errors import InputError, RunFailed
from schemas.splits import FileInfo
from tests.servers.web import Handler, WebServer


@pytest.fixture(autouse=True)
def nothing_permitted() -> Iterator[None]:
    storage.forget_stores()
    storage.permit_http(storage.NO_HTTP)
    yield
    storage.permit_http(storage.NO_HTTP)
    storage.forget_stores()


@pytest.fixture
def web() -> Iterator[WebServer]:
    with WebServer() as server:
        server.files["/a.txt"] = bytes(range(256)) * 4096
        yield server


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.8.9.1", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254"),
        *(
            "100.64.0.1",
            "100.100.100.200",
            "168.63.129.16",
            "192.0.0.192",
            "224.0.0.1",
            "255.255.255.255",
            "198.18.0.1",
        ),
        *("::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "ff02::1", "2001:db8::1"),
        *("64:ff9b:1::1", "64:ff9b:1:7f00:0:100::", "fec0::1", "::7f00:1", "::ffff:0:7f00:1", "3fff::1", "5f00::1"),
        *("::ffff:127.0.0.1", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "2002:a9fe:a9fe::1"),
    ],
)
def test_addresses_that_lead_nowhere_public(address: str) -> None:
    assert not http_store.is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "93.184.215.14", "2606:2800:21f::1", "::ffff:8.8.8.8"])
def test_addresses_that_are_public(address: str) -> None:
    assert http_store.is_public(address)


def test_http_is_read_on_request_only(web: WebServer) -> None:
    with pytest.raises(InputError, match="only with --allow_http"):
        storage.find(f"{web.url}/a.txt")
    assert web.requests == []


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "127.1", "2130706433", "0x7f000001", "0x7f.1", "0177.1", "[::ffff:127.0.0.1]"],
)
def test_no_spelling_of_a_local_address_is_read(web: WebServer, host: str) -> None:
    storage.permit_http(storage.PUBLIC_HTTP)
    url = f"http://{host}:{web.url.rsplit(':', 1)[1]}/a.txt"
    with pytest.raises((InputError, RunFailed), match=r"--allow_private_http|not a canonical"):
        storage.find(url)
    assert web.requests == []


def test_a_name_that_leads_to_a_local_address_is_refused(web: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each time that it is looked up: an attacker's name server may give a public address first."""
    storage.permit_http(storage.PUBLIC_HTTP)
    real = socket.getaddrinfo

    def rebound(host: Any, *args: Any, **options: Any) -> Any:
        return real("127.0.0.1" if host == "public.example" else host, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", rebound)
    with pytest.raises(InputError, match="--allow_private_http"):
        storage.find(f"http://public.example:{web.url.rsplit(':', 1)[1]}/a.txt")
    assert web.requests == []


def test_a_redirect_to_a_local_address_is_refused(web: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.permit_http(storage.PUBLIC_HTTP)
    monkeypatch.setattr(http_store, "is_public", lambda address: address == "127.0.0.1")
    with WebServer() as hidden:
        hidden.files["/secret"] = b"secret"
        web.redirects["/a"] = hidden.url.replace("127.0.0.1", "127.0.0.2") + "/secret"
        with pytest.raises(InputError, match=r"127\.0\.0\.2 is a private"):
            storage.find(f"{web.url}/a")
        assert len(web.requests) == 1 and hidden.requests == []


def test_a_file_is_read_by_ranges(web: WebServer) -> None:
    storage.permit_http(storage.ANY_HTTP)
    (file,) = storage.find(f"{web.url}/a.txt")
    assert file.size == 1 << 20
    with storage.open_read(file, 300, 310) as opened:
        assert opened.read(10) == web.files["/a.txt"][300:310]
    assert sum(int(request.rsplit(" ", 1)[1]) for request in web.requests) < 100_000
    assert storage.is_unchanged(file)
    web.files["/a.txt"] = b"other"
    assert not storage.is_unchanged(file)


@pytest.mark.parametrize("content", [b"", b"x", b"two\nlines\n"])
def test_small_files_are_read_whole(web: WebServer, content: bytes) -> None:
    storage.permit_http(storage.ANY_HTTP)
    web.files["/b"] = content
    (file,) = storage.find(f"{web.url}/b")
    with storage.open_read(file) as opened:
        assert opened.read() == content


def test_a_question_mark_is_no_wildcard_and_a_missing_file_is_missing(web: WebServer) -> None:
    storage.permit_http(storage.ANY_HTTP)
    assert [f.size for f in storage.find(f"{web.url}/a.txt?download=1")] == [1 << 20]
    assert storage.find(f"{web.url}/none") == []
    assert storage.stat(f"{web.url}/none") is None


def test_nothing_is_written_by_http(web: WebServer) -> None:
    storage.permit_http(storage.ANY_HTTP)
    for verb in (storage.create, storage.replace):
        with pytest.raises(RunFailed, match="only read"):
            verb(f"{web.url}/new", b"x")
    assert web.requests == []


def test_a_connection_that_a_laxer_rule_allowed_is_not_used_under_a_stricter(web: WebServer) -> None:
    storage.permit_http(storage.ANY_HTTP)
    (file,) = storage.find(f"{web.url}/a.txt")
    asked = len(web.requests)
    for rule in (storage.PUBLIC_HTTP, storage.ANY_HTTP, storage.PUBLIC_HTTP):
        storage.permit_http(rule)
        with storage.open_read(file, 5, 10) as opened:
            if rule == storage.ANY_HTTP:
                assert opened.read(5) == web.files["/a.txt"][5:10]
                asked = len(web.requests)
            else:
                with pytest.raises(RunFailed, match="--allow_private_http"):
                    opened.read(5)
                assert len(web.requests) == asked


class _Odd(Handler):
    """A server that says of versions what `tags` has: when it is looked at, and when it is read."""

    tags: ClassVar[list[dict[str, str]]] = []

    def _answer(self, status: int, headers: dict[str, str], content: bytes) -> None:
        kept = {name: value for name, value in headers.items() if name != "ETag"}
        super()._answer(status, kept | self.tags[0 if self.headers.get("Range") == "bytes=0-0" else -1], content)


@pytest.fixture
def odd() -> Iterator[WebServer]:
    storage.permit_http(storage.ANY_HTTP)
    with WebServer(_Odd) as server:
        server.files["/a.txt"] = b"0123456789" * 100
        yield server


def read(file: FileInfo) -> bytes:
    with storage.open_read(file, 10, 20) as opened:
        return opened.read(10)


def test_a_file_of_which_no_change_could_be_seen_is_refused(odd: WebServer) -> None:
    """Of a server that says nothing of versions, what changed in the middle came as it was, half old and half new."""
    _Odd.tags = [{}]
    with pytest.raises(InputError, match=r"neither ETag nor Last-Modified.*download it"):
        storage.find(f"{odd.url}/a.txt")
    odd.files["/empty.txt"] = b""
    assert [file.size for file in storage.find(f"{odd.url}/empty.txt")] == [0]


@pytest.mark.parametrize(
    "tags",
    [
        [{"ETag": '"x"'}, {"ETag": 'W/"x"'}],
        [{"ETag": 'W/"x"'}, {"ETag": '"x"'}],
        [{"Last-Modified": "Wed, 21 Oct 2015 07:28:00 GMT"}],
    ],
)
def test_a_tag_that_became_weak_on_its_way_is_the_same(odd: WebServer, tags: list[dict[str, str]]) -> None:
    _Odd.tags = tags
    (file,) = storage.find(f"{odd.url}/a.txt")
    assert read(file) == b"0123456789"
    assert storage.is_unchanged(file)


@pytest.mark.parametrize(
    "tags",
    [
        [{"ETag": '"x"'}, {"ETag": '"y"'}],
        [{"ETag": '"x"'}, {}],
        [{"Last-Modified": "Wed, 21 Oct 2015 07:28:00 GMT"}, {"Last-Modified": "Wed, 21 Oct 2015 07:28:01 GMT"}],
    ],
)
def test_a_read_of_another_version_of_the_same_size_fails(odd: WebServer, tags: list[dict[str, str]]) -> None:
    _Odd.tags = tags
    (file,) = storage.find(f"{odd.url}/a.txt")
    with pytest.raises(RunFailed, match="changed while it was read"):
        read(file)
