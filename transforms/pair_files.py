"""Sorted files of pairs on their way: written by the comparisons, read by ranges of the score. No Beam.

A file's pairs are in the final order: best first, equal scores by `id_a`, then `id_b`.
"""

import bisect
import contextlib
import dataclasses
import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from typing import BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from schemas import storage
from schemas.errors import RunFailed

BINS = 1024
"""Of the score axis from 0 to 1. Their edges are float32 numbers, so that a range holds the same pairs everywhere."""
ROW_GROUP_PAIRS = 1 << 14
RANGE_PAIRS = 1 << 20


class PairFile(NamedTuple):
    """A pair file that is there."""

    name: str
    pairs: int
    bins: tuple[tuple[int, int], ...]  # (bin, pairs), of those that have some
    blocks: tuple[int, ...]  # numbers of the blocks that its rows are of


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

    def in_order(self, limit: int = 0) -> "FoundPairs":
        """Best first, each with the smaller id first; without pairs of one id; the best `limit` where that is set."""
        used, places = np.unique(np.concatenate([self.ids_a, self.ids_b]), return_inverse=True)
        ranks = _ranks(self.ids.take(pa.array(used)))[places]
        rank_a, rank_b = np.split(ranks, 2)
        swap = rank_a > rank_b
        low, high = np.where(swap, rank_b, rank_a), np.where(swap, rank_a, rank_b)
        order = np.lexsort((high, low, -self.scores))
        order = order[low[order] < high[order]][: limit or None]
        swap = swap[order]

        def sides(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            return np.where(swap, b[order], a[order]), np.where(swap, a[order], b[order])

        rows, ids, texts = (
            sides(getattr(self, f"{name}_a"), getattr(self, f"{name}_b")) for name in ("rows", "ids", "texts")
        )
        return FoundPairs(*rows, self.scores[order], *ids, *texts, self.ids, self.texts)

    def tables(self) -> Iterator[pa.Table]:
        """As tables of at most a row group: with texts, all of them at once could be large."""
        for start in range(0, max(len(self.scores), 1), ROW_GROUP_PAIRS):
            some = slice(start, start + ROW_GROUP_PAIRS)
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


def _ranks(ids: pa.Array) -> np.ndarray:
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


def write_pairs(folder: str, name: str, pairs: FoundPairs, block_rows: int) -> PairFile:
    """Puts pairs that are in order into a file. Its name ends in a digest of it, so that attempts which found pairs in
    other portions do not meet."""
    blocks = np.unique(np.concatenate([pairs.rows_a, pairs.rows_b]) // block_rows)
    return put_tables(folder, name, pairs.tables(), tuple(blocks.tolist()))


def put_tables(folder: str, name: str, tables: Iterator[pa.Table], blocks: tuple[int, ...]) -> PairFile:
    sink, counts, pairs = io.BytesIO(), np.zeros(BINS, dtype=np.int64), 0
    with contextlib.ExitStack() as stack:
        writer = None
        for table in tables:
            if writer is None:
                options = {"compression": "zstd", "compression_level": 1, "write_page_checksum": True}
                writer = stack.enter_context(pq.ParquetWriter(sink, table.schema, **options))
            writer.write_table(table)
            counts += np.bincount(bins_of(table.column("score").to_numpy()), minlength=BINS)
            pairs += table.num_rows
    data = sink.getvalue()
    name = f"{name}-{hashlib.blake2b(data, digest_size=8).hexdigest()}.parquet"
    storage.create(storage.join(folder, name), data)
    return PairFile(name, pairs, tuple((int(b), int(counts[b])) for b in np.flatnonzero(counts)), blocks)


def settle(folder: str, name: str, files: Sequence[PairFile]) -> list[PairFile]:
    """Says that these files are what `name` came to, unless another attempt was first: then its files are."""
    storage.create(_index(folder, name), json.dumps(files).encode())
    found = settled(folder, name)
    if found is None:
        raise RunFailed(f"{_index(folder, name)}: gone, as a run beside this one published and cleaned up; run again")
    return found


def settled(folder: str, name: str) -> list[PairFile] | None:
    """The files that an earlier attempt, perhaps of a run that was killed, has settled; None where none has."""
    try:
        said = json.loads(storage.read_bytes(_index(folder, name)))
    except FileNotFoundError:
        return None
    return [PairFile(file, n, tuple((b, c) for b, c in bins), tuple(blocks)) for file, n, bins, blocks in said]


def _index(folder: str, name: str) -> str:
    return storage.join(folder, f"{name}.json")


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


def merge_range(folder: str, wanted: ScoreRange) -> Iterator[pa.Table]:
    """The range's pairs in order, in tables of any size.

    Of each file a row group at a time is in memory, so that one score that very many pairs have does no harm.
    """
    cursors = [_Cursor(storage.join(folder, name), wanted) for name in wanted.files]
    left = wanted.pairs
    while left and (cursors := [c for c in cursors if c.fill()]):
        limits = [c.key(c.table.num_rows - 1) for c in cursors if c.groups]
        taken = pa.concat_tables([c.take_up_to(min(limits) if limits else None) for c in cursors])
        taken = taken.sort_by([("score", "descending"), ("id_a", "ascending"), ("id_b", "ascending")]).slice(0, left)
        left -= taken.num_rows
        yield taken
    if left:
        raise RunFailed(f"{folder}: {left} pairs are missing that were there; nothing is published, run again")


class _Cursor:
    """A pair file, read forward within a range."""

    def __init__(self, uri: str, wanted: ScoreRange) -> None:
        self.uri = uri
        self.low = np.float32(wanted.low / BINS)
        self.high = np.float32(wanted.high / BINS if wanted.high < BINS else 2)
        with open_work(uri) as file:
            metadata = pq.read_metadata(file)
        place = metadata.schema.to_arrow_schema().get_field_index("score")
        stats = [metadata.row_group(g).column(place).statistics for g in range(metadata.num_row_groups)]
        self.groups = [g for g, s in enumerate(stats) if s and s.max >= self.low and s.min < self.high]
        self.table: pa.Table = pa.table({})

    def fill(self) -> bool:
        """Reads on where nothing is left in memory; whether there is anything."""
        while not self.table.num_rows and self.groups:
            with open_work(self.uri) as file:
                table = pq.ParquetFile(file, page_checksum_verification=True).read_row_group(self.groups.pop(0))
            scores = table.column("score").to_numpy()
            self.table = table.filter(pa.array((scores >= self.low) & (scores < self.high)))
        return self.table.num_rows > 0

    def key(self, row: int) -> tuple[float, str, str]:
        return (-self.table["score"][row].as_py(), self.table["id_a"][row].as_py(), self.table["id_b"][row].as_py())

    def take_up_to(self, last: tuple[float, str, str] | None) -> pa.Table:
        """What is in memory up to a key, the key included."""
        n = self.table.num_rows
        stop = n if last is None else bisect.bisect_right(range(n), last, key=self.key)
        taken, self.table = self.table.slice(0, stop), self.table.slice(stop)
        return taken


def open_work(uri: str) -> BinaryIO:
    """A file of work in progress. Raises RunFailed where a run beside this one has published and cleaned up."""
    try:
        return storage.open_read(uri)
    except FileNotFoundError:
        raise RunFailed(f"{uri}: gone, as a run beside this one published and cleaned up; run again") from None
