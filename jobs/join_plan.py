"""What `jobs.join` settles before it starts: do the two fit together; the filter, the blocks, the estimate."""

import dataclasses
import secrets
import time
from typing import Any

import numpy as np

from jobs.found_plan import WORK_VERSION, check_min_score, check_numbers, open_embeddings, rows_digest
from schemas import storage
from schemas.dataset import Dataset
from schemas.errors import InputError
from schemas.manifest import newest_manifest
from schemas.matches import KIND
from schemas.model import ASKED_OF
from schemas.pairs import WORK_FOLDER
from schemas.splits import digest
from transforms.bounds import Filter, whole_filter
from transforms.device import cpu_threads
from transforms.expand import MOST_PAIRS
from transforms.inputs import check_output
from transforms.join_matches import Matching
from transforms.join_publish import JoinPlan
from transforms.loaded_blocks import block_rows, comparing_device, row_bytes
from transforms.row_blocks import Rows, Source, unit_sample
from transforms.tuning import (
    SAMPLE_ROWS,
    Estimate,
    estimate_matches,
    estimate_pairs,
    fit_filter,
    match_threshold_for,
    threshold_for,
)
from transforms.units import SCORE_VERSION

BYTES_PER_MATCH = 48
"""Of a query's best so far, in the lists that are merged."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class JoinConfig:
    """What to join, how, and where to. Validated when built; raises InputError naming the flag."""

    queries: tuple[str, ...]
    corpus: str
    output: str
    top_k: int | None = None
    min_score: float | None = None
    itself: bool = False
    one_to_one: bool = False
    with_text: bool = False
    keep_unmatched: bool = False
    device: str = "auto"
    memory_mb: int = 1024
    keep_versions: int = 1

    def __post_init__(self) -> None:
        if not all(self.queries) or not self.corpus or not self.output:
            raise InputError("--queries, --corpus and --output: an empty name ('.' is the folder that you are in)")
        if self.itself == bool(self.queries):
            raise InputError("--queries or --self: say what to join the corpus with, other rows or its own")
        if self.top_k is None and self.min_score is None:
            raise InputError("--top_k or --min_score: say how many matches of a query to find, or from which cosine on")
        check_min_score(self.min_score)
        check_numbers(self, "top_k", "memory_mb", "keep_versions")


def open_corpus(config: JoinConfig) -> Dataset:
    """The corpus. Raises InputError: no dataset of embeddings there, or an output that is no place for matches."""
    corpus = open_embeddings("--corpus", config.corpus)
    check_output(config.output, [config.corpus, *config.queries], [], KIND)
    return corpus


def open_queries(uri: str, corpus: Dataset) -> Dataset:
    """The queries. Raises InputError unless their vectors may be compared with the corpus's."""
    queries = open_embeddings("--queries", uri)
    changed = queries.manifest.fingerprint.differences(corpus.manifest.fingerprint, but=ASKED_OF)
    if changed:
        raise InputError(
            f"--queries {uri}: its vectors are of another model than those of --corpus {corpus.uri}: "
            f"{'; '.join(changed)}; embed one of them again"
        )
    return queries


@dataclasses.dataclass(frozen=True)
class _Side:
    """Queries or corpus, with a sample."""

    rows: Rows
    units: np.ndarray

    @classmethod
    def of(cls, dataset: Dataset) -> "_Side":
        rows = Rows(dataset)
        return cls(rows, unit_sample(rows.sample(SAMPLE_ROWS)))

    def block_rows(self, config: JoinConfig, workers: int, match_bytes: int = 0) -> int:
        """match_bytes: of the matches that are kept of each row"""
        more = match_bytes + (2 * self.rows.mean_text_bytes() if config.with_text else 0)  # they are copied, too
        each = row_bytes(self.rows.dataset.manifest.fingerprint.dim)
        return block_rows(config.memory_mb, each, len(self.rows), workers, more)


def make_plan(
    config: JoinConfig, queries: Dataset, corpus: Dataset, workers: int, text: bool = False
) -> tuple[JoinPlan, Filter]:
    """The plan, and the filter that suits the data.

    workers: processes on this machine that share the work; 0 where they are elsewhere
    text: the queries were text, of which some may have been rejected

    Raises:
        InputError: vectors that have no cosine, or more matches than anybody wants.
    """
    started = time.time()
    if workers:
        comparing_device(config.device)
    there = _Side.of(corpus)
    here = there if config.itself else _Side.of(queries)
    estimate = _estimate(config, here, there)
    base = newest_manifest(config.output)
    options = _recorded_options(config, queries, corpus)
    rejected = tuple(queries.manifest.rejects) if text else ()
    if rejected:  # they are counted, and may be listed
        options["rejected"] = digest([entry.name for entry in rejected])
    top_k = min(config.top_k or 0, max(len(there.rows), 1))
    rows_of_side = [here.block_rows(config, workers, top_k * BYTES_PER_MATCH), there.block_rows(config, workers)]
    matching = Matching(
        queries=Source.of(queries),
        corpus=Source.of(corpus),
        work=storage.join(config.output, WORK_FOLDER, digest(options, rows_of_side, WORK_VERSION)),
        top_k=top_k,
        min_score=config.min_score,
        itself=config.itself,
        one_to_one=config.one_to_one,
        with_text=config.with_text,
        query_rows=rows_of_side[0],
        corpus_rows=rows_of_side[1],
        device=config.device,
        threads=max(1, cpu_threads() // workers) if workers else 1,
    )
    choice = _filter(config, here, there)
    plan = JoinPlan(
        output=config.output,
        run=secrets.token_hex(8),
        started=started,
        base_version=base.version if base else 0,
        alone=workers == 1,
        keep_versions=config.keep_versions,
        fingerprint=corpus.manifest.fingerprint,
        options=options,
        details={
            **_described("queries", queries),
            **_described("corpus", corpus),
            "method": "exact",
            "filter": choice.why,
            "estimate": estimate._asdict() if estimate else None,
        },
        matching=matching,
        query_rows=len(here.rows),
        corpus_rows=len(there.rows),
        keep_unmatched=config.keep_unmatched,
        rejected=rejected,
    )
    return plan, choice


def _described(name: str, dataset: Dataset) -> dict[str, Any]:
    return {
        f"{name}_input": dataset.uri,
        f"{name}_version": dataset.manifest.version,
        f"{name}_prompt": dataset.manifest.fingerprint.prompt,
    }


def _recorded_options(config: JoinConfig, queries: Dataset, corpus: Dataset) -> dict[str, Any]:
    """What decides which matches there are: the question, and the rows that it is asked of."""
    asked = ("top_k", "min_score", "itself", "one_to_one", "with_text", "keep_unmatched")
    rows = {"queries": rows_digest(queries), "corpus": rows_digest(corpus)}
    return {name: getattr(config, name) for name in asked} | rows | {"scores": SCORE_VERSION}


def _filter(config: JoinConfig, queries: _Side, corpus: _Side) -> Filter:
    """For the best of each query one that keeps all of a vector: bounds rise by products alone, and few are scored."""
    if config.top_k or config.min_score is None or not len(queries.rows) or len(corpus.rows) < 2:
        return whole_filter(corpus.rows.dataset.manifest.fingerprint.dim)
    return fit_filter(corpus.units, config.min_score, pairs=len(queries.rows) * len(corpus.rows))


def _estimate(config: JoinConfig, queries: _Side, corpus: _Side) -> Estimate | None:
    """Matches to expect of a threshold. Raises InputError where they are too many and it was not said how many to
    keep."""
    if config.top_k or config.min_score is None:
        return None
    sizes = len(queries.rows), len(corpus.rows)
    if config.itself:
        pairs = estimate_pairs(corpus.units, sizes[1], config.min_score)
        estimate = Estimate(*(2 * n for n in pairs))
    else:
        estimate = estimate_matches(queries.units, corpus.units, *sizes, config.min_score)
    if estimate.pairs > MOST_PAIRS:
        if config.itself:
            fits = threshold_for(corpus.units, sizes[1], MOST_PAIRS // 2)
        else:
            fits = match_threshold_for(queries.units, corpus.units, *sizes, MOST_PAIRS)
        advice = [*([f"--min_score {fits:.2f} fits"] if fits < 1 else []), "--top_k K keeps the best of each query"]
        raise InputError(
            f"--min_score {config.min_score}: makes about {estimate.pairs:,.0f} matches ({estimate.low:,.0f} to "
            f"{estimate.high:,.0f}), above {MOST_PAIRS:,}; {', or '.join(advice)}"
        )
    return estimate


def describe(plan: JoinPlan, choice: Filter) -> str:
    """What is about to happen."""
    job, details = plan.matching, plan.details
    wanted = f"the best {job.top_k:,} of each query" if job.top_k else "all"
    least = f" at {job.min_score} or above" if job.min_score is not None else ""
    lines = [
        f"queries {details['queries_input']}, version {details['queries_version']}: {plan.query_rows:,} rows",
        f"corpus  {details['corpus_input']}, version {details['corpus_version']}: {plan.corpus_rows:,} rows",
        f"compare {plan.query_rows * plan.corpus_rows:,} pairs, for {wanted}{least}; blocks of {job.query_rows:,} by "
        f"{job.corpus_rows:,} rows, device {job.device}",
    ]
    if choice.why:
        lines.append(f"filter  {choice.why}")
    if estimate := details["estimate"]:
        few, many = estimate["low"], estimate["high"]
        lines.append(f"expect  about {estimate['pairs']:,.0f} matches ({few:,.0f} to {many:,.0f})")
    lines.append(f"output  {plan.output}" + (f", version {plan.base_version} is there" if plan.base_version else ""))
    return "\n".join(lines)
