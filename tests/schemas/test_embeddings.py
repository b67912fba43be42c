"""A part's file: the same bytes for the same rows, and a footer that says all of it. Golden files stay readable."""

import hashlib
import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.dataset import open_dataset
from schemas.embeddings import PartStats, embeddings_schema, is_part_name, part_bytes, read_footer
from schemas.errors import InputError
from schemas.model import ModelFingerprint
from schemas.rejects import REJECTS_SCHEMA, Reason

GOLDEN = Path(__file__).parents[1] / "golden/embeddings-v1"


def fingerprint(**changes: object) -> ModelFingerprint:
    known = {
        "name": "m", "weights_sha256": "0", "max_seq_length": 8, "pooling": "mean", "normalized": True, "prompt": "",
        "dim": 2, "dtype": "float32", "backend": "torch", "similarity": "cosine", "long_texts": "truncate",
    }  # fmt: skip
    return ModelFingerprint(**known | changes)  # type: ignore[arg-type]


def table(rows: int, kept: pa.Schema | None = None) -> pa.Table:
    vectors = pa.array(np.arange(2 * rows, dtype=np.float32))
    schema = embeddings_schema(fingerprint(), kept)
    texts = pa.array([f"text {n}" for n in range(rows)], pa.string())
    arrays = [
        pa.array([f"i{n}" for n in range(rows)], pa.string()),
        texts,
        pa.array([3] * rows, pa.int32()),
        pa.array([False] * rows, pa.bool_()),
        pa.FixedSizeListArray.from_arrays(vectors, type=schema.field("embedding").type),
        *(pa.nulls(rows, f.type) for f in kept or ()),
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def stats(**changes: object) -> PartStats:
    return PartStats(**{"rows_in": 2, "rows_out": 2, "tokens": 6, "truncated": 0} | changes)  # type: ignore[arg-type]


@given(
    st.lists(st.tuples(st.integers(0, 9), st.sampled_from([str(r) for r in Reason]), st.text()), max_size=3),
    st.lists(st.floats(-1, 1), max_size=3),
)
def test_stats_survive_a_part_s_footer(rejects: list[tuple[int, str, str]], cosines: list[float]) -> None:
    written = stats(rejects=tuple(rejects), cosines=tuple(cosines), chunks=1)
    schema, read = read_footer(io.BytesIO(part_bytes(table(2), written)))
    assert read == written
    assert schema.field("embedding").type.list_size == 2


def test_the_same_rows_make_the_same_bytes_whatever_buffers_hold_them() -> None:
    whole = table(20_000)
    pieces = pa.concat_tables([whole.slice(0, 7), whole.slice(7)]).combine_chunks()
    assert part_bytes(pieces, stats()) == part_bytes(whole, stats())
    assert part_bytes(whole, stats(tokens=7)) != part_bytes(whole, stats())


def test_row_groups_are_small_enough_to_read_one_at_a_time() -> None:
    metadata = pq.read_metadata(io.BytesIO(part_bytes(table(20_000), stats())))
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [8192, 8192, 3616]


def test_kept_columns_keep_their_types_and_may_be_null() -> None:
    kept = pa.schema([pa.field("n", pa.int16()), pa.field("tags", pa.list_(pa.string()))])
    found = pq.read_table(io.BytesIO(part_bytes(table(3, kept), stats())))
    assert [(f.name, f.nullable) for f in found.schema] == [
        ("id", False), ("text", False), ("token_count", False), ("truncated", False), ("embedding", False),
        ("n", True), ("tags", True),
    ]  # fmt: skip
    assert found["n"].to_pylist() == [None] * 3
    assert found.schema.field("n").type == pa.int16()


def test_a_file_that_is_no_part_has_no_footer_of_ours() -> None:
    sink = io.BytesIO()
    pq.write_table(pa.table({"id": ["a"]}), sink)
    with pytest.raises((KeyError, TypeError)):
        read_footer(sink)
    with pytest.raises(pa.ArrowInvalid):
        read_footer(io.BytesIO(b"no parquet at all, but long enough"))


@pytest.mark.parametrize(
    "name", ["part-0.parquet", "part-" + "g" * 32 + ".parquet", "x" + "part-" + "0" * 32 + ".parquet"]
)
def test_only_names_that_this_job_gives_are_parts(name: str) -> None:
    assert is_part_name("part-0123456789abcdef0123456789abcdef.parquet")
    assert not is_part_name(name)


def test_a_fingerprint_ignores_the_name_and_tells_every_other_difference() -> None:
    assert fingerprint(name="other").digest == fingerprint().digest
    assert ModelFingerprint.from_json(fingerprint().to_json()) == fingerprint()
    for change in ({"dim": 3}, {"prompt": "q: "}, {"dtype": "bfloat16"}, {"normalized": False}, {"schema_version": 2}):
        other = fingerprint(**change)
        assert other.digest != fingerprint().digest
        ((key, value),) = change.items()
        assert other.differences(fingerprint()) == [f"{key}: {getattr(fingerprint(), key)!r} -> {value!r}"]


def test_a_dataset_of_schema_version_1_stays_readable() -> None:
    dataset = open_dataset(str(GOLDEN))
    manifest = dataset.manifest
    rows = dataset.read().to_pylist()
    vectors = np.array([row.pop("embedding") for row in rows])
    assert rows == [
        {"id": "a.jsonl#0", "text": "first row", "token_count": 4, "truncated": False, "topic": "x"},
        {"id": "a.jsonl#36", "text": "second row", "token_count": 4, "truncated": False, "topic": None},
        {"id": "a.jsonl#74", "text": "long " * 300, "token_count": 303, "truncated": True, "topic": "y"},
    ]
    assert vectors.shape == (3, 8)
    np.testing.assert_allclose(vectors[0, :3], [-0.4930376, -0.2655397, 0.5148074], atol=1e-7)
    assert (manifest.version, manifest.kind, manifest.counts.rows_in, manifest.counts.rejected) == (
        1, "embeddings", 4, {"null_text": 1},
    )  # fmt: skip
    for entry in (*manifest.parts, *manifest.rejects):
        assert entry.checksum == f"sha256:{hashlib.sha256((GOLDEN / entry.name).read_bytes()).hexdigest()}"
    schema, found = read_footer(GOLDEN / manifest.parts[0].name)
    assert schema.remove_metadata().equals(
        embeddings_schema(manifest.fingerprint, pa.schema([pa.field("topic", pa.string())])).remove_metadata()
    )
    assert found == PartStats(rows_in=3, rows_out=3, tokens=311, truncated=1)
    rejects = pq.read_table(GOLDEN / manifest.rejects[0].name)
    assert rejects.schema.equals(REJECTS_SCHEMA)
    assert rejects.select(["source", "offset", "reason"]).to_pylist() == [
        {"source": "a.jsonl", "offset": 59, "reason": "null_text"}
    ]


def test_a_version_that_is_not_there_is_named() -> None:
    with pytest.raises(InputError, match="version 7 is not there; there are 1"):
        open_dataset(str(GOLDEN), 7)
    with pytest.raises(InputError, match="no published dataset"):
        open_dataset(str(GOLDEN / "_rejects"))
