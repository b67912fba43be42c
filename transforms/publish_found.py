"""What jobs that find pairs of rows settle, cut into parts and publish alike."""

import dataclasses
import datetime
import functools
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from schemas import storage
from schemas.manifest import Counts, Manifest, PartEntry, newest_manifest, read_manifest, versions
from schemas.matches import QUERIES_FOLDER
from schemas.model import ModelFingerprint
from transforms.publish import check_base, damaged_files, lineage_of, put_version, wind_up

HISTOGRAM_BINS = 20
BEST_PAIRS = 10
SHORT_TEXT = 100


@dataclasses.dataclass(frozen=True, kw_only=True)
class FoundPlan:
    """What was settled before the first pair was compared."""

    output: str
    run: str  # token of this run
    started: float  # seconds since the epoch
    base_version: int  # 0 where nothing was published before
    alone: bool  # one process does it all
    keep_versions: int
    fingerprint: ModelFingerprint
    options: dict[str, Any]  # what decides which pairs there are, for the record
    details: dict[str, Any]  # what else is worth knowing

    @property
    def work(self) -> str:
        """The folder of this run's work in progress, which a later run of the same command goes on with."""
        raise NotImplementedError


def in_schema(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table's columns of these names, as the schema has them."""
    columns = [table.column(field.name).combine_chunks().cast(field.type) for field in schema]
    return pa.Table.from_arrays(columns, schema=schema)


def histogram_of_scores(scores: np.ndarray) -> tuple[int, ...]:
    """Pairs in `HISTOGRAM_BINS` bins of the score from 0 to 1; those below 0 are in the first."""
    edges = np.arange(HISTOGRAM_BINS + 1, dtype=np.float32) / HISTOGRAM_BINS
    return tuple(np.histogram(np.maximum(scores, 0), edges)[0].tolist())


def sum_of_histograms(histograms: Sequence[Sequence[int]]) -> list[int]:
    return np.sum(histograms, axis=0).tolist() if histograms else [0] * HISTOGRAM_BINS


def shortened(text: str) -> str:
    text = " ".join(text[: 4 * SHORT_TEXT].split())
    return text if len(text) <= SHORT_TEXT else text[: SHORT_TEXT - 1] + "…"


def answered(plan: FoundPlan) -> bool:
    """Whether the version that is published answers the same question about the same rows, and its files are there."""
    base = newest_manifest(plan.output)
    if base is None or base.options != plan.options:
        return False
    return not damaged_files(plan.output, base)


def publish_found(plan: FoundPlan, draft: Callable[[], Manifest]) -> Manifest:
    """Publishes what was found, or leaves the base version where that is the same, and removes the work in progress.

    Raises:
        RunFailed: another run published meanwhile.
    """
    base = newest_manifest(plan.output)
    if base and base.includes(plan.run):  # this step, tried again
        manifest = base
    else:
        check_base(plan.output, plan.base_version, base)
        manifest = dataclasses.replace(draft(), lineage=lineage_of(base))
        if base and manifest.same_data(base):
            manifest = base
        else:
            put_version(plan.output, manifest)
    end(plan)
    return manifest


def end(plan: FoundPlan) -> None:
    """What follows a publish, as `wind_up` does it. Does no harm twice."""
    clean_queries = (
        functools.partial(_remove_unused_queries, plan.output) if "queries_input" in plan.details else object
    )
    wind_up(plan.output, plan.run, plan.keep_versions, plan.work, clean_queries)


def _remove_unused_queries(output: str) -> None:
    """Queries that were embedded for a version that is no longer kept: a reader would take them for the newest's."""
    kept = (read_manifest(output, version).details.get("queries_input", "") for version in versions(output))
    if not any(f"/{uri}".endswith(f"/{QUERIES_FOLDER}") for uri in kept):
        storage.remove_folder(storage.join(output, QUERIES_FOLDER))


def draft_of(
    plan: FoundPlan, kind: str, parts: Iterable[PartEntry], extras: Iterable[PartEntry], details: dict[str, Any]
) -> Manifest:
    return Manifest(
        version=plan.base_version + 1,
        parent=plan.base_version,
        run=plan.run,
        kind=kind,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        fingerprint=plan.fingerprint,
        options=plan.options,
        parts=tuple(parts),
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
