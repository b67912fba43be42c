"""Pairs of representatives -> pairs of all the rows that they stand for, so many at a time that memory holds them."""

import dataclasses
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from schemas.errors import RunFailed
from transforms.carry_over import Previous
from transforms.duplicate_texts import DuplicateGroups, Limits, pages_of, ragged_arange
from transforms.loaded_blocks import LoadedBlock
from transforms.pair_files import FoundPairs
from transforms.row_blocks import RowBlock, Source
from transforms.similarity import Pairs

MOST_PAIRS = 100_000_000
"""Nobody looks at more; a run that would make them says so and stops."""
PAGE_PAIRS = 1 << 18
"""Most pairs that are expanded at a time: 15 MiB of numbers."""


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


class Expansion:
    """Pairs of two blocks' representatives, as pairs of all the rows that they stand for.

    numbers, ids: of the rows of `a`, those of `b` and the members of all groups, in this order
    """

    def __init__(self, a: LoadedBlock, b: LoadedBlock, groups: DuplicateGroups, job: Comparison) -> None:
        self.a, self.b, self.groups, self.limits = a, b, groups, job.limits
        self.grouped = job.expand and len(groups.members) > 0
        blocks = [a] if a is b else [a, b]
        self.second = 0 if a is b else len(a.ids)
        self.first_member = self.second + len(b.ids)
        more = [groups.ids] if self.grouped else []
        wide = groups.ids.type if self.grouped else a.ids.type  # of 32 or 64 bits, as the ids of all groups need
        self.ids = pa.concat_arrays([*(block.ids.cast(wide) for block in blocks), *more])
        self.numbers = np.concatenate([*(block.numbers for block in blocks), *([groups.members] if more else [])])
        texts = [block.texts for block in blocks if block.texts is not None]
        self.texts = pa.concat_arrays(texts) if texts else None

    def pages(self, found: Pairs) -> Iterator[FoundPairs]:
        """Raises RunFailed where representatives stand for more pairs than anybody wants."""
        if not self.grouped:
            for start in range(0, len(found.scores), PAGE_PAIRS):
                rows_a, rows_b, scores = (column[start : start + PAGE_PAIRS] for column in found)
                yield self._page(rows_a, rows_b + self.second, scores, rows_a, rows_b + self.second)
            return
        for portion in self._portions(found):
            yield from self._expanded(portion)

    def _portions(self, found: Pairs) -> Iterator[Pairs]:
        """The pairs, so many at a time that they expand to about a page; each that makes more, by itself."""
        sizes = self._spans(self.a, found.rows_a)[1] * self._spans(self.b, found.rows_b)[1]
        portion = np.cumsum(np.minimum(sizes, PAGE_PAIRS)) // PAGE_PAIRS
        for some in np.split(np.arange(len(sizes)), np.flatnonzero(np.diff(portion)) + 1):
            yield Pairs(*(column[some] for column in found))

    def _expanded(self, found: Pairs) -> Iterator[FoundPairs]:
        """A line for each member of the left row's group; of each line, pages of its partners."""
        starts_a, sizes_a = self._spans(self.a, found.rows_a)
        starts_b, sizes_b = self._spans(self.b, found.rows_b)
        i, pair = ragged_arange(sizes_a), np.repeat(np.arange(len(found.scores)), sizes_a)
        counts = self.limits.across(i, sizes_b[pair])
        if counts.sum() > MOST_PAIRS:
            raise RunFailed(too_many(int(counts.sum())))
        for line, j in pages_of(counts, PAGE_PAIRS):
            which = pair[line]
            rows_a, rows_b = found.rows_a[which], found.rows_b[which]
            ids_a = self._places(rows_a, starts_a[which], i[line])
            ids_b = self._places(rows_b + self.second, starts_b[which], j)
            yield self._page(ids_a, ids_b, found.scores[which], rows_a, rows_b + self.second)

    def _spans(self, block: LoadedBlock, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.groups.spans(block.numbers[rows])

    def _places(self, rows: np.ndarray, starts: np.ndarray, k: np.ndarray) -> np.ndarray:
        """Places of the k-th members of the rows' groups; of the rows themselves where they are alone."""
        return np.where(starts < 0, rows, self.first_member + starts + k)

    def _page(
        self, a: np.ndarray, b: np.ndarray, scores: np.ndarray, texts_a: np.ndarray, texts_b: np.ndarray
    ) -> FoundPairs:
        return FoundPairs(self.numbers[a], self.numbers[b], scores, a, b, texts_a, texts_b, self.ids, self.texts)

    def of_equal_texts(self, block: RowBlock) -> Iterator[FoundPairs]:
        """Pairs inside the groups whose representative is in the block, which is both `a` and `b`: they score 1."""
        groups = self.groups
        left, firsts, counts = groups.lines(block.start, block.stop, self.limits)
        for line, k in pages_of(counts, PAGE_PAIRS):
            members = left[line]
            stands = groups.representatives[np.searchsorted(groups.offsets, members, side="right") - 1]
            texts = np.searchsorted(self.a.numbers, stands)
            a, b = self.first_member + members, self.first_member + firsts[line] + k
            yield self._page(a, b, np.ones(len(line), dtype=np.float32), texts, texts)


def too_many(pairs: int) -> str:
    return (
        f"rows of equal text make {pairs:,} pairs or more, above {MOST_PAIRS:,}; report each such text once: "
        "--duplicates collapse, or ask for the best: --max_pairs"
    )
