"""Splits of any file at any size give its rows once, in the same blocks."""

import gzip
import json
import random
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas.blocks import OFFSET, SOURCE, Block, RejectChunk, SplitRead
from schemas.errors import RunFailed
from schemas.rejects import Reason
from transforms import cut
from transforms.cut import row_hashes
from transforms.inputs import list_inputs, make_splits, slice_files
from transforms.read import BlockOptions, read_split
from transforms.sources import ReadOptions


def options(**changes: object) -> BlockOptions:
    return BlockOptions(
        **{"read": ReadOptions(), "kept": pa.schema([]), "fingerprint_digest": "model", "rows_per_part": 32} | changes
    )


def read_all(
    pattern: str, split_bytes: int, found: BlockOptions
) -> tuple[list[Block], list[SplitRead], list[RejectChunk]]:
    slices = slice_files(list_inputs([pattern]), "auto", split_bytes)
    items = [item for split in make_splits(slices, "options") for item in read_split(split, found)]
    return tuple([i for i in items if isinstance(i, kind)] for kind in (Block, SplitRead, RejectChunk))  # type: ignore[return-value]


def rows(blocks: list[Block]) -> list[tuple[str, str]]:
    return [pair for b in blocks for pair in zip(b.table["id"].to_pylist(), b.table["text"].to_pylist(), strict=True)]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=600) | st.text("ab\n\r\0é", max_size=400).map(str.encode), st.integers(1, 200))
def test_any_bytes_split_anywhere_give_the_files_rows_once(tmp_path: Path, content: bytes, split_bytes: int) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    whole = read_all(str(path), 1 << 20, options(rows_per_part=8))
    cut = read_all(str(path), split_bytes, options(rows_per_part=8, split_bytes=split_bytes))
    assert rows(cut[0]) == rows(whole[0])
    assert sum(r.rows_in for r in cut[1]) == sum(r.rows_in for r in whole[1])
    assert [r for c in cut[2] for r in c.rejects] == [r for c in whole[2] for r in c.rejects]


ANCHOR_TEXT = next(t for t in map(str, range(10_000, 99_999)) if row_hashes([t])[0] % 32 == 0)
OTHER_TEXT = next(t for t in map(str, range(10_000, 99_999)) if row_hashes([t])[0] % 16 != 0)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from([ANCHOR_TEXT, *[OTHER_TEXT] * 12]), max_size=120), st.integers(4, 60))
def test_rare_and_crowded_anchors_give_the_files_rows_once(tmp_path: Path, lines: list[str], split_bytes: int) -> None:
    """Where the search for an anchor gives up, ranges must still neither overlap nor leave a gap."""
    path = tmp_path / "a.txt"
    path.write_text("\n".join(lines))
    cut = read_all(str(path), split_bytes, options(rows_per_part=64, split_bytes=split_bytes))
    assert rows(cut[0]) == [(f"a.txt#{6 * i}", line) for i, line in enumerate(lines)]


@pytest.mark.parametrize("suffix", ["jsonl.gz", "csv", "parquet"])
def test_ids_and_kept_values_count_towards_the_size_of_a_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    """5.5 MB of gzip took 1 GB, for one kept column."""
    monkeypatch.setattr(cut, "BLOCK_TEXT_CHARACTERS", 10_000)
    records = [{"text": f"row {i}", "id": f"{i:0500}", "k": "x" * 500} for i in range(100)]
    path = tmp_path / f"a.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.Table.from_pylist(records), path)
    elif suffix == "csv":
        path.write_text("text,id,k\n" + "".join(f"{r['text']},{r['id']},{r['k']}\n" for r in records))
    else:
        path.write_bytes(gzip.compress("\n".join(map(json.dumps, records)).encode()))
    read = ReadOptions(id_column="id", keep_columns=("k",))
    found = options(read=read, kept=pa.schema([("k", pa.string())]), rows_per_part=1 << 20)
    blocks, *_ = read_all(str(path), 1 << 30, found)
    assert [row for b in blocks for row in b.table.select(["text", "id", "k"]).to_pylist()] == records
    assert {b.table.num_rows for b in blocks} == {10}


def random_lines(seed: int, n: int) -> list[str]:
    rng = random.Random(seed)
    return [f"{rng.getrandbits(64):x} line of text" for _ in range(n)]


def test_blocks_do_not_depend_on_where_ranges_fall(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("\n".join(random_lines(0, 5000)))
    names = [b.name for b in read_all(str(path), 1 << 30, options())[0]]
    for split_bytes in (3_000, 10_000, 50_000):
        assert [b.name for b in read_all(str(path), split_bytes, options(split_bytes=split_bytes))[0]] == names


def test_ten_lines_inserted_leave_nearly_all_blocks_of_a_file_alone(tmp_path: Path) -> None:
    found = options(id_from="text", split_bytes=20_000)
    lines = random_lines(1, 20_000)
    path = tmp_path / "a.txt"
    path.write_text("\n".join(lines))
    before = {b.name: b.table.num_rows for b in read_all(str(path), 20_000, found)[0]}
    path.write_text("\n".join([*lines[:50], *random_lines(2, 10), *lines[50:]]))
    after = {b.name: b.table.num_rows for b in read_all(str(path), 20_000, found)[0]}
    new_rows = sum(n for name, n in after.items() if name not in before)
    assert 10 <= new_rows <= 3 * found.rows_per_part
    assert sum(after.values()) == sum(before.values()) + 10


@pytest.mark.parametrize("keep", [4999, 2500, 1000])
def test_of_a_file_that_grew_only_its_last_block_is_another(tmp_path: Path, keep: int) -> None:
    found = options(split_bytes=3_000)
    lines = random_lines(3, 5000)
    path = tmp_path / "a.txt"
    path.write_text("".join(f"{line}\n" for line in lines[:keep]))
    before = [b.name for b in read_all(str(path), 3_000, found)[0]]
    path.write_text("".join(f"{line}\n" for line in lines))
    after = [b.name for b in read_all(str(path), 3_000, found)[0]]
    assert after[: len(before) - 1] == before[:-1]


def test_a_hundred_thousand_small_files_make_tens_of_splits(tmp_path: Path) -> None:
    files = [(info, name) for name, info in _listed(tmp_path, 100_000)]
    splits = make_splits(slice_files(files, "auto", 8 << 20), "options")
    assert 10 <= len(splits) <= 99
    assert Counter(p.name for s in splits for p in s.slices) == Counter(name for _, name in files)


def test_a_file_added_among_many_changes_few_packs(tmp_path: Path) -> None:
    files = [(info, name) for name, info in _listed(tmp_path, 50_000)]
    before = {s.id for s in make_splits(slice_files(files, "auto", 8 << 20), "options")}
    added = (files[20_000][0]._replace(uri="/in/020000a.txt"), "020000a.txt")
    after = {
        s.id for s in make_splits(slice_files(sorted([*files, added], key=lambda f: f[1]), "auto", 8 << 20), "options")
    }
    assert len(after - before) <= 3
    assert len(before) > 10


def _listed(tmp_path: Path, n: int) -> list[tuple[str, object]]:
    from schemas.splits import FileInfo

    return [(f"{i:06}.txt", FileInfo(f"/in/{i:06}.txt", 40, "1")) for i in range(n)]


def test_ten_gigabytes_make_over_a_thousand_splits() -> None:
    from schemas.splits import FileInfo

    slices = slice_files([(FileInfo("/in/a.txt", 10 << 30, "1"), "a.txt")], "auto", 8 << 20)
    assert len(slices) == 1280
    assert sum(p.size for (p,) in slices) == 10 << 30


def test_ids_tell_file_and_place_or_the_text(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a.txt").write_text("ä\nb\n")
    (tmp_path / "b.jsonl").write_text('{"text": "c", "key": 7}\n')
    blocks = read_all(str(tmp_path), 1 << 20, options())[0]
    assert rows(blocks) == [("b.jsonl#0", "c"), ("d/a.txt#0", "ä"), ("d/a.txt#3", "b")]
    keyed = options(read=ReadOptions(id_column="key"))
    assert rows(read_all(str(tmp_path / "*.jsonl"), 1 << 20, keyed)[0]) == [("7", "c")]
    ids = [i for i, _ in rows(read_all(str(tmp_path), 1 << 20, options(id_from="text"))[0])]
    assert len(set(ids)) == 3
    assert {len(i) for i in ids} == {32}


def test_a_broken_row_is_rejected_and_the_rest_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "a"}\n{"text": \n{"text": "b"}\n')
    blocks, reads, chunks = read_all(str(path), 1 << 20, options())
    assert [t for _, t in rows(blocks)] == ["a", "b"]
    assert [(r.source, r.offset, r.reason, r.raw) for r in chunks[0].rejects] == [
        ("a.jsonl", 14, Reason.BROKEN_JSON, b'{"text": ')
    ]
    assert (reads[0].rows_in, reads[0].blocks) == (3, 1)
    assert blocks[0].table[SOURCE].to_pylist() == ["a.jsonl"] * 2
    assert blocks[0].table[OFFSET].to_pylist() == [0, 24]


def test_a_bad_file_fails_the_run_or_is_listed(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(b"no gzip")
    (tmp_path / "b.jsonl").write_text(json.dumps({"text": "b"}))
    with pytest.raises(RunFailed, match=r"a\.jsonl\.gz.*--skip_bad_files"):
        read_all(str(tmp_path), 1 << 20, options())
    blocks, reads, _ = read_all(str(tmp_path), 1 << 20, options(skip_bad_files=True))
    assert [t for _, t in rows(blocks)] == ["b"]
    assert [Path(uri).name for uri, _ in reads[0].bad_files] == ["a.jsonl.gz"]


def test_a_file_that_changes_while_it_is_read_fails_the_run(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("a\nb\n")
    slices = slice_files(list_inputs([str(path)]), "auto", 1 << 20)
    path.write_text("a\nb\nc\n")
    with pytest.raises(RunFailed, match=r"a\.txt: changed while it was read"):
        list(read_split(make_splits(slices, "options")[0], options()))
