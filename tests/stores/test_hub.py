"""The Hugging Face Hub is read as a disk is; a server that answers as it does stands in for it."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import transforms.encode
from jobs import embed
from schemas import storage, store_faults
from schemas.errors import InputError, RunFailed
from schemas.range_file import SLACK_BYTES
from tests.benchmarks.corpus import sentences
from tests.fakes import FakeEncoder
from tests.servers.faulty_proxy import FaultyProxy, Kind
from tests.servers.hub import Hub
from tests.servers.store import environment
from tests.stores.datasets import published

ROOT = "hf://datasets/owner/corpus"


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub("owner/corpus") as hub, environment({"HF_ENDPOINT": hub.url}):
        for number in range(7):
            hub.put(f"data/shard-{number}.txt", f"line of {number}\n".encode())
        hub.put("data/deeper/large.jsonl", b'{"text": "x"}\n' * 20_000)
        hub.put("README.md", b"of people")
        yield hub


def test_files_are_listed_page_by_page_with_size_and_tag(hub: Hub) -> None:
    found = storage.find(f"{ROOT}/data")
    assert [file.uri for file in found] == [
        f"{ROOT}/data/deeper/large.jsonl",
        *(f"{ROOT}/data/shard-{number}.txt" for number in range(7)),
    ]
    assert storage.find(f"{ROOT}/data/*-[12].txt") == found[2:4]
    for file in found:
        entry = hub.entry(file.uri.removeprefix(f"{ROOT}/"))
        assert (file.size, file.etag) == (entry["size"], entry["oid"])
        assert storage.stat(file.uri) == file
    assert storage.names(f"{ROOT}/data") == ["deeper", *(f"shard-{number}.txt" for number in range(7))]
    assert storage.names(ROOT) == ["README.md", "data"]
    assert storage.stat(f"{ROOT}/data/none") is storage.stat(f"{ROOT}/data") is None
    assert storage.find(f"{ROOT}/none") == storage.find("hf://datasets/owner/none/a.txt") == []


def test_a_file_that_changed_is_seen_to_have(hub: Hub) -> None:
    listings = (storage.find, lambda uri: storage.find(f"{uri}/*"), storage.listing)
    for list_ in listings:
        assert len(list_(f"{ROOT}/data")) in (7, 8)
    (file,) = storage.find(f"{ROOT}/data/shard-1.txt")
    assert storage.is_unchanged(file)
    hub.put("data/shard-1.txt", b"LINE OF 1\n")
    assert not storage.is_unchanged(file)
    for number, list_ in enumerate(listings, 1):
        hub.put(f"data/new-{number}.txt", b"new")
        assert len(list_(f"{ROOT}/data")) in (7 + number, 8 + number)


@pytest.mark.parametrize(("path", "start"), [("data/shard-3.txt", 2), ("data/deeper/large.jsonl", 100_000)])
def test_ranges_are_fetched_and_little_more(hub: Hub, path: str, start: int) -> None:
    (file,) = storage.find(f"{ROOT}/{path}")
    hub.requests.clear()
    with storage.open_read(file, start, start + 8) as opened:
        assert opened.read(8) == hub.content[path][start : start + 8]
    assert int(hub.requests[-1].rsplit(" ", 1)[1]) <= 8 + SLACK_BYTES
    assert storage.read_bytes(file.uri) == hub.content[path]


def test_a_job_over_the_hub_makes_the_local_dataset(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(transforms.encode, "Encoder", FakeEncoder)
    hub.put("in/a.jsonl", "\n".join(json.dumps({"text": text}) for text in sentences(500)).encode())
    hub.put("in/b.txt", b"one\ntwo\n")
    for name in ("a.jsonl", "b.txt"):
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / name).write_bytes(hub.content[f"in/{name}"])
    for source, out in ((f"{ROOT}/in", "hub"), (str(tmp_path / "in"), "local")):
        flags = ("--split_bytes", "9000", "--rows_per_part", "128", "--device", "cpu")
        assert embed.main(["--input", source, "--output", str(tmp_path / out), *flags]) == 0
    assert published(str(tmp_path / "hub")) == published(str(tmp_path / "local"))
    assert len(published(str(tmp_path / "hub"))["splits"]) > 3
    assert embed.main(["--input", f"{ROOT}/none", "--output", str(tmp_path / "none")]) == 2
    assert "matches no file" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["503", "reset", "truncated"])
def test_reads_are_tried_again(hub: Hub, kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_faults, "PAUSE_SECONDS", 0.01)
    with FaultyProxy(hub.url) as proxy, environment({"HF_ENDPOINT": proxy.url}):
        fault = proxy.fail(kind, "GET", "/resolve/main/data/shard-5", numbers=(1, 2))
        (file,) = storage.find(f"{ROOT}/data/shard-5.txt")
        with storage.open_read(file) as opened:
            assert opened.read() == hub.content["data/shard-5.txt"]
        assert fault.met == 2


def test_nothing_is_written_and_buckets_are_refused(hub: Hub) -> None:
    with pytest.raises(RunFailed, match="only read"):
        storage.create(f"{ROOT}/new.txt", b"x")
    with pytest.raises(InputError, match="buckets of the Hub are not read"):
        storage.find("hf://buckets/owner/bucket/a.txt")
