"""The plan of a run, settled by the driver before the first row is read, and how it enters the pipeline."""

import dataclasses
import pickle
import zlib
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import pyarrow as pa

from schemas.model import ModelFingerprint
from schemas.splits import FileInfo, Split
from transforms.fidelity import check


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """All that was settled before the first row was read: what a run does, and what it builds on."""

    output: str
    run: str  # token of this run
    started: float  # seconds since the epoch
    base_version: int  # 0 where nothing was published before
    order: tuple[str, ...]  # ids of all splits, in input order
    todo: tuple[Split, ...]  # those that the base version does not list
    inputs: tuple[FileInfo, ...]
    fingerprint: ModelFingerprint
    kept: pa.Schema
    options: dict[str, Any]  # for the record
    input_bytes: int  # of todo
    unique_ids: bool = True  # ids are made of file name and offset
    max_error_rate: float = 0.001
    duplicate_ids: str = "error"
    keep_versions: int = 1
    fresh: bool = False
    min_fidelity: float = -1.0  # of the dataset to float32, where it is not that


def check_fidelity(plan: Plan, fidelity: dict[str, float] | None) -> None:
    """Raises RunFailed where what a manifest says of its vectors' fidelity is less than this run asks for: finished
    work, of a run that asked for less, is held to the same."""
    if fidelity:
        check((fidelity["min_cosine"],), plan.min_fidelity, plan.fingerprint.dtype, plan.fingerprint.backend)


@dataclasses.dataclass
class PlanSplits(beam.PTransform):
    """Begin -> (plan: PCollection[Plan], splits: PCollection[Split])

    The plan travels as one compressed element: a hundred thousand splits written out one by one would outgrow what
    Dataflow takes as a job's description (10 MB).
    """

    plan: Plan

    def expand(self, begin: beam.pvalue.PBegin) -> Any:
        packed = begin | "PackedPlan" >> beam.Create([zlib.compress(pickle.dumps(self.plan))])
        return packed | "UnpackPlan" >> beam.FlatMap(_unpack).with_output_types(Split).with_outputs(
            "plan", main="splits"
        )


def _unpack(packed: bytes) -> Iterator[Any]:
    plan: Plan = pickle.loads(zlib.decompress(packed))
    yield beam.pvalue.TaggedOutput("plan", dataclasses.replace(plan, todo=()))
    yield from plan.todo
