"""Block -> encoded block: the DoFn that holds the model."""

import dataclasses
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.metrics import Metrics
from apache_beam.utils.shared import Shared

from schemas.blocks import OFFSET, SOURCE, Block
from schemas.embeddings import PartStats, embeddings_schema
from schemas.errors import RunFailed
from schemas.rejects import Reason
from transforms.encoder import Encoded, Encoder
from transforms.model import EncodeOptions, ResolvedModel
from transforms.progress import PROGRESS
from transforms.trace import TRACE
from transforms.watchdog import Watchdog
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


class _EncodeBlock(beam.DoFn):
    def __init__(self, model: ResolvedModel, options: EncodeOptions, timeout_seconds: float) -> None:
        self.model, self.options, self.timeout_seconds = model, options, timeout_seconds
        self.shared = Shared()
        self.tokens = Metrics.counter("embed", "tokens")
        self.rows = Metrics.counter("embed", "rows")

    def setup(self) -> None:
        self.encoder = self.shared.acquire(self._load)
        self.watchdog = Watchdog(self.timeout_seconds)

    def _load(self) -> Encoder:
        started = time.monotonic()
        with TRACE.span("load model"):
            encoder = Encoder(self.model, self.options)
        _LOGGER.info("%s loaded in %.1f s", self.model.fingerprint.name, time.monotonic() - started)
        return encoder

    def process(self, block: Block) -> Iterator[Any]:
        with self.watchdog.watch(block.name):
            encoded = encode_block(block, self.encoder, self.model, self.options, self._count)
        self.rows.inc(encoded.stats.rows_in)
        self.tokens.inc(encoded.stats.tokens)
        if rejects := encoder_rejects(block, encoded.stats):
            yield beam.pvalue.TaggedOutput("rejects", rejects)
        yield encoded

    def _count(self, rows: int, tokens: int) -> None:
        self.watchdog.alive()
        PROGRESS.add(rows=rows, tokens=tokens)


def encode_block(
    block: Block,
    encoder: Encoder,
    model: ResolvedModel,
    options: EncodeOptions,
    on_batch: Callable[[int, int], None] | None = None,
) -> EncodedBlock:
    """The part that a block becomes. A function of the block and the model alone.

    Raises:
        RunFailed: vectors of a low precision are further from float32 than `min_fidelity` allows.
    """
    started = time.monotonic()
    texts: list[str] = block.table.column("text").to_pylist()
    chunks = encoder.chunk(texts) if options.long_texts == "chunk" else [[text] for text in texts]
    rows = [row for row, pieces in enumerate(chunks) for _ in pieces]
    encoded = encoder.encode([piece for pieces in chunks for piece in pieces], on_batch)
    _check_fidelity(encoded, options)
    refused = _refused(encoded, rows, options)
    kept = np.array([i for i, row in enumerate(rows) if row not in refused], np.int64)
    table = _table(block.table, encoded, chunks, rows, kept, model)
    counts, truncated = encoded.token_counts[kept], encoded.truncated[kept]
    stats = PartStats(
        rows_in=len(texts),
        rows_out=len(kept),
        tokens=int(counts.sum()),
        truncated=int(truncated.sum()),
        chunks=len(kept) - (len(texts) - len(refused)),
        rejects=tuple((row, str(reason), error[:ERROR_CHARACTERS]) for row, (reason, error) in sorted(refused.items())),
        cosines=tuple(float(c) for c in encoded.cosines),
    )
    msec = round(1000 * (time.monotonic() - started))
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
