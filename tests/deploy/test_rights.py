"""The rights that deploy/README.md asks for are those that the jobs use."""

import re
from collections.abc import Sequence

import fsspec
import pytest

import transforms.encode
from jobs import embed
from schemas import storage
from tests.fakes import FakeEncoder


@pytest.fixture
def deleted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of what is removed while a test runs."""
    memory = type(fsspec.filesystem("memory"))
    monkeypatch.setattr(transforms.encode, "Encoder", FakeEncoder)
    found: list[str] = []

    def record(_: object, path: str | Sequence[str], *__: object, **___: object) -> None:
        found.extend([path] if isinstance(path, str) else path)
        for one in [path] if isinstance(path, str) else path:
            memory.store.pop(one, None)

    for name in ("rm_file", "_rm", "rm"):
        monkeypatch.setattr(memory, name, record)
    return found


def runs(keep: int) -> None:
    """Two versions, of which the second has none of the first's rows."""
    for text in (b"one\n", b"two\n"):
        storage.replace("memory://rights/in/a.txt", text)
        flags = ["--input=memory://rights/in", "--output=memory://rights/out", f"--keep_versions={keep}"]
        assert embed.main(flags) == 0


@pytest.mark.parametrize("keep", [1, 1000])
def test_kept_versions_lose_nothing_and_marks_alone_are_deleted(deleted: list[str], keep: int) -> None:
    try:
        runs(keep)
        kinds = {re.sub(r"[\da-f]{8,}|\d+", "N", path.rsplit("/", 1)[1]) for path in deleted}
        marks = {".probe.tmp-N-N", "N-N-N.intent", "N.lease", "N-N.removing"}
        assert marks <= kinds
        assert kinds - marks == ({"part-N.parquet", "N.json"} if keep == 1 else set())
    finally:
        type(fsspec.filesystem("memory")).store.clear()
