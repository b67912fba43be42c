"""Where a stream of rows is cut into blocks: where the content says so, so that rows inserted or removed somewhere
change the blocks around them and no others.

The rule is that of content-defined chunking (LBFS: Muthitacharoen et al., SOSP 2001; FastCDC: Xia et al., USENIX ATC
2016), on whole rows. A row weighs 1, or its bytes in units where that is more; a unit is half a split's share of a row
of the largest block. With `spacing` a quarter of the greatest number of rows and `least` a sixteenth:

- a row whose hash is a multiple of `spacing` begins a block, if the block before it has its least weight;
- an anchor always begins one: a row whose hash is a multiple of twice the spacing, where none of the rows that weigh
  `least` before it is one. That needs no more than those rows to tell, so a worker that enters a file anywhere finds
  the next anchor without knowing what came before. Splits of files begin and end there (`transforms.ranges`);
- a block of the greatest number of rows is closed, or of twice as much weight, which is a split.

Of a row that weighs w, a multiple of `spacing / w` is enough, for an anchor too; so blocks and the way to the next
anchor are bounded in bytes as they are in rows.

The hash is that of the text. A text that stood among the rows that weigh `least` before it says nothing of the place:
its row has the hash of its id, or where there is no id column, of the last texts together. So rows that repeat are cut
where their ids say so, and a text that fills half the corpus makes no blocks of one row.
"""

import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

BLOCK_TEXT_CHARACTERS = 64 << 20
"""A block is closed at this much text, ids and kept values included, however few its rows: a worker holds it whole."""
_TEXTS_TOGETHER = 8
_MIX = np.uint64(0x9E3779B97F4A7C15)  # odd, so that no bits are lost


class RowMarks(NamedTuple):
    """What is looked at of rows, in order."""

    texts: np.ndarray  # (n,) int64: 32 bits of each row's text
    ids: np.ndarray | None  # (n,) int64: the same of its id; None where no id column was asked for
    weights: np.ndarray  # (n,) int64, 1 or more
    bytes: np.ndarray  # (n,) int64: what a worker holds of it: its text, in characters, and the bytes of all else


def row_hashes(strings: Sequence[str] | pa.StringArray) -> np.ndarray:
    """(n,) int64: 32 bits of each string."""
    strings = strings if isinstance(strings, pa.Array) else pa.array(strings, pa.string())
    return np.fromiter(map(zlib.crc32, strings.cast(pa.binary()).to_pylist()), np.int64, len(strings))


def weight_unit(rows_per_part: int, split_bytes: int) -> int:
    """Bytes of a row that count as one row."""
    return max(1, split_bytes // (2 * rows_per_part))


class Cutter:
    """Tells, batch by batch, where blocks begin. Blocks have `rows_per_part` rows at most, about a third on average."""

    def __init__(self, rows_per_part: int) -> None:
        self._most, self.least = rows_per_part, _least(rows_per_part)
        self._candidates = Candidates(rows_per_part)
        self._rows = self._weight = self._bytes = 0  # of the open block

    def cuts(self, rows: RowMarks) -> list[int]:
        """Takes in the next rows; those of them that begin a block (never the first of all: that needs no cut)."""
        candidates, anchors = self._candidates.find(rows)
        always = set(anchors.tolist())
        size = len(rows.texts)
        weights, bytes_ = _sums(rows.weights), _sums(rows.bytes)
        start, start_weight, start_byte = -self._rows, -self._weight, -self._bytes  # of the open block, from this batch
        found: list[int] = []

        def begin(row: int) -> None:
            nonlocal start, start_weight, start_byte
            found.append(row)
            start, start_weight, start_byte = row, int(weights[row]), int(bytes_[row])

        def full() -> int:
            """The row for which the open block has no room."""
            by_weight = np.searchsorted(weights, start_weight + 2 * self._most)
            by_bytes = np.searchsorted(bytes_, start_byte + BLOCK_TEXT_CHARACTERS)
            return min(start + self._most, int(by_weight), int(by_bytes))

        for candidate in [*candidates.tolist(), size]:
            while (row := full()) < min(candidate + 1, size):
                begin(row)
            before = int(weights[candidate]) - start_weight
            if candidate < size and before and (candidate in always or before >= self.least):
                begin(candidate)
        self._rows, self._weight, self._bytes = (
            size - start,
            int(weights[-1]) - start_weight,
            int(bytes_[-1]) - start_byte,
        )
        return found

    def end_of_file(self) -> bool:
        """In a pack of small files: whether to end the block where this file ends, so that the block stays the same
        when the next file changes."""
        ends = self._weight >= self.least
        if ends:
            self._rows = self._weight = self._bytes = 0
        return ends


class Candidates:
    """Finds the rows that may begin a block, and those that always do, the anchors, batch by batch."""

    def __init__(self, rows_per_part: int, entering: bool = False) -> None:
        """entering: rows came before the first, so that no row is an anchor until rows of weight `least` are seen"""
        self._least, self._spacing = _least(rows_per_part), _spacing(rows_per_part)
        self._last = -1 if entering else -1 - self._least  # place of a row that could have been an anchor
        self._unknown = self._least if entering else 0  # places up to which earlier rows may hold the same text
        self._too_early = _TEXTS_TOGETHER - 1 if entering else 0  # rows behind too few texts to hash them together
        self._texts = np.zeros(0, np.int64)  # of earlier rows that a row may repeat, and their places
        self._places = np.zeros(0, np.int64)

    def find(self, rows: RowMarks) -> tuple[np.ndarray, np.ndarray]:
        """Takes in the next rows. Returns (candidates, anchors), indices of theirs; anchors are candidates too.

        Places are weights of all rows before a row, counted from the first of the batch.
        """
        places = _sums(rows.weights)
        repeats, together = self._look_back(rows.texts, places)
        others = together if rows.ids is None else rows.ids
        own, spacing = np.where(repeats, others, rows.texts), self._spacing // rows.weights
        candidates = own % np.maximum(spacing, 1) == 0
        spacing = np.maximum(np.where(rows.weights == 1, 2 * self._spacing, spacing), 1)
        possible = own % spacing == 0
        unknown = places[:-1] < self._unknown
        possible |= unknown & ((others % spacing == 0) | (rows.texts % spacing == 0))
        too_early = np.arange(len(own)) < (self._too_early if rows.ids is None else 0)
        anchors = self._alone(np.flatnonzero(possible | too_early), places)
        self._unknown -= int(places[-1])
        self._too_early -= len(own)
        return np.flatnonzero(candidates), anchors[~too_early[anchors]]

    def _alone(self, possible: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Those that no other of them precedes within weight `least`."""
        at = places[possible]
        alone = np.diff(at, prepend=self._last) > self._least
        self._last = int(at[-1] if len(at) else self._last) - int(places[-1])
        return possible[alone]

    def _look_back(self, texts: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(n,) bool, whether the text stood within weight `least` before; (n,) int64, hashes of the last texts."""
        known, end = len(self._texts), int(places[-1])
        texts, places = np.concatenate([self._texts, texts]), np.concatenate([self._places, places[:-1]])
        order = np.argsort(texts, kind="stable")
        before, after = order[:-1], order[1:]
        again = (texts[before] == texts[after]) & (places[after] - places[before] <= self._least)
        repeats = np.zeros(len(texts), bool)
        repeats[after] = again
        together = _together(texts)
        kept = np.flatnonzero(places >= end - self._least)[:1].tolist() or [len(texts)]
        first = max(0, min(kept[0], len(texts) - _TEXTS_TOGETHER + 1))
        self._texts, self._places = texts[first:], places[first:] - end
        return repeats[known:], together[known:]


def _together(texts: np.ndarray) -> np.ndarray:
    """(n,) int64: 32 bits of each text and the ones before it, as many as are there."""
    padded = np.concatenate([np.zeros(_TEXTS_TOGETHER - 1, np.uint64), texts.astype(np.uint64)])
    mixed = np.zeros(len(texts), np.uint64)
    for i in range(_TEXTS_TOGETHER):
        mixed = mixed * _MIX + padded[i : i + len(texts)]
    return ((mixed * _MIX) >> np.uint64(32)).astype(np.int64)


def _sums(values: np.ndarray) -> np.ndarray:
    """(n + 1,) int64: what comes before each, and all."""
    return np.concatenate([[0], np.cumsum(values)])


def _least(rows_per_part: int) -> int:
    return max(1, rows_per_part // 16)


def _spacing(rows_per_part: int) -> int:
    return max(1, rows_per_part // 4)
