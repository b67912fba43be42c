"""Two datasets' matches: blocks of both -> files of matches -> parts by query -> the version that is published."""

import dataclasses
import pickle
from collections.abc import Iterator

import apache_beam as beam

from transforms.bounds import Filter
from transforms.gather import Gather
from transforms.join_best import KeepBestMatches, MatchOneToOne
from transforms.join_matches import FindMatches, Matching, rectangles
from transforms.join_publish import (
    JoinPlan,
    QueryRange,
    WrittenRange,
    plan_query_ranges,
    publish_matches,
    write_query_range,
)
from transforms.loaded_blocks import Rectangle
from transforms.row_blocks import plan_blocks
from transforms.sorted_files import PairFile


@dataclasses.dataclass
class JoinDatasets(beam.PTransform):
    """Begin -> PCollection[int], the version that is published."""

    plan: JoinPlan
    filter: Filter

    def expand(self, begin: beam.pvalue.PBegin) -> beam.PCollection:
        job = self.plan.matching
        plan = begin | "Plan" >> beam.Create([self.plan])
        packed = begin | "PackedFilter" >> beam.Create([pickle.dumps(self.filter)])
        filter = packed | "UnpackFilter" >> beam.Map(pickle.loads)
        items = plan | "PlanRectangles" >> beam.FlatMap(_rectangles) | "ShareRectangles" >> beam.Reshuffle()
        files = {"items": items, "filter": filter} | FindMatches(job) | "MatchFiles" >> beam.Reshuffle()
        if job.top_k:
            files = files | KeepBestMatches(job)
        if job.one_to_one:
            files = (plan | "Job" >> beam.Map(_matching), files) | MatchOneToOne()
        ranges = (plan, files) | "Files" >> Gather() | "PlanRanges" >> beam.FlatMapTuple(_ranges)
        written = ranges | "ShareRanges" >> beam.Reshuffle() | "WriteRange" >> beam.MapTuple(write_query_range)
        return (plan, written) | "Parts" >> Gather() | "PublishMatches" >> beam.MapTuple(_publish)


def _rectangles(plan: JoinPlan) -> Iterator[Rectangle]:
    job = plan.matching
    queries, corpus = plan_blocks(plan.query_rows, job.query_rows), plan_blocks(plan.corpus_rows, job.corpus_rows)
    return rectangles(queries, corpus, plan.alone)


def _matching(plan: JoinPlan) -> Matching:
    return plan.matching


def _ranges(plan: JoinPlan, files: list[PairFile]) -> list[tuple[QueryRange, JoinPlan]]:
    return [(wanted, plan) for wanted in plan_query_ranges(files, plan.query_rows)]


def _publish(plan: JoinPlan, written: list[WrittenRange]) -> int:
    return publish_matches(plan, written).version
