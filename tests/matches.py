"""What a join finds, by brute force: the scores of all pairs in float64, and sorted lists."""

from collections.abc import Sequence

import numpy as np

from transforms.units import normalize

Match = tuple[int, int, np.float32]  # row of the queries, row of the corpus, score


def exact_scores(queries: np.ndarray, corpus: np.ndarray) -> np.ndarray:
    """`(n, m)` float32, to the last bit: sums of units on the grid are exact in float64."""
    a, b = (normalize(vectors).astype(np.float64) for vectors in (queries, corpus))
    norms = [np.sqrt(np.square(units).sum(axis=1)) for units in (a, b)]
    return (a @ b.T / (norms[0][:, None] * norms[1])).astype(np.float32)


def brute_matches(
    scores: np.ndarray,
    corpus_ids: Sequence[str],
    top_k: int | None = None,
    min_score: float | None = None,
    itself: bool = False,
) -> list[Match]:
    """By query, best first, ties by id and then by row."""
    by_id = np.empty(len(corpus_ids), np.int64)
    by_id[sorted(range(len(corpus_ids)), key=lambda i: (corpus_ids[i], i))] = np.arange(len(corpus_ids))
    found: list[Match] = []
    for query, row in enumerate(scores):
        order = [j for j in np.lexsort((by_id, -row)) if not (itself and j == query)]
        least = np.float32(-2 if min_score is None else min_score)
        found += [(query, int(j), row[j]) for j in order[:top_k] if row[j] >= least]
    return found


def greedy(
    matches: Sequence[Match], query_ids: Sequence[str], corpus_ids: Sequence[str], itself: bool = False
) -> list[Match]:
    """One to one: best first, ties by ids and then by rows, each whose two rows are free. Of a dataset joined with
    itself, a row is the same on both sides."""
    order = sorted(matches, key=lambda m: (-m[2], query_ids[m[0]], corpus_ids[m[1]], m[0], m[1]))
    rows: set[int] = set()
    cols: set[int] = rows if itself else set()
    kept = []
    for match in order:
        if match[0] not in rows and match[1] not in cols:
            rows.add(match[0])
            cols.add(match[1])
            kept.append(match)
    return sorted(kept)
