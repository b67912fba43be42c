"""Object stores list as disks do, whatever the keys, the patterns and the pages."""

import asyncio
import contextlib
import itertools
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import object_store, store_faults
from schemas.errors import RunFailed
from schemas.local_disk import LocalDisk
from schemas.object_store import Answer, ObjectStore, Page
from schemas.splits import FileInfo
from schemas.store_faults import Changed, Truncated
from schemas.stores import Entry, is_file


class Memory(ObjectStore):
    """Objects in a dict; pages end anywhere, and may be empty."""

    def __init__(self, content: dict[str, bytes]) -> None:
        super().__init__("s3")
        self.content = content
        self.answers: list[Answer] = []

    def run(self, coroutine: Any, *args: Any, moves: int = 0) -> Any:
        return asyncio.run(coroutine(*args))

    async def head(self, bucket: str, key: str) -> Entry:
        if key not in self.content:
            raise FileNotFoundError(key)
        return self._entry(key)

    def _entry(self, key: str) -> Entry:
        return {"name": f"b/{key}", "size": len(self.content[key]), "type": "file", "etag": key}

    async def page(self, bucket: str, prefix: str, delimiter: str, after: Any, most: int) -> Page:
        below = sorted(key for key in self.content if key.startswith(prefix))
        if delimiter:
            below = [key[: (key + delimiter).index(delimiter, len(prefix)) + 1] for key in below]
            below = [key for key, _ in itertools.groupby(below)]
        start = after or 0
        some = below[start : start + most]
        objects = [self._entry(key) for key in some if key in self.content]
        folders = [key for key in some if key not in self.content]
        end = start + most
        return Page(objects, folders, end if end <= len(below) else None)  # the last page may be empty

    async def get(self, bucket: str, key: str, etag: str, start: int, stop: int) -> Answer:
        return self.answers.pop(0)


NAMES = st.sampled_from(["a", "b", "ab", ".h", "a.txt", "x=1"])
KEYS = st.lists(NAMES, min_size=1, max_size=4).map("/".join)
LEVELS = st.sampled_from(["*", "a*", "?", "[ab]", "a", "x=*", "**", "*.txt", "b"])
PATTERNS = st.lists(LEVELS, min_size=1, max_size=4).map("/".join).filter(lambda text: any(c in text for c in "*?["))


@settings(max_examples=300)
@given(keys=st.sets(KEYS, max_size=8), pattern=PATTERNS, most=st.integers(1, 3))
def test_patterns_match_as_they_do_on_a_disk(keys: set[str], pattern: str, most: int) -> None:
    keys = {key for key in keys if not any(other.startswith(f"{key}/") for other in keys)}  # a disk has no such
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(object_store, "PAGE_KEYS", most)
        for key in keys:
            (Path(folder) / key).parent.mkdir(parents=True, exist_ok=True)
            (Path(folder) / key).write_bytes(b"x")
        store, disk = Memory(dict.fromkeys(keys, b"x")), LocalDisk("file")
        expected = set()
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):  # no such fixed folder
            matching = filter(is_file, disk.matching(f"{folder}/{pattern}"))
            expected = {entry["name"].removeprefix(f"{folder}/") for entry in matching}
        found = [entry["name"].removeprefix("b/") for entry in store.matching(f"b/{pattern}")]
    assert sorted(found) == sorted(expected)


@settings(max_examples=100)
@given(keys=st.sets(KEYS, max_size=8), most=st.integers(1, 3), folder=KEYS)
def test_folders_list_as_they_do_on_a_disk(keys: set[str], most: int, folder: str) -> None:
    store = Memory(dict.fromkeys(keys, b"x"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(object_store, "PAGE_KEYS", most)
        entries = [(entry["name"], entry["type"]) for entry in store.entries(f"b/{folder}")]
        below = {entry["name"] for entry in store.below(f"b/{folder}")}
    inside = {key.removeprefix(f"{folder}/") for key in keys if key.startswith(f"{folder}/")}
    files = {(f"b/{folder}/{name}", "file") for name in inside if "/" not in name}
    folders = {(f"b/{folder}/{name.split('/')[0]}", "directory") for name in inside if "/" in name}
    assert sorted(entries) == sorted(files | folders)
    assert below == {f"b/{folder}/{name}" for name in inside}


FILE = FileInfo("s3://b/k", 100, "tag")


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (Answer(b"12345", "tag", "bytes 10-14/100"), None),
        (Answer(b"12345", "tag", None), None),
        (Answer(b"12345", "other", "bytes 10-14/100"), Changed),
        (Answer(b"12345", "", "bytes 10-14/100"), RunFailed),
        (Answer(b"12345", "tag", "bytes 11-15/100"), Truncated),
        (Answer(b"12345", "tag", "bytes 10-15/100"), Truncated),
    ],
)
def test_only_the_bytes_asked_for_of_the_version_listed_are_taken(
    answer: Answer, error: type[Exception] | None
) -> None:
    store = Memory({})
    store.answers = [answer]
    if error:
        with pytest.raises(error):
            store.fetch("b/k", FILE, 10, 15)
    else:
        assert store.fetch("b/k", FILE, 10, 15) == b"12345"


def test_without_a_tag_any_version_is_taken() -> None:
    store = Memory({})
    store.answers = [Answer(b"12345", "", None)]
    assert store.fetch("b/k", FILE._replace(etag=""), 10, 15) == b"12345"


def test_a_folder_whose_first_page_is_empty_is_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Azure and Google may send a page without an object, and where the next one begins."""
    store = Memory({"f/a": b"x"})
    real, pages = store.page, iter([Page([], [], 0)])

    async def page(*args: Any) -> Page:
        return next(pages, None) or await real(*args)

    monkeypatch.setattr(store, "page", page)
    monkeypatch.setattr(store_faults, "ATTEMPTS", 1)
    assert store.entry("b/f")["type"] == "directory"
