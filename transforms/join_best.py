"""Files of matches -> files of those that count: the best of each query, and no row twice where that is asked for."""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from transforms.gather import Gather
from transforms.join_matches import BY_QUERY, BY_SCORE, Matching, bins_of_both_sides, query_bins
from transforms.pair_files import (
    FILE_TEXT_BYTES,
    ROW_GROUP_PAIRS,
    ROW_GROUP_TEXT_BYTES,
    merge_range,
    plan_ranges,
    score_bins,
)
from transforms.row_blocks import rows_of
from transforms.sorted_files import Order, PairFile, Span, merge_files, parts_of, put_tables, settle, settled

FILE_PAIRS = 1 << 19
"""Most matches of a file."""


def ranked(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Tables by query -> the same with a column `rank`: a match's place among those of its query, from 1."""
    last, before = -1, 0
    for table in tables:
        rows = table.column("row_a").to_numpy()
        ranks = np.arange(len(rows)) - np.searchsorted(rows, rows) + 1
        ranks[rows == last] += before
        last, before = int(rows[-1]), int(ranks[-1])
        yield table.append_column("rank", pa.array(ranks, pa.int32()))


def best_of_block(block: int, names: Iterable[str], job: Matching) -> list[PairFile]:
    """Of all files of a query block, the best matches of each query, in one."""
    name = f"best-{block}"
    done = settled(job.work, name)
    if done is not None:
        return done
    span = Span("row_a", block * job.query_rows, (block + 1) * job.query_rows)
    merged = merge_files(job.work, sorted(set(names)), span, BY_QUERY)
    best = (t.filter(pc.less_equal(t["rank"], job.top_k)).drop_columns(["rank"]) for t in ranked(merged))
    if job.one_to_one:
        files = in_files(best, BY_SCORE)
        return settle(job.work, name, [put_tables(job.work, name, groups, (block,), score_bins) for groups in files])
    files = in_files(best, BY_QUERY)
    return settle(job.work, name, [put_tables(job.work, name, groups, (block,), query_bins) for groups in files])


def in_files(tables: Iterable[pa.Table], order: Order) -> Iterator[Iterator[pa.Table]]:
    """Tables -> row groups of files of bounded size, each in this order; no file where there are no rows."""
    for table in parts_of(tables, FILE_PAIRS, FILE_TEXT_BYTES):
        yield parts_of([table.sort_by(list(order))], ROW_GROUP_PAIRS, ROW_GROUP_TEXT_BYTES)


def match_one_to_one(job: Matching, files: list[PairFile]) -> list[PairFile]:
    """The greedy matching: of all matches, best first and ties by ids, each is kept whose two rows are both still free.

    One worker does it, since each choice rests on those before; it holds a byte for each row. Of a dataset joined with
    itself a row is the same on both sides.
    """
    name = "one-to-one"
    done = settled(job.work, name)
    if done is not None:
        return done
    taken_a = bytearray(len(rows_of(job.queries)))
    taken_b = taken_a if job.itself else bytearray(len(rows_of(job.corpus)))
    bins = bins_of_both_sides if job.itself else query_bins
    ranges = plan_ranges(files)
    tables = (free_pairs(t, taken_a, taken_b) for wanted in ranges for t in merge_range(job.work, wanted, BY_SCORE))
    kept = [put_tables(job.work, name, groups, (), bins) for groups in in_files(tables, BY_QUERY)]
    return settle(job.work, name, kept)


def free_pairs(table: pa.Table, taken_a: bytearray, taken_b: bytearray) -> pa.Table:
    """In the table's order, the pairs whose rows nobody has taken; they are taken then."""
    kept = []
    for place, (a, b) in enumerate(zip(*(table.column(f"row_{s}").to_pylist() for s in "ab"), strict=True)):
        if not (taken_a[a] or taken_b[b]):
            taken_a[a] = taken_b[b] = 1
            kept.append(place)
    return table.take(pa.array(kept, pa.int64()))


@dataclasses.dataclass
class KeepBestMatches(beam.PTransform):
    """PCollection[PairFile] -> PCollection[PairFile]"""

    job: Matching

    def expand(self, files: beam.PCollection) -> beam.PCollection:
        by_block = files | "NameByBlock" >> beam.Map(_name_by_block) | "ByQueryBlock" >> beam.GroupByKey()
        return by_block | "BestOfBlock" >> beam.FlatMap(_best_of_block, self.job)


def _name_by_block(file: PairFile) -> tuple[int, str]:
    return file.blocks[0], file.name


def _best_of_block(keyed: tuple[int, Iterable[str]], job: Matching) -> list[PairFile]:
    return best_of_block(*keyed, job)


@dataclasses.dataclass
class MatchOneToOne(beam.PTransform):
    """(job: PCollection[Matching], files: PCollection[PairFile]) -> PCollection[PairFile]"""

    def expand(self, inputs: Any) -> beam.PCollection:
        return inputs | "Candidates" >> Gather() | "Greedy" >> beam.FlatMapTuple(match_one_to_one)
