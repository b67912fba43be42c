"""What mining finds, by brute force: the scores of all pairs in float64, and sorted lists."""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tests.matches import exact_scores


class Pair(NamedTuple):
    """Two rows by number, the one with the smaller id first."""

    row_a: int
    row_b: int
    score: np.float32


class Dataset(NamedTuple):
    """Published rows."""

    vectors: np.ndarray
    ids: Sequence[str]
    texts: Sequence[str]


def members_of(rows: Dataset) -> dict[str, list[int]]:
    """Rows of each text by id, of rows of one id the first; the first of them stands for all."""
    members: dict[str, list[int]] = defaultdict(list)
    for i in sorted(range(len(rows.ids)), key=lambda i: (rows.ids[i], i)):
        if rows.ids[i] not in [rows.ids[j] for j in members[rows.texts[i]]]:
            members[rows.texts[i]].append(i)
    return members


def brute_pairs(
    rows: Dataset, min_score: float, *, top_k: int = 0, max_pairs: int = 0, collapse: bool = False
) -> list[Pair]:
    """Best first, ties by ids and then by rows; rows of one id are no pair. Equal texts score 1."""
    members = members_of(rows)
    stands = {i: of_text[0] for of_text in members.values() for i in of_text}
    chosen = sorted(set(stands.values()) if collapse else stands)
    scores = exact_scores(rows.vectors, rows.vectors) if len(rows.ids) else np.empty((0, 0), np.float32)
    found = []
    for a in chosen:
        for b in chosen:
            score = np.float32(1) if stands[a] == stands[b] else scores[stands[a], stands[b]]
            if rows.ids[a] < rows.ids[b] and score >= np.float32(min_score):
                found.append(Pair(a, b, score))
    if top_k:
        found = _among_the_best(found, rows.ids, top_k)
    found.sort(key=lambda p: (-p.score, rows.ids[p.row_a], rows.ids[p.row_b], p.row_a, p.row_b))
    return found[: max_pairs or None]


def _among_the_best(pairs: list[Pair], ids: Sequence[str], top_k: int) -> list[Pair]:
    """Pairs that are among the `top_k` best of either row, ties by the partner's id and then by its row."""
    partners = defaultdict(list)
    for pair in pairs:
        for own, other in ((pair.row_a, pair.row_b), (pair.row_b, pair.row_a)):
            partners[own].append((-pair.score, ids[other], other))
    best = {own: {other for *_, other in sorted(theirs)[:top_k]} for own, theirs in partners.items()}
    return [p for p in pairs if p.row_b in best[p.row_a] or p.row_a in best[p.row_b]]


def components(pairs: list[Pair], ids: Sequence[str]) -> dict[int, tuple[str, str, bool]]:
    """Of each row of some pair: the smallest id of its component, its star's id, and whether it is the star."""
    near: dict[int, set[int]] = defaultdict(set)
    for pair in pairs:
        near[pair.row_a].add(pair.row_b)
        near[pair.row_b].add(pair.row_a)
    component: dict[int, int] = {}
    for row in sorted(near, key=lambda i: (ids[i], i)):
        todo = [row]
        while todo:
            if (now := todo.pop()) not in component:
                component[now] = row
                todo += near[now]
    star: dict[int, int] = {}
    for row in sorted(near, key=lambda i: (-len(near[i]), ids[i], i)):
        if row not in star:
            star |= {other: row for other in near[row] if other not in star} | {row: row}
    return {row: (ids[component[row]], ids[star[row]], star[row] == row) for row in near}
