"""Where blocks begin: laws of the rule, on hashes alone."""

import itertools
import random
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms import cut
from transforms.cut import Anchors, Cutter, row_hashes

ROWS_PER_PART = 64


def cuts(hashes: list[int]) -> list[int]:
    return Cutter(ROWS_PER_PART).cuts(np.array(hashes, np.int64), np.ones(len(hashes), np.int64))


def first_anchor(hashes: list[int], start: int) -> int | None:
    """As a worker finds it that enters there."""
    found = Anchors(ROWS_PER_PART, entering=True).find(np.array(hashes[start:], np.int64))
    return start + found[0] if found else None


def cuts_by_the_rule(hashes: list[int], characters: list[int]) -> Iterator[int]:
    """Row by row, as the module says it."""
    least, spacing, limit = ROWS_PER_PART // 16, ROWS_PER_PART // 4, cut.BLOCK_TEXT_CHARACTERS
    candidates = [h % (2 * spacing) == 0 for h in hashes]
    rows = text = 0
    for i, (hashed, size) in enumerate(zip(hashes, characters, strict=True)):
        anchor = candidates[i] and not any(candidates[max(0, i - least) : i])
        full = rows >= ROWS_PER_PART or text >= limit
        if rows and (anchor or full or (rows >= least and hashed % spacing == 0)):
            yield i
            rows = text = 0
        rows, text = rows + 1, text + size


@pytest.fixture(scope="module")
def little_text() -> Iterator[int]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cut, "BLOCK_TEXT_CHARACTERS", 100)
        yield 100


@given(st.lists(st.tuples(st.sampled_from([0, 1, 2, 16, 32, 33, 48]), st.sampled_from([1, 1, 1, 40, 300]))), st.data())
def test_blocks_begin_where_the_rule_says_however_rows_come(
    little_text: int, rows: list[tuple[int, int]], data: st.DataObject
) -> None:
    hashes, characters = [h for h, _ in rows], [c for _, c in rows]
    edges = [0, *sorted(data.draw(st.lists(st.integers(0, len(rows)), max_size=5))), len(rows)]
    cutter, found = Cutter(ROWS_PER_PART), []
    for a, b in itertools.pairwise(edges):
        batch = np.array(hashes[a:b], np.int64), np.array(characters[a:b], np.int64)
        found += [a + row for row in cutter.cuts(*batch)]
    assert found == list(cuts_by_the_rule(hashes, characters))


@given(st.lists(st.sampled_from([0, 1, 2, 16, 32]), max_size=80), st.data())
def test_anchors_are_the_same_however_rows_come(hashes: list[int], data: st.DataObject) -> None:
    edges = [0, *sorted(data.draw(st.lists(st.integers(0, len(hashes)), max_size=5))), len(hashes)]
    anchors, found = Anchors(ROWS_PER_PART, entering=True), []
    for a, b in itertools.pairwise(edges):
        found += [a + row for row in anchors.find(np.array(hashes[a:b], np.int64))]
    assert found == Anchors(ROWS_PER_PART, entering=True).find(np.array(hashes, np.int64))


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
    anchor = first_anchor(hashes, start)
    if anchor is not None:
        assert anchor in cuts(hashes)


@given(st.integers(0, 2**32), st.integers(0, 2900))
def test_cuts_after_an_anchor_do_not_depend_on_what_came_before_it(seed: int, start: int) -> None:
    hashes = random_hashes(seed, 4000)
    anchor = first_anchor(hashes, start)
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
    hashes = row_hashes(["müde", "mude", "müde"]).tolist()
    assert hashes[0] == hashes[2] != hashes[1]
    assert hashes[1] == 2256232717
