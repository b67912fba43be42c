"""The verbs of `schemas.storage` hold on every store: files are there whole or not at all, and listings are true."""

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from schemas import storage
from tests.faults import harness

PART_BYTES = 20_000_000
"""Of a large part of a dataset: one request on every store."""

LARGE_BYTES = 105_000_000
"""More than fsspec's stores send in one request unless they are told to."""

NAMES = [
    "plain.txt",
    "with space.txt",
    "ünï-☃.txt",
    "#1.txt",
    "100%.txt",
    "%41.txt",
    "a[1].txt",
    "a+b&c=d;e.txt",
    "q?.txt",
]
"""As people and programs name files; `%41` is an `A` to those who decode once too often."""

Put = Callable[[str, bytes], None]


def test_create_puts_a_file_once(folder: str) -> None:
    uri = storage.join(folder, "a.bin")
    assert storage.create(uri, b"first")
    assert not storage.create(uri, b"second")
    assert storage.read_bytes(uri) == b"first"
    assert storage.names(folder) == ["a.bin"]


@pytest.mark.parametrize("size", [100, PART_BYTES])
def test_of_two_threads_that_create_at_once_one_wins(folder: str, size: int) -> None:
    for number in range(3):
        uri = storage.join(folder, f"part-{number}")
        barrier = threading.Barrier(2)

        def create(writer: int, uri: str = uri, barrier: threading.Barrier = barrier) -> bool:
            barrier.wait()
            return storage.create(uri, bytes([writer]) * size)

        with ThreadPoolExecutor(2) as pool:
            won = list(pool.map(create, range(2)))
        assert sorted(won) == [False, True]
        assert storage.read_bytes(uri) == bytes([won.index(True)]) * size


def test_of_two_processes_that_create_at_once_one_wins(shared_folder: str) -> None:
    sizes = {storage.join(shared_folder, str(size)): size for size in (100, PART_BYTES, LARGE_BYTES)}
    barrier, results = harness.CONTEXT.Barrier(2), harness.CONTEXT.SimpleQueue()
    arguments = (sizes, barrier, results, dict(os.environ))
    writers = [harness.CONTEXT.Process(target=_create_all, args=(number, *arguments)) for number in range(2)]
    for writer in writers:
        writer.start()
    won = dict(results.get() for _ in writers)
    for writer in writers:
        writer.join()
    for uri, size in sizes.items():
        assert sorted(won[writer][uri] for writer in range(2)) == [False, True]
        assert storage.read_bytes(uri) == bytes([won[1][uri]]) * size
        storage.remove([uri])


def _create_all(writer: int, sizes: dict[str, int], barrier: Any, results: Any, environ: dict[str, str]) -> None:
    os.environ.update(environ)
    won = {}
    for uri, size in sizes.items():
        storage.stat(uri)  # connects
        barrier.wait(60)
        won[uri] = storage.create(uri, bytes([writer]) * size)
    results.put((writer, won))


def test_replace_takes_the_place_of_what_is_there(folder: str) -> None:
    uri = storage.join(folder, "a.bin")
    for content in (b"first, and longer", b"second", b""):
        storage.replace(uri, content)
        assert storage.read_bytes(uri) == content
        assert storage.listing(folder)["a.bin"].size == len(content)
    assert storage.names(folder) == ["a.bin"]


def test_a_file_replaced_at_its_size_has_another_tag(folder: str) -> None:
    uri = storage.join(folder, "a.bin")
    storage.replace(uri, b"123")
    before = storage.stat(uri)
    time.sleep(0.02)
    storage.replace(uri, b"321")
    after = storage.stat(uri)
    assert before and after and before.size == after.size
    assert before.etag != after.etag


@pytest.mark.parametrize("name", NAMES)
def test_any_name_leads_back_to_its_file(folder: str, name: str) -> None:
    uri = storage.join(folder, name)
    assert storage.create(uri, name.encode())
    assert storage.create(storage.join(folder, "A.txt"), b"")  # what %41 and a[1] must not be taken for
    assert storage.names(folder) == sorted({name, "A.txt"})
    info = storage.listing(folder)[name]
    assert info == storage.stat(uri)
    assert storage.find(uri) == [info]
    assert info in storage.find(folder)
    assert storage.read_bytes(info.uri) == name.encode()
    with storage.open_read(info.uri, 1) as file:
        assert file.read() == name.encode()[1:]
    storage.remove([info.uri])
    assert storage.names(folder) == ["A.txt"]


def test_find_takes_folders_and_globs_and_leaves_out_hidden_names(folder: str) -> None:
    for name in ("a.txt", "b/c.txt", "b/_SUCCESS", ".hidden/d.txt", "b/.e.txt"):
        storage.create(storage.join(folder, name), b"x")

    def found(pattern: str) -> list[str]:
        files = storage.find(f"{folder}/{pattern}" if pattern else folder)
        return [file.uri.removeprefix(storage.folder_uri(folder)) for file in files]

    assert found("") == ["a.txt", "b/c.txt"]
    assert found("a.txt") == ["a.txt"]
    assert found("*.txt") == ["a.txt"]
    assert found("*/*.txt") == ["b/c.txt"]
    assert found("**/*.txt") == ["a.txt", "b/c.txt"]
    assert found("none*") == found("none") == []


def test_what_is_not_there_is_no_error(folder: str) -> None:
    gone = storage.join(folder, "gone")
    assert storage.stat(gone) is None
    assert storage.listing(gone) == {}
    assert storage.names(gone) == []
    assert storage.find(gone) == []
    assert storage.moments(gone) == {}
    storage.remove([gone, gone])
    storage.remove_folder(gone)
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(gone)


def test_a_folder_is_no_file(folder: str) -> None:
    storage.create(storage.join(folder, "inner", "a"), b"x")
    assert storage.stat(folder) is None
    assert storage.stat(storage.join(folder, "inner")) is None
    assert storage.names(folder) == ["inner"]
    assert storage.listing(folder) == {}


def test_markers_of_folders_are_no_files(object_folder: str, put_elsewhere: Put) -> None:
    """The stores' consoles make empty objects whose keys end in '/' and show them as folders."""
    for key in ("", "inner/", "inner/deeper/"):
        put_elsewhere(f"{object_folder}/{key}", b"")
    assert storage.listing(object_folder) == {}
    assert storage.names(object_folder) == ["inner"]
    assert storage.find(object_folder) == []
    assert storage.find(f"{object_folder}/**") == []
    assert storage.stat(object_folder) is None
    assert storage.create(storage.join(object_folder, "inner", "a.txt"), b"x")
    assert [f.uri for f in storage.find(object_folder)] == [storage.join(object_folder, "inner", "a.txt")]


def test_an_empty_file_is_a_file(folder: str) -> None:
    uri = storage.join(folder, "empty")
    assert storage.create(uri, b"")
    assert not storage.create(uri, b"more")
    info = storage.stat(uri)
    assert info is not None and info.size == 0
    assert storage.listing(folder) == {"empty": info}
    assert storage.read_bytes(uri) == b""
    with storage.open_read(uri) as file:
        assert file.read() == b""


def test_open_read_reads_from_any_byte(folder: str) -> None:
    content = os.urandom(3 * storage.READ_BUFFER_BYTES + 7)
    uri = storage.join(folder, "a.bin")
    storage.create(uri, content)
    for start in (0, 1, storage.READ_BUFFER_BYTES - 1, storage.READ_BUFFER_BYTES, len(content) - 1, len(content)):
        with storage.open_read(uri, start) as file:
            assert file.read(10) == content[start : start + 10]
            assert file.read() == content[start + 10 :]
    with storage.open_read(uri) as file:
        file.seek(-5, os.SEEK_END)
        assert file.read() == content[-5:]
        file.seek(3)
        assert file.read(4) == content[3:7]


def test_listings_show_what_others_wrote_and_removed_meanwhile(folder: str, put_elsewhere: Put) -> None:
    """fsspec's clients remember what they listed, and would go on showing it."""
    storage.create(storage.join(folder, "a"), b"1")
    assert storage.names(folder) == list(storage.listing(folder)) == ["a"]
    assert len(storage.find(folder)) == len(storage.find(f"{folder}/*")) == 1
    assert storage.stat(storage.join(folder, "b")) is None
    put_elsewhere(storage.join(folder, "b"), b"22")
    put_elsewhere(storage.join(folder, "a"), b"333")
    assert storage.names(folder) == ["a", "b"]
    assert {name: f.size for name, f in storage.listing(folder).items()} == {"a": 3, "b": 2}
    assert [f.size for f in storage.find(folder)] == [3, 2]
    assert [f.size for f in storage.find(f"{folder}/*")] == [3, 2]
    found = storage.stat(storage.join(folder, "a"))
    assert found is not None and found.size == 3
    assert sorted(storage.moments(folder)) == ["a", "b"]
    assert storage.read_bytes(storage.join(folder, "a")) == b"333"


def test_moments_are_told_by_one_clock_for_all_files(folder: str) -> None:
    for name in ("old", "new"):
        storage.create(storage.join(folder, name), b"1")
        time.sleep(1.1)  # some stores tell whole seconds only
    moments = storage.moments(folder)
    assert sorted(moments) == ["new", "old"] and 0.9 < moments["new"] - moments["old"] < 60
    storage.replace(storage.join(folder, "old"), b"2")
    assert storage.moments(folder)["old"] > moments["new"]


def test_a_folder_is_apart_from_its_namesakes(folder: str) -> None:
    for name in ("out/a", "out/inner/b", "out-2/c", "out.txt"):
        storage.create(storage.join(folder, name), b"x")
    out = storage.join(folder, "out")
    assert list(storage.listing(out)) == ["a"]
    assert [f.uri for f in storage.find(out)] == [storage.folder_uri(out) + name for name in ("a", "inner/b")]
    storage.remove_folder(out)
    assert storage.names(folder) == ["out-2", "out.txt"]


def test_probing_leaves_nothing_behind(folder: str) -> None:
    storage.probe_write(folder)
    assert storage.names(folder) == []
