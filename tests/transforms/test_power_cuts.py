"""After a power cut at any moment a reader sees the version of before or the new one, whole; and the new one, once a
run says that it has published."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from schemas import storage
from schemas.dataset import open_dataset
from schemas.errors import InputError, RunFailed
from schemas.pairs import KIND, pairs_schema, write_table
from schemas.rejects import Reason
from tests.publishing import MODEL, publish_ids, reject
from tests.transforms.power_cuts import Recorder, files_below, lay_out, recorded
from transforms.publish_found import FoundPlan, draft_of, publish_found


def first(folder: Path) -> None:
    publish_ids(folder, "first", 0, "a", "b")


def second(folder: Path) -> None:
    reject(folder, "s", Reason.BROKEN_JSON)
    publish_ids(folder, "second", 1, "b", "c")


class Plan(FoundPlan):
    work = ""  # type: ignore[assignment]


def pairs(folder: Path) -> None:
    """As mining and joining publish."""
    plan = Plan(
        output=str(folder), run="pairs", started=0.0, base_version=1, alone=True, keep_versions=1, fingerprint=MODEL,
        options={}, details={},
    )  # fmt: skip
    table = pairs_schema(False).empty_table()
    publish_found(plan, lambda: draft_of(plan, KIND, [write_table(str(folder), "pairs", "", table, MODEL)], [], {}))


def seen(folder: Path) -> Any:
    """What a reader sees: the version, and its rows."""
    dataset = open_dataset(str(folder))
    return dataset.manifest.version, dataset.read().column(0).to_pylist()


@pytest.mark.parametrize("publish", [second, pairs])
def test_a_power_cut_leaves_the_old_version_or_the_new_one(tmp_path: Path, publish: Callable[[Path], None]) -> None:
    root = tmp_path / "out"
    first(root)
    old, before = seen(root), files_below(root)
    with recorded(root) as recorder:
        publish(root)
    new = seen(root)
    assert old != new
    found = {}
    for number, files in recorder.states(before):
        found.setdefault(number, set()).add(str(seen(lay_out(files, root, tmp_path / "cut"))))
    assert set().union(*found.values()) == {str(old), str(new)}
    assert (found[0], found[len(recorder.events)]) == ({str(old)}, {str(new)})


def without_fsync_of(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = Recorder.synced

    def some(self: Recorder, descriptor: int) -> None:
        before = len(self.events)
        safe = dict(self._safe)
        synced(self, descriptor)
        if kind == "file":
            self._safe = safe
        else:
            del self.events[before:]

    monkeypatch.setattr(Recorder, "synced", some)


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_sync_that_were_left_out_would_be_found(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    without_fsync_of(kind, monkeypatch)
    with pytest.raises((AssertionError, RunFailed, InputError)):
        test_a_power_cut_leaves_the_old_version_or_the_new_one(tmp_path, second)


def test_the_first_version_is_whole_or_not_there(tmp_path: Path) -> None:
    root = tmp_path / "out"
    root.mkdir()
    with recorded(root) as recorder:
        first(root)
    versions = set()
    for _, files in recorder.states({}):
        cut = lay_out(files, root, tmp_path / "cut")
        names = storage.names(storage.join(str(cut), "_manifest"))
        versions.add(str(seen(cut)) if "00000001.json" in names else "none")
    assert versions == {"none", str(seen(root))}


def test_a_file_is_linked_when_its_bytes_are_safe_and_its_folder_is_synced_after(tmp_path: Path) -> None:
    with recorded(tmp_path) as recorder:
        assert storage.create(str(tmp_path / "a"), b"one")
        storage.replace(str(tmp_path / "a"), b"two")
    assert [tuple(event) for event in recorder.events] == [
        (str(tmp_path / "a"), b"one"), (str(tmp_path),), (str(tmp_path / "a"), b"two"), (str(tmp_path),),
    ]  # fmt: skip
