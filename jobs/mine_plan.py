"""What `jobs.mine` settles before it starts: is the input what was meant; the filter, the blocks, the estimate."""

import dataclasses
import secrets
import time
from typing import Any

import numpy as np
import pyarrow as pa

from jobs.found_plan import WORK_VERSION, check_min_score, check_numbers, open_embeddings, rows_digest
from schemas import storage
from schemas.dataset import Dataset, open_dataset
from schemas.errors import InputError
from schemas.manifest import newest_manifest
from schemas.pairs import KIND, WORK_FOLDER
from schemas.splits import digest
from transforms.bounds import Filter, whole_filter
from transforms.carry_over import Previous
from transforms.device import cpu_threads
from transforms.duplicate_texts import Limits
from transforms.expand import MOST_PAIRS, Comparison
from transforms.inputs import check_output
from transforms.loaded_blocks import block_rows, comparing_device, row_bytes
from transforms.publish_pairs import MinePlan
from transforms.row_blocks import Rows, Source, unit_sample
from transforms.tuning import SAMPLE_ROWS, Estimate, estimate_pairs, fit_filter, threshold_for
from transforms.units import SCORE_VERSION


@dataclasses.dataclass(frozen=True, kw_only=True)
class MineConfig:
    """What to mine, how, and where to. Validated when built; raises InputError naming the flag."""

    input: str
    output: str
    min_score: float
    top_k: int | None = None
    max_pairs: int | None = None
    duplicates: str = "expand"
    with_text: bool = False
    groups: bool = False
    previous: str | None = None
    device: str = "auto"
    memory_mb: int = 1024
    keep_versions: int = 1

    def __post_init__(self) -> None:
        if not self.input or not self.output:
            raise InputError("--input and --output: an empty name ('.' is the folder that you are in)")
        check_min_score(self.min_score)
        check_numbers(self, "top_k", "max_pairs", "memory_mb", "keep_versions")


def make_plan(config: MineConfig, workers: int) -> tuple[MinePlan, Filter]:
    """The plan, and the filter that suits the data.

    workers: processes on this machine that share the work; 0 where they are elsewhere

    Raises:
        InputError: no dataset of embeddings there, vectors that have no cosine, an output that is no place for pairs,
            or more pairs than anybody wants.
    """
    started = time.time()
    dataset = open_embeddings("--input", config.input)
    check_output(config.output, [config.input], [], KIND)
    if workers:
        comparing_device(config.device)
    rows = Rows(dataset)
    sample = rows.sample(SAMPLE_ROWS)
    units = unit_sample(sample)
    choice, estimate = whole_filter(dataset.manifest.fingerprint.dim), Estimate(0, 0, 0)
    if len(rows) > 1:
        choice = fit_filter(units, config.min_score, pairs=len(rows) * (len(rows) - 1) / 2)
        estimate = _estimate(config, rows, sample, units)
    base = newest_manifest(config.output)
    options = _recorded_options(config, dataset)
    text_bytes = 2 * rows.mean_text_bytes() if config.with_text else 0  # two blocks' are copied when these meet
    each = block_rows(
        config.memory_mb, row_bytes(dataset.manifest.fingerprint.dim), len(rows), workers, more_bytes=text_bytes
    )
    previous = _previous(config, dataset)
    comparison = Comparison(
        source=Source.of(dataset),
        work=storage.join(config.output, WORK_FOLDER, digest(options, each, previous and previous.pairs, WORK_VERSION)),
        min_score=config.min_score,
        block_rows=each,
        limits=Limits(config.top_k or 0, 0 if config.top_k else config.max_pairs or 0),
        expand=config.duplicates == "expand",
        with_text=config.with_text,
        device=config.device,
        threads=max(1, cpu_threads() // workers) if workers else 1,
        previous=previous,
    )
    plan = MinePlan(
        output=config.output,
        run=secrets.token_hex(8),
        started=started,
        base_version=base.version if base else 0,
        comparison=comparison,
        n_rows=len(rows),
        alone=workers == 1,
        max_pairs=config.max_pairs or 0,
        groups=config.groups,
        keep_versions=config.keep_versions,
        fingerprint=dataset.manifest.fingerprint,
        options=options,
        details={
            "input": config.input,
            "input_version": dataset.manifest.version,
            "input_parts": [part.name for part in dataset.manifest.parts],
            "input_checksums": [part.checksum for part in dataset.manifest.parts],
            "ids_repeat": _ids_repeat(dataset),
            "method": "exact",
            "filter": choice.why,
            "estimate": estimate._asdict(),
            "previous": previous.pairs._asdict() if previous else None,
        },
    )
    return plan, choice


def _previous(config: MineConfig, dataset: Dataset) -> Previous | None:
    """The earlier run to build on. Raises InputError where its pairs are not all that old rows have."""
    if not config.previous:
        return None
    pairs = open_dataset(config.previous)
    manifest = pairs.manifest
    if manifest.kind != KIND:
        raise InputError(f"--previous {config.previous}: is a dataset of {manifest.kind}; name an output of this job")
    changed = dataset.manifest.fingerprint.differences(manifest.fingerprint)
    if changed:
        raise InputError(f"--previous {config.previous}: its model is another: {'; '.join(changed)}")
    then = manifest.options
    if then["min_score"] > config.min_score:
        raise InputError(f"--previous {config.previous}: has pairs from {then['min_score']} on only; mine without it")
    if then.get("scores") != SCORE_VERSION:
        raise InputError(f"--previous {config.previous}: its scores were computed otherwise, once; mine without it")
    for name in ("top_k", "max_pairs"):
        if then[name]:
            raise InputError(f"--previous {config.previous}: has the best alone (--{name} {then[name]})")
    if then["duplicates"] != config.duplicates:
        raise InputError(f"--previous {config.previous}: was made with --duplicates {then['duplicates']}")
    if _ids_repeat(dataset) or manifest.details.get("ids_repeat"):
        raise InputError(
            f"--previous {config.previous}: of rows embedded with --id_column and --duplicate_ids keep, ids do not "
            "tell which row a pair is of; mine without it"
        )
    return Previous.of(pairs, dataset.manifest.parts)


def _ids_repeat(dataset: Dataset) -> bool:
    """Whether rows of other text may have one id. Ids made of texts repeat with their texts alone."""
    options = dataset.manifest.options
    return options.get("duplicate_ids") == "keep" and options.get("id_column") is not None


def _recorded_options(config: MineConfig, dataset: Dataset) -> dict[str, Any]:
    """What decides which pairs there are: the question, and the rows that it is asked of."""
    asked = ("min_score", "top_k", "max_pairs", "duplicates", "with_text", "groups")
    return {name: getattr(config, name) for name in asked} | {"rows": rows_digest(dataset), "scores": SCORE_VERSION}


def _estimate(config: MineConfig, rows: Rows, sample: pa.Table, units: np.ndarray) -> Estimate:
    """Pairs to expect. Raises InputError where they are too many and it was not said how many to keep."""
    n_rows = len(rows)

    def firsts() -> np.ndarray:  # of equal texts
        return np.unique(rows.text_digests(sample.column("row").to_numpy()), return_index=True)[1]

    if config.duplicates == "collapse" or config.top_k:  # neither makes all pairs of equal texts
        first = firsts()
        n_rows = max(round(n_rows * len(first) / len(units)), len(first))
        units = units[np.sort(first)]
    estimate = estimate_pairs(units, n_rows, config.min_score)
    if estimate.pairs > MOST_PAIRS and not config.max_pairs:
        fits = threshold_for(units, n_rows, MOST_PAIRS)
        advice = [f"--min_score {fits:.2f} fits"] if fits < 1 else []
        advice += ["--max_pairs N keeps the best"]
        if config.duplicates == "expand" and len(firsts()) < sample.num_rows:
            advice.append("--duplicates collapse reports equal texts once")
        raise InputError(
            f"--min_score {config.min_score}: makes about {estimate.pairs:,.0f} pairs ({estimate.low:,.0f} to "
            f"{estimate.high:,.0f}), above {MOST_PAIRS:,}; {', or '.join(advice)}"
        )
    return estimate


def describe(plan: MinePlan, choice: Filter) -> str:
    """What is about to happen."""
    job, estimate = plan.comparison, plan.details["estimate"]
    blocks = -(-plan.n_rows // job.block_rows)
    pairs = plan.n_rows * (plan.n_rows - 1) // 2
    lines = [
        f"input   {plan.details['input']}, version {plan.details['input_version']}: {plan.n_rows:,} rows",
        f"compare {pairs:,} pairs, for those at {job.min_score} or above; {blocks:,} block{'s' * (blocks != 1)}, "
        f"device {job.device}",
        f"expect  about {estimate['pairs']:,.0f} pairs ({estimate['low']:,.0f} to {estimate['high']:,.0f})",
        f"output  {plan.output}" + (f", version {plan.base_version} is there" if plan.base_version else ""),
    ]
    if choice.why:
        lines.insert(2, f"filter  {choice.why}")
    return "\n".join(lines)
