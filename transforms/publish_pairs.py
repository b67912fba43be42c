"""Ranges of pairs -> parts in order -> the version that is published, with groups and what was collapsed."""

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from schemas import storage
from schemas.manifest import Manifest, PartEntry
from schemas.pairs import (
    DUPLICATES_FOLDER,
    DUPLICATES_SCHEMA,
    GROUPS_FOLDER,
    KIND,
    PART_PAIRS,
    PART_PAIRS_WITH_TEXT,
    PART_TEXT_BYTES,
    pairs_schema,
    write_table,
)
from transforms.duplicate_texts import load_groups
from transforms.expand import Comparison
from transforms.groups import find_groups
from transforms.long_strings import as_one_array, as_strings
from transforms.pair_files import ScoreRange, merge_range
from transforms.publish_found import (
    BEST_PAIRS,
    FoundPlan,
    draft_of,
    histogram_of_scores,
    in_schema,
    publish_found,
    shortened,
    sum_of_histograms,
)
from transforms.row_blocks import rows_of
from transforms.sorted_files import open_work, parts_of

DUPLICATES_FILE = "duplicates.arrow"


@dataclasses.dataclass(frozen=True, kw_only=True)
class MinePlan(FoundPlan):
    """All that was settled before the first pair was compared."""

    comparison: Comparison
    n_rows: int
    max_pairs: int
    groups: bool

    @property
    def work(self) -> str:
        return self.comparison.work


class PairPart(NamedTuple):
    """A part that is on disk."""

    range: int
    number: int  # within the range
    entry: PartEntry
    histogram: tuple[int, ...]  # pairs in HISTOGRAM_BINS bins of the score from 0 to 1
    best: tuple[tuple[str, str, float, str, str], ...]  # the first part's first: ids, score, shortened texts
    edges: str  # file of its pairs by row, where groups are asked for


def write_range(wanted: ScoreRange, plan: MinePlan) -> Iterator[PairPart]:
    """The range's pairs in order, as parts."""
    most = PART_PAIRS_WITH_TEXT if plan.comparison.with_text else PART_PAIRS
    merged = merge_range(plan.comparison.work, wanted)
    for number, table in enumerate(parts_of(merged, most, PART_TEXT_BYTES)):
        yield _write_part(table, wanted, number, plan)


def _write_part(table: pa.Table, wanted: ScoreRange, number: int, plan: MinePlan) -> PairPart:
    job = plan.comparison
    entry = write_table(plan.output, plan.run, "", in_schema(table, pairs_schema(job.with_text)), plan.fingerprint)
    edges = ""
    if plan.groups:
        edges = f"edges-{wanted.number}-{number}.parquet"
        sink = pa.BufferOutputStream()
        pq.write_table(table.select(["row_a", "row_b"]), sink, compression="zstd")
        storage.create(storage.join(job.work, edges), sink.getvalue().to_pybytes())
    histogram = histogram_of_scores(table.column("score").to_numpy())
    best = _best(table, job) if wanted.number == number == 0 else ()
    return PairPart(wanted.number, number, entry, histogram, best, edges)


def _best(table: pa.Table, job: Comparison) -> tuple[tuple[str, str, float, str, str], ...]:
    """The first pairs with their texts, for the person who waits."""
    first = table.slice(0, BEST_PAIRS)
    if job.with_text:
        sides = [[shortened(t) for t in first.column(f"text_{side}").to_pylist()] for side in "ab"]
        return tuple(zip(*(first.column(name).to_pylist() for name in ("id_a", "id_b", "score")), *sides, strict=True))
    rows = np.concatenate([first.column("row_a").to_numpy(), first.column("row_b").to_numpy()])
    texts = [shortened(text) for text in rows_of(job.source).take(rows, ["text"]).column("text").to_pylist()]
    columns = [first.column(name).to_pylist() for name in ("id_a", "id_b", "score")]
    return tuple(zip(*columns, texts[: len(rows) // 2], texts[len(rows) // 2 :], strict=True))


def publish(plan: MinePlan, parts: list[PairPart]) -> Manifest:
    """As `publish_found`, with groups and what was collapsed."""
    return publish_found(plan, lambda: _draft(plan, sorted({(p.range, p.number): p for p in parts}.items())))


def _draft(plan: MinePlan, parts: list[tuple[tuple[int, int], PairPart]]) -> Manifest:
    found = [part for _, part in parts]
    empty = pairs_schema(plan.comparison.with_text).empty_table()
    entries = [p.entry for p in found] or [write_table(plan.output, plan.run, "", empty, plan.fingerprint)]
    extras, duplicates = _duplicates(plan)
    if plan.groups:
        extras = [*extras, write_table(plan.output, plan.run, GROUPS_FOLDER, _groups(plan, found), plan.fingerprint)]
    details = {
        "pairs": sum(p.entry.rows for p in found),
        "histogram": sum_of_histograms([p.histogram for p in found]),
        "duplicates": duplicates,
        "best": [list(pair) for part in found for pair in part.best],
    }
    return draft_of(plan, KIND, entries, extras, details)


def _duplicates(plan: MinePlan) -> tuple[list[PartEntry], dict[str, int]]:
    """What was collapsed: groups of equal texts and the rows in them, listed where pairs do not tell."""
    job = plan.comparison
    groups = load_groups(storage.join(job.work, DUPLICATES_FILE))
    if job.expand:
        return [], groups.counts
    sizes = np.diff(groups.offsets)
    stands = groups.ids.filter(pa.array(np.repeat(groups.representatives, sizes) == groups.members))
    listed = pa.array(np.repeat(sizes > 1, sizes))
    stands = stands.take(pa.array(np.repeat(np.arange(len(sizes)), sizes)))
    columns = [as_strings(ids.filter(listed)) for ids in (groups.ids, stands)]
    table = pa.Table.from_arrays(columns, schema=DUPLICATES_SCHEMA)
    return [write_table(plan.output, plan.run, DUPLICATES_FOLDER, table, plan.fingerprint)], groups.counts


def _groups(plan: MinePlan, parts: list[PairPart]) -> pa.Table:
    job = plan.comparison
    found = [np.empty((0, 2), dtype=np.int64)]
    for part in parts:
        with open_work(storage.join(job.work, part.edges)) as file:
            table = pq.read_table(file)
        found.append(np.column_stack([c.to_numpy() for c in table.columns]))
    edges = np.concatenate(found)
    rows, ends = np.unique(edges, return_inverse=True)
    ends = ends.reshape(-1, 2)
    ids = as_one_array(rows_of(job.source).take(rows, ["id"]).column("id"))
    return find_groups(ends[:, 0], ends[:, 1], ids)
