"""How jobs that compare datasets of embeddings run, and what they say alike, meanwhile and at the end."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from jobs import cli, engines
from jobs.publishing import run_to_publish
from schemas.errors import RunFailed
from schemas.manifest import Manifest, newest_manifest
from transforms.progress import Progress
from transforms.publish_found import HISTOGRAM_BINS, FoundPlan, answered, end

P = TypeVar("P", bound=FoundPlan)


def carry_out(
    plan: P,
    pairs: int,
    transform: Callable[[], beam.PTransform],
    options: PipelineOptions,
    summarize: Callable[[Manifest, P], dict[str, Any]],
) -> dict[str, Any] | cli.Submitted:
    """Compares so many pairs and publishes, unless what is published is the answer already.

    Raises:
        RunFailed: nothing was published.
    """
    if answered(plan):
        end(plan)  # the run that published may have been killed before it had
    else:
        here = engines.workers_here(options)
        with cli.progress_bar(pairs, compared, here):
            submitted = run_to_publish(plan, lambda pipeline: pipeline | transform(), options, here)
        if submitted:
            return submitted
    manifest = newest_manifest(plan.output)
    if manifest is None:
        raise RunFailed(f"{plan.output}: the pipeline ended and published nothing; see the runner's log")
    return summarize(manifest, plan)


def put(
    found: dict[str, Any] | cli.Submitted, output: str, text: Callable[[dict[str, Any]], str], as_json: bool
) -> None:
    """The result of `carry_out` on stdout."""
    if isinstance(found, cli.Submitted):
        cli.put_submitted(found, output, as_json)
    else:
        cli.put_result(found, text(found), as_json)


def compared(done: Progress, seconds: float) -> tuple[int, str]:
    """How far the comparing is, for `cli.progress_bar`."""
    return done.pairs, f"{done.pairs / 1e6:,.0f} M pairs compared, {done.pairs / 1e6 / seconds:,.0f} M pairs/s"


def histogram(counts: Sequence[int]) -> dict[str, int]:
    """Pairs by score, best first; from the first bin that has some."""
    edges = [f"{i / HISTOGRAM_BINS:.2f}" for i in range(HISTOGRAM_BINS + 1)]
    named = [(f"{low}-{high}", n) for low, high, n in zip(edges, edges[1:], counts, strict=False)]
    first = next((i for i, n in enumerate(counts) if n), HISTOGRAM_BINS)
    return dict(reversed(named[first:]))


def histogram_lines(counts: dict[str, int]) -> list[str]:
    most = max(counts.values(), default=1)
    return [f"  {k}  {'#' * -(-30 * n // most):<30} {n:,}" for k, n in counts.items()]


def open_lines(output: str, folders: Iterable[str]) -> list[str]:
    """How to open what was written."""
    lines = [f"  open it: pandas.read_parquet({output!r})"]
    return lines + [f"           pandas.read_parquet({output + '/' + folder!r})" for folder in folders]
