"""What a sample tells before the work starts: which filter is fastest, how many pairs there will be, what would fit."""

import dataclasses
import functools
from typing import NamedTuple

import numpy as np

from transforms.bounds import Filter, PreparedBlock, prefix_filter, prepare, principal_axes, threshold, whole_filter
from transforms.products import seconds
from transforms.similarity import DENSE, Buffers, find_at_least, products_of, scores_of, tiles
from transforms.threads import on_one_thread

PREFIXES = (64, 96, 128, 192)
SAMPLE_ROWS = 8192
"""Rows a sample should have, for the estimates."""
MEASURE_ROWS, FIT_ROWS = 1024, 4096
"""Of the sample, rows to measure candidates on, and rows to fit with in all: more would cost more than it gains."""
COLD = 2.5
"""Rows to be scored come from all over a block, a few hundred a tile: so much slower than the same few in a cache."""
SOON_NSEC = 0.8e9
"""Of one core. Fitting takes a quarter of that on one core, while the others wait, and at best halves the rest."""
Z95 = 1.96
STRIP_ROWS = 1024
THRESHOLD_STEP = 0.01


def fit_filter(sample: np.ndarray, min_score: float, *, pairs: float = np.inf, seed: int = 0) -> Filter:
    """The filter that costs least a pair here, by its survivors on the sample and the time of its tile on this machine.

    sample: (m, d) unit vectors, random rows of the data
    min_score: the threshold
    pairs: to be compared in all; where a filter that needs no fitting has them done soon, it is taken
    The choice moves speed alone; no result depends on it.
    """
    return on_one_thread(lambda: _fit(sample, min_score, pairs, seed))


def _fit(sample: np.ndarray, min_score: float, pairs: float, seed: int) -> Filter:
    sample = np.random.default_rng(seed).permutation(sample)[:FIT_ROWS]
    measured = sample[: min(MEASURE_ROWS, max(len(sample) // 4, 64))]
    dims = sample.shape[1]
    whole = whole_filter(dims, seed)
    cost = _costs([whole], measured, min_score)[0]
    if pairs * cost.nsec < SOON_NSEC:
        return dataclasses.replace(whole, why=f"{whole.name}: {cost}; fitting another would take longer")
    axes = principal_axes(sample[len(measured) :] if len(sample) > 2 * len(measured) else sample)
    choices = [*(prefix_filter(axes, d, seed) for d in PREFIXES if d < dims), whole]
    costs = _costs(choices, measured, min_score)
    best = min(range(len(choices)), key=lambda i: costs[i].nsec)
    others = "; ".join(f"{f.name} {c}" for i, (f, c) in enumerate(zip(choices, costs, strict=True)) if i != best)
    why = f"{choices[best].name} costs least on {len(measured):,} sampled rows: {costs[best]} ({others or 'no other'})"
    return dataclasses.replace(choices[best], why=why)


class Cost(NamedTuple):
    nsec: float  # a pair
    survivors: float  # share of pairs that are scored

    def __str__(self) -> str:
        return f"{self.nsec:.2f} ns a pair, {self.survivors:.1e} of them scored"


def _costs(choices: list[Filter], measured: np.ndarray, min_score: float) -> list[Cost]:
    """Cost of each filter: its tile's time, the shortest of several, and its survivors at the time of one score."""
    blocks = [prepare(measured, choice) for choice in choices]
    buffers = Buffers(blocks[0])
    tile = next(tiles(len(measured), len(measured), buffers.tile))
    n_rows, n_pairs = tile.rows.stop, tile.rows.stop * tile.cols.stop
    some = np.arange(4096) % len(measured)
    score_nsec = COLD * seconds(lambda: scores_of(blocks[0], some, blocks[0], some[::-1].copy())) / len(some) * 1e9

    def find(block: PreparedBlock) -> int:
        least = threshold(block, block, min_score)
        return len(find_at_least(products_of(block, block, tile, buffers), least, buffers)[0])

    survivors = [max(find(block) - n_rows, 0) / n_pairs for block in blocks]  # each row finds itself
    turns = range(3)  # each filter in turn: a disturbance may last
    rounds = [[seconds(functools.partial(find, block), 1) for block in blocks] for _ in turns]
    taken = [min(of_one) / n_pairs * 1e9 for of_one in zip(*rounds, strict=True)]
    return [Cost(t + min(s, DENSE) * score_nsec, s) for t, s in zip(taken, survivors, strict=True)]


class Estimate(NamedTuple):
    """Pairs to expect, and the 95 % confidence interval."""

    pairs: float
    low: float
    high: float


def estimate_pairs(sample: np.ndarray, n_rows: int, min_score: float) -> Estimate:
    """How many of the pairs of `n_rows` rows reach `min_score`, from a random sample `(m, d)` of them, unit norm.

    The share of the sample's own pairs, a U-statistic. Pairs that share rows are not independent (one cluster gives
    many), so a Poisson interval is widened by the jackknife's dispersion over rows (Efron and Stein, 1981). A sample of
    all the rows gives the number itself.
    """
    m = len(sample)
    if m < 2:
        return Estimate(0.0, 0.0, n_rows * (n_rows - 1) / 2 if n_rows > m else 0.0)
    degrees = _degrees(sample, min_score)
    count, each = degrees.sum() / 2, n_rows * (n_rows - 1) / (m * (m - 1))
    if m >= n_rows:
        return Estimate(count, count, count)
    return _estimate(count, each, _jackknife(count, degrees, m / (m - 2)) if m > 2 else 0)


def estimate_matches(
    queries: np.ndarray, corpus: np.ndarray, n_queries: int, n_corpus: int, min_score: float
) -> Estimate:
    """The same of the pairs of `n_queries` and `n_corpus` rows, from random samples of both, unit norm."""
    shape = len(queries), len(corpus)
    if not all(shape):
        return Estimate(0.0, 0.0, n_queries * n_corpus)
    by_query, by_corpus = np.zeros(shape[0]), np.zeros(shape[1])
    for top in range(0, shape[0], STRIP_ROWS):
        reached = queries[top : top + STRIP_ROWS] @ corpus.T >= np.float32(min_score)
        by_query[top : top + STRIP_ROWS] = reached.sum(axis=1)
        by_corpus += reached.sum(axis=0)
    count, each = by_query.sum(), n_queries * n_corpus / (shape[0] * shape[1])
    if shape == (n_queries, n_corpus):
        return Estimate(count, count, count)
    variances = [
        _jackknife(count, degrees, m / (m - 1))
        for m, degrees in zip(shape, (by_query, by_corpus), strict=True)
        if m > 1
    ]
    return _estimate(count, each, sum(variances))


def _jackknife(count: float, degrees: np.ndarray, share: float) -> float:
    """Variance of a count of pairs over the rows that are in them; `share`: what a row fewer has to be made up by."""
    without = (count - degrees) * share
    return float((len(degrees) - 1) / len(degrees) * np.square(without - without.mean()).sum())


def _estimate(count: float, each: float, variance: float) -> Estimate:
    dispersion = max(1.0, variance / count) if count else 1.0
    low, high = _poisson_interval(count / dispersion)
    return Estimate(count * each, low * dispersion * each, high * dispersion * each)


def threshold_for(sample: np.ndarray, n_rows: int, target_pairs: int) -> float:
    """The least threshold, in steps, at which the estimate is `target_pairs` or fewer; 1.0 where none is."""
    each = n_rows * (n_rows - 1) / max(len(sample) * (len(sample) - 1), 1)
    return _threshold(_upper_scores(sample), each, target_pairs)


def match_threshold_for(queries: np.ndarray, corpus: np.ndarray, n_queries: int, n_corpus: int, target: int) -> float:
    """The same for the pairs of two samples' rows."""
    scores = np.sort((queries @ corpus.T).ravel())
    return _threshold(scores, n_queries * n_corpus / max(len(scores), 1), target)


def _threshold(scores: np.ndarray, each: float, target: int) -> float:
    for at in np.arange(THRESHOLD_STEP, 1.0, THRESHOLD_STEP):
        if (len(scores) - np.searchsorted(scores, at)) * each <= target:
            return float(round(at, 6))
    return 1.0


def _degrees(sample: np.ndarray, min_score: float) -> np.ndarray:
    """Of each row, the number of others at or above the threshold, `(m,)`."""

    def strip(top: int) -> np.ndarray:
        reached = sample[top : top + STRIP_ROWS] @ sample.T >= np.float32(min_score)
        reached[np.arange(len(reached)), top + np.arange(len(reached))] = False  # itself, whatever float32 makes of it
        return reached.sum(axis=1)

    return np.concatenate([strip(top) for top in range(0, len(sample), STRIP_ROWS)]).astype(np.float64)


def _upper_scores(sample: np.ndarray) -> np.ndarray:
    """Scores of the sample's pairs, sorted."""
    return np.sort((sample @ sample.T)[np.triu_indices(len(sample), 1)])


def _poisson_interval(count: float) -> tuple[float, float]:
    """95 % for the mean of a Poisson count (Wilson and Hilferty's approximation of the exact one)."""
    low = count * (1 - 1 / (9 * count) - Z95 / (3 * np.sqrt(count))) ** 3 if count else 0.0
    more = count + 1
    return max(low, 0.0), more * (1 - 1 / (9 * more) + Z95 / (3 * np.sqrt(more))) ** 3
