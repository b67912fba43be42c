"""Rows of equal text: collapsed to one representative before vectors are compared, expanded afterwards.

Of a text only 128 bits and the row's number are shuffled, by buckets of the hash. What comes out are small tables of
rows, since most rows are nobody's duplicate.
"""

import dataclasses
import functools
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas import storage
from transforms.carry_over import Previous, once_collapsed
from transforms.long_strings import as_one_array
from transforms.row_blocks import RowBlock, Source, rows_of
from transforms.sorted_files import open_work

BUCKETS, BUCKET_ROWS = 64, 1 << 21
"""Buckets of hashes at least, and about how many rows one holds where there are more: a worker has 24 bytes of each in
memory, and as much again to sort them."""


def ragged_arange(counts: np.ndarray) -> np.ndarray:
    """`0 .. c - 1` for each count c, one after the other."""
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)


def pages_of(counts: np.ndarray, most: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """As `np.repeat(np.arange(n), counts)` and `ragged_arange(counts)`, at most so many at a time."""
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    for low in range(0, total, most):
        places = np.arange(low, min(low + most, total))
        lines = np.searchsorted(ends, places, side="right")
        yield lines, places - (ends - counts)[lines]


class Limits(NamedTuple):
    """Of pairs with one score, how many can come to matter: what keeps a million equal rows from 5 x 10^11 pairs."""

    top_k: int = 0  # a row's best partners, ties by id; 0 for all
    max_pairs: int = 0  # the best pairs, ties by ids; 0 for all. Says nothing where top_k takes pairs away first

    def across(self, i: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        """Of the i-th member of a group, by id, how many of the first of another group with `sizes` members count.

        A row's partners are by id, and one of them may have the row's own id: it is no partner, so one more counts. A
        pair of the i-th and the j-th is behind (i + 1)(j + 1) - 1 others, of which up to min(i, j) + 1 have one id.
        """
        if self.top_k:
            most = self.top_k + 1
            return np.where(i < most, sizes, np.minimum(sizes, most))
        if not self.max_pairs:
            return sizes
        most = np.minimum(self.max_pairs // (i + 1) + 1, self.max_pairs // np.maximum(i, 1) + (i == 0))
        return np.minimum(sizes, most)

    def within(self, i: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        """Of the i-th member of a group, by id, how many of those that follow it count."""
        after = sizes - 1 - i
        if self.top_k:
            return np.where(i < self.top_k, after, 0)
        before = i * (sizes - 1) - i * (i - 1) // 2  # pairs of the members before it
        return np.clip(self.max_pairs - before, 0, after) if self.max_pairs else after


@dataclasses.dataclass(frozen=True, eq=False)
class DuplicateGroups:
    """Groups of rows with equal text, as arrays.

    dropped: (d,) sorted rows that a representative stands for
    representatives: (g,) sorted
    offsets: (g + 1,) of each group's members in `members` and `ids`
    members: rows, of each group by id, its representative among them; of rows with one id the first
    labels: (g,) equal for groups of one text, of which there are two where old rows and new ones have it
    old: (g,) whether the group's own pairs are known
    fresh: sorted old rows whose pairs are not known
    """

    dropped: np.ndarray
    representatives: np.ndarray
    offsets: np.ndarray
    members: np.ndarray
    ids: pa.Array
    labels: np.ndarray
    old: np.ndarray
    fresh: np.ndarray

    @classmethod
    def of(cls, table: pa.Table) -> "DuplicateGroups":
        """From what `groups_table` makes."""
        rows, stands = (table.column(name).to_numpy() for name in ("row", "representative"))
        ids = as_one_array(table.column("id"))
        again = _as_before(ids, stands)
        representatives, starts = np.unique(stands[~again], return_index=True)
        return cls(
            dropped=np.sort(rows[rows != stands]),
            representatives=representatives,
            offsets=np.append(starts, (~again).sum()),
            members=rows[~again],
            ids=ids.filter(pa.array(~again)),
            labels=table.column("first").to_numpy()[~again][starts],
            old=table.column("old").to_numpy()[~again][starts],
            fresh=np.sort(rows[table.column("fresh").to_numpy()]),
        )

    @property
    def counts(self) -> dict[str, int]:
        """How many texts stand in several rows, and in how many rows."""
        sizes = np.diff(self.offsets)
        of_text = np.bincount(np.unique(self.labels, return_inverse=True)[1], sizes)
        return {"groups": int((of_text > 1).sum()), "rows": int(of_text[of_text > 1].sum())}

    def spans(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """For each row, its first place in `members` and how many there are; -1 and 1 where it is alone."""
        if not len(self.representatives):
            return np.full(len(rows), -1), np.ones(len(rows), dtype=np.int64)
        place, known = self._places(rows)
        sizes = np.diff(self.offsets)[place]
        return np.where(known, self.offsets[place], -1), np.where(known, sizes, 1)

    def same_text(self, rows_a: np.ndarray, rows_b: np.ndarray) -> np.ndarray:
        """Whether two representatives stand for one text: an old one and a new one."""
        if not len(self.representatives):
            return np.zeros(len(rows_a), dtype=bool)
        (place_a, known_a), (place_b, known_b) = self._places(rows_a), self._places(rows_b)
        return known_a & known_b & (self.labels[place_a] == self.labels[place_b])

    def _places(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        place = np.minimum(np.searchsorted(self.representatives, rows), len(self.representatives) - 1)
        return place, self.representatives[place] == rows

    def lines(self, start: int, stop: int, limits: Limits) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pairs inside the groups whose representative is a row from `start` to `stop` - 1, and with the old rows of
        their text; not pairs of two old rows. A line for each member: its place in `members`, the place of its first
        partner, and how many partners follow one another from there."""
        low, high = np.searchsorted(self.representatives, [start, stop])
        groups = low + np.flatnonzero(~self.old[low:high])
        shared, twins = self._twins(groups)
        members, counts = self._inside(groups, limits)
        news, across = self._across(shared, twins, limits)
        firsts = np.repeat(self.offsets[twins], np.diff(self.offsets)[shared])
        columns = ((members, news), (members + 1, firsts), (counts, across))
        left, first, counts = (np.concatenate(column) for column in columns)
        return left, first, counts

    def pairs_within(self, limits: Limits) -> int:
        """How many pairs the groups make by themselves."""
        groups = np.flatnonzero(~self.old)
        inside, across = self._inside(groups, limits), self._across(*self._twins(groups), limits)
        return int(inside[1].sum() + across[1].sum())

    def _twins(self, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Those of the groups whose text old rows have too, and the group of these."""
        old = np.flatnonzero(self.old)
        old = old[np.argsort(self.labels[old])]
        if not len(old):
            return old, old
        place = np.minimum(np.searchsorted(self.labels[old], self.labels[groups]), len(old) - 1)
        known = self.labels[old][place] == self.labels[groups]
        return groups[known], old[place[known]]

    def _inside(self, groups: np.ndarray, limits: Limits) -> tuple[np.ndarray, np.ndarray]:
        """Places of the groups' members, and how many of those that follow each are its partners."""
        sizes = np.diff(self.offsets)[groups]
        i = ragged_arange(sizes)
        return np.repeat(self.offsets[groups], sizes) + i, limits.within(i, np.repeat(sizes, sizes))

    def _across(self, groups: np.ndarray, others: np.ndarray, limits: Limits) -> tuple[np.ndarray, np.ndarray]:
        """Places of the groups' members, and how many of the first of another group are partners of each."""
        sizes, theirs = np.diff(self.offsets)[groups], np.diff(self.offsets)[others]
        i = ragged_arange(sizes)
        return np.repeat(self.offsets[groups], sizes) + i, limits.across(i, np.repeat(theirs, sizes))


def hash_texts(block: RowBlock, source: Source) -> Iterator[tuple[int, bytes]]:
    """Of each bucket, `(n, 3)` uint64 as bytes: two halves of the text's hash, and the row."""
    numbers = np.arange(block.start, block.stop)
    hashed = np.empty((len(numbers), 3), dtype=np.uint64)
    hashed[:, :2] = rows_of(source).text_digests(numbers).view(np.uint64).reshape(-1, 2)
    hashed[:, 2] = numbers
    buckets = hashed[:, 0] % n_buckets(len(rows_of(source)))
    for bucket in np.unique(buckets):
        yield int(bucket), hashed[buckets == bucket].tobytes()


def n_buckets(n_rows: int) -> int:
    return max(BUCKETS, -(-n_rows // BUCKET_ROWS))


def equal_texts(chunks: Iterable[bytes]) -> bytes:
    """`(n, 2)` int64 as bytes: rows whose text another row of the bucket has too, and the first row that has it."""
    hashed = np.concatenate([np.frombuffer(chunk, dtype=np.uint64).reshape(-1, 3) for chunk in chunks])
    hashed = hashed[np.lexsort((hashed[:, 2], hashed[:, 1], hashed[:, 0]))]
    first = np.ones(len(hashed), dtype=bool)
    first[1:] = (hashed[1:, :2] != hashed[:-1, :2]).any(axis=1)
    starts = np.flatnonzero(first)
    sizes = np.diff(np.append(starts, len(hashed)))
    firsts = np.repeat(hashed[starts, 2], sizes)
    return np.column_stack([hashed[:, 2], firsts])[np.repeat(sizes, sizes) > 1].astype(np.int64).tobytes()


def groups_table(found: Iterable[bytes], source: Source, previous: Previous | None, expand: bool) -> pa.Table:
    """Groups of the rows that `equal_texts` found: row, representative, id, first row of the text, old and fresh.

    A group's smallest id stands for it. Of an earlier run's rows and new ones of a text, each have a group where all
    pairs are listed (old ones know theirs); else the earlier run's representative goes on to stand for all. A new row
    of an old one's text and id has no pairs but those that are known: it is of the old one's group.
    """
    pairs = np.concatenate([np.empty((0, 2), np.int64), *(np.frombuffer(f, np.int64).reshape(-1, 2) for f in found)])
    rows, known = rows_of(source), np.empty(0, np.int64)
    if previous and not expand:
        known = once_collapsed(source, previous)
        alone = np.setdiff1d(known, pairs[:, 0])
        pairs = np.concatenate([pairs, np.column_stack([alone, alone])])
    numbers, firsts = pairs.T
    old = previous.is_old(rows, numbers) if previous else np.zeros(len(numbers), dtype=bool)
    settled = old & ~np.isin(numbers, known)
    ids = rows.take(numbers, ["id"]).column("id")
    table = pa.table({"row": numbers, "first": firsts, "id": ids, "old": old, "new": ~settled})
    table = table.sort_by([(name, "ascending") for name in ("first", "id", "new", "row")])
    heads = ~_as_before(as_one_array(table.column("id")), table.column("first").to_numpy())
    after = table.column("new").to_numpy()[heads][np.cumsum(heads) - 1]
    by = ["first", "after", "id", "new", "row"]  # what is settled comes first, and so represents
    table = table.append_column("after", pa.array(after)).sort_by([(name, "ascending") for name in by])
    numbers, firsts, old, after = (table.column(name).to_numpy() for name in ("row", "first", "old", "after"))
    group = 2 * firsts + after if expand else firsts
    _, starts, label = np.unique(group, return_index=True, return_inverse=True)
    stands = numbers[starts][label] if len(numbers) else numbers
    fresh = (stands == numbers) & old & after
    columns = {"row": numbers, "representative": stands, "id": table.column("id"), "first": firsts}
    table = pa.table(columns | {"old": old & ~after & expand, "fresh": fresh, "member": stands != numbers})
    order = ["representative", "id", "member", "row"]
    return table.sort_by([(name, "ascending") for name in order]).drop_columns(["member"])


def _as_before(ids: pa.Array, numbers: np.ndarray) -> np.ndarray:
    """(n,) whether each row has the id and the number of the one before it."""
    same = np.zeros(len(ids), dtype=bool)
    if len(ids) > 1:
        same[1:] = np.asarray(pc.equal(ids[1:], ids[:-1])) & (numbers[1:] == numbers[:-1])
    return same


@functools.lru_cache(maxsize=2)
def load_groups(uri: str) -> DuplicateGroups:
    """What `groups_table` put at `uri`; read once a process."""
    with open_work(uri) as file:
        return DuplicateGroups.of(pa.ipc.open_file(file.read()).read_all())


def save_groups(uri: str, table: pa.Table) -> None:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    storage.create(uri, sink.getvalue().to_pybytes())


@dataclasses.dataclass
class FindDuplicates(beam.PTransform):
    """PCollection[RowBlock] -> PCollection[bytes]: of each bucket, what `equal_texts` finds."""

    source: Source

    def expand(self, blocks: beam.PCollection) -> beam.PCollection:
        hashed = blocks | "HashTexts" >> beam.FlatMap(hash_texts, self.source)
        return hashed | "ByHash" >> beam.GroupByKey() | "EqualTexts" >> beam.MapTuple(_equal_of)


def _equal_of(_: int, chunks: Iterable[Any]) -> bytes:
    return equal_texts(chunks)
