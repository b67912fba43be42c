"""Query blocks and runs of corpus blocks -> sorted files of matches: the work of joining."""

import dataclasses
import functools
import itertools
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.metrics import Metrics
from apache_beam.utils.shared import Shared

from transforms.bounds import Filter
from transforms.loaded_blocks import (
    HELD_BLOCKS,
    LastUsed,
    LoadedBlock,
    Rectangle,
    comparing_device,
    load_rows,
    runs,
)
from transforms.pair_files import BEST_FIRST, FoundPairs, ranks_of, score_bins
from transforms.progress import PROGRESS
from transforms.row_blocks import RowBlock, Source
from transforms.similarity import Pairs, pairs_in_blocks
from transforms.sorted_files import PairFile, put_tables, settle, settled
from transforms.top_k import NO_RANK, TopK, top_k_in_blocks

PORTION_PAIRS = 1 << 18
"""Matches that are made into a file at a time."""
QUERY_BIN = 1024
"""Rows of the queries that a file's bins count together."""
BY_QUERY = (("row_a", "ascending"), ("score", "descending"), ("id_b", "ascending"), ("row_b", "ascending"))
"""Matches of one query best first; of equal scores that with the smaller id, of equal ids that which stands first."""
BY_SCORE = BEST_FIRST


@dataclasses.dataclass(frozen=True, kw_only=True)
class Matching:
    """What is joined, and how."""

    queries: Source
    corpus: Source
    work: str  # folder of the run's files
    top_k: int  # best matches of a query; 0 for all
    min_score: float | None
    itself: bool  # queries and corpus are one dataset, and no row matches itself
    one_to_one: bool
    with_text: bool
    query_rows: int  # of a block
    corpus_rows: int
    device: str
    threads: int


def rectangles(queries: list[RowBlock], corpus: list[RowBlock], alone: bool) -> Iterator[Rectangle]:
    """Work items that cover each pair of a query block and a corpus block once, a run of query blocks to its end before
    the next: their bounds rise from item to item."""
    return itertools.starmap(Rectangle, itertools.product(list(runs(queries, alone)), list(runs(corpus, alone))))


def query_bins(table: pa.Table) -> np.ndarray:
    return table.column("row_a").to_numpy() // QUERY_BIN


def bins_of_both_sides(table: pa.Table) -> np.ndarray:
    """The same, and those of the rows that are matches: where a dataset is joined with itself, these are queries."""
    return np.concatenate([table.column(f"row_{side}").to_numpy() for side in "ab"]) // QUERY_BIN


class CorpusRun:
    """Blocks that follow one another in the corpus, as one.

    order: places in the run by id, rows of one id as they stand; ranks: where each place is in that order
    id_ranks: of each place, the place of its id among all ids; equal ones have one
    """

    def __init__(self, blocks: Sequence[LoadedBlock]) -> None:
        self.blocks = blocks
        self.start = int(blocks[0].numbers[0])
        self.ends = np.cumsum([len(block.numbers) for block in blocks])
        self.id_ranks = ranks_of(pa.concat_arrays([block.ids for block in blocks]))
        self.order = np.argsort(self.id_ranks, kind="stable")
        self.ranks = np.empty_like(self.order)
        self.ranks[self.order] = np.arange(len(self.order))

    def __iter__(self) -> Iterator[tuple[LoadedBlock, slice]]:
        """Each block, and its places."""
        return ((b, slice(end - len(b.numbers), end)) for b, end in zip(self.blocks, self.ends, strict=True))

    def ranks_of_rows(self, numbers: np.ndarray) -> np.ndarray:
        """The ranks of rows of the corpus by number; -1 of rows that are not in the run."""
        places = numbers - self.start
        here = (places >= 0) & (places < len(self.ranks))
        return np.where(here, self.ranks[np.where(here, places, 0)], -1)

    def take(self, places: np.ndarray, column: str) -> list[pa.Array]:
        """Of sorted places, `ids` or `texts`: an array for each block."""
        return [
            getattr(block, column).take(pa.array(places[slice(*np.searchsorted(places, [s.start, s.stop]))] - s.start))
            for block, s in self
        ]


class KnownBest:
    """The best matches of a block's queries that this process has seen, by row of the corpus: what comes is looked for
    no lower. It may be told the same twice, as an engine that tries again does."""

    def __init__(self, queries: int, top_k: int) -> None:
        self.best = TopK.empty(queries, top_k)

    def add(self, found: TopK) -> None:
        self.best = self.best.merge(found)

    def floor(self, min_score: float | None) -> np.ndarray:
        """`(n,)` float32: the least score that still counts, for each query."""
        return np.maximum(self.best.scores[:, -1], np.float32(-np.inf if min_score is None else min_score))


def best_matches(queries: LoadedBlock, run: CorpusRun, known: KnownBest, job: Matching) -> Iterator[FoundPairs]:
    """The best matches of each query in the run that may be among its best of all."""
    best = TopK.empty(len(queries.numbers), job.top_k)
    floor = known.floor(job.min_score)
    own = run.ranks_of_rows(queries.numbers) if job.itself else None
    add = functools.partial(top_k_in_blocks, min_score=floor, own=own, threads=job.threads)
    for block, places in run:
        best = add(queries.prepared, block.prepared, run.ranks[places], best)
        PROGRESS.add(pairs=len(queries.numbers) * len(block.numbers))
    there = best.ranks != NO_RANK
    in_run = run.order[np.where(there, best.ranks, 0)]
    known.add(TopK(best.scores, np.where(there, in_run + run.start, NO_RANK)))
    rows = np.repeat(np.arange(len(best.ranks)), there.sum(axis=1))
    found = Pairs(rows, in_run[there], best.scores[there])
    for start in range(0, len(rows), PORTION_PAIRS):
        yield _found(Pairs(*(column[start : start + PORTION_PAIRS] for column in found)), queries, run)


def all_matches(queries: LoadedBlock, run: CorpusRun, job: Matching) -> Iterator[FoundPairs]:
    """Every match at or above the threshold."""
    assert job.min_score is not None
    held: list[Pairs] = []
    for block, places in run:
        for found in pairs_in_blocks(queries.prepared, block.prepared, job.min_score, threads=job.threads):
            cols = found.rows_b + places.start
            kept = cols + run.start != queries.numbers[found.rows_a] if job.itself else slice(None)
            held.append(Pairs(found.rows_a[kept], cols[kept], found.scores[kept]))
            if sum(len(some.scores) for some in held) >= PORTION_PAIRS:
                yield _in_order(held, queries, run, job)
                held = []
        PROGRESS.add(pairs=len(queries.numbers) * len(block.numbers))
    if held:
        yield _in_order(held, queries, run, job)


def _in_order(held: list[Pairs], queries: LoadedBlock, run: CorpusRun, job: Matching) -> FoundPairs:
    rows, places, scores = (np.concatenate(column) for column in zip(*held, strict=True))
    if job.one_to_one:
        order = np.lexsort((places, rows, run.id_ranks[places], ranks_of(queries.ids)[rows], -scores))
    else:
        order = np.lexsort((run.ranks[places], -scores, rows))
    return _found(Pairs(rows[order], places[order], scores[order]), queries, run)


def _found(found: Pairs, queries: LoadedBlock, run: CorpusRun) -> FoundPairs:
    """Matches with the ids and texts that they need, and no others."""
    used, inverse = np.unique(found.rows_b, return_inverse=True)
    n = len(queries.numbers)
    ids = pa.concat_arrays([queries.ids, *run.take(used, "ids")])
    texts = pa.concat_arrays([queries.texts, *run.take(used, "texts")]) if queries.texts is not None else None
    numbers_a, numbers_b = queries.numbers[found.rows_a], found.rows_b + run.start
    a, b = found.rows_a, n + inverse
    return FoundPairs(numbers_a, numbers_b, found.scores, a, b, a, b, ids, texts)


class _Held:
    """What a process keeps from one item to the next."""

    def __init__(self) -> None:
        self.blocks = LastUsed[LoadedBlock](HELD_BLOCKS)
        self.runs = LastUsed[CorpusRun](1)
        self.best = LastUsed[KnownBest](HELD_BLOCKS)
        self.lock = threading.Lock()


@dataclasses.dataclass
class FindMatches(beam.PTransform):
    """(items: PCollection[Rectangle], filter: PCollection[Filter]) -> PCollection[PairFile]

    No vector is shuffled: workers read those of both sides from the parts, and keep the last few blocks.
    """

    job: Matching

    def expand(self, inputs: Any) -> beam.PCollection:
        find = beam.ParDo(_FindMatches(self.job), beam.pvalue.AsSingleton(inputs["filter"]))
        return inputs["items"] | "FindMatches" >> find


class _FindMatches(beam.DoFn):
    def __init__(self, job: Matching) -> None:
        self.job = job
        self.shared = Shared()
        self.found = Metrics.counter("join", "matches_found")

    def setup(self) -> None:
        self.job = dataclasses.replace(self.job, device=comparing_device(self.job.device))
        self.held: _Held = self.shared.acquire(_Held)

    def process(self, item: Rectangle, filter: Filter) -> Iterator[PairFile]:
        with self.held.lock:  # one item at a time in a process: it uses all its threads and all its memory
            for block in item.rows:
                for file in self._files(block, item.cols, filter):
                    self.found.inc(file.pairs)
                    yield file

    def _files(self, block: RowBlock, run: tuple[RowBlock, ...], filter: Filter) -> list[PairFile]:
        """Those of a query block and a run of the corpus: found there, or made."""
        name = f"matches-{block.number}-{run[0].number}-{run[-1].number}"
        done = settled(self.job.work, name)
        if done is not None:
            PROGRESS.add(pairs=block.rows * sum(b.rows for b in run))
            return done
        bins = score_bins if self.job.one_to_one and not self.job.top_k else query_bins
        put = functools.partial(put_tables, self.job.work, name, blocks=(block.number,), bins_of_table=bins)
        files = (file for found in self._found(block, run, filter) for file in found.files())
        return settle(self.job.work, name, [put(file.tables()) for file in files])

    def _found(self, block: RowBlock, run: tuple[RowBlock, ...], filter: Filter) -> Iterator[FoundPairs]:
        queries = self._load(self.job.queries, block, filter)
        corpus = self.held.runs.get(run, lambda: CorpusRun([self._load(self.job.corpus, b, filter) for b in run]))
        if not self.job.top_k:
            return all_matches(queries, corpus, self.job)
        known = self.held.best.get(block.number, lambda: KnownBest(block.rows, self.job.top_k))
        return best_matches(queries, corpus, known, self.job)

    def _load(self, source: Source, block: RowBlock, filter: Filter) -> LoadedBlock:
        job = self.job
        load = functools.partial(load_rows, source, block, filter, job.device, job.threads, job.with_text)
        return self.held.blocks.get((source, block.start, block.stop), load)
