"""The manifest is put once every row is accounted for and every file is there, or not at all."""

import dataclasses
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from schemas.blocks import RejectChunk, SplitRead
from schemas.dataset import open_dataset
from schemas.embeddings import Part, PartStats, embeddings_schema
from schemas.errors import RunFailed
from schemas.manifest import Manifest, newest_manifest, versions
from schemas.model import ModelFingerprint
from schemas.rejects import Reason, Reject
from schemas.splits import digest
from transforms.plan import Plan
from transforms.publish import finish_removals, publish
from transforms.write import EncodedBlock, RejectPart, write_part, write_rejects

MODEL = ModelFingerprint(
    name="m", weights_sha256="0", max_seq_length=8, pooling="mean", normalized=True, prompt="", dim=2, dtype="float32",
    backend="torch", similarity="cosine", long_texts="truncate",
)  # fmt: skip


def plan(folder: Path, **changes: Any) -> Plan:
    known: dict[str, Any] = {
        "output": str(folder), "run": "this", "started": time.time() - 1, "base_version": 0, "order": ("s1", "s2"),
        "todo": (), "inputs": (), "fingerprint": MODEL, "kept": pa.schema([]), "options": {}, "input_bytes": 0,
        "max_error_rate": 0.5,
    }  # fmt: skip
    return Plan(**known | changes)


def part(folder: Path, split: str, number: int, ids: Sequence[str], **stats: Any) -> Part:
    schema = embeddings_schema(MODEL)
    vectors = pa.FixedSizeListArray.from_arrays(
        pa.array(np.ones(2 * len(ids), np.float32)), type=schema.field("embedding").type
    )
    columns = [list(ids), list(ids), pa.array([3] * len(ids), pa.int32()), [False] * len(ids), vectors]
    table = pa.Table.from_arrays(columns, schema=schema)
    known = {"rows_in": len(ids), "rows_out": len(ids), "tokens": 3 * len(ids), "truncated": 0}
    name = f"part-{digest(list(ids))}.parquet"
    return write_part(str(folder), EncodedBlock(split, number, name, table, PartStats(**known | stats), 0), MODEL)


def reject(folder: Path, split: str, *reasons: Reason) -> RejectPart:
    chunk = RejectChunk(split, tuple(Reject("a", n, "read", r, f"error {n}", b"") for n, r in enumerate(reasons)))
    return write_rejects(str(folder), chunk)


def read(split: str, blocks: int, rows_in: int) -> SplitRead:
    return SplitRead(split, blocks, rows_in, 0, ())


def publish_two(folder: Path, **changes: Any) -> Manifest:
    """s1 is of two parts and a rejected row, s2 of one part; records come in any order."""
    parts = [part(folder, "s2", 0, ["d"]), part(folder, "s1", 1, ["c"]), part(folder, "s1", 0, ["a", "b"])]
    reads = [read("s2", 1, 1), read("s1", 2, 4)]
    return publish(plan(folder, **changes), reads, parts, [reject(folder, "s1", Reason.BROKEN_JSON)])


def test_parts_are_published_in_input_order_with_all_rows_accounted_for(tmp_path: Path) -> None:
    manifest = publish_two(tmp_path)
    assert open_dataset(str(tmp_path)).read(["id"])["id"].to_pylist() == ["a", "b", "c", "d"]
    assert newest_manifest(str(tmp_path)) == manifest
    counts = manifest.counts
    assert (counts.rows_in, counts.rows_out, counts.rejected, counts.tokens) == (5, 4, {"broken_json": 1}, 12)
    assert [(s.id, len(s.parts), s.counts.rows_in) for s in manifest.splits] == [("s1", 2, 4), ("s2", 1, 1)]
    assert sorted(p.name for p in tmp_path.iterdir() if not p.name.startswith("part-")) == [
        "_SUCCESS", "_manifest", "_rejects",
    ]  # fmt: skip
    assert os.listdir(tmp_path / "_manifest") == ["00000001.json"]


def test_records_that_come_twice_count_once(tmp_path: Path) -> None:
    parts = [part(tmp_path, "s1", 0, ["a"]), part(tmp_path, "s1", 0, ["a"])]
    rejects = [reject(tmp_path, "s1", Reason.NULL_TEXT)] * 2
    manifest = publish(plan(tmp_path, order=("s1",)), [read("s1", 1, 2)] * 2, parts, rejects)
    assert (manifest.counts.rows_in, manifest.counts.rows_out, len(manifest.parts)) == (2, 1, 1)


@pytest.mark.parametrize(
    ("reads", "parts", "message"),
    [
        ([], [0], "1 of 1 splits were never read"),
        ([read("s1", 2, 1)], [0], "2 blocks were read but 1 parts came"),
        ([read("s1", 1, 1)], [], "1 blocks were read but 0 parts came"),
        ([read("s1", 1, 2)], [0], "rows were lost or doubled"),
    ],
)
def test_nothing_is_published_unless_every_row_came(
    tmp_path: Path, reads: list[SplitRead], parts: list[int], message: str
) -> None:
    written = [part(tmp_path, "s1", number, ["a"]) for number in parts]
    with pytest.raises(RunFailed, match=message):
        publish(plan(tmp_path, order=("s1",)), reads, written, [])
    assert newest_manifest(str(tmp_path)) is None
    assert not (tmp_path / "_SUCCESS").exists()


def test_a_part_that_is_gone_or_another_is_not_published(tmp_path: Path) -> None:
    written = part(tmp_path, "s1", 0, ["a"])
    (tmp_path / written.name).unlink()
    with pytest.raises(RunFailed, match=f"{written.name}: is gone or other than written"):
        publish(plan(tmp_path, order=("s1",)), [read("s1", 1, 1)], [written], [])
    (tmp_path / written.name).write_bytes(b"something else")
    with pytest.raises(RunFailed, match=f"{written.name}: is gone or other than written"):
        publish(plan(tmp_path, order=("s1",)), [read("s1", 1, 1)], [written], [])
    assert os.listdir(tmp_path / "_manifest") == []


def test_too_many_broken_rows_are_told_with_the_most_frequent_reasons(tmp_path: Path) -> None:
    reasons = [Reason.BROKEN_JSON] * 2 + [Reason.WRONG_TYPE] + [Reason.NULL_TEXT] * 9
    rejected = reject(tmp_path, "s1", *reasons)
    with pytest.raises(RunFailed) as failed:
        publish(plan(tmp_path, order=("s1",), max_error_rate=0.2), [read("s1", 0, 12)], [], [rejected])
    assert str(failed.value).startswith(
        "3 of 12 rows are broken, more than --max_error_rate 0.2: 2 x broken_json (as a#0: error 0); "
        "1 x wrong_type (as a#2: error 2). Nothing is published"
    )
    manifest = publish(plan(tmp_path, order=("s1",), max_error_rate=0.25), [read("s1", 0, 12)], [], [rejected])
    assert (manifest.counts.rows_out, manifest.counts.rejected_rows) == (0, 12)


def test_what_did_not_change_stays_the_version_it_is(tmp_path: Path) -> None:
    first = publish_two(tmp_path)
    again = publish_two(tmp_path, run="another", base_version=1)
    assert again == first
    assert versions(str(tmp_path)) == [1]


def test_splits_of_the_base_version_are_carried_over_unread(tmp_path: Path) -> None:
    publish_two(tmp_path)
    new = part(tmp_path, "s3", 0, ["e"])
    order = ("s3", "s2")
    manifest = publish(plan(tmp_path, run="next", base_version=1, order=order), [read("s3", 1, 1)], [new], [])
    assert (manifest.version, manifest.parent, manifest.reused) == (2, 1, {"splits": 1, "parts": 1, "rows": 1})
    assert open_dataset(str(tmp_path)).read(["id"])["id"].to_pylist() == ["e", "d"]
    assert (manifest.counts.rows_in, manifest.counts.rejected) == (2, {})


def test_of_two_runs_on_one_version_the_second_says_so(tmp_path: Path) -> None:
    first = publish_two(tmp_path)
    with pytest.raises(RunFailed, match="another run published version 1"):
        publish_two(tmp_path, run="another")
    assert publish_two(tmp_path).same_data(first)  # its own put, whose answer was lost
    assert newest_manifest(str(tmp_path)) == first


def age(folder: Path) -> None:
    for path in folder.rglob("*.parquet"):
        os.utime(path, (1000, 1000))


@pytest.mark.parametrize("keep_versions", [1, 2])
def test_files_that_no_kept_version_lists_are_removed_unless_they_are_young(tmp_path: Path, keep_versions: int) -> None:
    first = publish_two(tmp_path)
    stray = part(tmp_path, "dead run", 0, ["stray"])
    age(tmp_path)
    young = part(tmp_path, "run beside this one", 0, ["young"])
    os.utime(tmp_path / young.name, (time.time() + 5, time.time() + 5))
    (tmp_path / "notes.txt").write_text("not ours")
    new = part(tmp_path, "s3", 0, ["e"])
    next_plan = plan(tmp_path, run="next", base_version=1, order=("s3",), keep_versions=keep_versions)
    publish(next_plan, [read("s3", 1, 1)], [new], [])
    kept = {new.name, young.name, "notes.txt"} | ({p.name for p in first.parts} if keep_versions == 2 else set())
    assert {p.name for p in tmp_path.iterdir() if not p.name.startswith("_")} == kept
    assert stray.name not in kept
    assert versions(str(tmp_path)) == ([1, 2] if keep_versions == 2 else [2])
    assert len(list((tmp_path / "_rejects").iterdir())) == keep_versions - 1


def test_a_clean_up_that_was_killed_is_finished_by_the_next_run(tmp_path: Path) -> None:
    publish_two(tmp_path)
    stray = part(tmp_path, "dead run", 0, ["stray"])
    (tmp_path / "_manifest/00000001.removing").write_text(f'["{stray.name}"]')
    finish_removals(str(tmp_path))
    assert not (tmp_path / stray.name).exists()
    assert os.listdir(tmp_path / "_manifest") == ["00000001.json"]


def test_double_ids_are_looked_for_where_they_can_be(tmp_path: Path) -> None:
    parts = [part(tmp_path, "s1", 0, ["a", "b"]), part(tmp_path, "s2", 0, ["b"])]
    reads = [read("s1", 1, 2), read("s2", 1, 1)]
    with pytest.raises(RunFailed, match=r"1 ids are not unique, among them 'b' \(2 times\)"):
        publish(plan(tmp_path, unique_ids=False), reads, parts, [])
    kept = dataclasses.replace(plan(tmp_path, unique_ids=False), duplicate_ids="keep")
    assert publish(kept, reads, parts, []).counts.rows_out == 3
