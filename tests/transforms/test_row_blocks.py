"""Rows by number are the dataset's rows in order, whatever the parts, row groups and blocks."""

from pathlib import Path

import numpy as np
import pytest

from schemas.dataset import open_dataset
from schemas.errors import InputError, RunFailed
from tests.datasets import clustered, write_dataset
from transforms.row_blocks import RowBlock, Rows, Source, bad_ids, plan_blocks, rows_of, unit_sample

N = 1003


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rows:
    """Parts of 100 rows with row groups of 32."""
    monkeypatch.setattr("schemas.embeddings.ROW_GROUP_ROWS", 32)
    return Rows(open_dataset(str(write_dataset(tmp_path / "in", clustered(N, 8), part_rows=100))))


@pytest.mark.parametrize("block_rows", [1, 7, 100, 333, 5000])
def test_blocks_cover_the_rows_once_in_order(rows: Rows, block_rows: int) -> None:
    blocks = plan_blocks(len(rows), block_rows)
    assert [b.number for b in blocks] == list(range(len(blocks)))
    assert max(b.rows for b in blocks) <= block_rows
    if block_rows > 1:
        ids = [i for b in blocks for i in rows.read(b.start, b.stop, ["id"]).column("id").to_pylist()]
        assert ids == [f"row-{i:05d}" for i in range(N)]
    assert plan_blocks(0, block_rows) == []


@pytest.mark.parametrize(("start", "stop"), [(0, N), (31, 33), (99, 101), (250, 250), (1000, N), (64, 96)])
def test_vectors_are_those_stored(rows: Rows, start: int, stop: int) -> None:
    np.testing.assert_array_equal(rows.vectors(start, stop), clustered(N, 8)[start:stop])


def test_taken_rows_come_in_the_order_asked_for_and_as_often(rows: Rows) -> None:
    wanted = np.array([1002, 5, 5, 700, 99, 100, 0])
    table = rows.take(wanted, ["id", "text"])
    assert table.column("id").to_pylist() == [f"row-{i:05d}" for i in wanted]
    assert table.column("text").to_pylist() == [f"text of row-{i:05d}" for i in wanted]
    assert rows.take(np.empty(0, np.int64), ["id"]).num_rows == 0


def test_a_part_that_stands_twice_has_its_rows_twice(tmp_path: Path) -> None:
    vectors = np.tile(clustered(50, 8), (2, 1))
    ids = [f"{i % 50}" for i in range(100)]
    rows = Rows(open_dataset(str(write_dataset(tmp_path / "in", vectors, ids, part_rows=50))))
    assert len({part.name for part in rows.dataset.manifest.parts}) == 1
    assert len(rows) == 100
    assert rows.take(np.array([1, 51, 99]), ["id"]).column("id").to_pylist() == ["1", "1", "49"]


def test_a_sample_is_random_rows_each_once(rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = rows.sample(200).column("id").to_pylist()
    assert len(set(ids)) == 200 and ids == sorted(ids)
    assert 350 < np.mean([int(i[4:]) for i in ids]) < 650
    assert rows.sample(5000).column("id").to_pylist() == [f"row-{i:05d}" for i in range(N)]
    monkeypatch.setattr("transforms.row_blocks.SAMPLED_PARTS", 3)
    assert len({int(i[4:]) // 100 for i in rows.sample(150).column("id").to_pylist()}) == 3


def test_a_source_is_that_version_of_that_run_or_an_error(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "in", clustered(20, 8))
    source = Source.of(open_dataset(str(folder)))
    assert len(rows_of(source)) == 20
    with pytest.raises(RunFailed, match="another dataset"):
        rows_of(source._replace(run="other"))
    with pytest.raises(RunFailed, match="version 7"):
        rows_of(source._replace(version=7))
    next(folder.glob("part-*")).unlink()
    with pytest.raises(RunFailed, match="gone, though version 1 lists it"):
        rows_of(source).read(0, 1, ["id"])


def test_vectors_without_a_cosine_are_named_by_id(tmp_path: Path) -> None:
    vectors = clustered(30, 8)
    vectors[3:10] = 0
    vectors[20, 0] = -np.inf
    rows = Rows(open_dataset(str(write_dataset(tmp_path / "in", vectors))))
    with pytest.raises(InputError, match=r"'row-00003', .*'row-00007' and 3 more; embed"):
        unit_sample(rows.sample(100))
    good = rows.read(10, 20, ["id"]).column("id")
    assert bad_ids(rows.vectors(10, 20), good) == ""
    assert RowBlock(0, 3, 9).rows == 6
