"""Split -> blocks of rows, rejected rows, and a record that the split was read to its end."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import apache_beam as beam
import numpy as np

from schemas import storage
from schemas.blocks import Block, RejectChunk, SplitRead, block_name
from schemas.errors import RunFailed
from schemas.rejects import Reject
from schemas.splits import Slice, Split
from transforms.block_table import BlockOptions, block_table
from transforms.collector import freeze_objects
from transforms.cut import Cutter
from transforms.progress import PROGRESS
from transforms.ranges import anchored_rows, row_marks
from transforms.sources import BadFile, BlankLine, Rows, read_ahead
from transforms.trace import TRACE

REJECTS_PER_CHUNK = 1000


def read_split(split: Split, options: BlockOptions) -> Iterator[Block | RejectChunk | SplitRead]:
    """Everything that is in a split: its blocks and rejects in input order, last its `SplitRead`.

    Raises:
        RunFailed: a file cannot be read (on), unless bad files are skipped; or it changed since it was planned.
    """
    return _SplitReader(split, options).read()


class _SplitReader:
    def __init__(self, split: Split, options: BlockOptions) -> None:
        self.split, self.options = split, options
        self.cutter = Cutter(options.rows_per_part)
        self.rows: list[tuple[str, Rows]] = []  # (source, rows) of the open block
        self.rejects: list[Reject] = []
        self.blocks = self.rows_in = self.blank_lines = self.block_bytes = 0
        self.bad_files: list[tuple[str, str]] = []
        self.bytes_left = split.input_bytes

    def read(self) -> Iterator[Block | RejectChunk | SplitRead]:
        for piece in read_ahead(self.split.slices):
            try:
                yield from self._read_piece(piece)
            except BadFile as error:
                if not self.options.skip_bad_files:
                    raise error.as_failure() from None
                self.bad_files.append((storage.blanked(error.uri), error.reason))
            if self.cutter.end_of_file():
                yield from self._close_block()
        yield from self._close_block()
        if self.rejects:
            yield RejectChunk(self.split.id, tuple(self.rejects))
        PROGRESS.add(input_bytes=self.bytes_left)  # what a block's text did not account for: markup, line ends
        yield SplitRead(self.split.id, self.blocks, self.rows_in, self.blank_lines, tuple(self.bad_files))

    def _read_piece(self, piece: Slice) -> Iterator[Block | RejectChunk]:
        for rows in anchored_rows(piece, self.options):
            yield from self._take_others(rows.others)
            marks = row_marks(rows, self.options)
            start = 0
            for cut in self.cutter.cuts(marks):
                self._take(piece.name, rows[start:cut], marks.bytes[start:cut])
                yield from self._close_block()
                start = cut
            self._take(piece.name, rows[start:], marks.bytes[start:])
        _check_unchanged(piece)

    def _take(self, source: str, rows: Rows, held: np.ndarray) -> None:
        if len(rows):
            self.rows.append((source, rows))
            self.block_bytes += int(held.sum())
            self.rows_in += len(rows)

    def _take_others(self, others: Sequence[Reject | BlankLine]) -> Iterator[RejectChunk]:
        for item in others:
            if isinstance(item, BlankLine):
                self.blank_lines += 1
                continue
            self.rows_in += 1
            self.rejects.append(item)
            if len(self.rejects) >= REJECTS_PER_CHUNK:
                yield RejectChunk(self.split.id, tuple(self.rejects))
                self.rejects = []

    def _close_block(self) -> Iterator[Block]:
        if not self.rows:
            return
        table = block_table(self.rows, self.options.read, self.options.kept, self.options.id_from)
        name = block_name(table, self.options.fingerprint_digest)
        stands_for = min(self.block_bytes, self.bytes_left)
        yield Block(self.split.id, self.blocks, name, table, stands_for)
        self.bytes_left -= stands_for
        self.blocks += 1
        self.rows, self.block_bytes = [], 0


def _check_unchanged(piece: Slice) -> None:
    """What was planned must be what was read, or a later run would take over rows that are no longer the file's."""
    if not storage.is_unchanged(piece.file):
        raise RunFailed(f"{piece.file.uri}: changed while it was read; run again when nothing writes to it")


@dataclasses.dataclass
class ReadBlocks(beam.PTransform):
    """PCollection[Split] -> (blocks: PCollection[Block], rejects: PCollection[RejectChunk],
    reads: PCollection[SplitRead])

    A generator, fused with what follows: a split's next block is read when there is room for it among those that are
    encoded and written, so a worker holds a few blocks.
    """

    options: BlockOptions

    def expand(self, splits: beam.PCollection) -> Any:
        read = beam.ParDo(_ReadSplit(self.options)).with_output_types(Block)
        return splits | "ReadSplit" >> read.with_outputs("rejects", "reads", main="blocks")


class _ReadSplit(beam.DoFn):
    def __init__(self, options: BlockOptions) -> None:
        self.options = options

    def setup(self) -> None:
        storage.permit_http(self.options.http)
        freeze_objects()

    def process(self, split: Split) -> Iterator[Any]:
        for item in TRACE.each("read", read_split(split, self.options)):
            if isinstance(item, Block):
                yield item
            else:
                tag = "rejects" if isinstance(item, RejectChunk) else "reads"
                yield beam.pvalue.TaggedOutput(tag, item)
