"""Where blocks begin: laws of the rule, on hashes alone."""

import itertools
import random

from hypothesis import given
from hypothesis import strategies as st

from transforms.cut import AnchorFinder, Cutter, row_hash

ROWS_PER_PART = 64


def cuts(hashes: list[int]) -> list[int]:
    cutter = Cutter(ROWS_PER_PART)
    return [i for i, h in enumerate(hashes) if cutter.begins_block(h, 1)]


def random_hashes(seed: int, n: int) -> list[int]:
    rng = random.Random(seed)
    return [rng.getrandbits(32) for _ in range(n)]


@given(st.lists(st.integers(0, 200), max_size=2000))
def test_no_block_exceeds_the_greatest_size(hashes: list[int]) -> None:
    edges = [0, *cuts(hashes), len(hashes)]
    assert max(b - a for a, b in itertools.pairwise(edges)) <= ROWS_PER_PART


CROWDED = st.lists(st.sampled_from([0, 1, 2, 16, 32]), min_size=20, max_size=120)
"""Hashes of which many could be anchors: multiples of twice the spacing, 32."""


@given(CROWDED | st.integers(0, 2**32).map(lambda seed: random_hashes(seed, 4000)), st.integers(0, 3000))
def test_every_worker_that_enters_a_file_finds_an_anchor_where_all_others_cut(hashes: list[int], start: int) -> None:
    start %= len(hashes)
    finder = AnchorFinder(ROWS_PER_PART)
    anchor = next((i for i in range(start, len(hashes)) if finder.is_anchor(hashes[i])), None)
    if anchor is not None:
        assert anchor in cuts(hashes)


@given(st.integers(0, 2**32), st.integers(0, 2900))
def test_cuts_after_an_anchor_do_not_depend_on_what_came_before_it(seed: int, start: int) -> None:
    hashes = random_hashes(seed, 4000)
    finder = AnchorFinder(ROWS_PER_PART)
    anchor = next((i for i in range(start, len(hashes)) if finder.is_anchor(hashes[i])), None)
    if anchor is not None:
        assert [anchor + c for c in cuts(hashes[anchor:])] == [c for c in cuts(hashes) if c > anchor]


def test_ten_rows_inserted_near_the_start_move_few_cuts() -> None:
    hashes = random_hashes(1, 100_000)
    changed = hashes[:100] + random_hashes(2, 10) + hashes[100:]
    before, after = set(cuts(hashes)), {c - 10 for c in cuts(changed)}
    assert len({c for c in before if c >= 100} - after) <= 2
    assert len(before) > 100_000 / ROWS_PER_PART


def test_a_text_that_fills_the_corpus_makes_blocks_of_least_size_at_the_smallest() -> None:
    """Its hash is a multiple of everything: without a least size each row would be a part."""
    for hashes in ([0] * 10_000, [0, 1, 3] * 3_000):
        edges = [0, *cuts(hashes), len(hashes)]
        assert min(b - a for a, b in itertools.pairwise(edges[:-1])) >= ROWS_PER_PART // 16


def test_rows_hash_by_their_text() -> None:
    assert row_hash("müde") == row_hash("müde") != row_hash("mude")
