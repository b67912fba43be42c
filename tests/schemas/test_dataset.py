"""A version's parts are read as they were published, or not at all."""

import os
from pathlib import Path

import pytest

from schemas.dataset import open_dataset
from schemas.errors import RunFailed
from schemas.manifest import PartEntry, newest_manifest
from tests.publishing import MODEL, encoded, publish_ids
from transforms.row_blocks import Rows
from transforms.write import write_part


def replaced(folder: Path) -> PartEntry:
    """Publishes a part, and puts another in its place: of the same size, good Parquet, with other vectors."""
    part = publish_ids(folder, "first", 0, "a").parts[0]
    other = write_part(str(folder / "other"), "run", encoded("s", 0, ["a"], vector=2.0), MODEL)
    assert (other.name, other.size) == (part.name, part.size)
    os.replace(folder / "other" / other.name, folder / part.name)
    return part


def test_another_file_of_the_same_size_is_not_read_for_the_part(tmp_path: Path) -> None:
    part = replaced(tmp_path)
    dataset = open_dataset(str(tmp_path))
    for read in (lambda: dataset.read(["embedding"]), lambda: Rows(dataset).vectors(0, 1)):
        with pytest.raises(RunFailed, match=f"{part.name}: is not the file that version 1 lists"):
            read()


def test_a_part_is_hashed_once_and_again_when_it_has_changed(tmp_path: Path) -> None:
    part = publish_ids(tmp_path, "first", 0, "a").parts[0]
    dataset = open_dataset(str(tmp_path))
    assert dataset.read(["id"]).num_rows == 1
    data = bytearray((tmp_path / part.name).read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / part.name).write_bytes(bytes(data))
    with pytest.raises(RunFailed, match="is not the file that version 1 lists"):
        dataset.read(["id"])


def test_a_part_that_is_gone_tells_of_the_newer_version(tmp_path: Path) -> None:
    publish_ids(tmp_path, "first", 0, "a")
    dataset = open_dataset(str(tmp_path))
    publish_ids(tmp_path, "second", 1, "b")
    with pytest.raises(RunFailed, match="gone, because a newer version than 1 was published"):
        dataset.read()
    assert newest_manifest(str(tmp_path)) == open_dataset(str(tmp_path)).manifest
