"""Ranges of pairs -> parts in order -> the version that is published, with groups and what was collapsed."""

import dataclasses
import datetime
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from schemas import storage
from schemas.manifest import Counts, Manifest, PartEntry, newest_manifest
from schemas.model import ModelFingerprint
from schemas.pairs import (
    DUPLICATES_FOLDER,
    DUPLICATES_SCHEMA,
    GROUPS_FOLDER,
    KIND,
    PART_PAIRS,
    PART_PAIRS_WITH_TEXT,
    WORK_FOLDER,
    pairs_schema,
    write_table,
)
from transforms.duplicate_texts import load_groups
from transforms.expand import Comparison
from transforms.groups import find_groups
from transforms.pair_files import ScoreRange, merge_range, open_work
from transforms.publish import clean_up, put_version
from transforms.row_blocks import rows_of

DUPLICATES_FILE = "duplicates.arrow"
HISTOGRAM_BINS = 20
BEST_PAIRS = 10
SHORT_TEXT = 100


@dataclasses.dataclass(frozen=True, kw_only=True)
class MinePlan:
    """All that was settled before the first pair was compared."""

    output: str
    run: str  # token of this run
    started: float  # seconds since the epoch
    base_version: int  # 0 where nothing was published before
    comparison: Comparison
    n_rows: int
    alone: bool  # one process does it all
    max_pairs: int
    groups: bool
    keep_versions: int
    fingerprint: ModelFingerprint
    options: dict[str, Any]  # what decides which pairs there are, for the record
    details: dict[str, Any]  # what else is worth knowing


class PairPart(NamedTuple):
    """A part that is on disk."""

    range: int
    number: int  # within the range
    entry: PartEntry
    histogram: tuple[int, ...]  # pairs in HISTOGRAM_BINS bins of the score from 0 to 1
    best: tuple[tuple[str, str, float, str, str], ...]  # the first part's first: ids, score, shortened texts
    edges: str  # file of its pairs by row, where groups are asked for


def write_range(wanted: ScoreRange, plan: MinePlan) -> Iterator[PairPart]:
    """The range's pairs in order, as parts of a size that follows from the pairs alone."""
    job = plan.comparison
    most = PART_PAIRS_WITH_TEXT if job.with_text else PART_PAIRS
    held: list[pa.Table] = []
    number = 0
    for table in merge_range(job.work, wanted):
        held.append(table)
        while sum(t.num_rows for t in held) >= most:
            whole = pa.concat_tables(held)
            yield _write_part(whole.slice(0, most), wanted, number, plan)
            held, number = [whole.slice(most)], number + 1
    if any(t.num_rows for t in held):
        yield _write_part(pa.concat_tables(held), wanted, number, plan)


def _write_part(table: pa.Table, wanted: ScoreRange, number: int, plan: MinePlan) -> PairPart:
    job = plan.comparison
    schema = pairs_schema(job.with_text)
    columns = [table.column(name).combine_chunks() for name in schema.names]
    entry = write_table(plan.output, "", pa.Table.from_arrays(columns, schema=schema), plan.fingerprint)
    edges = ""
    if plan.groups:
        edges = f"edges-{wanted.number}-{number}.parquet"
        sink = pa.BufferOutputStream()
        pq.write_table(table.select(["row_a", "row_b"]), sink, compression="zstd")
        storage.create(storage.join(job.work, edges), sink.getvalue().to_pybytes())
    scores = table.column("score").to_numpy()
    histogram = np.histogram(scores, np.arange(HISTOGRAM_BINS + 1, dtype=np.float32) / HISTOGRAM_BINS)[0]
    best = _best(table, job) if wanted.number == number == 0 else ()
    return PairPart(wanted.number, number, entry, tuple(histogram.tolist()), best, edges)


def _best(table: pa.Table, job: Comparison) -> tuple[tuple[str, str, float, str, str], ...]:
    """The first pairs with their texts, for the person who waits."""
    first = table.slice(0, BEST_PAIRS)
    rows = np.concatenate([first.column("row_a").to_numpy(), first.column("row_b").to_numpy()])
    texts = [_shortened(text) for text in rows_of(job.source).take(rows, ["text"]).column("text").to_pylist()]
    columns = [first.column(name).to_pylist() for name in ("id_a", "id_b", "score")]
    return tuple(zip(*columns, texts[: len(rows) // 2], texts[len(rows) // 2 :], strict=True))


def _shortened(text: str) -> str:
    text = " ".join(text[: 4 * SHORT_TEXT].split())
    return text if len(text) <= SHORT_TEXT else text[: SHORT_TEXT - 1] + "…"


def answered(plan: MinePlan) -> bool:
    """Whether the version that is published answers the same question about the same rows, and its files are there."""
    base = newest_manifest(plan.output)
    if base is None or base.options != plan.options:
        return False
    there = ((entry, storage.stat(storage.join(plan.output, entry.name))) for entry in base.files)
    return all(info is not None and info.size == entry.size for entry, info in there)


def publish(plan: MinePlan, parts: list[PairPart]) -> Manifest:
    """Publishes the pairs, or leaves the base version where they are the same, and removes the work in progress.

    Raises:
        RunFailed: another run published meanwhile.
    """
    base = newest_manifest(plan.output)
    if base and base.run == plan.run:  # this step, tried again
        return base
    manifest = _draft(plan, sorted({(p.range, p.number): p for p in parts}.items()))
    if base and base.version == plan.base_version and manifest.same_data(base):
        manifest = base
    else:
        put_version(plan.output, manifest)
    storage.replace(storage.join(plan.output, "_SUCCESS"), b"")
    clean_up(plan.output, plan.keep_versions, plan.started)
    storage.remove_folder(storage.join(plan.output, WORK_FOLDER))
    return manifest


def _draft(plan: MinePlan, parts: list[tuple[tuple[int, int], PairPart]]) -> Manifest:
    found = [part for _, part in parts]
    empty = pairs_schema(plan.comparison.with_text).empty_table()
    entries = [p.entry for p in found] or [write_table(plan.output, "", empty, plan.fingerprint)]
    extras, duplicates = _duplicates(plan)
    if plan.groups:
        extras = [*extras, write_table(plan.output, GROUPS_FOLDER, _groups(plan, found), plan.fingerprint)]
    pairs = sum(p.entry.rows for p in found)
    details = {
        "pairs": pairs,
        "histogram": np.sum([p.histogram for p in found], axis=0).tolist() if found else [0] * HISTOGRAM_BINS,
        "duplicates": duplicates,
        "best": [list(pair) for part in found for pair in part.best],
    }
    return Manifest(
        version=plan.base_version + 1,
        parent=plan.base_version,
        run=plan.run,
        kind=KIND,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        fingerprint=plan.fingerprint,
        options=plan.options,
        parts=tuple(entries),
        rejects=(),
        splits=(),
        inputs=(),
        counts=Counts(),
        fidelity=None,
        timings={"wall_seconds": round(time.time() - plan.started, 3)},
        reused={},
        details=plan.details | details,
        extras=tuple(extras),
    )


def _duplicates(plan: MinePlan) -> tuple[list[PartEntry], dict[str, int]]:
    """What was collapsed: groups of equal texts and the rows in them, listed where pairs do not tell."""
    job = plan.comparison
    groups = load_groups(storage.join(job.work, DUPLICATES_FILE))
    if job.expand:
        return [], groups.counts
    sizes = np.diff(groups.offsets)
    stands = groups.ids.filter(pa.array(np.repeat(groups.representatives, sizes) == groups.members))
    columns = [groups.ids, stands.take(pa.array(np.repeat(np.arange(len(sizes)), sizes)))]
    table = pa.Table.from_arrays(columns, schema=DUPLICATES_SCHEMA).filter(pa.array(np.repeat(sizes > 1, sizes)))
    return [write_table(plan.output, DUPLICATES_FOLDER, table, plan.fingerprint)], groups.counts


def _groups(plan: MinePlan, parts: list[PairPart]) -> pa.Table:
    job = plan.comparison
    edges = np.empty((0, 2), dtype=np.int64)
    for part in parts:
        with open_work(storage.join(job.work, part.edges)) as file:
            table = pq.read_table(file)
        edges = np.concatenate([edges, np.column_stack([c.to_numpy() for c in table.columns])])
    rows, ends = np.unique(edges, return_inverse=True)
    ends = ends.reshape(-1, 2)
    ids = rows_of(job.source).take(rows, ["id"]).column("id").combine_chunks()
    return find_groups(ends[:, 0], ends[:, 1], ids)
