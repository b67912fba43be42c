"""Listings of object stores: as long as their pages take, of names as they are; and what consoles leave in them."""

from collections.abc import Callable, Iterator

import pytest

from schemas import object_store, storage, store_faults
from schemas.errors import InputError, RunFailed
from tests.servers.faulty_proxy import FaultyProxy
from tests.servers.store import Store, environment

Put = Callable[[str, bytes], None]
LISTINGS = {"s3": "list-type=2", "gs": "/o?", "az": "comp=list"}
PAGE_SECONDS, LIMIT_SECONDS = 0.4, 1.0


@pytest.fixture(params=["s3", "gs", "az"])
def store(request: pytest.FixtureRequest) -> Store:
    return request.getfixturevalue(f"{request.param}_server")


@pytest.fixture
def bucket(store: Store) -> Iterator[str]:
    with environment(store.environment):
        yield store.bucket()


@pytest.fixture
def proxy(store: Store, bucket: str) -> Iterator[FaultyProxy]:
    with FaultyProxy(store.url) as proxy, environment(store.through(proxy.url)):
        yield proxy


def test_a_listing_has_time_for_each_of_its_pages(
    store: Store, bucket: str, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """200,000 keys at 0.4 s a page took longer than one call may, and never succeeded."""
    names = [f"{number:02}" for number in range(12)]
    for name in names:
        store.put(f"{bucket}/in/{name}.txt", b"x")
    monkeypatch.setattr(object_store, "PAGE_KEYS", 4)
    monkeypatch.setattr(store_faults, "CALL_SECONDS", LIMIT_SECONDS)
    fault = proxy.fail("slow", "GET", LISTINGS[store.scheme], numbers=range(1, 10_000), seconds=PAGE_SECONDS)
    assert [file.uri for file in storage.find(f"{bucket}/in/")] == [f"{bucket}/in/{name}.txt" for name in names]
    assert fault.met * PAGE_SECONDS > LIMIT_SECONDS


def test_a_page_that_is_lost_is_asked_for_again_and_no_other(
    store: Store, bucket: str, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(10):
        store.put(f"{bucket}/in/{number}.txt", b"x")
    monkeypatch.setattr(object_store, "PAGE_KEYS", 4)
    monkeypatch.setattr(store_faults, "PAUSE_SECONDS", 0.01)
    fault = proxy.fail("truncated", "GET", LISTINGS[store.scheme], numbers=(2, 3))
    assert list(storage.listing(f"{bucket}/in")) == [f"{number}.txt" for number in range(10)]
    assert (fault.met, fault.seen) == (2, 5)


def test_a_page_that_never_comes_is_told(
    store: Store, bucket: str, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put(f"{bucket}/in/a.txt", b"x")
    monkeypatch.setattr(store_faults, "CALL_SECONDS", 0.3)
    monkeypatch.setattr(store_faults, "ATTEMPTS", 2)
    monkeypatch.setattr(store_faults, "PAUSE_SECONDS", 0.01)
    proxy.fail("stall", "GET", LISTINGS[store.scheme], numbers=range(1, 10_000), seconds=30)
    with pytest.raises(RunFailed, match="cannot list it after 2 attempts"):
        storage.names(f"{bucket}/in")


def test_a_pattern_lists_only_the_folders_that_match(store: Store, bucket: str, proxy: FaultyProxy) -> None:
    for key in ("in/a=1/x.txt", "in/a=1/y.csv", "in/a=2/x.txt", "in/b/x.txt", "in/b/deep/x.txt", "other/x.txt"):
        store.put(f"{bucket}/{key}", b"x")

    def found(pattern: str) -> list[str]:
        proxy.requests.clear()
        return [file.uri.removeprefix(f"{bucket}/") for file in storage.find(f"{bucket}/{pattern}")]

    assert found("in/a=*/*.txt") == ["in/a=1/x.txt", "in/a=2/x.txt"]
    listed = [r.path for r in proxy.requests if LISTINGS[store.scheme] in r.path]
    assert not any("deep" in path or "in%2Fb" in path or "other" in path for path in listed)
    assert found("in/?/x.txt") == ["in/b/x.txt"]
    assert found("*/[ab]/x.txt") == ["in/b/x.txt"]
    assert found("in/**/x.txt") == ["in/a=1/x.txt", "in/a=2/x.txt", "in/b/deep/x.txt", "in/b/x.txt"]
    assert found("**/x.txt") == ["in/a=1/x.txt", "in/a=2/x.txt", "in/b/deep/x.txt", "in/b/x.txt", "other/x.txt"]
    assert found("in/*/deep/*") == ["in/b/deep/x.txt"]
    assert found("in/*") == []
    assert found("in/[ab]/") == ["in/b/deep/x.txt", "in/b/x.txt"]
    assert found("in/a=1/*/") == []


@pytest.mark.parametrize("content", [b"", b"a line\n"])
def test_a_trailing_slash_means_the_folder_whatever_object_has_its_name(
    store: Store, bucket: str, content: bytes
) -> None:
    """A console's marker was read in the place of the folder: 0 rows, and exit status 0."""
    store.put(f"{bucket}/data", content)
    inside = [f"{bucket}/data/a.txt", f"{bucket}/data/b.txt"]
    for uri in inside:
        store.put(uri, b"a line\n")
    assert [file.uri for file in storage.find(f"{bucket}/data/")] == inside
    assert storage.fixed_folder(f"{bucket}/data/") == f"{bucket}/data/"
    assert storage.stat(f"{bucket}/data/") is None
    named = storage.find(f"{bucket}/data")
    assert [file.uri for file in named] == ([f"{bucket}/data"] if content else inside)
    assert storage.fixed_folder(f"{bucket}/data") == (f"{bucket}/" if content else f"{bucket}/data/")
    assert storage.names(f"{bucket}/data") == ["a.txt", "b.txt"]


def test_an_object_without_a_folder_is_no_folder(store: Store, bucket: str) -> None:
    store.put(f"{bucket}/data", b"a line\n")
    assert storage.find(f"{bucket}/data/") == []


@pytest.mark.parametrize("suffix", ["?versionId=1", "?versionid=1", "?generation=1", "#1", "?snapshot=2024", "//x"])
def test_a_key_that_looks_like_a_version_is_a_key_of_its_own(store: Store, bucket: str, suffix: str) -> None:
    """s3fs took `?versionId=...` off: the newest object was read, and another one removed."""
    plain, other = f"{bucket}/v.jsonl", f"{bucket}/v.jsonl{suffix}"
    store.put(plain, b"plain")
    assert storage.stat(other) is None
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(other)
    storage.remove([other])
    assert storage.read_bytes(plain) == b"plain"
    assert storage.create(other, b"other")
    assert not storage.create(other, b"another")
    storage.replace(other, b"the other")
    assert (storage.read_bytes(plain), storage.read_bytes(other)) == (b"plain", b"the other")
    assert [file.uri for file in storage.find(other)] == [other]
    assert sorted(file.uri for file in storage.find(f"{bucket}/")) == sorted([plain, other])
    storage.remove([other])
    assert [file.uri for file in storage.find(f"{bucket}/")] == [plain]


def test_who_asks_for_a_version_is_told_that_none_is_read(store: Store, bucket: str) -> None:
    store.put(f"{bucket}/in.txt", b"x")
    for suffix in ("?versionId=OLD", "?versionid=2024-01-01T00:00:00Z"):
        with pytest.raises(InputError, match="names a version"):
            storage.find(f"{bucket}/in.txt{suffix}")


def test_a_put_on_a_condition_that_the_store_does_not_know_is_asked_once(s3_server: Store, s3: str) -> None:
    with FaultyProxy(s3_server.url) as proxy, environment(s3_server.through(proxy.url)):
        fault = proxy.fail("501", "PUT", "/a", numbers=range(1, 1000))
        with pytest.raises(RunFailed, match="only if nothing is there yet"):
            storage.create(f"{s3}/a", b"x")
        assert fault.met == 1


def test_a_key_that_the_store_failed_to_delete_is_deleted_at_the_next_try(
    s3_server: Store, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer to all is 200, and in it stands that of one key."""
    monkeypatch.setattr(store_faults, "PAUSE_SECONDS", 0.01)
    uris = [f"{s3}/{number}" for number in range(3)]
    for uri in uris:
        s3_server.put(uri, b"x")
    with FaultyProxy(s3_server.url) as proxy, environment(s3_server.through(proxy.url)):
        fault = proxy.fail("200", "POST", "?delete", numbers=(1, 2))
        storage.remove(uris)
        assert fault.met == 2
        assert storage.names(s3) == []
        fault.numbers = range(1, 1000)
        with pytest.raises(RunFailed, match=r"cannot remove it after 4 attempts.*InternalError"):
            storage.remove(uris)


def test_a_requester_who_pays_says_so(
    store: Store, bucket: str, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_REQUEST_PAYER", "requester")
    monkeypatch.setenv("GS_USER_PROJECT", "payer")
    storage.forget_stores()
    store.put(f"{bucket}/a.txt", b"x")
    assert storage.read_bytes(storage.find(f"{bucket}/")[0].uri) == b"x"
    if store.scheme == "gs":
        assert all("userProject=payer" in request.path for request in proxy.requests)
    elif store.scheme == "s3":
        assert storage.resolve(bucket)[0].fs.req_kw == {"RequestPayer": "requester"}
