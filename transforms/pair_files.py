"""Pairs on their way, as numbers and in files, and ranges of their score. No Beam.

A file's pairs are in the final order of mining: best first, equal scores by `id_a`, then `id_b`, and pairs of equal
ids, which several rows may have, by their rows.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.errors import RunFailed
from transforms.sorted_files import Order, PairFile, Span, merge_files, put_tables

BY_ROWS = (("row_a", "ascending"), ("row_b", "ascending"))
BEST_FIRST = (("score", "descending"), ("id_a", "ascending"), ("id_b", "ascending"), *BY_ROWS)
BINS = 1024
"""Of the score axis from 0 to 1. Their edges are float32 numbers, so that a range holds the same pairs everywhere."""
ROW_GROUP_PAIRS, ROW_GROUP_TEXT_BYTES = 1 << 14, 4 << 20
"""Most of a row group. A merge holds a row group of each file."""
FILE_TEXT_BYTES = 128 << 20
"""Most text of a file, which is made in memory."""
RANGE_PAIRS = 1 << 20


class ScoreRange(NamedTuple):
    """Pairs from one bin to another, for one worker to put in order."""

    number: int
    low: int  # first bin
    high: int  # bin after the last
    pairs: int  # how many to take, the best
    files: tuple[str, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class FoundPairs:
    """Pairs as numbers, in any order.

    rows_a, rows_b: (n,) int64 rows of the dataset
    ids_a, ids_b: (n,) places in `ids`; texts_a, texts_b: in `texts`
    """

    rows_a: np.ndarray
    rows_b: np.ndarray
    scores: np.ndarray
    ids_a: np.ndarray
    ids_b: np.ndarray
    texts_a: np.ndarray
    texts_b: np.ndarray
    ids: pa.Array
    texts: pa.Array | None

    def __len__(self) -> int:
        return len(self.scores)

    @classmethod
    def joined(cls, pages: Sequence["FoundPairs"]) -> "FoundPairs":
        """Pages of one block's pairs with another, which share ids and texts, as one."""
        if len(pages) == 1:
            return pages[0]
        columns: dict[str, Any] = {name: np.concatenate([getattr(page, name) for page in pages]) for name in NUMBERS}
        return dataclasses.replace(pages[0], **columns)

    def where(self, chosen: np.ndarray | slice) -> "FoundPairs":
        """Some of the pairs: a mask, places or a slice."""
        columns: dict[str, Any] = {name: getattr(self, name)[chosen] for name in NUMBERS}
        return dataclasses.replace(self, **columns)

    def of_two_ids(self) -> "FoundPairs":
        """Without pairs of rows that have one id, which are no pairs."""
        ids = (self.ids.take(pa.array(places)) for places in (self.ids_a, self.ids_b))
        return self.where(np.asarray(pc.not_equal(*ids)))

    def in_order(self, limit: int = 0) -> "FoundPairs":
        """Best first, each with the smaller id first; without pairs of one id; the best `limit` where that is set."""
        used, places = np.unique(np.concatenate([self.ids_a, self.ids_b]), return_inverse=True)
        ranks = ranks_of(self.ids.take(pa.array(used)))
        unique = len(ranks) == 0 or int(ranks.max()) == len(ranks) - 1
        rank_a, rank_b = np.split(ranks[places], 2)
        swap = rank_a > rank_b
        low, high = np.where(swap, rank_b, rank_a), np.where(swap, rank_a, rank_b)
        rows = [] if unique else _swapped(self.rows_a, self.rows_b, swap)[::-1]
        order = np.lexsort((*rows, high, low, -self.scores))
        order = order[low[order] < high[order]][: limit or None]
        swap, some = swap[order], self.where(order)
        sides = (_swapped(getattr(some, f"{name}_a"), getattr(some, f"{name}_b"), swap) for name in SIDES)
        rows, ids, texts = sides
        return FoundPairs(*rows, some.scores, *ids, *texts, self.ids, self.texts)

    def text_bytes(self) -> np.ndarray | None:
        """Of each pair, `(n,)` int64; None where there are no texts."""
        if self.texts is None:
            return None
        lengths = pc.binary_length(self.texts).to_numpy(zero_copy_only=False).astype(np.int64)
        return lengths[self.texts_a] + lengths[self.texts_b]

    def tables(self) -> Iterator[pa.Table]:
        """As tables of at most a row group: with texts, all of them at once could be large."""
        for some in cuts(len(self), self.text_bytes(), ROW_GROUP_PAIRS, ROW_GROUP_TEXT_BYTES):
            columns = {
                "id_a": self.ids.take(pa.array(self.ids_a[some])),
                "id_b": self.ids.take(pa.array(self.ids_b[some])),
                "score": self.scores[some],
                "row_a": self.rows_a[some],
                "row_b": self.rows_b[some],
            }
            if self.texts is not None:
                columns |= {f"text_{s}": self.texts.take(pa.array(getattr(self, f"texts_{s}")[some])) for s in "ab"}
            yield pa.table(columns)

    def files(self) -> Iterator["FoundPairs"]:
        """The same pairs, in as many pieces as make files of bounded size; one at least."""
        return map(self.where, cuts(len(self), self.text_bytes(), max(len(self), 1), FILE_TEXT_BYTES))


SIDES = ("rows", "ids", "texts")
NUMBERS = ("rows_a", "rows_b", "scores", "ids_a", "ids_b", "texts_a", "texts_b")


def _swapped(a: np.ndarray, b: np.ndarray, swap: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.where(swap, b, a), np.where(swap, a, b)


def cuts(n: int, sizes: np.ndarray | None, most: int, most_bytes: int) -> Iterator[slice]:
    """Slices that cover `n` rows in order, each of at most `most` rows and, where rows have `sizes`, at most
    `most_bytes` or a single row. One empty slice where there are no rows."""
    ends = None if sizes is None else np.cumsum(sizes)
    start = 0
    while True:
        stop = min(start + most, n)
        if ends is not None and stop > start:
            before = int(ends[start - 1]) if start else 0
            stop = min(stop, max(int(np.searchsorted(ends, before + most_bytes, side="right")), start + 1))
        yield slice(start, stop)
        start = stop
        if start >= n:
            return


def ranks_of(ids: pa.Array) -> np.ndarray:
    """Each id's place in the order of ids; equal ones have one."""
    order = pc.sort_indices(ids).to_numpy()
    ordered = ids.take(pa.array(order))
    new = np.zeros(len(ids), dtype=np.int64)
    if len(ids) > 1:
        new[1:] = np.asarray(pc.not_equal(ordered[1:], ordered[:-1]))
    ranks = np.empty(len(ids), dtype=np.int64)
    ranks[order] = np.cumsum(new)
    return ranks


def bins_of(scores: np.ndarray) -> np.ndarray:
    """The bin of each score, from 0 to BINS - 1; a score of 1 is in the last."""
    return np.clip((scores * np.float32(BINS)).astype(np.int64), 0, BINS - 1)


def score_bins(table: pa.Table) -> np.ndarray:
    return bins_of(table.column("score").to_numpy())


def write_pairs(folder: str, name: str, pairs: FoundPairs, block_rows: int) -> list[PairFile]:
    """Puts pairs that are in order into files: one, or several where their texts are long."""
    return [_write_file(folder, name, some, block_rows) for some in pairs.files() if len(some)]


def _write_file(folder: str, name: str, pairs: FoundPairs, block_rows: int) -> PairFile:
    blocks = np.unique(np.concatenate([pairs.rows_a // block_rows, pairs.rows_b // block_rows]))
    return put_tables(folder, name, pairs.tables(), tuple(blocks.tolist()), score_bins)


def histogram_of(files: Sequence[PairFile]) -> np.ndarray:
    """`(BINS,)` pairs."""
    counts = np.zeros(BINS, dtype=np.int64)
    for file in files:
        for number, pairs in file.bins:
            counts[number] += pairs
    return counts


def plan_ranges(files: Sequence[PairFile], max_pairs: int = 0, range_pairs: int = RANGE_PAIRS) -> list[ScoreRange]:
    """Ranges of about `range_pairs`, best first, that hold the best `max_pairs` or all.

    They follow from the pairs that are asked for alone: how many more the files have below these makes no difference.
    """
    counts = histogram_of(files)
    left = min(max_pairs, int(counts.sum())) if max_pairs else int(counts.sum())
    ranges: list[ScoreRange] = []
    high, gathered = BINS, 0
    for low in range(BINS - 1, -1, -1):
        gathered += min(int(counts[low]), left - gathered)
        following = min(int(counts[low - 1]), left - gathered) if low else 0
        if gathered and (gathered == left or gathered + following > range_pairs):
            names = tuple(sorted(f.name for f in files if any(low <= b < high for b, _ in f.bins)))
            ranges.append(ScoreRange(len(ranges), low, high, gathered, names))
            left -= gathered
            high, gathered = low, 0
        if not left:
            break
    return ranges


def merge_range(folder: str, wanted: ScoreRange, order: Order = BEST_FIRST) -> Iterator[pa.Table]:
    """The range's pairs in order, in tables of any size."""
    low, high = wanted.low / BINS if wanted.low else -2, wanted.high / BINS if wanted.high < BINS else 2
    left = wanted.pairs
    for table in merge_files(folder, wanted.files, Span("score", np.float32(low), np.float32(high)), order):
        taken = table.slice(0, left)
        left -= taken.num_rows
        yield taken
        if not left:
            break
    if left:
        raise RunFailed(f"{folder}: {left} pairs are missing that were there; nothing is published, run again")
