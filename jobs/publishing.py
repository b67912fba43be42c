"""Runs a pipeline whose last step publishes."""

from collections.abc import Callable
from typing import Any, Protocol

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from jobs import cli
from schemas.errors import RunFailed
from schemas.manifest import newest_manifest
from transforms.leases import leased
from transforms.publish import check_base


class Planned(Protocol):
    """What every job's plan says of where it publishes."""

    @property
    def output(self) -> str: ...
    @property
    def run(self) -> str: ...
    @property
    def base_version(self) -> int: ...


def run_to_publish(
    plan: Planned, build: Callable[[beam.Pipeline], Any], options: PipelineOptions, here: bool
) -> cli.Submitted | None:
    """Runs the pipeline, as `cli.run_pipeline` does, and says meanwhile that the run is alive.

    here: the run ends with this process

    Raises:
        RunFailed: a step did, and nothing is published.
    """
    with leased(plan.output, plan.run, plan.base_version, here) as lease:
        check_base(plan.output, plan.base_version, newest_manifest(plan.output))
        try:
            submitted = cli.run_pipeline(build, options)
        except RunFailed as error:
            newest = newest_manifest(plan.output)
            if not (newest and newest.includes(plan.run)):
                raise
            cli.say(f"the run had published when it failed: {error}")
            return None
        if submitted and submitted.runs:
            lease.leave()
        return submitted
