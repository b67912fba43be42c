"""Parts and rejects are there whole or not at all, once, under a name that follows from what is in them."""

import dataclasses
import hashlib
import time
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.testing.test_pipeline import TestPipeline as _TestPipeline
from apache_beam.testing.util import assert_that, equal_to
from apache_beam.transforms.window import FixedWindows, TimestampedValue

from schemas import storage
from schemas.blocks import OFFSET, SOURCE, Block, RejectChunk
from schemas.embeddings import Part, PartStats, embeddings_schema
from schemas.errors import RunFailed
from schemas.model import ModelFingerprint
from schemas.rejects import Reason, Reject
from transforms.write import WRITERS, EncodedBlock, WriteParts, encoder_rejects, find_part, write_part, write_rejects

NAME = "part-0123456789abcdef0123456789abcdef.parquet"
NAME_1 = "part-0123456789abcdef0123456789abcdef-1.parquet"
MODEL = ModelFingerprint(
    name="m", weights_sha256="0", max_seq_length=8, pooling="mean", normalized=True, prompt="", dim=2, dtype="float32",
    backend="torch", similarity="cosine", long_texts="truncate",
)  # fmt: skip
BLOCK = Block(
    "split", 0, NAME,
    pa.table({"id": ["i", "j"], "text": ["a", "ä" * 600], SOURCE: ["a.txt"] * 2, OFFSET: [0, 2]}), 10,
)  # fmt: skip


def encoded(**changes: object) -> EncodedBlock:
    schema = embeddings_schema(MODEL)
    vectors = pa.FixedSizeListArray.from_arrays(
        pa.array(np.arange(4, dtype=np.float32)), type=schema.field("embedding").type
    )
    table = pa.Table.from_arrays(
        [["i", "j"], ["a", "b"], pa.array([3, 3], pa.int32()), [False, False], vectors], schema=schema
    )
    stats = PartStats(**{"rows_in": 2, "rows_out": 2, "tokens": 6, "truncated": 0} | changes)  # type: ignore[arg-type]
    return EncodedBlock("split", 0, NAME, table, stats, 10, 5)


def test_a_part_is_written_once_and_then_adopted(tmp_path: Path) -> None:
    first = write_part(str(tmp_path), "run", encoded(), MODEL)
    data = (tmp_path / NAME).read_bytes()
    again = write_part(str(tmp_path), "run", encoded(tokens=999), MODEL)
    assert not first.adopted
    assert again == first._replace(adopted=True, encode_msec=0)
    assert (tmp_path / NAME).read_bytes() == data
    assert find_part(str(tmp_path), "run", BLOCK, MODEL) == again
    assert (first.size, [p.name for p in tmp_path.iterdir()]) == (len(data), [NAME])


def test_fresh_trusts_only_what_is_the_same_byte_for_byte_and_writes_over_nothing(tmp_path: Path) -> None:
    first = write_part(str(tmp_path), "run", encoded(), MODEL)
    data = (tmp_path / NAME).read_bytes()
    same = write_part(str(tmp_path), "run", encoded(), MODEL, fresh=True)
    assert (same.name, same.adopted, same.checksum) == (NAME, False, first.checksum)
    other = write_part(str(tmp_path), "run", encoded(tokens=999), MODEL, fresh=True)
    assert (other.name, other.adopted, other.stats.tokens) == (NAME_1, False, 999)
    zombie = write_part(str(tmp_path), "run", encoded(tokens=998), MODEL, fresh=True)
    assert (zombie.name, (tmp_path / NAME).read_bytes()) == (NAME.replace(".", "-2."), data)
    assert hashlib.sha256((tmp_path / NAME_1).read_bytes()).hexdigest() == other.checksum.removeprefix("sha256:")


@pytest.mark.parametrize("damage", ["cut", "empty", "other model", "other rows", "failed rows", "no part"])
def test_what_is_no_whole_part_of_this_block_is_written_again(tmp_path: Path, damage: str) -> None:
    failed = ((1, str(Reason.ENCODE_ERROR), "out of memory"),)
    there = {
        "other rows": encoded(rows_in=3),
        "failed rows": encoded(rows_out=1, rejects=failed),
    }.get(damage, encoded())
    if damage == "other model":
        other = dataclasses.replace(MODEL, prompt="q: ")
        there = there._replace(table=there.table.replace_schema_metadata(embeddings_schema(other).metadata))
    write_part(str(tmp_path), "run", there, MODEL)
    path = tmp_path / NAME
    if damage in ("cut", "empty"):
        path.write_bytes(path.read_bytes()[: -20 if damage == "cut" else 0])
    if damage == "no part":
        pq.write_table(pa.table({"x": [1]}), path)
    assert find_part(str(tmp_path), "run", BLOCK, MODEL) is None
    before = path.read_bytes()
    written = write_part(str(tmp_path), "run", encoded(), MODEL)
    assert (written.name, written.adopted, path.read_bytes()) == (NAME_1, False, before)
    found = find_part(str(tmp_path), "run", BLOCK, MODEL)
    assert found == written._replace(adopted=True, encode_msec=0)


def test_rows_that_failed_here_alone_are_not_counted_twice(tmp_path: Path) -> None:
    """Their rejects are on their way when the part of a run beside this one, which had them encoded, is found."""
    whole = write_part(str(tmp_path), "beside", encoded(), MODEL)
    failed = ((1, str(Reason.ENCODE_ERROR), "out of memory"),)
    part = write_part(str(tmp_path), "run", encoded(rows_out=1, rejects=failed), MODEL)
    assert (part.name, part.adopted, part.stats.rejects) == (NAME_1, False, failed)
    assert find_part(str(tmp_path), "next", BLOCK, MODEL) == whole._replace(adopted=True, encode_msec=0)


@pytest.mark.parametrize("fault", [OSError(13, "Permission denied"), OSError(5, "Input/output error")])
def test_a_part_that_cannot_be_read_is_not_taken_for_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: OSError
) -> None:
    write_part(str(tmp_path), "run", encoded(), MODEL)

    def fail(_: object) -> None:
        raise fault

    monkeypatch.setattr(storage, "open_random", fail)
    for act, what in ((find_part, BLOCK), (write_part, encoded())):
        with pytest.raises(RunFailed, match=f"{NAME}: is there and cannot be read: {fault.strerror}"):
            act(str(tmp_path), "run", what, MODEL)


def test_rows_that_fail_again_are_written_once(tmp_path: Path) -> None:
    failed = encoded(rows_out=1, rejects=((1, str(Reason.ENCODE_ERROR), "out of memory"),))
    first, again = (write_part(str(tmp_path), "run", failed, MODEL) for _ in range(2))
    assert first == again and not again.adopted
    assert [p.name for p in tmp_path.iterdir()] == [NAME]


def test_rejects_that_were_damaged_are_written_again(tmp_path: Path) -> None:
    chunk = RejectChunk("split", (Reject("a", 0, "read", Reason.BROKEN_JSON, "error", b"x"),))
    first = write_rejects(str(tmp_path), "run", chunk)
    path = tmp_path / first.entry.name
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    again = write_rejects(str(tmp_path), "run", chunk)
    assert again.entry == first.entry._replace(name=first.entry.name.replace(".parquet", "-1.parquet"))
    assert write_rejects(str(tmp_path), "run", chunk) == again


def test_a_part_says_which_rows_the_encoder_refused() -> None:
    stats = encoded(rows_out=1, rejects=((1, str(Reason.NON_FINITE), "NaN"),)).stats
    chunk = encoder_rejects(BLOCK, stats)
    assert chunk == RejectChunk(
        "split", (Reject("a.txt", 2, "encode", Reason.NON_FINITE, "NaN", ("ä" * 512).encode()),)
    )
    assert encoder_rejects(BLOCK, encoded().stats) is None


def test_rejects_are_named_by_their_content_and_counted_by_reason(tmp_path: Path) -> None:
    rejects = [
        Reject("a", n, "read", reason, f"error {n}", bytes([255]))
        for n, reason in enumerate([Reason.BROKEN_JSON, Reason.NULL_TEXT, Reason.BROKEN_JSON])
    ]
    chunk = RejectChunk("split", tuple(rejects))
    first, again = write_rejects(str(tmp_path), "run", chunk), write_rejects(str(tmp_path), "run", chunk)
    assert first == again
    assert first.reasons == (("broken_json", 2), ("null_text", 1))
    assert first.examples == (("broken_json", "a#0: error 0"), ("null_text", "a#1: error 1"))
    assert pq.read_table(tmp_path / first.entry.name).to_pylist()[2] == {
        "source": "a", "offset": 2, "stage": "read", "reason": "broken_json", "error": "error 2", "raw": b"\xff",
    }  # fmt: skip
    assert [str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.parquet")] == [first.entry.name]


def blocks(n: int) -> list[EncodedBlock]:
    return [encoded()._replace(number=i, name=f"part-{i:032x}.parquet") for i in range(n)]


def write_all(folder: Path, found: list[EncodedBlock], check: Any) -> None:
    """As one bundle, at timestamps 0, 10, 20, …"""
    with _TestPipeline() as pipeline:
        parts = (
            pipeline
            | beam.Create([0])
            | beam.FlatMap(lambda _: (TimestampedValue(b, 10 * b.number) for b in found)).with_output_types(
                EncodedBlock
            )
            | beam.WindowInto(FixedWindows(10))
            | WriteParts(str(folder), "run", MODEL)
            | beam.Map(_seen, str(folder))
        )
        assert_that(parts, check)


def _seen(
    part: Part, folder: str, timestamp: Any = beam.DoFn.TimestampParam, window: Any = beam.DoFn.WindowParam
) -> tuple[int, bool, int, int]:
    there = storage.read_bytes(f"{folder}/{part.name}") if storage.stat(f"{folder}/{part.name}") else b""
    return (
        part.number,
        f"sha256:{hashlib.sha256(there).hexdigest()}" == part.checksum,
        int(timestamp),
        int(window.start),
    )


def slowly(monkeypatch: pytest.MonkeyPatch, fail_at: str = "") -> list[tuple[str, int]]:
    """Lets each part take a while; what begins and ends, with how many were under way then."""
    log: list[tuple[str, int]] = []
    under_way: set[str] = set()
    real = storage.create

    def create(uri: str, data: bytes) -> bool:
        under_way.add(uri)
        log.append(("begin", len(under_way)))
        time.sleep(0.05)
        try:
            if fail_at and uri.endswith(fail_at):
                raise RunFailed(f"{uri}: cannot be written: No space left on device")
            return real(uri, data)
        finally:
            log.append(("end", len(under_way)))
            under_way.discard(uri)

    monkeypatch.setattr(storage, "create", create)
    return log


def test_a_part_is_told_of_when_it_is_there_whole_in_its_own_window(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = slowly(monkeypatch)
    write_all(tmp_path, blocks(5), equal_to([(n, True, 10 * n, 10 * n) for n in range(5)]))
    assert max(many for _, many in log) == WRITERS
    assert len(list(tmp_path.iterdir())) == 5


def test_a_part_that_cannot_be_written_fails_the_run_and_the_others_end_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = blocks(5)
    log = slowly(monkeypatch, fail_at=found[1].name)
    with pytest.raises(Exception, match=f"{found[1].name}: cannot be written: No space left"):
        write_all(tmp_path, found, equal_to([]))
    kinds = [kind for kind, _ in log]
    assert kinds.count("begin") == kinds.count("end") < 5
    assert all(path.name in {f.name for f in found} for path in tmp_path.iterdir())  # nothing half written
