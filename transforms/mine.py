"""A dataset's pairs: its rows in blocks -> files of pairs -> parts in order -> the version that is published."""

import dataclasses
import pickle
from collections.abc import Iterator
from typing import Any

import apache_beam as beam

from schemas import storage
from schemas.errors import RunFailed
from transforms.best_partners import KeepBestPartners
from transforms.bounds import Filter
from transforms.carry_over import carry_over
from transforms.compare import ComparePairs
from transforms.duplicate_texts import FindDuplicates, groups_table, load_groups, save_groups
from transforms.expand import MOST_PAIRS, Comparison, too_many
from transforms.gather import Gather
from transforms.loaded_blocks import squares
from transforms.pair_files import ScoreRange, plan_ranges
from transforms.publish_pairs import DUPLICATES_FILE, MinePlan, PairPart, publish, write_range
from transforms.row_blocks import RowBlock, plan_blocks, rows_of
from transforms.sorted_files import PairFile


@dataclasses.dataclass
class MineDataset(beam.PTransform):
    """Begin -> PCollection[int], the version that is published."""

    plan: MinePlan
    filter: Filter

    def expand(self, begin: beam.pvalue.PBegin) -> beam.PCollection:
        job = self.plan.comparison
        plan = begin | "Plan" >> beam.Create([self.plan])
        packed = begin | "PackedFilter" >> beam.Create([pickle.dumps(self.filter)])
        filter = packed | "UnpackFilter" >> beam.Map(pickle.loads)
        blocks = plan | "PlanBlocks" >> beam.FlatMap(_blocks) | "ShareBlocks" >> beam.Reshuffle()
        equal = blocks | FindDuplicates(job.source)
        duplicates = (plan, equal) | "Duplicates" >> Gather() | "SaveDuplicates" >> beam.MapTuple(_save_duplicates)
        items = plan | "PlanSquares" >> beam.FlatMap(_squares) | "ShareSquares" >> beam.Reshuffle()
        files = {"squares": items, "duplicates": duplicates, "filter": filter} | ComparePairs(job)
        if job.previous:
            known = plan | "OldParts" >> beam.FlatMap(_old_parts) | "ShareOldParts" >> beam.Reshuffle()
            carried = known | "CarryOver" >> beam.FlatMap(_carry_over, job)
            files = (files, carried) | "OldAndNew" >> beam.Flatten()
        files = files | "PairFiles" >> beam.Reshuffle()
        if job.limits.top_k:
            files = files | KeepBestPartners(job.work, job.block_rows, job.limits.top_k)
        ranges = (plan, files) | "Files" >> Gather() | "PlanRanges" >> beam.FlatMapTuple(_ranges)
        merged = ranges | "ShareRanges" >> beam.Reshuffle() | "MergeRange" >> beam.FlatMapTuple(write_range)
        return (plan, merged) | "Parts" >> Gather() | "PublishPairs" >> beam.MapTuple(_publish)


def _blocks(plan: MinePlan) -> list[RowBlock]:
    return plan_blocks(plan.n_rows, plan.comparison.block_rows)


def _squares(plan: MinePlan) -> Iterator[Any]:
    return squares(_blocks(plan), plan.alone)


def _old_parts(plan: MinePlan) -> list[int]:
    assert plan.comparison.previous is not None
    return list(range(len(rows_of(plan.comparison.previous.pairs).dataset.manifest.parts)))


def _carry_over(number: int, job: Comparison) -> list[PairFile]:
    assert job.previous is not None
    return carry_over(number, job.source, job.previous, job.work, job.min_score, job.with_text, job.block_rows)


def _save_duplicates(plan: MinePlan, found: list[bytes]) -> str:
    """Puts the groups of equal texts where workers find them, and checks that expanding them can end."""
    job = plan.comparison
    uri = storage.join(job.work, DUPLICATES_FILE)
    save_groups(uri, groups_table(found, job.source, job.previous, job.expand))
    if job.expand:
        pairs = load_groups(uri).pairs_within(job.limits)
        if pairs > MOST_PAIRS:
            raise RunFailed(too_many(pairs))
    return uri


def _ranges(plan: MinePlan, files: list[PairFile]) -> list[tuple[ScoreRange, MinePlan]]:
    return [(wanted, plan) for wanted in plan_ranges(files, plan.max_pairs)]


def _publish(plan: MinePlan, parts: list[PairPart]) -> int:
    return publish(plan, parts).version
