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
from schemas.errors import RunFailed
from schemas.manifest import PartEntry
from schemas.model import ModelFingerprint
from schemas.rejects import RAW_BYTES, Reason, Reject, rejects_table
from schemas.removals import holds, put_content, usable_names
from schemas.splits import FileInfo
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


def find_part(output: str, run: str, block: Block, fingerprint: ModelFingerprint) -> Part | None:
    """The part that this block became in an earlier attempt, or None. A file of that name that is not whole, or that
    lacks rows because their encoding failed, counts as none: the block is written under another name.

    Raises:
        RunFailed: a file is there and cannot be opened: encoding anew would cost more than asking again.
    """
    for name in usable_names(output, run, block.name):
        info = storage.stat(storage.join(output, name))
        if info is None:
            return None
        if stats := _good_stats(info, block.table.num_rows, fingerprint):
            return _part_of(info, name, block.split_id, block.number, stats)
    return None


def _good_stats(info: FileInfo, rows: int, fingerprint: ModelFingerprint) -> PartStats | None:
    """What the footer of a part says, where it is a whole part of so many rows by this model."""
    try:
        with storage.open_random(info) as file:
            schema, stats = read_footer(file)
        made_by = ModelFingerprint.from_json(schema.metadata[MODEL_KEY])
    except (pa.ArrowInvalid, KeyError, ValueError, TypeError, FileNotFoundError):
        return None
    except OSError as error:
        if error.errno is None:  # so Arrow tells a footer that it cannot make sense of
            return None
        raise RunFailed(
            f"{info.uri}: is there and cannot be read: {error.strerror}; mend that or remove the file, and run again"
        ) from None
    # What made a batch fail may have passed by now: a memory that was full, a device that fell off.
    failed = any(reason == Reason.ENCODE_ERROR for _, reason, _ in stats.rejects)
    return stats if not failed and made_by.digest == fingerprint.digest and stats.rows_in == rows else None


def _part_of(info: FileInfo, name: str, split_id: str, number: int, stats: PartStats) -> Part:
    checksum = f"etag:{info.etag}"
    if storage.is_local(info.uri):
        checksum = f"sha256:{hashlib.sha256(storage.read_bytes(info.uri)).hexdigest()}"
    return Part(split_id, number, name, info.size, checksum, True, stats, 0, info.etag)


def write_part(output: str, run: str, block: EncodedBlock, fingerprint: ModelFingerprint, fresh: bool = False) -> Part:
    """Puts a part, or adopts the one that another attempt has put there meanwhile. Never writes over a file: a version
    may list it.

    fresh: what is there is not trusted, unless it is the same byte for byte
    """
    data = part_bytes(block.table, block.stats)
    sha256 = hashlib.sha256(data).hexdigest()
    for name in usable_names(output, run, block.name):
        uri = storage.join(output, name)
        created = storage.create(uri, data)
        info = storage.stat(uri)
        if info is None:  # somebody has removed it, against all rules: publishing will find it missing
            info = FileInfo(uri, len(data), "")
        found = None if created or fresh else _good_stats(info, block.stats.rows_in, fingerprint)
        # Rows that failed here were told of: a part that has them would leave them counted twice.
        if found and found.rejects == block.stats.rejects:
            return _part_of(info, name, block.split_id, block.number, found)
        if created or holds(info, data):
            checksum = f"sha256:{sha256}" if storage.is_local(uri) else f"etag:{info.etag}"
            where = (block.split_id, block.number, name)
            return Part(*where, len(data), checksum, False, block.stats, block.encode_msec, info.etag)
    raise AssertionError("names do not end")


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


def write_rejects(output: str, run: str, chunk: RejectChunk) -> RejectPart:
    """Puts rejected rows in a file named by their content, which a retry finds there."""
    sink = io.BytesIO()
    pq.write_table(rejects_table(chunk.rejects), sink, compression="zstd", write_page_checksum=True)
    data = sink.getvalue()
    sha = hashlib.sha256(data).hexdigest()
    name = put_content(output, run, f"{REJECTS_FOLDER}/part-{sha[:32]}.parquet", data)
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
    run: str  # token of the run
    fingerprint: ModelFingerprint

    def expand(self, blocks: beam.PCollection) -> Any:
        adopt = beam.FlatMap(_adopt_block, self.output, self.run, self.fingerprint).with_output_types(Block)
        return blocks | "AdoptPart" >> adopt.with_outputs("parts", "rejects", main="missing")


def _adopt_block(block: Block, output: str, run: str, fingerprint: ModelFingerprint) -> Iterator[Any]:
    with TRACE.span("find part"):
        part = find_part(output, run, block, fingerprint)
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
    run: str  # token of the run
    fingerprint: ModelFingerprint
    fresh: bool = False  # what is there is not trusted

    def expand(self, blocks: beam.PCollection) -> beam.PCollection:
        write = functools.partial(_write_and_count, self.output, self.run, self.fingerprint, self.fresh)
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


def _write_and_count(output: str, run: str, fingerprint: ModelFingerprint, fresh: bool, block: EncodedBlock) -> Part:
    with TRACE.span("write", rows=block.stats.rows_out):
        part = write_part(output, run, block, fingerprint, fresh)
    PROGRESS.add(parts=1, input_bytes=block.input_bytes)
    return part


@dataclasses.dataclass
class WriteRejects(beam.PTransform):
    """PCollection[RejectChunk] -> PCollection[RejectPart]"""

    output: str
    run: str  # token of the run

    def expand(self, chunks: beam.PCollection) -> beam.PCollection:
        write = functools.partial(write_rejects, self.output, self.run)
        return chunks | "WriteReject" >> beam.Map(write).with_output_types(RejectPart)
