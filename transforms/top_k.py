"""Best matches under a total order: by score, ties by the lower rank (a row's number in the order of ids).

The order is total, so "the best k" is one set, whatever order tiles and workers come in, and dropping what k others
beat never loses one of it. Both collectors use their k-th score as the bound for the tiles that follow.
"""

import dataclasses

import numpy as np
import torch

from transforms.bounds import PreparedBlock, threshold
from transforms.similarity import (
    Buffers,
    Pairs,
    Tile,
    find_at_least,
    in_threads,
    products_of,
    scores_of,
    tile_scores_of,
)

UNBOUNDED = np.float32(-1.5)
"""Below every score."""
NO_RANK = np.iinfo(np.int64).max
COMPACT_PAIRS = 1 << 16
SEED_TILE = (256, 8192)
"""Wide: what queries without a bound are first compared with, as theirs is the better for it."""
TILE = (1024, 4096)
"""What follows: multiplied a third faster."""


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

    ranks: (m,) int64, of the corpus rows
    min_score: matches below it do not count; one for all queries, or (n,) float32, -inf where there is none
    own: (n,) int64, the rank of the query itself where it is a row of the corpus: no match of its own
    threads: strips of queries at a time
    """
    ranks = np.asarray(ranks, dtype=np.int64)
    least = np.full(len(queries), UNBOUNDED, dtype=np.float32)
    if min_score is not None:
        least = np.maximum(least, np.asarray(min_score, dtype=np.float32))
    on_cpu = queries.codes.device.type == "cpu"

    def after(best: TopK, cols: slice, size: tuple[int, int] | None) -> TopK:
        buffers = Buffers(queries, tile or (size if on_cpu else None))

        def strip(top: int) -> TopK:
            rows = slice(top, min(top + buffers.tile[0], len(queries)))
            found = TopK(best.scores[rows], best.ranks[rows])
            for left in range(cols.start, cols.stop, buffers.tile[1]):
                area = Tile(rows, slice(left, min(left + buffers.tile[1], cols.stop)))
                found = _after_tile(queries, corpus, ranks, found, area, least[rows], own, buffers)
            return found

        strips = list(in_threads(strip, range(0, len(queries), buffers.tile[0]), threads))
        return TopK(np.concatenate([s.scores for s in strips]), np.concatenate([s.ranks for s in strips]))

    if not len(queries):
        return best
    seeds = 0
    if (np.maximum(best.scores[:, -1], least) == UNBOUNDED).any():
        seeds = min((tile or SEED_TILE)[1], len(corpus))
        best = after(best, slice(0, seeds), SEED_TILE)
    return after(best, slice(seeds, len(corpus)), TILE)


def _after_tile(
    queries: PreparedBlock,
    corpus: PreparedBlock,
    ranks: np.ndarray,
    best: TopK,
    tile: Tile,
    least: np.ndarray,
    own: np.ndarray | None,
    buffers: Buffers,
) -> TopK:
    """One tile's matches at or above each query's k-th score, merged; of equal scores those of a lower rank."""
    products = products_of(queries, corpus, tile, buffers)
    floor = np.maximum(best.scores[:, -1], least)
    unbounded = np.flatnonzero(floor == UNBOUNDED)
    if len(unbounded):
        floor[unbounded] = _seed(queries, corpus, products[unbounded], unbounded, tile, best.scores.shape[1])
    rows, cols = find_at_least(products, threshold(queries, corpus, floor)[:, None], buffers)
    scores = tile_scores_of(queries, rows + tile.rows.start, corpus, cols + tile.cols.start, tile)
    found = ranks[cols + tile.cols.start]
    keep = (scores > floor[rows]) | ((scores == floor[rows]) & (found < best.ranks[rows, -1]))
    if own is not None:
        keep &= found != own[tile.rows][rows]
    return _add(best, rows[keep], scores[keep], found[keep])


def _add(best: TopK, rows: np.ndarray, scores: np.ndarray, ranks: np.ndarray) -> TopK:
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


def _seed(
    queries: PreparedBlock, corpus: PreparedBlock, products: torch.Tensor, rows: np.ndarray, tile: Tile, k: int
) -> np.ndarray:
    """A first bound for queries that have none: the (k + 1)-th score of some matches, those with the largest products.

    Any k + 1 matches, the query itself perhaps among them, put the k-th score of all at theirs or above.
    """
    if products.shape[1] <= k:
        return np.full(len(rows), UNBOUNDED, dtype=np.float32)
    cols = torch.topk(products, k + 1, dim=1, sorted=False).indices.cpu().numpy()
    flat = np.repeat(rows, k + 1) + tile.rows.start
    return scores_of(queries, flat, corpus, cols.ravel() + tile.cols.start).reshape(-1, k + 1).min(axis=1)


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


class BestPairs:
    """The best `n` pairs of all that are added, exactly. Memory: 2 n pairs (20 bytes each) and one addition.

    `min_score` rises to the n-th best score as it fills: give it to `pairs_in_blocks`, to look for no less. Picklable,
    mergeable, and indifferent to order.
    """

    def __init__(self, n: int, min_score: float) -> None:
        self.n, self.floor = n, float(np.float32(min_score))
        self.parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self.held = 0

    def min_score(self) -> float:
        return self.floor

    def add(self, ranks_a: np.ndarray, ranks_b: np.ndarray, scores: np.ndarray) -> None:
        """Pairs by rank, each a < b, no pair twice; those below `min_score` are dropped."""
        keep = scores >= np.float32(self.floor)
        self.parts.append((ranks_a[keep], ranks_b[keep], scores[keep]))
        self.held += int(keep.sum())
        if self.held >= 2 * self.n + COMPACT_PAIRS:
            self._compact()

    def merge(self, other: "BestPairs") -> None:
        self.floor = max(self.floor, other.floor)
        for part in other.parts:
            self.add(*part)

    def result(self) -> Pairs:
        """Best first, ties by rank_a, then rank_b."""
        self._compact()
        return Pairs(*self.parts[0])

    def _compact(self) -> None:
        empty = (np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))
        a, b, scores = (np.concatenate(column) for column in zip(empty, *self.parts, strict=True))
        best = np.lexsort((b, a, -scores))[: self.n]
        self.parts, self.held = [(a[best], b[best], scores[best])], len(best)
        if self.held == self.n and self.n:
            self.floor = max(self.floor, float(scores[best[-1]]))
