"""Pairs of row blocks -> sorted files of their pairs: the work of mining."""

import dataclasses
import functools
import itertools
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam.metrics import Metrics
from apache_beam.utils.shared import Shared

from transforms.bounds import Filter
from transforms.duplicate_texts import DuplicateGroups, load_groups
from transforms.expand import Comparison, Expansion
from transforms.loaded_blocks import HELD_BLOCKS, LastUsed, LoadedBlock, Rectangle, comparing_device, load_rows
from transforms.pair_files import BINS, FoundPairs, bins_of, write_pairs
from transforms.progress import PROGRESS
from transforms.row_blocks import RowBlock, rows_of
from transforms.similarity import Pairs, pairs_in_blocks, tile_of, tiles
from transforms.sorted_files import PairFile, settle, settled

FILE_PAIRS = 1 << 19
"""Pairs that are held before they go to a file."""
LEAST_HELD_PAIRS = 1 << 16
"""Pairs that are held at least before the best of them are looked for."""


def load_block(
    block: RowBlock, job: Comparison, filter: Filter, groups: DuplicateGroups, old: bool = False
) -> LoadedBlock | None:
    """The block's rows; where there was an earlier run, its old rows or its new ones. None where there are none.

    Raises RunFailed naming ids whose vectors have no cosine.
    """
    rows, numbers = rows_of(job.source), np.arange(block.start, block.stop)
    kept = ~np.isin(numbers, groups.dropped[slice(*np.searchsorted(groups.dropped, [block.start, block.stop]))])
    if job.previous:
        kept &= (job.previous.is_old(rows, numbers) & ~np.isin(numbers, groups.fresh)) == old
    if not kept.any():
        return None
    return load_rows(job.source, block, filter, job.device, job.threads, job.with_text, kept)


class Floor:
    """The score that a pair must reach to be among the best `n` of all, as far as this process has seen.

    A histogram tells: bounded, and never above the truth. An item counts once, also where an engine tries it again.
    """

    def __init__(self, n: int, min_score: float) -> None:
        self.n, self.floor = n, min_score
        self.counts = np.zeros(BINS, dtype=np.int64)
        self.seen: set[str] = set()

    def begin(self, item: str) -> bool:
        """Whether the item's pairs are new here, and may be added."""
        new = item not in self.seen
        self.seen.add(item)
        return new

    def add(self, scores: np.ndarray) -> None:
        self.counts += np.bincount(bins_of(scores), minlength=BINS)
        reached = np.flatnonzero(np.cumsum(self.counts[::-1]) >= self.n)
        if len(reached):
            self.reach((BINS - 1 - int(reached[0])) / BINS)

    def reach(self, score: float) -> None:
        """Raises the floor to a score that `n` pairs are known to have, or more than it."""
        self.floor = max(self.floor, score)


class _Held:
    """What a process keeps from one item to the next: the last few blocks, and the floor."""

    def __init__(self, job: Comparison) -> None:
        most = 2 * HELD_BLOCKS if job.previous else HELD_BLOCKS  # its old rows and its new ones
        self.blocks = LastUsed[LoadedBlock | None](most)
        self.floor = Floor(job.limits.max_pairs, job.min_score)
        self.lock = threading.Lock()


def compare(a: LoadedBlock, b: LoadedBlock, job: Comparison, floor: Floor) -> Iterator[Pairs]:
    """Pairs of rows of two blocks, by their place in the block, a million or so at a time; of `max_pairs`, so many that
    they can raise the floor."""
    same = a is b
    todo = [
        t
        for t in tiles(len(a.prepared), len(b.prepared), tile_of(a.prepared))
        if not same or t.cols.stop - 1 > t.rows.start
    ]
    total = pairs_of(len(a.prepared), len(b.prepared), same)
    each = total // max(len(todo), 1)

    def least() -> float:  # is asked once a tile, which tells how far this is
        PROGRESS.add(pairs=each)
        return floor.floor

    held: list[Pairs] = []
    pairs, full = 0, min(floor.n or FILE_PAIRS, FILE_PAIRS)
    for found in pairs_in_blocks(a.prepared, b.prepared, least, same=same, threads=job.threads):
        held.append(found)
        pairs += len(found.scores)
        if pairs >= full:
            yield _above(_joined(held), floor.floor)
            held, pairs = [], 0
    PROGRESS.add(pairs=total - each * len(todo))
    yield _above(_joined(held), floor.floor)


def _joined(found: list[Pairs]) -> Pairs:
    empty = Pairs(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))
    return Pairs(*(np.concatenate(column) for column in zip(empty, *found, strict=True)))


def _above(found: Pairs, floor: float) -> Pairs:
    keep = found.scores >= np.float32(floor)
    return Pairs(found.rows_a[keep], found.rows_b[keep], found.scores[keep])


def in_files(pages: Iterable[FoundPairs], floor: Floor, new: bool) -> Iterator[FoundPairs]:
    """Pages of two blocks' pairs -> the pairs of each file, in order.

    Of `floor.n`, as soon as twice as many are held, those that are not among the best `n` of them are dropped, ties by
    ids and rows; so what is held does not grow with what the threshold lets through. The score of the last of them is
    one that `n` pairs reach.

    new: whether these pairs were not counted before
    """
    full = min(max(2 * floor.n, LEAST_HELD_PAIRS), FILE_PAIRS) if floor.n else FILE_PAIRS
    held: list[FoundPairs] = []
    pairs = 0
    for page in pages:
        if floor.n:
            page = page.where(page.scores >= np.float32(floor.floor)).of_two_ids()
            if new:
                floor.add(page.scores)
        held.append(page)
        pairs += len(page)
        if pairs < full:
            continue
        best = FoundPairs.joined(held).in_order(floor.n)
        held, pairs = [best], len(best)
        if floor.n and pairs == floor.n:
            floor.reach(float(best.scores[-1]))
        if not floor.n or 2 * pairs > full:
            yield best
            held, pairs = [], 0
    if pairs:
        yield FoundPairs.joined(held).in_order(floor.n)


def pairs_of(rows_a: int, rows_b: int, same: bool) -> int:
    """How many pairs two blocks have, or one with itself."""
    return rows_a * (rows_a - 1) // 2 if same else rows_a * rows_b


@dataclasses.dataclass
class ComparePairs(beam.PTransform):
    """(squares: PCollection[Rectangle], duplicates: PCollection[str], filter: PCollection[Filter])
    -> PCollection[PairFile]

    No vector is shuffled: workers read those of both blocks from the parts, and keep the last few blocks.
    """

    job: Comparison

    def expand(self, inputs: Any) -> beam.PCollection:
        singles = [beam.pvalue.AsSingleton(inputs[name]) for name in ("duplicates", "filter")]
        return inputs["squares"] | "CompareBlocks" >> beam.ParDo(_CompareBlocks(self.job), *singles)


class _CompareBlocks(beam.DoFn):
    def __init__(self, job: Comparison) -> None:
        self.job = job
        self.shared = Shared()
        self.compared = Metrics.counter("mine", "pairs_compared")
        self.found = Metrics.counter("mine", "pairs_found")

    def setup(self) -> None:
        self.job = dataclasses.replace(self.job, device=comparing_device(self.job.device))
        self.held: _Held = self.shared.acquire(lambda: _Held(self.job))

    def process(self, square: Rectangle, duplicates: str, filter: Filter) -> Iterator[PairFile]:
        groups = load_groups(duplicates)
        with self.held.lock:  # one item at a time in a process: it uses all its threads and all its memory
            for a, b in itertools.product(square.rows, square.cols):
                if a.number > b.number:
                    continue
                for file in self._files(a, b, groups, filter):
                    self.found.inc(file.pairs)
                    yield file

    def _files(self, a: RowBlock, b: RowBlock, groups: DuplicateGroups, filter: Filter) -> list[PairFile]:
        """Those of two blocks: found there, or made."""
        name = f"pairs-{a.number}-{b.number}"
        done = settled(self.job.work, name)
        all_pairs = pairs_of(a.rows, b.rows, a == b)
        if done is not None:
            PROGRESS.add(pairs=all_pairs)
            return done
        compared = 0
        files: list[PairFile] = []
        for side, (left, right) in enumerate(self._sides(a, b, groups, filter)):
            compared += pairs_of(len(left.numbers), len(right.numbers), left is right)
            new = self.held.floor.begin(f"{name}-{side}")
            for pairs in in_files(self._pages(a, left, right, groups), self.held.floor, new):
                files += write_pairs(self.job.work, name, pairs, self.job.block_rows)
        self.compared.inc(compared)
        PROGRESS.add(pairs=all_pairs - compared)  # known, or of rows that a representative stands for
        return settle(self.job.work, name, files)

    def _sides(
        self, a: RowBlock, b: RowBlock, groups: DuplicateGroups, filter: Filter
    ) -> Iterator[tuple[LoadedBlock, LoadedBlock]]:
        """What is to be compared of two blocks: all, or new rows with new ones and with old ones."""

        def loaded(block: RowBlock, old: bool) -> LoadedBlock | None:
            load = functools.partial(load_block, block, self.job, filter, groups, old)
            return self.held.blocks.get((block.number, old), load)

        sides = [(False, False)]
        if self.job.previous:
            sides += [(False, True)] if a == b else [(False, True), (True, False)]
        for old_a, old_b in sides:
            new = loaded(b, old_b) if old_a else loaded(a, old_a)
            if new is None:  # then the other need not be read
                continue
            other = loaded(a, old_a) if old_a else loaded(b, old_b)
            if other is not None:
                yield (other, new) if old_a else (new, other)

    def _pages(self, block: RowBlock, a: LoadedBlock, b: LoadedBlock, groups: DuplicateGroups) -> Iterator[FoundPairs]:
        expansion = Expansion(a, b, groups, self.job)
        if a is b and self.job.expand:
            yield from expansion.of_equal_texts(block)
        for found in compare(a, b, self.job, self.held.floor):
            if self.job.previous and self.job.expand:  # pairs of one text are not left to their vectors
                other = ~groups.same_text(a.numbers[found.rows_a], b.numbers[found.rows_b])
                found = Pairs(found.rows_a[other], found.rows_b[other], found.scores[other])
            yield from expansion.pages(found)
