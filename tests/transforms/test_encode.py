"""What becomes of a block: its rows with their vectors, fewer by the refused, more by the chunks."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from schemas.blocks import OFFSET, SOURCE, Block
from schemas.errors import RunFailed
from schemas.model import ModelFingerprint
from schemas.rejects import Reason
from tests.fakes import FakeEncoder
from transforms.encode import encode_block
from transforms.encoder import Encoded, Failure
from transforms.model import EncodeOptions, ResolvedModel
from transforms.write import EncodedBlock

MODEL = ResolvedModel(
    "", ModelFingerprint(
        name="m", weights_sha256="0", max_seq_length=6, pooling="mean", normalized=True, prompt="", dim=4,
        dtype="float32", backend="torch", similarity="cosine", long_texts="truncate",
    )
)  # fmt: skip
TEXTS = ["one", "two words", "one", "a text of six words here"]


class Scripted(FakeEncoder):
    """Fails the rows it is told to, cuts texts at every third word."""

    failures: Sequence[Failure] = ()
    cosines: Sequence[float] = ()

    def encode(self, texts: Sequence[str], on_batch: Any = None) -> Encoded:
        return super().encode(texts, on_batch)._replace(failures=self.failures, cosines=self.cosines)

    def chunk(self, texts: Sequence[str]) -> list[list[str]]:
        words = [text.split() for text in texts]
        return [[" ".join(w[i : i + 3]) for i in range(0, len(w), 3)] for w in words]


def encode(failures: Sequence[Failure] = (), cosines: Sequence[float] = (), **options: Any) -> EncodedBlock:
    table = pa.table(
        {
            "id": [f"i{n}" for n in range(4)],
            "text": TEXTS,
            SOURCE: ["a"] * 4,
            OFFSET: range(4),
            "kept": pa.array([1, None, 3, 4], pa.int8()),
        }
    )
    encoder = Scripted(MODEL, EncodeOptions())
    encoder.failures, encoder.cosines = failures, cosines
    return encode_block(Block("split", 3, "part", table, 50), encoder, MODEL, EncodeOptions(**options))  # type: ignore[arg-type]


def test_rows_keep_their_order_columns_and_vectors() -> None:
    found = encode()
    assert found.table.select(["id", "text", "token_count", "truncated", "kept"]).to_pylist() == [
        {"id": "i0", "text": "one", "token_count": 3, "truncated": False, "kept": 1},
        {"id": "i1", "text": "two words", "token_count": 4, "truncated": False, "kept": None},
        {"id": "i2", "text": "one", "token_count": 3, "truncated": False, "kept": 3},
        {"id": "i3", "text": "a text of six words here", "token_count": 8, "truncated": True, "kept": 4},
    ]
    assert found.table.column_names == ["id", "text", "token_count", "truncated", "embedding", "kept"]
    expected = FakeEncoder(MODEL, EncodeOptions()).encode(TEXTS).vectors
    np.testing.assert_array_equal(np.array(found.table["embedding"].to_pylist(), np.float32), expected)
    assert dataclasses.asdict(found.stats) == {
        "rows_in": 4, "rows_out": 4, "tokens": 18, "truncated": 1, "chunks": 0, "rejects": (), "cosines": (),
    }  # fmt: skip
    assert (found.split_id, found.number, found.name, found.input_bytes) == ("split", 3, "part", 50)


def test_failed_rows_are_left_out_and_told() -> None:
    found = encode([Failure(1, Reason.ENCODE_ERROR, "x" * 1000), Failure(2, Reason.ZERO_VECTOR, "zeros")])
    assert found.table["id"].to_pylist() == ["i0", "i3"]
    assert found.stats.rejects == ((1, "encode_error", "x" * 300), (2, "zero_vector", "zeros"))
    assert (found.stats.rows_in, found.stats.rows_out, found.stats.tokens) == (4, 2, 11)


def test_long_texts_are_rejected_where_that_is_asked_for() -> None:
    found = encode(long_texts="reject")
    assert found.table["id"].to_pylist() == ["i0", "i1", "i2"]
    assert found.stats.rejects == ((3, "too_long", "8 tokens or more; --long_texts reject"),)
    assert found.stats.truncated == 0


def test_chunks_are_rows_of_their_own_with_the_kept_columns_of_their_text() -> None:
    found = encode(long_texts="chunk")
    assert [tuple(r.values()) for r in found.table.select(["id", "text", "kept"]).to_pylist()] == [
        ("i0", "one", 1),
        ("i1", "two words", None),
        ("i2", "one", 3),
        ("i3/0", "a text of", 4),
        ("i3/1", "six words here", 4),
    ]
    assert (found.stats.rows_in, found.stats.rows_out, found.stats.chunks) == (4, 5, 1)


def test_one_bad_chunk_refuses_its_whole_text() -> None:
    found = encode([Failure(4, Reason.NON_FINITE, "NaN")], long_texts="chunk")
    assert found.table["id"].to_pylist() == ["i0", "i1", "i2"]
    assert found.stats.rejects == ((3, "non_finite_vector", "NaN"),)
    assert (found.stats.rows_out, found.stats.chunks) == (3, 0)


def test_all_rows_may_be_refused() -> None:
    found = encode([Failure(n, Reason.NON_FINITE, "NaN") for n in range(4)])
    assert (found.table.num_rows, found.table.schema.field("embedding").type.list_size) == (0, 4)
    assert found.stats.rows_out == 0


def test_vectors_too_far_from_float32_end_the_run() -> None:
    assert encode(cosines=[0.9995, 1.0]).stats.cosines == (0.9995, 1.0)
    with pytest.raises(RunFailed, match=r"0\.99800, below --min_fidelity 0\.999; use --dtype float32"):
        encode(cosines=[1.0, 0.998], dtype="bfloat16")
