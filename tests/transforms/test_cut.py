"""Where blocks begin: laws of the rule, on hashes alone."""

import itertools
import random
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms import cut
from transforms.cut import Candidates, Cutter, RowMarks, row_hashes, weight_unit

ROWS_PER_PART = 64


def marks(
    hashes: list[int],
    characters: list[int] | None = None,
    weights: list[int] | None = None,
    ids: list[int] | None = None,
) -> RowMarks:
    ones = [1] * len(hashes)
    given_ids = None if ids is None else np.array(ids, np.int64)
    return RowMarks(
        np.array(hashes, np.int64), given_ids, *(np.array(v or ones, np.int64) for v in (weights, characters))
    )


def part(rows: RowMarks, a: int, b: int) -> RowMarks:
    return RowMarks(*(None if values is None else values[a:b] for values in rows))


def cuts(hashes: list[int], **more: list[int]) -> list[int]:
    return Cutter(ROWS_PER_PART).cuts(marks(hashes, **more))


def first_anchor(hashes: list[int], start: int, **more: list[int]) -> int | None:
    """As a worker finds it that enters there."""
    rows = marks(hashes, **more)
    found = Candidates(ROWS_PER_PART, entering=True).find(part(rows, start, len(hashes)))[1]
    return start + int(found[0]) if len(found) else None


def cuts_by_the_rule(rows: RowMarks) -> Iterator[int]:
    """Row by row, as the module says it."""
    least, spacing, limit = ROWS_PER_PART // 16, ROWS_PER_PART // 4, cut.BLOCK_TEXT_CHARACTERS
    texts, weights, characters = (v.tolist() for v in (rows.texts, rows.weights, rows.bytes))
    together = cut._together(rows.texts).tolist()

    def near(i: int) -> range:
        """The rows that weigh `least` before it."""
        first = i
        while first > 0 and sum(weights[first - 1 : i]) <= least:
            first -= 1
        return range(first, i)

    def hashed(i: int) -> int:
        again = any(texts[j] == texts[i] for j in near(i))
        return (together[i] if rows.ids is None else int(rows.ids[i])) if again else texts[i]

    hashes = [hashed(i) for i in range(len(texts))]
    possible = [
        h % (2 * spacing if w == 1 else max(1, spacing // w)) == 0 for h, w in zip(hashes, weights, strict=True)
    ]
    count = weight = text = 0
    for i, (h, w) in enumerate(zip(hashes, weights, strict=True)):
        anchor = possible[i] and not any(possible[j] for j in near(i))
        full = count >= ROWS_PER_PART or weight >= 2 * ROWS_PER_PART or text >= limit
        if weight and (anchor or full or (weight >= least and h % max(1, spacing // w) == 0)):
            yield i
            count = weight = text = 0
        count, weight, text = count + 1, weight + w, text + characters[i]


@pytest.fixture(scope="module")
def little_text() -> Iterator[int]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cut, "BLOCK_TEXT_CHARACTERS", 100)
        yield 100


HASHES = st.sampled_from([0, 1, 2, 16, 32, 33, 48]) | st.integers(0, 200)
WEIGHTS = st.sampled_from([1, 1, 1, 1, 2, 5, 40, 100])


@given(st.lists(st.tuples(HASHES, st.sampled_from([1, 1, 1, 40, 300]), WEIGHTS, HASHES)), st.booleans(), st.data())
def test_blocks_begin_where_the_rule_says_however_rows_come(
    little_text: int, rows: list[tuple[int, int, int, int]], has_ids: bool, data: st.DataObject
) -> None:
    columns = [list(column) for column in zip(*rows, strict=True)] or [[], [], [], []]
    whole = marks(*columns[:3], columns[3] if has_ids else None)
    edges = [0, *sorted(data.draw(st.lists(st.integers(0, len(rows)), max_size=5))), len(rows)]
    cutter, found = Cutter(ROWS_PER_PART), []
    for a, b in itertools.pairwise(edges):
        found += [a + row for row in cutter.cuts(part(whole, a, b))]
    assert found == list(cuts_by_the_rule(whole))


@given(st.lists(st.tuples(st.sampled_from([0, 1, 2, 16, 32]), WEIGHTS), max_size=80), st.data())
def test_anchors_are_the_same_however_rows_come(rows: list[tuple[int, int]], data: st.DataObject) -> None:
    whole = marks([h for h, _ in rows], weights=[w for _, w in rows])
    edges = [0, *sorted(data.draw(st.lists(st.integers(0, len(rows)), max_size=5))), len(rows)]
    candidates, found = Candidates(ROWS_PER_PART, entering=True), []
    for a, b in itertools.pairwise(edges):
        found += [a + row for row in candidates.find(part(whole, a, b))[1].tolist()]
    assert found == Candidates(ROWS_PER_PART, entering=True).find(whole)[1].tolist()


def random_hashes(seed: int, n: int) -> list[int]:
    rng = random.Random(seed)
    return [rng.getrandbits(32) for _ in range(n)]


@given(st.lists(st.integers(0, 200), max_size=2000))
def test_no_block_exceeds_the_greatest_size(hashes: list[int]) -> None:
    edges = [0, *cuts(hashes), len(hashes)]
    assert max(b - a for a, b in itertools.pairwise(edges)) <= ROWS_PER_PART


CROWDED = st.lists(st.sampled_from([0, 1, 2, 16, 32]), min_size=20, max_size=120)
"""Hashes of which many could be anchors: multiples of twice the spacing, 32."""


@given(CROWDED | st.integers(0, 2**32).map(lambda seed: random_hashes(seed, 2000)), st.integers(0, 3000), st.data())
def test_every_worker_that_enters_a_file_finds_an_anchor_where_all_others_cut(
    hashes: list[int], start: int, data: st.DataObject
) -> None:
    start %= len(hashes)
    more = {"weights": random.Random(data.draw(st.integers(0, 99))).choices([1, 1, 2, 7, 50], k=len(hashes))}
    if data.draw(st.booleans()):
        more["ids"] = random_hashes(data.draw(st.integers(0, 99)), len(hashes))
    if data.draw(st.booleans()):
        del more["weights"]
    anchor = first_anchor(hashes, start, **more)
    if anchor is not None:
        assert anchor in cuts(hashes, **more)


@settings(max_examples=500)
@given(
    st.lists(st.tuples(st.sampled_from([0, 1, 2, 3, 4, 8, 16, 32, 64]), WEIGHTS), min_size=1, max_size=60),
    st.sampled_from([1, 4, 16, 64]),
    st.booleans(),
    st.data(),
)
def test_who_enters_later_finds_no_anchor_that_who_entered_earlier_did_not(
    rows: list[tuple[int, int]], rows_per_part: int, has_ids: bool, data: st.DataObject
) -> None:
    """Else ranges of a file would overlap."""
    hashes, weights = [h for h, _ in rows], [w for _, w in rows]
    whole = marks(hashes, weights=weights, ids=random_hashes(len(rows), len(rows)) if has_ids else None)
    earlier, later = sorted(data.draw(st.tuples(*[st.integers(0, len(rows))] * 2)))

    def anchors(start: int) -> set[int]:
        candidates = Candidates(rows_per_part, entering=True)
        return {start + int(row) for row in candidates.find(part(whole, start, len(rows)))[1]}

    assert anchors(later) <= anchors(earlier)


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


@pytest.mark.parametrize("weight", [1, 3, 20])
@pytest.mark.parametrize("distinct", [1, 2, 50, 100_000])
def test_rows_inserted_near_the_start_move_few_cuts_also_where_texts_repeat(weight: int, distinct: int) -> None:
    rng = random.Random(3)
    texts = [rng.getrandbits(32) for _ in range(distinct)]
    hashes, ids = [rng.choice(texts) for _ in range(20_000)], random_hashes(4, 20_000)
    for inserted in (1, 37):
        before = set(cuts(hashes, ids=ids, weights=[weight] * len(hashes)))
        changed = hashes[:100] + [rng.choice(texts) for _ in range(inserted)] + hashes[100:]
        changed_ids = ids[:100] + random_hashes(5, inserted) + ids[100:]
        after = {c - inserted for c in cuts(changed, ids=changed_ids, weights=[weight] * len(changed))}
        assert len({c for c in before if c >= 100} - after) <= 10
        assert len(before) > 20_000 * weight / ROWS_PER_PART


def test_a_text_that_fills_the_corpus_makes_blocks_of_least_size_at_the_smallest() -> None:
    """Its hash is a multiple of everything: without a least size each row would be a part."""
    for hashes in ([0] * 10_000, [0, 1, 3] * 3_000):
        edges = [0, *cuts(hashes), len(hashes)]
        assert min(b - a for a, b in itertools.pairwise(edges[:-1])) >= ROWS_PER_PART // 16


def test_a_row_weighs_its_bytes_in_shares_of_half_a_split() -> None:
    assert weight_unit(16_384, 8 << 20) == 256
    assert weight_unit(16_384, 100) == 1


def test_rows_hash_by_their_text() -> None:
    hashes = row_hashes(["müde", "mude", "müde"]).tolist()
    assert hashes[0] == hashes[2] != hashes[1]
    assert hashes[1] == 2256232717
