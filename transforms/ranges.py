"""The rows that a split of a large file really reads: those of its range, moved on at both ends to the next anchor.

So blocks depend on the content around them, not on where the ranges happened to fall, and the ranges of a file still
share out its rows: each boundary is found from the same rows by the same rule, by the split that begins there and by
the one before it.

A boundary of a line file is searched for from each multiple of `split_bytes` on:

- it is at the first anchor behind that position;
- where none turns up within `SEARCH_SPLITS` split sizes, or no line begins in one of these, it is there;
- in a file of `LARGE_FILE_SPLITS` or more, three of four boundaries are given up, so that the range before goes on, if
  no anchor turns up within an eighth of a split, or rows are found to be large. What lies between a position and its
  anchor is read by two splits; this bounds what is read twice to about a tenth of a file, however large its rows;
- where the file ends before any of it, there is none. As the file grows, an anchor may turn up there, which begins a
  block in any case.

Boundaries never decrease from one position to the next, so ranges neither overlap nor leave a gap.
"""

from collections.abc import Iterator

import numpy as np
import pyarrow.compute as pc

from schemas.splits import Slice
from transforms.block_table import BlockOptions, kept_bytes
from transforms.cut import Candidates, RowMarks, row_hashes, weight_unit
from transforms.sources import Rows, beginning, parquet_row_groups, read_batches

SEARCH_SPLITS = 4
LARGE_FILE_SPLITS = 8
FIRST_STEP, STEP, PROBE = 8, 16, 64
"""A search begins with an eighth of a split and goes on by a sixteenth; a sixty-fourth tells whether rows are large."""
NOWHERE = np.iinfo(np.int64).max


def row_marks(rows: Rows, options: BlockOptions) -> RowMarks:
    """What decides where these rows are cut."""
    sizes = pc.binary_length(rows.texts).to_numpy() if rows.sizes is None else rows.sizes
    return RowMarks(
        row_hashes(rows.texts),
        None if rows.ids is None else row_hashes(rows.ids),
        np.maximum(sizes // weight_unit(options.rows_per_part, options.split_bytes), 1).astype(np.int64),
        pc.utf8_length(rows.texts).to_numpy().astype(np.int64) + kept_bytes(rows),
    )


def anchored_rows(piece: Slice, options: BlockOptions) -> Iterator[Rows]:
    """The rows between the boundaries of the piece; all rows of a file that is read whole."""
    if piece.whole:
        yield from read_batches(piece, options.read)
    elif piece.format == "parquet":
        yield from _between_row_groups(piece, options)
    else:
        yield from _between_lines(piece, options)


class _Boundary:
    """One boundary, searched for from `position` to `until` (not included)."""

    def __init__(self, position: int, until: int, options: BlockOptions, is_sure: bool = True) -> None:
        """is_sure: whether there is a boundary in any case, unless the file ends"""
        self.position, self.until, self.is_sure = position, until, is_sure
        self.offset: int | None = None
        self._options = options
        self._candidates = Candidates(options.rows_per_part, entering=True)
        self._begun = 0  # rows and others, since the last whole split

    def look(self, rows: Rows) -> None:
        """Asked about all that begins in the search, in order, until the offset is there."""
        if self.offset is not None:
            return
        rows = rows.between(self.position, self.until)
        self._begun += len(rows) + len(rows.others)
        _, anchors = self._candidates.find(row_marks(rows, self._options))
        if len(anchors):
            self.offset = int(rows.offsets[anchors[0]])

    def next_stop(self, at: int) -> int:
        """Where to stop for a look, from `at` on."""
        if not self.is_sure:
            return self.until if at > self.position else self._probe
        return min(self.until, at + _part(STEP if at > self.position else FIRST_STEP, self._options))

    def is_settled(self, at: int) -> bool:
        """Asked when all was looked at that begins before `at`. Sets the offset where no anchor is it."""
        if self.offset is not None:
            return True
        searched = at - self.position
        if self.is_sure and searched % self._options.split_bytes == 0:
            if not self._begun or at == self.until:
                self.offset = at
            self._begun = 0
        unit = weight_unit(self._options.rows_per_part, self._options.split_bytes)
        given_up = not self.is_sure and at == self._probe and searched >= self._begun * unit
        return self.offset is not None or given_up or at == self.until

    @property
    def _probe(self) -> int:
        return min(self.until, self.position + _part(PROBE, self._options))


def _between_lines(piece: Slice, options: BlockOptions) -> Iterator[Rows]:
    begin = _line_boundary(piece, piece.start, options) if piece.start else None
    searched = [begin] if begin else []  # the range's begin, and each position that is passed where it may end
    at = piece.start
    position = at + options.split_bytes  # where the next search begins
    while at < piece.file.size:
        looks = [b.next_stop(at) for b in searched if b is not begin or not b.is_sure]  # a sure begin's rows are wanted
        stop = min(piece.file.size, position, *looks, *(b.until for b in searched))
        for rows in read_batches(piece._replace(start=at, stop=stop, size=stop - at), options.read):
            for boundary in searched:
                boundary.look(rows)
            first = begin.offset if begin else 0
            last = next((b.offset for b in searched if b is not begin and b.offset is not None), None)
            if first is not None:
                yield rows.between(first, last)
            if last is not None:
                return
        at = stop
        settled = [boundary for boundary in searched if boundary.is_settled(at)]
        if any((boundary.offset is None) == (boundary is begin) for boundary in settled):
            return  # the range has no begin, or is at its end
        searched = [boundary for boundary in searched if boundary not in settled]
        if at == position:
            searched.append(_line_boundary(piece, at, options))
            position += options.split_bytes


def _line_boundary(piece: Slice, position: int, options: BlockOptions) -> _Boundary:
    is_large = piece.file.size >= LARGE_FILE_SPLITS * options.split_bytes
    if is_large and position // options.split_bytes % SEARCH_SPLITS:
        return _Boundary(position, position + _part(FIRST_STEP, options), options, is_sure=False)
    return _Boundary(position, position + SEARCH_SPLITS * options.split_bytes, options)


def _part(share: int, options: BlockOptions) -> int:
    return max(1, options.split_bytes // share)


def _between_row_groups(piece: Slice, options: BlockOptions) -> Iterator[Rows]:
    """Ranges of Parquet are row groups. Where no anchor turns up within `SEARCH_SPLITS` split sizes of all columns and
    as many times the rows of a block, a boundary is at the next row group."""
    groups = parquet_row_groups(piece.file)
    begin = _row_group_boundary(groups, piece.start, options) if piece.start else None
    end = _row_group_boundary(groups, piece.stop, options) if piece.stop < len(groups) else None
    for rows in _from_row_group(piece, len(groups), options):
        reached = max([*rows.offsets[-1:].tolist(), *(other.offset for other in rows.others[-1:])], default=0)
        first = _row_group_offset(begin, rows, reached) if begin else 0
        last = _row_group_offset(end, rows, reached) if end else None
        if first is not None:
            yield rows.between(first, last)
        if last is not None:
            return


def _from_row_group(piece: Slice, groups: int, options: BlockOptions) -> Iterator[Rows]:
    """All rows from the piece on, behind it few at once: not many of them are wanted."""
    yield from read_batches(piece, options.read)
    if piece.stop < groups:
        yield from read_batches(beginning(piece._replace(start=piece.stop, stop=groups)), options.read)


def _row_group_boundary(groups: list[tuple[int, int]], number: int, options: BlockOptions) -> _Boundary:
    """The search from row group `number` on."""
    rows = np.concatenate([[0], np.cumsum([n for n, _ in groups], dtype=np.int64)])
    sizes = np.concatenate([[0], np.cumsum([size for _, size in groups], dtype=np.int64)])
    by_bytes = np.searchsorted(sizes, sizes[number] + SEARCH_SPLITS * options.split_bytes)
    latest = int(max(by_bytes, np.searchsorted(rows, rows[number] + SEARCH_SPLITS * options.rows_per_part)))
    return _Boundary(int(rows[number]), int(rows[latest]) if latest < len(groups) else NOWHERE, options)


def _row_group_offset(boundary: _Boundary, rows: Rows, reached: int) -> int | None:
    boundary.look(rows)
    if boundary.offset is None and reached >= boundary.until:
        boundary.offset = boundary.until
    return boundary.offset
