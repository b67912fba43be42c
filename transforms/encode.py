"""Block -> encoded block: the DoFn that holds the model."""

import contextlib
import dataclasses
import logging
import time
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.metrics import Metrics
from apache_beam.utils.shared import Shared

from schemas.blocks import OFFSET, SOURCE, Block
from schemas.embeddings import PartStats, embeddings_schema
from schemas.errors import DeviceGone
from schemas.rejects import Reason
from transforms.encoder import Encoder
from transforms.encoder_job import Encoded, OnBatch
from transforms.fidelity import check
from transforms.flights import FlightsDoFn
from transforms.model import EncodeOptions, ResolvedModel
from transforms.progress import PROGRESS
from transforms.trace import TRACE
from transforms.watchdog import Watchdog, end_process
from transforms.write import EncodedBlock, encoder_rejects

_LOGGER = logging.getLogger(__name__)
ERROR_CHARACTERS = 300


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


class _EncodeBlock(FlightsDoFn[Block, "BlockInFlight"]):
    """Reading the next blocks and writing the last ones go on while the encoder computes."""

    def __init__(self, model: ResolvedModel, options: EncodeOptions, timeout_seconds: float) -> None:
        self.model, self.options, self.timeout_seconds = model, options, timeout_seconds
        self.shared = Shared()
        self.tokens = Metrics.counter("embed", "tokens")
        self.rows = Metrics.counter("embed", "rows")

    def setup(self) -> None:
        super().setup()
        self.encoder: Encoder | None = None
        self.watchdog = Watchdog(self.timeout_seconds)

    def _load(self) -> Encoder:
        started = time.monotonic()
        with TRACE.span("load model"):
            encoder = _loaded(self.model, self.options)
        _LOGGER.info("%s loaded in %.1f s", self.model.fingerprint.name, time.monotonic() - started)
        return encoder

    def begin(self, block: Block) -> "BlockInFlight":
        if self.encoder is None:  # with the first block: a run that finds nothing new needs no model
            with self.watchdog.watch(block.name, loading=True), _ending_without_device(block.name):
                self.encoder = self.shared.acquire(self._load)
            self.most_flights = self.encoder.calls
        with self.watchdog.watch(block.name):
            return BlockInFlight(block, self.encoder, self.model, self.options, self._count)

    def end(self, flight: "BlockInFlight") -> Iterator[Any]:
        with self.watchdog.watch(flight.block.name), _ending_without_device(flight.block.name):
            encoded = flight.result()
        self.rows.inc(encoded.stats.rows_in)
        self.tokens.inc(encoded.stats.tokens)
        if rejects := encoder_rejects(flight.block, encoded.stats):
            yield beam.pvalue.TaggedOutput("rejects", rejects)
        yield encoded

    def _count(self, rows: int, tokens: int) -> None:
        self.watchdog.alive()
        PROGRESS.add(rows=rows, tokens=tokens)


def _loaded(model: ResolvedModel, options: EncodeOptions) -> Encoder:
    try:
        return Encoder(model, options)
    except Exception as error:
        from transforms.device_faults import raise_if_gone  # imported late, with torch

        raise_if_gone(error, options.device)
        raise


@contextlib.contextmanager
def _ending_without_device(what: str) -> Iterator[None]:
    """Ends the process where its device is gone. An exception would have the engine try again in this same process."""
    try:
        yield
    except DeviceGone as error:
        end_process(f"{what}: {error}")


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
        self._chunks = encoder.chunk(texts) if options.long_texts == "chunk" else None
        pieces = [piece for pieces in self._chunks for piece in pieces] if self._chunks else texts
        self._submitted = encoder.submit(pieces, on_batch)

    def cancel(self) -> None:
        """Drops what is not computed yet."""
        self._submitted.cancel()

    def result(self) -> EncodedBlock:
        """Waits for the vectors; the rows of the part that the block becomes.

        Raises:
            RunFailed: vectors of a low precision are further from float32 than `min_fidelity` allows.
        """
        encoded = self._submitted.result()
        check(encoded.cosines, self._options.min_fidelity, self._options.dtype, self._options.backend)
        rows_in = self.block.table.num_rows
        rows = np.repeat(np.arange(rows_in), list(map(len, self._chunks))) if self._chunks else np.arange(rows_in)
        refused = _refused(encoded, rows, self._options)
        kept = np.flatnonzero(~np.isin(rows, list(refused)))
        if refused:
            encoded = _taken(encoded, kept)
        source = self.block.table.take(rows[kept]) if refused or self._chunks else self.block.table
        if self._chunks:
            source = _with_chunks(source, self._chunks, rows, kept)
        table = _table(source, encoded, self._model)
        rejects = ((row, str(reason), error[:ERROR_CHARACTERS]) for row, (reason, error) in sorted(refused.items()))
        stats = PartStats(
            rows_in=rows_in,
            rows_out=len(kept),
            tokens=int(encoded.token_counts.sum()),
            truncated=int(encoded.truncated.sum()),
            chunks=len(kept) - (rows_in - len(refused)),
            rejects=tuple(rejects),
            cosines=tuple(float(c) for c in encoded.cosines),
        )
        block, msec = self.block, round(1000 * encoded.seconds)
        return EncodedBlock(block.split_id, block.number, block.name, table, stats, block.input_bytes, msec)


def _refused(encoded: Encoded, rows: np.ndarray, options: EncodeOptions) -> dict[int, tuple[Reason, str]]:
    """Rows of the block to leave out, with the reason. One bad chunk refuses its whole text."""
    refused: dict[int, tuple[Reason, str]] = {}
    for position, reason, error in encoded.failures:
        refused.setdefault(int(rows[position]), (reason, error))
    if options.long_texts == "reject":
        for long in np.flatnonzero(encoded.truncated):
            tokens = int(encoded.token_counts[long])
            refused.setdefault(int(rows[long]), (Reason.TOO_LONG, f"{tokens} tokens or more; --long_texts reject"))
    return refused


def _taken(encoded: Encoded, kept: np.ndarray) -> Encoded:
    return encoded._replace(
        vectors=encoded.vectors[kept], token_counts=encoded.token_counts[kept], truncated=encoded.truncated[kept]
    )


def _table(source: pa.Table, encoded: Encoded, model: ResolvedModel) -> pa.Table:
    """The rows of a part; `source` has the texts that were encoded, row by row."""
    vectors = pa.array(np.ascontiguousarray(encoded.vectors).reshape(-1), pa.float32())
    kept_columns = [f for f in source.schema if f.name not in ("id", "text", SOURCE, OFFSET)]
    schema = embeddings_schema(model.fingerprint, pa.schema(kept_columns))
    arrays = [
        source.column("id"),
        source.column("text"),
        pa.array(encoded.token_counts, pa.int32()),
        pa.array(encoded.truncated, pa.bool_()),
        pa.FixedSizeListArray.from_arrays(vectors, type=schema.field("embedding").type),
        *(source.column(f.name) for f in kept_columns),
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def _with_chunks(source: pa.Table, chunks: list[list[str]], rows: np.ndarray, kept: np.ndarray) -> pa.Table:
    """The rows of texts that were cut, as `<id>/0`, `<id>/1`, …"""
    pieces = [(row, number, piece) for row, texts in enumerate(chunks) for number, piece in enumerate(texts)]
    chosen = [pieces[i] for i in kept]
    ids = source.column("id").to_pylist()
    ids = [f"{i}/{number}" if len(chunks[row]) > 1 else i for i, (row, number, _) in zip(ids, chosen, strict=True)]
    source = source.set_column(0, "id", pa.array(ids, pa.string()))
    return source.set_column(1, "text", pa.array([piece for *_, piece in chosen], pa.string()))
