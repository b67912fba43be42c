"""Block -> encoded block: the DoFn that holds the model."""

import dataclasses
import logging
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.metrics import Metrics
from apache_beam.transforms.window import BoundedWindow
from apache_beam.utils.shared import Shared
from apache_beam.utils.timestamp import Timestamp
from apache_beam.utils.windowed_value import WindowedValue

from schemas.blocks import OFFSET, SOURCE, Block
from schemas.embeddings import PartStats, embeddings_schema
from schemas.errors import RunFailed
from schemas.rejects import Reason
from transforms.encoder import Encoder
from transforms.encoder_job import Encoded, OnBatch
from transforms.model import EncodeOptions, ResolvedModel
from transforms.progress import PROGRESS
from transforms.trace import TRACE
from transforms.watchdog import Watchdog
from transforms.write import EncodedBlock, encoder_rejects

_LOGGER = logging.getLogger(__name__)
ERROR_CHARACTERS = 300
BLOCKS_IN_FLIGHT = 2
"""Of a bundle: one that is computed, and one whose batches wait behind. A third is read, or written, meanwhile."""


@dataclasses.dataclass
class EncodeTexts(beam.PTransform):
    """PCollection[Block] -> (encoded: PCollection[EncodedBlock], rejects: PCollection[RejectChunk])

    One encoder a process, shared by all bundle threads: it owns the process's compute.
    """

    model: ResolvedModel
    options: EncodeOptions
    timeout_seconds: float = 600.0  # without a finished batch, before the process counts as hung
    hints: dict[str, str] = dataclasses.field(default_factory=dict)  # Beam's resource hints: accelerator, min_ram

    def expand(self, blocks: beam.PCollection) -> Any:
        encode = beam.ParDo(_EncodeBlock(self.model, self.options, self.timeout_seconds)).with_output_types(
            EncodedBlock
        )
        encode = encode.with_resource_hints(**self.hints)
        return blocks | "EncodeBlock" >> encode.with_outputs("rejects", main="encoded")


class _EncodeBlock(beam.DoFn):
    """Holds some blocks of a bundle in flight, so that reading the next ones and writing the last ones go on while the
    encoder computes. A bundle that fails is run again as a whole: what was in flight is lost with it, and nothing else.
    """

    def __init__(self, model: ResolvedModel, options: EncodeOptions, timeout_seconds: float) -> None:
        self.model, self.options, self.timeout_seconds = model, options, timeout_seconds
        self.shared = Shared()
        self.tokens = Metrics.counter("embed", "tokens")
        self.rows = Metrics.counter("embed", "rows")

    def setup(self) -> None:
        self.encoder = self.shared.acquire(self._load)
        self.watchdog = Watchdog(self.timeout_seconds)
        self.in_flight: deque[tuple[BlockInFlight, Timestamp, BoundedWindow]] = deque()

    def _load(self) -> Encoder:
        started = time.monotonic()
        with TRACE.span("load model"):
            encoder = Encoder(self.model, self.options)
        _LOGGER.info("%s loaded in %.1f s", self.model.fingerprint.name, time.monotonic() - started)
        return encoder

    def process(
        self, block: Block, timestamp: Any = beam.DoFn.TimestampParam, window: Any = beam.DoFn.WindowParam
    ) -> Iterator[Any]:
        with self.watchdog.watch(block.name):
            flight = BlockInFlight(block, self.encoder, self.model, self.options, self._count)
        self.in_flight.append((flight, timestamp, window))
        if len(self.in_flight) >= BLOCKS_IN_FLIGHT:
            yield from self._land()

    def finish_bundle(self) -> Iterator[Any]:
        while self.in_flight:
            yield from self._land()

    def teardown(self) -> None:
        """Beam ends what has failed by this; else nothing is in flight any more."""
        for flight, *_ in self.in_flight:
            flight.cancel()

    def _land(self) -> Iterator[Any]:
        """What the block that is longest in flight becomes, in its own window."""
        flight, timestamp, window = self.in_flight.popleft()
        with self.watchdog.watch(flight.block.name):
            encoded = flight.result()
        self.rows.inc(encoded.stats.rows_in)
        self.tokens.inc(encoded.stats.tokens)
        if rejects := encoder_rejects(flight.block, encoded.stats):
            yield beam.pvalue.TaggedOutput("rejects", WindowedValue(rejects, timestamp, (window,)))
        yield WindowedValue(encoded, timestamp, (window,))

    def _count(self, rows: int, tokens: int) -> None:
        self.watchdog.alive()
        PROGRESS.add(rows=rows, tokens=tokens)


class BlockInFlight:
    """A block on its way through the encoder. What it becomes is a function of the block and the model alone."""

    def __init__(
        self,
        block: Block,
        encoder: Encoder,
        model: ResolvedModel,
        options: EncodeOptions,
        on_batch: OnBatch | None = None,
    ) -> None:
        self.block, self._model, self._options = block, model, options
        texts: list[str] = block.table.column("text").to_pylist()
        self._chunks = encoder.chunk(texts) if options.long_texts == "chunk" else [[text] for text in texts]
        self._submitted = encoder.submit([piece for pieces in self._chunks for piece in pieces], on_batch)

    def cancel(self) -> None:
        """Drops what is not computed yet."""
        self._submitted.cancel()

    def result(self) -> EncodedBlock:
        """Waits for the vectors; the rows of the part that the block becomes.

        Raises:
            RunFailed: vectors of a low precision are further from float32 than `min_fidelity` allows.
        """
        encoded = self._submitted.result()
        _check_fidelity(encoded, self._options)
        rows = [row for row, pieces in enumerate(self._chunks) for _ in pieces]
        refused = _refused(encoded, rows, self._options)
        kept = np.array([i for i, row in enumerate(rows) if row not in refused], np.int64)
        table = _table(self.block.table, encoded, self._chunks, rows, kept, self._model)
        counts, truncated = encoded.token_counts[kept], encoded.truncated[kept]
        rejects = ((row, str(reason), error[:ERROR_CHARACTERS]) for row, (reason, error) in sorted(refused.items()))
        stats = PartStats(
            rows_in=len(self._chunks),
            rows_out=len(kept),
            tokens=int(counts.sum()),
            truncated=int(truncated.sum()),
            chunks=len(kept) - (len(self._chunks) - len(refused)),
            rejects=tuple(rejects),
            cosines=tuple(float(c) for c in encoded.cosines),
        )
        block, msec = self.block, round(1000 * encoded.seconds)
        return EncodedBlock(block.split_id, block.number, block.name, table, stats, block.input_bytes, msec)


def _check_fidelity(encoded: Encoded, options: EncodeOptions) -> None:
    if len(encoded.cosines) and min(encoded.cosines) < options.min_fidelity:
        raise RunFailed(
            f"--dtype {options.dtype} --backend {options.backend}: a vector's cosine to float32 is "
            f"{min(encoded.cosines):.5f}, below --min_fidelity {options.min_fidelity}; use --dtype float32"
        )


def _refused(encoded: Encoded, rows: list[int], options: EncodeOptions) -> dict[int, tuple[Reason, str]]:
    """Rows of the block to leave out, with the reason. One bad chunk refuses its whole text."""
    refused: dict[int, tuple[Reason, str]] = {}
    for position, reason, error in encoded.failures:
        refused.setdefault(rows[position], (reason, error))
    if options.long_texts == "reject":
        for long in np.flatnonzero(encoded.truncated):
            tokens = int(encoded.token_counts[long])
            refused.setdefault(rows[long], (Reason.TOO_LONG, f"{tokens} tokens or more; --long_texts reject"))
    return refused


def _table(
    block: pa.Table, encoded: Encoded, chunks: list[list[str]], rows: list[int], kept: np.ndarray, model: ResolvedModel
) -> pa.Table:
    source = block.take(pa.array([rows[i] for i in kept], pa.int64()))
    if any(len(pieces) != 1 for pieces in chunks):
        source = _with_chunks(source, chunks, rows, kept)
    vectors = pa.array(np.ascontiguousarray(encoded.vectors[kept]).reshape(-1), pa.float32())
    kept_columns = [f for f in block.schema if f.name not in ("id", "text", SOURCE, OFFSET)]
    schema = embeddings_schema(model.fingerprint, pa.schema(kept_columns))
    arrays = [
        source.column("id"),
        source.column("text"),
        pa.array(encoded.token_counts[kept], pa.int32()),
        pa.array(encoded.truncated[kept], pa.bool_()),
        pa.FixedSizeListArray.from_arrays(vectors, type=schema.field("embedding").type),
        *(source.column(f.name) for f in kept_columns),
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def _with_chunks(source: pa.Table, chunks: list[list[str]], rows: list[int], kept: np.ndarray) -> pa.Table:
    """The rows of texts that were cut, as `<id>/0`, `<id>/1`, …"""
    pieces = [(row, number, piece) for row, texts in enumerate(chunks) for number, piece in enumerate(texts)]
    chosen = [pieces[i] for i in kept]
    ids = source.column("id").to_pylist()
    ids = [f"{i}/{number}" if len(chunks[row]) > 1 else i for i, (row, number, _) in zip(ids, chosen, strict=True)]
    source = source.set_column(0, "id", pa.array(ids, pa.string()))
    return source.set_column(1, "text", pa.array([piece for *_, piece in chosen], pa.string()))
