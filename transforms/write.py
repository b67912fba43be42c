"""Encoded blocks and rejected rows -> files that are there whole or not at all, and the records of them."""

import dataclasses
import functools
import hashlib
import io
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq

from schemas import storage
from schemas.blocks import OFFSET, SOURCE, Block, RejectChunk
from schemas.embeddings import MODEL_KEY, Part, PartStats, part_bytes, read_footer
from schemas.manifest import PartEntry
from schemas.model import ModelFingerprint
from schemas.rejects import RAW_BYTES, Reason, Reject, rejects_table
from transforms.flights import FlightsDoFn
from transforms.progress import PROGRESS
from transforms.trace import TRACE

REJECTS_FOLDER = "_rejects"
WRITERS = 2
"""Of a bundle: a block and its file are in memory for each."""


class EncodedBlock(NamedTuple):
    """A block with its vectors: the rows of a part, and what its footer will say."""

    split_id: str
    number: int
    name: str
    table: pa.Table
    stats: PartStats
    input_bytes: int
    encode_msec: int = 0


class RejectPart(NamedTuple):
    """A rejects file that is on disk."""

    split_id: str
    entry: PartEntry
    reasons: tuple[tuple[str, int], ...]
    examples: tuple[tuple[str, str], ...]  # (reason, an example of it)


def find_part(output: str, block: Block, fingerprint: ModelFingerprint) -> Part | None:
    """The part that this block became in an earlier attempt, or None. A file of that name that is not whole, or that
    lacks rows because their encoding failed, counts as none: it is written again."""
    return _adopt(output, block.name, block.split_id, block.number, block.table.num_rows, fingerprint)


def _adopt(output: str, name: str, split_id: str, number: int, rows: int, fingerprint: ModelFingerprint) -> Part | None:
    uri = storage.join(output, name)
    info = storage.stat(uri)
    if info is None:
        return None
    try:
        with storage.open_random(info) as file:
            schema, stats = read_footer(file)
        made_by = ModelFingerprint.from_json(schema.metadata[MODEL_KEY])
    except (pa.ArrowInvalid, KeyError, ValueError, TypeError, OSError):
        return None
    # What made a batch fail may have passed by now: a memory that was full, a device that fell off.
    failed = any(reason == Reason.ENCODE_ERROR for _, reason, _ in stats.rejects)
    if failed or made_by.digest != fingerprint.digest or stats.rows_in != rows:
        return None
    return Part(split_id, number, name, info.size, _checksum(uri, info.etag), True, stats, 0)


def _checksum(uri: str, etag: str) -> str:
    if not storage.is_local(uri):
        return f"etag:{etag}"
    return f"sha256:{hashlib.sha256(storage.read_bytes(uri)).hexdigest()}"


def write_part(output: str, block: EncodedBlock, fingerprint: ModelFingerprint, overwrite: bool = False) -> Part:
    """Puts a part at its name, or adopts the one that another attempt has put there meanwhile."""
    uri = storage.join(output, block.name)
    data = part_bytes(block.table, block.stats)
    created = not overwrite and storage.create(uri, data)
    if not created:
        found = None
        if not overwrite:
            found = _adopt(output, block.name, block.split_id, block.number, block.stats.rows_in, fingerprint)
        if found is not None:
            return found
        storage.replace(uri, data)
    checksum = f"sha256:{hashlib.sha256(data).hexdigest()}"
    if not storage.is_local(uri):
        info = storage.stat(uri)
        checksum = f"etag:{info.etag if info else ''}"
    return Part(block.split_id, block.number, block.name, len(data), checksum, False, block.stats, block.encode_msec)


def encoder_rejects(block: Block, stats: PartStats) -> RejectChunk | None:
    """The rows of a block that the encoder refused, as its part's footer tells: the same for who wrote and who found
    the part."""
    if not stats.rejects:
        return None
    sources, offsets, texts = (block.table.column(c) for c in (SOURCE, OFFSET, "text"))
    rejects = tuple(
        Reject(
            sources[row].as_py(),
            offsets[row].as_py(),
            "encode",
            Reason(reason),
            error,
            texts[row].as_py().encode()[:RAW_BYTES],
        )
        for row, reason, error in stats.rejects
    )
    return RejectChunk(block.split_id, rejects)


def write_rejects(output: str, chunk: RejectChunk) -> RejectPart:
    """Puts rejected rows in a file named by their content, which a retry finds there."""
    sink = io.BytesIO()
    pq.write_table(rejects_table(chunk.rejects), sink, compression="zstd", write_page_checksum=True)
    data = sink.getvalue()
    sha = hashlib.sha256(data).hexdigest()
    name = f"{REJECTS_FOLDER}/part-{sha[:32]}.parquet"
    storage.create(storage.join(output, name), data)
    examples = {str(r.reason): f"{r.source}#{r.offset}: {r.error}" for r in reversed(chunk.rejects)}
    reasons = Counter(str(r.reason) for r in chunk.rejects)
    entry = PartEntry(name, len(chunk.rejects), len(data), f"sha256:{sha}")
    return RejectPart(chunk.split_id, entry, tuple(sorted(reasons.items())), tuple(sorted(examples.items())))


@dataclasses.dataclass
class AdoptParts(beam.PTransform):
    """PCollection[Block] -> (missing: PCollection[Block], parts: PCollection[Part], rejects: PCollection[RejectChunk])

    Blocks whose parts an earlier attempt or run has written are done.
    """

    output: str
    fingerprint: ModelFingerprint

    def expand(self, blocks: beam.PCollection) -> Any:
        adopt = beam.FlatMap(_adopt_block, self.output, self.fingerprint).with_output_types(Block)
        return blocks | "AdoptPart" >> adopt.with_outputs("parts", "rejects", main="missing")


def _adopt_block(block: Block, output: str, fingerprint: ModelFingerprint) -> Iterator[Any]:
    with TRACE.span("find part"):
        part = find_part(output, block, fingerprint)
    if part is None:
        yield block
        return
    PROGRESS.add(rows=part.stats.rows_in, adopted_rows=part.stats.rows_in, input_bytes=block.input_bytes, parts=1)
    if rejects := encoder_rejects(block, part.stats):
        yield beam.pvalue.TaggedOutput("rejects", rejects)
    yield beam.pvalue.TaggedOutput("parts", part)


@dataclasses.dataclass
class WriteParts(beam.PTransform):
    """PCollection[EncodedBlock] -> PCollection[Part]"""

    output: str
    fingerprint: ModelFingerprint
    overwrite: bool = False  # --fresh: what is there is not trusted

    def expand(self, blocks: beam.PCollection) -> beam.PCollection:
        write = functools.partial(_write_and_count, self.output, self.fingerprint, self.overwrite)
        return blocks | "WritePart" >> beam.ParDo(_WritePart(write)).with_output_types(Part)


class _WritePart(FlightsDoFn[EncodedBlock, "Future[Part]"]):
    """Compressing a part and putting it where it belongs need no Python: the next block is read meanwhile. The bundle
    is done when all of its parts are there for sure."""

    most_flights = WRITERS

    def __init__(self, write: Callable[[EncodedBlock], Part]) -> None:
        self.write = write

    def setup(self) -> None:
        super().setup()
        self.writers = ThreadPoolExecutor(WRITERS, thread_name_prefix="writer")

    def begin(self, block: EncodedBlock) -> "Future[Part]":
        return self.writers.submit(self.write, block)

    def end(self, flight: "Future[Part]") -> Iterator[Part]:
        yield flight.result()

    def teardown(self) -> None:
        super().teardown()
        self.writers.shutdown()  # waits for those that have begun: a run that fails leaves nothing half written


def _write_and_count(output: str, fingerprint: ModelFingerprint, overwrite: bool, block: EncodedBlock) -> Part:
    with TRACE.span("write", rows=block.stats.rows_out):
        part = write_part(output, block, fingerprint, overwrite)
    PROGRESS.add(parts=1, input_bytes=block.input_bytes)
    return part


@dataclasses.dataclass
class WriteRejects(beam.PTransform):
    """PCollection[RejectChunk] -> PCollection[RejectPart]"""

    output: str

    def expand(self, chunks: beam.PCollection) -> beam.PCollection:
        write = functools.partial(write_rejects, self.output)
        return chunks | "WriteReject" >> beam.Map(write).with_output_types(RejectPart)
