"""What becomes of a block: its rows with their vectors, fewer by the refused, more by the chunks."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pytest
from apache_beam.testing.test_pipeline import TestPipeline as _TestPipeline
from apache_beam.testing.util import assert_that, equal_to
from apache_beam.transforms.window import FixedWindows, TimestampedValue

import transforms.encode
from schemas.blocks import OFFSET, SOURCE, Block
from schemas.errors import RunFailed
from schemas.model import ModelFingerprint
from schemas.rejects import Reason
from tests.fakes import FakeEncoder
from transforms.encode import BlockInFlight, EncodeTexts
from transforms.encoder_job import Encoded, Failure
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
    block = Block("split", 3, "part", table, 50)
    return BlockInFlight(block, encoder, MODEL, EncodeOptions(**options)).result()  # type: ignore[arg-type]


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


class Logging(FakeEncoder):
    """Writes down what it is asked for and when it is done, and counts what is dropped."""

    log: list[str] = []
    fail_at = ""

    def submit(self, texts: Sequence[str], on_batch: Any = None) -> Any:
        self.log.append(f"begin {texts[0]}")
        return Logged(self.log, texts[0], self, texts)


class Logged:
    def __init__(self, log: list[str], name: str, encoder: Logging, texts: Sequence[str]) -> None:
        self.log, self.name, self.encoder, self.texts = log, name, encoder, texts

    def result(self) -> Encoded:
        self.log.append(f"end {self.name}")
        cosines = (0.5,) if self.name == Logging.fail_at else (1.0,)
        return self.encoder.encode(self.texts)._replace(cosines=cosines)

    def cancel(self) -> None:
        self.log.append(f"drop {self.name}")


def run_pipeline(monkeypatch: pytest.MonkeyPatch, names: str, check: Any, fail_at: str = "") -> list[str]:
    """Blocks of one row each, at timestamps 0, 10, 20, …, through EncodeTexts; what its encoder was asked for."""
    monkeypatch.setattr(transforms.encode, "Encoder", Logging)
    Logging.log, Logging.fail_at = [], fail_at
    blocks = [
        Block("split", n, name, pa.table({"id": [name], "text": [name], SOURCE: ["a"], OFFSET: [n]}), 1)
        for n, name in enumerate(names)
    ]
    with _TestPipeline() as pipeline:
        encoded = (
            pipeline
            | beam.Create([0])
            | beam.FlatMap(lambda _: [TimestampedValue(b, 10 * b.number) for b in blocks]).with_output_types(Block)
            | beam.WindowInto(FixedWindows(10))
            | EncodeTexts(MODEL, EncodeOptions())
        ).encoded
        assert_that(encoded | beam.Map(_with_window), check)
    return Logging.log


def _with_window(
    block: EncodedBlock, timestamp: Any = beam.DoFn.TimestampParam, window: Any = beam.DoFn.WindowParam
) -> tuple[str, int, int]:
    return block.table["text"][0].as_py(), int(timestamp), int(window.start)


def test_a_block_is_begun_before_the_last_one_is_done_and_no_more_than_that(monkeypatch: pytest.MonkeyPatch) -> None:
    log = run_pipeline(monkeypatch, "abcd", equal_to([(name, 10 * n, 10 * n) for n, name in enumerate("abcd")]))
    assert log == ["begin a", "begin b", "end a", "begin c", "end b", "begin d", "end c", "end d"]


def test_a_block_that_fails_the_run_drops_what_is_in_flight(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Exception, match="below --min_fidelity"):
        run_pipeline(monkeypatch, "abcd", equal_to([]), fail_at="a")
    assert Logging.log[:4] == ["begin a", "begin b", "end a", "drop b"]


def test_blocks_in_flight_are_dropped_when_what_comes_before_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transforms.encode, "Encoder", Logging)
    Logging.log, Logging.fail_at = [], ""

    def broken(_: int) -> Any:
        yield Block("split", 0, "a", pa.table({"id": ["a"], "text": ["a"], SOURCE: ["a"], OFFSET: [0]}), 1)
        raise RunFailed("the file ends early")

    with pytest.raises(Exception, match="the file ends early"), _TestPipeline() as pipeline:
        _ = (
            pipeline
            | beam.Create([0])
            | beam.FlatMap(broken).with_output_types(Block)
            | EncodeTexts(MODEL, EncodeOptions())
        )
    assert Logging.log[:2] == ["begin a", "drop a"]
