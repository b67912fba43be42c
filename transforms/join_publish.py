"""Files of matches -> parts by query -> the version that is published, with the queries that have no match."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from schemas.manifest import Manifest, PartEntry
from schemas.matches import KIND, UNMATCHED_FOLDER, matches_schema, unmatched_schema
from schemas.pairs import PART_PAIRS, PART_PAIRS_WITH_TEXT, PART_TEXT_BYTES, write_table
from schemas.rejects import REJECTS_SCHEMA
from transforms.join_best import ranked
from transforms.join_matches import BY_QUERY, QUERY_BIN, Matching
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
from transforms.sorted_files import PairFile, Span, column_of, merge_files, parts_of

RANGE_PAIRS, RANGE_QUERIES = 1 << 20, 1 << 18
"""About what one worker puts in order: matches, and queries that may have none."""
COLUMNS = {"id_a": "query_id", "id_b": "corpus_id", "text_a": "query_text", "text_b": "corpus_text"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class JoinPlan(FoundPlan):
    """All that was settled before the first rows were compared."""

    matching: Matching
    query_rows: int
    corpus_rows: int
    keep_unmatched: bool
    rejected: tuple[PartEntry, ...] = ()  # files of the queries that were refused when they were embedded

    @property
    def work(self) -> str:
        return self.matching.work


class QueryRange(NamedTuple):
    """Queries from one row to another, for one worker to write."""

    number: int
    start: int
    stop: int
    files: tuple[str, ...]


class WrittenRange(NamedTuple):
    """What a range became."""

    number: int
    parts: tuple[PartEntry, ...]
    matched: int  # queries that have a match
    unmatched: tuple[PartEntry, ...]  # where they are listed
    histogram: tuple[int, ...]
    best: tuple[tuple[str, str, float, str, str], ...]  # the first range's first: ids, score, shortened texts


def plan_query_ranges(files: Sequence[PairFile], n_queries: int) -> list[QueryRange]:
    """Ranges that cover all queries, by the matches that these have: of the files, however many, their sums count."""
    counts: Counter[int] = Counter()
    for file in files:
        counts.update(dict(file.bins))
    ranges: list[QueryRange] = []
    first = gathered = 0
    n_bins = -(-n_queries // QUERY_BIN)
    for after in range(1, n_bins + 1):
        gathered += counts[after - 1]
        full = gathered + counts[after] > RANGE_PAIRS or (after - first) * QUERY_BIN >= RANGE_QUERIES
        if full or after == n_bins:
            names = tuple(sorted({f.name for f in files if any(first <= b < after for b, _ in f.bins)}))
            ranges.append(QueryRange(len(ranges), first * QUERY_BIN, min(after * QUERY_BIN, n_queries), names))
            first, gathered = after, 0
    return ranges


def write_query_range(wanted: QueryRange, plan: JoinPlan) -> WrittenRange:
    """The range's matches by query, as parts of a size that follows from the matches alone."""
    job = plan.matching
    most = PART_PAIRS_WITH_TEXT if job.with_text else PART_PAIRS
    merged = merge_files(job.work, wanted.files, Span("row_a", wanted.start, wanted.stop), BY_QUERY)
    matched = np.zeros(wanted.stop - wanted.start, dtype=bool)
    if job.itself and job.one_to_one:  # a row that another took has a match, too
        taken = column_of(job.work, wanted.files, "row_b")
        matched[taken[(taken >= wanted.start) & (taken < wanted.stop)] - wanted.start] = True
    parts: list[PartEntry] = []
    histograms: list[tuple[int, ...]] = []
    best: tuple[tuple[str, str, float, str, str], ...] = ()
    for table in parts_of(ranked(merged), most, PART_TEXT_BYTES):
        if wanted.number == 0 and not parts:
            best = _first_of_queries(table, job)
        matched[table.column("row_a").to_numpy() - wanted.start] = True
        histograms.append(histogram_of_scores(table.column("score").to_numpy()))
        named = table.rename_columns([COLUMNS.get(name, name) for name in table.column_names])
        parts.append(
            write_table(plan.output, plan.run, "", in_schema(named, matches_schema(job.with_text)), plan.fingerprint)
        )
    unmatched = _list_unmatched(wanted, ~matched, plan) if plan.keep_unmatched else ()
    histogram = tuple(sum_of_histograms(histograms))
    return WrittenRange(wanted.number, tuple(parts), int(matched.sum()), unmatched, histogram, best)


def _list_unmatched(wanted: QueryRange, unmatched: np.ndarray, plan: JoinPlan) -> tuple[PartEntry, ...]:
    """In parts whose size follows from the queries alone: one, or several where texts are long."""
    schema = unmatched_schema(plan.matching.with_text)
    columns = ["id", "text"] if plan.matching.with_text else ["id"]
    batches = rows_of(plan.matching.queries).batches(wanted.start + np.flatnonzero(unmatched), columns)
    named = (batch.rename_columns(["id", "text_query"][: len(columns)]) for batch in batches)
    parts = (part.rename_columns(schema.names) for part in parts_of(named, RANGE_QUERIES, PART_TEXT_BYTES))
    tables = (in_schema(part, schema) for part in parts)
    return tuple(write_table(plan.output, plan.run, UNMATCHED_FOLDER, table, plan.fingerprint) for table in tables)


def _rejected(plan: JoinPlan) -> pa.Table:
    """Queries that were text and have no vector: where they stand, and why."""
    queries, columns = rows_of(plan.matching.queries).dataset, ["source", "offset", "reason"]
    tables = [queries.read_part(entry, columns) for entry in plan.rejected]
    empty = REJECTS_SCHEMA.empty_table().select(columns)
    return pa.concat_tables([empty, *(table.replace_schema_metadata() for table in tables)])


def _list_rejected(rejected: pa.Table, plan: JoinPlan) -> PartEntry:
    """They come after the others, by place, as ids have it that nobody named; nothing else is known of all of them."""
    places = zip(*(rejected.column(name).to_pylist() for name in ("source", "offset")), strict=True)
    columns = {"query_id": [f"{source}#{offset}" for source, offset in places]}
    columns |= {"query_text": [""] * rejected.num_rows} if plan.matching.with_text else {}
    table = pa.table(columns, schema=unmatched_schema(plan.matching.with_text))
    return write_table(plan.output, plan.run, UNMATCHED_FOLDER, table, plan.fingerprint)


def _first_of_queries(table: pa.Table, job: Matching) -> tuple[tuple[str, str, float, str, str], ...]:
    """The best match of each of the first queries with the texts, for the person who waits."""
    first = table.filter(pa.array(table.column("rank").to_numpy() == 1)).slice(0, BEST_PAIRS)
    if job.with_text:
        sides = [[shortened(t) for t in first.column(f"text_{side}").to_pylist()] for side in "ab"]
        return tuple(zip(*(first.column(name).to_pylist() for name in ("id_a", "id_b", "score")), *sides, strict=True))
    texts = [
        map(shortened, rows_of(source).take(first.column(row).to_numpy(), ["text"]).column("text").to_pylist())
        for source, row in ((job.queries, "row_a"), (job.corpus, "row_b"))
    ]
    return tuple(zip(*(first.column(name).to_pylist() for name in ("id_a", "id_b", "score")), *texts, strict=True))


def publish_matches(plan: JoinPlan, written: list[WrittenRange]) -> Manifest:
    """As `publish_found`; counts every query, with a match or without."""
    return publish_found(plan, lambda: _draft(plan, [r for _, r in sorted({r.number: r for r in written}.items())]))


def _draft(plan: JoinPlan, written: list[WrittenRange]) -> Manifest:
    parts = [part for r in written for part in r.parts]
    listed = [part for r in written for part in r.unmatched]
    matched, with_text = sum(r.matched for r in written), plan.matching.with_text
    rejected = _rejected(plan)
    queries = plan.query_rows + rejected.num_rows
    if plan.keep_unmatched and rejected.num_rows:
        listed.append(_list_rejected(rejected, plan))
    details = {
        "queries": queries,
        "rejected": dict(sorted(Counter(rejected.column("reason").to_pylist()).items())),
        "corpus_rows": plan.corpus_rows,
        "matched": matched,
        "unmatched": queries - matched,
        "pairs": sum(part.rows for part in parts),
        "histogram": sum_of_histograms([r.histogram for r in written]),
        "best": [list(match) for r in written for match in r.best],
    }
    if not parts:
        parts = [write_table(plan.output, plan.run, "", matches_schema(with_text).empty_table(), plan.fingerprint)]
    if plan.keep_unmatched and not listed:
        empty = unmatched_schema(with_text).empty_table()
        listed = [write_table(plan.output, plan.run, UNMATCHED_FOLDER, empty, plan.fingerprint)]
    return draft_of(plan, KIND, parts, listed, details)
