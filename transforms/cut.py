"""Where a stream of rows is cut into blocks: where the content says so, so that rows inserted or removed somewhere
change the blocks around them and no others.

The rule is that of content-defined chunking (LBFS: Muthitacharoen et al., SOSP 2001; FastCDC: Xia et al., USENIX ATC
2016), on whole rows. With `spacing` a quarter of the greatest size and `least` a sixteenth:

- a row whose hash is a multiple of `spacing` begins a block, if the block before it has its least size;
- an anchor always begins one: a row whose hash is a multiple of twice the spacing, where none of the `least` rows
  before it is one. That needs no more than those rows to tell, so a worker that enters a file anywhere finds the next
  anchor without knowing what came before. Splits of line files begin and end there (`transforms.read`);
- a block of the greatest size is closed.

A text that fills half the corpus and happens to hash to a multiple makes blocks of least size, never of one row.
"""

import zlib
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

BLOCK_TEXT_CHARACTERS = 64 << 20
"""A block is closed at this much text, ids and kept values included, however few its rows: a worker holds it whole."""


def row_hashes(texts: pa.StringArray | Sequence[str]) -> np.ndarray:
    """(n,) int64: 32 bits of each row's text. Its id is left out: one that tells where the row stands would move with
    it."""
    strings = texts if isinstance(texts, pa.Array) else pa.array(texts, pa.string())
    return np.fromiter(map(zlib.crc32, strings.cast(pa.binary()).to_pylist()), np.int64, len(texts))


class Cutter:
    """Tells, batch by batch, where blocks begin. Blocks have `rows_per_part` rows at most, about a third on average."""

    def __init__(self, rows_per_part: int) -> None:
        self._most, self.least, self._spacing = rows_per_part, _least(rows_per_part), _spacing(rows_per_part)
        self._anchors = Anchors(rows_per_part)
        self._rows = self._characters = 0  # of the open block

    def cuts(self, hashes: np.ndarray, characters: np.ndarray) -> list[int]:
        """Takes in the next rows; those of them that begin a block (never the first of all: that needs no cut)."""
        anchors, candidates = set(self._anchors.find(hashes)), np.flatnonzero(hashes % self._spacing == 0).tolist()
        before = np.concatenate([[0], np.cumsum(characters)])  # each row
        start, start_character = -self._rows, -self._characters  # of the open block, seen from this batch
        found: list[int] = []

        def begin(row: int) -> None:
            nonlocal start, start_character
            found.append(row)
            start, start_character = row, before[row]

        for candidate in [*candidates, len(hashes)]:
            while (full := self._full(start, start_character, before)) < min(candidate + 1, len(hashes)):
                begin(full)
            if start < candidate < len(hashes) and (candidate in anchors or candidate - start >= self.least):
                begin(candidate)
        self._rows, self._characters = len(hashes) - start, int(before[-1] - start_character)
        return found

    def end_of_file(self) -> bool:
        """In a pack, whether to close the block at a file's end, so that it does not change with the next file."""
        cut = self._rows >= self.least
        if cut:
            self._rows = self._characters = 0
        return cut

    def _full(self, start: int, start_character: int, before: np.ndarray) -> int:
        """The row for which an open block from `start` on has no room."""
        by_text = np.searchsorted(before, start_character + BLOCK_TEXT_CHARACTERS)
        return min(start + self._most, int(by_text))


class Anchors:
    """Finds the anchors of a stream of rows, batch by batch."""

    def __init__(self, rows_per_part: int, entering: bool = False) -> None:
        """entering: rows came before the first, so that it is no anchor for sure until `least` rows are seen"""
        self._least, self._spacing = _least(rows_per_part), _spacing(rows_per_part)
        self._last = -1 if entering else -1 - self._least  # that could have been one, counted from the next batch

    def find(self, hashes: np.ndarray) -> list[int]:
        """Takes in the next rows; those of them that are anchors."""
        candidates = np.flatnonzero(hashes % (2 * self._spacing) == 0)
        alone = np.diff(candidates, prepend=self._last) > self._least
        self._last = int(candidates[-1] if len(candidates) else self._last) - len(hashes)
        return candidates[alone].tolist()


def _least(rows_per_part: int) -> int:
    return max(1, rows_per_part // 16)


def _spacing(rows_per_part: int) -> int:
    return max(1, rows_per_part // 4)
