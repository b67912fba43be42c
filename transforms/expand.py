"""Pairs of representatives -> pairs of all the rows that they stand for."""

import dataclasses
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from schemas.errors import RunFailed
from transforms.carry_over import Previous
from transforms.duplicate_texts import DuplicateGroups, Limits, ragged_arange
from transforms.loaded_blocks import LoadedBlock
from transforms.pair_files import FoundPairs
from transforms.row_blocks import RowBlock, Source
from transforms.similarity import Pairs

MOST_PAIRS = 100_000_000
"""Nobody looks at more; a run that would make them says so and stops."""
PORTION_PAIRS = 1 << 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """What is compared, and how."""

    source: Source
    work: str  # folder of the run's files
    min_score: float
    block_rows: int
    limits: Limits
    expand: bool  # pairs of all rows of equal text, rather than of their representatives
    with_text: bool
    device: str
    threads: int
    previous: Previous | None = None  # an earlier run, whose pairs are not compared again


def portions(found: Pairs, a: LoadedBlock, b: LoadedBlock, groups: DuplicateGroups, job: Comparison) -> Iterator[Pairs]:
    """Pairs of representatives, so many at a time that what they expand to can be held."""
    if not (job.expand and len(groups.members)):
        yield found
        return
    sizes = groups.spans(a.numbers[found.rows_a])[1] * groups.spans(b.numbers[found.rows_b])[1]
    sizes = np.minimum(sizes, job.limits.max_pairs or MOST_PAIRS)
    portion = np.cumsum(sizes) // PORTION_PAIRS
    for some in np.split(np.arange(len(sizes)), np.flatnonzero(np.diff(portion)) + 1):
        yield Pairs(found.rows_a[some], found.rows_b[some], found.scores[some])


def expanded(found: Pairs, a: LoadedBlock, b: LoadedBlock, groups: DuplicateGroups, job: Comparison) -> FoundPairs:
    """Pairs of representatives as pairs of all the rows that they stand for."""
    starts_a, sizes_a = groups.spans(a.numbers[found.rows_a])
    starts_b, sizes_b = groups.spans(b.numbers[found.rows_b])
    if not job.expand:
        sizes_a, sizes_b = np.ones_like(sizes_a), np.ones_like(sizes_b)
    i = ragged_arange(sizes_a)
    pair = np.repeat(np.arange(len(found.scores)), sizes_a)
    counts = job.limits.across(i, sizes_b[pair])
    if counts.sum() > MOST_PAIRS:
        raise RunFailed(too_many(int(counts.sum())))
    i, pair, j = np.repeat(i, counts), np.repeat(pair, counts), ragged_arange(counts)
    first_member = len(a.ids) + len(b.ids)

    def side(block: LoadedBlock, rows: np.ndarray, starts: np.ndarray, k: np.ndarray, shift: int) -> list[np.ndarray]:
        rows, starts = rows[pair], starts[pair]
        member = np.where(starts >= 0, starts + k, 0)
        alone = (starts < 0) | (not job.expand)
        numbers = (
            block.numbers[rows]
            if not len(groups.members)
            else np.where(alone, block.numbers[rows], groups.members[member])
        )
        return [numbers, np.where(alone, rows + shift, member + first_member), rows + shift]

    rows_a, ids_a, texts_a = side(a, found.rows_a, starts_a, i, 0)
    rows_b, ids_b, texts_b = side(b, found.rows_b, starts_b, j, len(a.ids))
    ids = pa.concat_arrays([a.ids.cast(groups.ids.type), b.ids.cast(groups.ids.type), groups.ids])
    texts = pa.concat_arrays([a.texts, b.texts]) if a.texts is not None and b.texts is not None else None
    return FoundPairs(rows_a, rows_b, found.scores[pair], ids_a, ids_b, texts_a, texts_b, ids, texts)


def pairs_of_equal_texts(block: RowBlock, loaded: LoadedBlock, groups: DuplicateGroups, limits: Limits) -> FoundPairs:
    """Pairs inside the groups whose representative is in the block: equal texts score 1."""
    left, right = groups.within(block.start, block.stop, limits)
    stands = groups.representatives[np.searchsorted(groups.offsets, left, side="right") - 1]
    texts = np.searchsorted(loaded.numbers, stands)
    scores = np.ones(len(left), dtype=np.float32)
    rows = groups.members[left], groups.members[right]
    return FoundPairs(*rows, scores, left, right, texts, texts, groups.ids, loaded.texts)


def too_many(pairs: int) -> str:
    return (
        f"rows of equal text make {pairs:,} pairs or more, above {MOST_PAIRS:,}; report each such text once: "
        "--duplicates collapse, or ask for the best: --max_pairs"
    )
