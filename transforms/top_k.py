"""Best matches under a total order: by score, ties by the lower rank (a row's number in the order of ids).

The order is total, so "the best k" is one set, whatever order tiles and workers come in, and dropping what k others
beat never loses one of it. Both collectors use their k-th score as the bound for the tiles that follow.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from transforms.bounds import ROW_MULTIPLE, PreparedBlock, score_bounds, threshold
from transforms.similarity import (
    DENSE,
    Buffers,
    Tile,
    find_at_least,
    products_of,
    scores_of,
    tile_of,
    tile_scores_of,
)
from transforms.threads import in_threads

UNBOUNDED = np.float32(-1.5)
"""Below every score."""
NO_RANK = np.iinfo(np.int64).max
TILE, TALL_TILE = (1024, 4096), (2560, 2048)
"""Rows of queries and of the corpus, for int8 and for bfloat16 codes: of these the right-hand ones are repacked."""
MOST_PENDING = 1 << 20
"""Matches of a strip that wait for their scores: 24 MiB."""


@dataclasses.dataclass(frozen=True, eq=False)
class TopK:
    """The best matches of each query so far, best first.

    scores: (n, k) float32, -inf where there is none yet
    ranks: (n, k) int64 of the matches, NO_RANK where there is none
    """

    scores: np.ndarray
    ranks: np.ndarray

    @classmethod
    def empty(cls, n: int, k: int) -> "TopK":
        return cls(np.full((n, k), -np.inf, dtype=np.float32), np.full((n, k), NO_RANK, dtype=np.int64))

    def merge(self, other: "TopK") -> "TopK":
        """The best of both, for the same queries. What is in both counts once."""
        scores, ranks = np.hstack([self.scores, other.scores]), np.hstack([self.ranks, other.ranks])
        n, k = self.scores.shape
        rows = np.repeat(np.arange(n), scores.shape[1])
        return _best_of(n, k, rows, scores.ravel(), ranks.ravel())


def top_k_in_blocks(
    queries: PreparedBlock,
    corpus: PreparedBlock,
    ranks: np.ndarray,
    best: TopK,
    *,
    min_score: float | np.ndarray | None = None,
    own: np.ndarray | None = None,
    tile: tuple[int, int] | None = None,
    threads: int = 1,
) -> TopK:
    """`best` after a block of the corpus: exact, ties by rank. Blocks may come in any order, or apart and then merged.

    queries, corpus: of a filter that keeps all of a vector (`whole_filter`)
    ranks: (m,) int64, of the corpus rows
    min_score: matches below it do not count; one for all queries, or (n,) float32, -inf where there is none
    own: (n,) int64, the rank of the query itself where it is a row of the corpus: no match of its own
    threads: strips of queries at a time
    """
    if not len(queries):
        return best
    ranks = np.asarray(ranks, dtype=np.int64)
    least = np.full(len(queries), UNBOUNDED, dtype=np.float32)
    if min_score is not None:
        least = np.maximum(least, np.asarray(min_score, dtype=np.float32))
    buffers = Buffers(queries, _even(tile or tile_of(queries, TILE, TALL_TILE), len(queries), threads))

    def strip(top: int) -> TopK:
        rows = slice(top, min(top + buffers.tile[0], len(queries)))
        found = _Strip(queries, corpus, ranks, rows, least, own, best)
        for left in range(0, len(corpus), buffers.tile[1]):
            found.add_tile(slice(left, min(left + buffers.tile[1], len(corpus))), buffers)
        return found.finished()

    strips = list(in_threads(strip, range(0, len(queries), buffers.tile[0]), threads))
    return TopK(np.concatenate([s.scores for s in strips]), np.concatenate([s.ranks for s in strips]))


def _even(tile: tuple[int, int], n: int, threads: int) -> tuple[int, int]:
    """The tile, no higher than what gives each thread as many strips."""
    strips = -(-n // (tile[0] * threads)) * threads
    return min(tile[0], -(-n // (strips * ROW_MULTIPLE)) * ROW_MULTIPLE), tile[1]


class _Pending(NamedTuple):
    """Matches of a strip that wait for their scores, and what these are between."""

    rows: np.ndarray  # of the strip, int64
    cols: np.ndarray  # of the corpus, int64
    least: np.ndarray  # float32
    most: np.ndarray  # float32

    @classmethod
    def of(cls, parts: Sequence["_Pending"]) -> "_Pending":
        return parts[0] if len(parts) == 1 else cls(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    def where(self, keep: np.ndarray) -> "_Pending":
        return _Pending(*(column[keep] for column in self))

    def kth_least(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows that have k matches here or more, and the k-th best of what each scores at least."""
        bits = self.least.view(np.int32).astype(np.int64)
        bits ^= (bits >> 31) & 0x7FFFFFFF  # as floats are ordered, negative ones too
        order = np.argsort((self.rows << 32) - bits)  # one key is sorted in a fifth of the time of two
        starts = np.flatnonzero(np.diff(self.rows[order], prepend=-1))
        enough = starts[np.diff(starts, append=len(order)) >= k]
        return self.rows[order[enough]], self.least[order[enough + k - 1]]


class _Strip:
    """Some queries and their best matches so far.

    Products bound scores from both sides. So the k-th best product of a query gives it a bound before any score is
    computed, and of all that once passed, only what reaches the last bound is scored.
    """

    def __init__(
        self,
        queries: PreparedBlock,
        corpus: PreparedBlock,
        ranks: np.ndarray,
        rows: slice,
        least: np.ndarray,
        own: np.ndarray | None,
        best: TopK,
    ) -> None:
        self.queries, self.corpus, self.ranks, self.rows = queries, corpus, ranks, rows
        self.own = None if own is None else own[rows]
        self.best = TopK(best.scores[rows], best.ranks[rows])
        self.floor = np.maximum(self.best.scores[:, -1], least[rows])
        self.pending: list[_Pending] = []
        self.raise_at = 0

    def add_tile(self, cols: slice, buffers: Buffers) -> None:
        """Looks at the products of the strip with some rows of the corpus."""
        tile = Tile(self.rows, cols)
        products = products_of(self.queries, self.corpus, tile, buffers)
        self._seed(products)
        found = find_at_least(products, threshold(self.queries, self.corpus, self.floor)[:, None], buffers)
        if self.own is not None:
            others = self.ranks[found[1] + cols.start] != self.own[found[0]]
            found = found[0][others], found[1][others]
        places = found[0] + self.rows.start, found[1] + cols.start
        if len(found[0]) >= DENSE * products.numel():
            self._add(found[0], places[1], tile_scores_of(self.queries, places[0], self.corpus, places[1], tile))
            return
        self.pending.append(_Pending(found[0], places[1], *score_bounds(self.queries, self.corpus, products[found])))
        if cols.stop >= self.raise_at:  # bounds rise with the logarithm of the rows seen
            self._raise_floor()
            self.raise_at = 2 * cols.stop
        if sum(len(some.rows) for some in self.pending) > MOST_PENDING:
            self._score_pending()

    def finished(self) -> TopK:
        """The best, all tiles added."""
        if self.pending:
            self._raise_floor()
            self._score_pending()
        return self.best

    def _seed(self, products: torch.Tensor) -> None:
        """A first bound for queries that have none. Any k + 1 matches, the query itself perhaps among them, put the
        k-th score of all at theirs or above."""
        unbounded, k = np.flatnonzero(self.floor == UNBOUNDED), self.best.scores.shape[1]
        if len(unbounded) and products.shape[1] > k:
            some = products if len(unbounded) == len(products) else products[unbounded]
            least = torch.topk(some, k + 1, dim=1, sorted=False).values.amin(dim=1)
            self.floor[unbounded] = np.maximum(UNBOUNDED, score_bounds(self.queries, self.corpus, least)[0])

    def _raise_floor(self) -> None:
        pending = _Pending.of(self.pending)
        rows, least = pending.kth_least(self.best.scores.shape[1])
        self.floor[rows] = np.maximum(self.floor[rows], least)
        self.pending = [pending.where(pending.most >= self.floor[pending.rows])]

    def _score_pending(self) -> None:
        rows, cols, *_ = _Pending.of(self.pending)
        self._add(rows, cols, scores_of(self.queries, rows + self.rows.start, self.corpus, cols))
        self.pending = []

    def _add(self, rows: np.ndarray, cols: np.ndarray, scores: np.ndarray) -> None:
        """Matches that were scored; of equal scores those of a lower rank."""
        found, last = self.ranks[cols], TopK(self.best.scores[rows, -1], self.best.ranks[rows, -1])
        keep = (scores >= self.floor[rows]) & (
            (scores > last.scores) | ((scores == last.scores) & (found < last.ranks))
        )
        self.best = _with_matches(self.best, rows[keep], scores[keep], found[keep])
        self.floor = np.maximum(self.floor, self.best.scores[:, -1])


def _with_matches(best: TopK, rows: np.ndarray, scores: np.ndarray, ranks: np.ndarray) -> TopK:
    """Matches merged into the queries that they belong to; most tiles improve few queries."""
    touched, places = np.unique(rows, return_inverse=True)
    if not len(touched):
        return best
    k = best.scores.shape[1]
    places = np.concatenate([np.repeat(np.arange(len(touched)), k), places])
    scores = np.concatenate([best.scores[touched].ravel(), scores])
    ranks = np.concatenate([best.ranks[touched].ravel(), ranks])
    better = _best_of(len(touched), k, places, scores, ranks)
    after = TopK(best.scores.copy(), best.ranks.copy())
    after.scores[touched], after.ranks[touched] = better.scores, better.ranks
    return after


def _best_of(n: int, k: int, rows: np.ndarray, scores: np.ndarray, ranks: np.ndarray) -> TopK:
    """The k best of each row 0..n-1 among candidates in any order, duplicates once. Every row has k or more."""
    order = np.lexsort((ranks, -scores, rows))
    rows, scores, ranks = rows[order], scores[order], ranks[order]
    fresh = np.ones(len(rows), dtype=bool)
    fresh[1:] = (rows[1:] != rows[:-1]) | (ranks[1:] != ranks[:-1]) | (ranks[1:] == NO_RANK)
    rows, scores, ranks = rows[fresh], scores[fresh], ranks[fresh]
    place = np.arange(len(rows)) - np.searchsorted(rows, np.arange(n))[rows]
    best = TopK.empty(n, k)
    taken = place < k
    best.scores[rows[taken], place[taken]] = scores[taken]
    best.ranks[rows[taken], place[taken]] = ranks[taken]
    return best
