"""Ranges of a file share out its rows whatever the bytes and wherever they fall, at anchors, and read little twice."""

import hashlib
import json
import random
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas.blocks import Block, RejectChunk, SplitRead
from tests.reads import bytes_read
from transforms import inputs, ranges
from transforms.inputs import list_inputs, make_splits, slice_files
from transforms.read import BlockOptions, read_split
from transforms.sources import ReadOptions, chunks

Row = tuple[str, str]
SPLIT_BYTES, ROWS_PER_PART = 64 << 10, 256  # a row weighs more than one from 256 bytes on
A_FILE = 64 * SPLIT_BYTES


def options(**changes: object) -> BlockOptions:
    given = {"rows_per_part": ROWS_PER_PART, "split_bytes": SPLIT_BYTES, "read": ReadOptions(id_column="id")} | changes
    return BlockOptions(**{"kept": pa.schema([]), "fingerprint_digest": "model"} | given)


def items(path: Path, found: BlockOptions, split_bytes: int | None = None) -> list[object]:
    slices = slice_files(list_inputs([str(path)]), "auto", split_bytes or found.split_bytes)
    return [item for split in make_splits(slices, "options") for item in read_split(split, found)]


def contents(read: list[object]) -> tuple[list[Row], list[tuple[int, str]], int]:
    """Rows; rejects, by place and reason; the number of blank lines."""
    tables = [item.table for item in read if isinstance(item, Block)]
    rows = [pair for t in tables for pair in zip(t["id"].to_pylist(), t["text"].to_pylist(), strict=True)]
    rejects = [(r.offset, r.reason) for item in read if isinstance(item, RejectChunk) for r in item.rejects]
    return rows, rejects, sum(item.blank_lines for item in read if isinstance(item, SplitRead))


ANY_SETTINGS = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
LINES = st.lists(st.sampled_from([b"a", b"bc d", b"\n", b"\n", b"\r\n", b"\xff", b"x" * 40]) | st.binary(max_size=4))
SMALL = st.tuples(st.sampled_from([1, 2, 8, 64]), st.sampled_from([1, 5, 30, 1 << 20]), st.integers(2, 12))


@pytest.fixture(autouse=True)
def little_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """As much smaller than it is as the splits are."""
    monkeypatch.setattr(chunks, "BEHIND_BYTES", 512)


@ANY_SETTINGS
@given(LINES.map(b"".join), st.integers(1, 100), SMALL)
def test_any_lines_split_anywhere_give_the_files_rows_once(
    tmp_path: Path, content: bytes, split_bytes: int, small: tuple[int, int, int]
) -> None:
    rows_per_part, max_record_bytes, large_file = small
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    found = options(
        rows_per_part=rows_per_part, split_bytes=split_bytes, read=ReadOptions(max_record_bytes=max_record_bytes)
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranges, "LARGE_FILE_SPLITS", large_file)
        assert contents(items(path, found)) == contents(items(path, found, 1 << 20))


def write_parquet(path: Path, rows: list[Row], group_rows: int) -> None:
    ids, texts = zip(*rows, strict=True) if rows else ((), ())
    table = pa.table({"id": pa.array(ids, pa.string()), "text": pa.array(texts, pa.string())})
    pq.write_table(table, path, row_group_size=group_rows)


@ANY_SETTINGS
@given(
    st.lists(st.sampled_from(["a", "b", "c d", " ", "x" * 40, "12", "34", "5"]), max_size=80),
    st.integers(1, 20),
    st.integers(1, 1500),
    st.sampled_from([1, 2, 8, 64]),
)
def test_row_groups_split_anywhere_give_the_files_rows_once(
    tmp_path: Path, texts: list[str], group_rows: int, split_bytes: int, rows_per_part: int
) -> None:
    path = tmp_path / "a.parquet"
    write_parquet(path, [(str(i), text) for i, text in enumerate(texts)], group_rows)
    found = options(rows_per_part=rows_per_part, split_bytes=split_bytes)
    rows, rejects, _ = contents(items(path, found))
    assert rows == [(str(i), text) for i, text in enumerate(texts) if text.strip()]
    assert rejects == [(i, "blank_text") for i, text in enumerate(texts) if not text.strip()]


@pytest.mark.parametrize(
    ("name", "digest"), [("a.txt", "babed623f5d292c3"), ("a.jsonl", "7113957948ff3598")], ids=["text", "jsonl"]
)
def test_blocks_of_short_distinct_rows_have_the_names_that_published_outputs_have(
    tmp_path: Path, name: str, digest: str
) -> None:
    """Were they others, the next run would encode every corpus anew. The names are those of the first release."""
    rng = random.Random(0)
    lines = [f"{rng.getrandbits(64):x} line of text" for _ in range(5000)]
    rows = "".join(json.dumps({"id": f"i{n}", "text": line}) + "\n" for n, line in enumerate(lines))
    path = tmp_path / name
    path.write_text("\n".join(lines) if name == "a.txt" else rows)
    read = ReadOptions(id_column=None if name == "a.txt" else "id")
    blocks = [item.name for item in items(path, options(split_bytes=50_000, read=read)) if isinstance(item, Block)]
    assert len(blocks) == 75
    assert hashlib.sha256("".join(blocks).encode()).hexdigest()[:16] == digest


def random_rows(row_bytes: int, distinct: int = 0) -> list[Row]:
    rng = random.Random(row_bytes)
    n = min(A_FILE // row_bytes, 40_000)
    texts = [rng.randbytes(row_bytes).hex()[:row_bytes] for _ in range(distinct or n)]
    return [(f"{rng.getrandbits(48):x}", rng.choice(texts) if distinct else texts[i]) for i in range(n)]


def write_jsonl(path: Path, rows: list[Row]) -> None:
    path.write_text("".join(json.dumps({"id": id_, "text": text}) + "\n" for id_, text in rows))


def write_row_groups(path: Path, rows: list[Row]) -> None:
    write_parquet(path, rows, max(1, SPLIT_BYTES // len(rows[0][1])))


WRITERS: dict[str, Callable[[Path, list[Row]], None]] = {"jsonl": write_jsonl, "parquet": write_row_groups}


@pytest.mark.parametrize("format_", WRITERS)
@pytest.mark.parametrize(
    ("row_bytes", "distinct"), [(10, 0), (100, 0), (500, 0), (2_000, 0), (20_000, 0), (30, 1), (30, 50), (900, 1)]
)
def test_one_row_inserted_near_the_start_leaves_nearly_all_blocks_alone(
    tmp_path: Path, format_: str, row_bytes: int, distinct: int
) -> None:
    path, rows = tmp_path / f"a.{format_}", random_rows(row_bytes, distinct)
    write = WRITERS[format_]
    write(path, rows)
    before = {item.name for item in items(path, options()) if isinstance(item, Block)}
    at = min(50, len(rows) // 20)
    changed = [*rows[:at], ("new", "y" * row_bytes), *rows[at:]]
    write(path, changed)
    blocks = [item for item in items(path, options()) if isinstance(item, Block)]
    assert contents(blocks)[0] == changed
    anew = sum(block.table.num_rows for block in blocks if block.name not in before)
    assert 1 <= anew <= max(0.02 * len(rows), 3)


@pytest.mark.parametrize("row_bytes", [300, 400, 1_000])
def test_large_rows_are_read_little_more_than_once(tmp_path: Path, row_bytes: int) -> None:
    path = tmp_path / "a.jsonl"
    write_jsonl(path, random_rows(row_bytes))
    with bytes_read() as read:
        items(path, options())
    assert path.stat().st_size <= read[str(path)] <= 1.1 * path.stat().st_size


def test_a_long_line_is_not_read_by_each_split_inside_it(tmp_path: Path) -> None:
    path, split_bytes = tmp_path / "a.txt", 4096
    path.write_bytes(b"first\n" + b"x" * 256 * split_bytes + b"\nlast\n")
    found = options(split_bytes=split_bytes, read=ReadOptions(max_record_bytes=4 * split_bytes))
    with bytes_read() as read:
        rows, rejects, _ = contents(items(path, found))
    assert rows == [("a.txt#0", "first"), (f"a.txt#{256 * split_bytes + 7}", "last")]
    assert rejects == [(6, "too_large")]
    assert read[str(path)] <= 2.5 * path.stat().st_size


def test_splits_of_a_large_parquet_file_have_rows_enough_or_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    def splits(groups: list[tuple[int, int]]) -> list[tuple[int, int]]:
        monkeypatch.setattr(inputs, "parquet_row_groups", lambda file: groups)
        file = inputs.FileInfo("/in/a.parquet", 1 << 30, "1")
        return [(p.start, p.stop) for (p,) in slice_files([(file, "a.parquet")], "auto", 1000, rows_per_part=100)]

    assert splits([(400, 1000)] * 8) == [(i, i + 1) for i in range(8)]
    assert splits([(200, 1000)] * 8) == [(0, 2), (2, 4), (4, 6), (6, 8)]
    assert splits([(1, 1000)] * 8) == [(0, 4), (4, 8)]
    assert splits([(1, 1000)] * 7) == [(i, i + 1) for i in range(7)]


def test_a_line_weighs_its_bytes_with_kept_columns_too(tmp_path: Path) -> None:
    """What is large of a row may be kept and not embedded."""
    rows = [{"id": str(i), "text": f"text {i}", "other": "x" * 2_000} for i in range(300)]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    kept = pa.schema([("other", pa.string())])
    with_kept = options(kept=kept, read=ReadOptions(id_column="id", keep_columns=("other",), kept=kept))
    blocks = [[b.table.num_rows for b in items(path, o) if isinstance(b, Block)] for o in (options(), with_kept)]
    assert blocks[0] == blocks[1]
    assert max(blocks[1]) <= 2 * ROWS_PER_PART // (2_000 * 2 * ROWS_PER_PART // SPLIT_BYTES)
