"""Groups of equal texts, and the pairs that they expand to."""

import itertools
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.dataset import open_dataset
from tests.datasets import clustered, write_dataset
from transforms import duplicate_texts, long_strings
from transforms.duplicate_texts import (
    DuplicateGroups,
    Limits,
    equal_texts,
    groups_table,
    hash_texts,
    load_groups,
    n_buckets,
    pages_of,
    ragged_arange,
    save_groups,
)
from transforms.row_blocks import Source, plan_blocks

TEXTS = ["a", "b", "a", "c", "d", "b", "a", "é", "e\u0301", "A", "b "]
IDS = ["5", "1", "3", "0", "9", "2", "10", "7", "8", "6", "4"]


def groups_of(folder: Path, texts: list[str], ids: list[str], block_rows: int = 3) -> pa.Table:
    source = Source.of(open_dataset(str(write_dataset(folder, clustered(len(texts), 4), ids, texts, part_rows=4))))
    buckets: dict[int, list[bytes]] = {}
    for block in plan_blocks(len(texts), block_rows):
        for bucket, rows in hash_texts(block, source):
            buckets.setdefault(bucket, []).append(rows)
    return groups_table([equal_texts(chunks) for chunks in buckets.values()], source, None, True)


def test_equal_texts_are_groups_and_the_smallest_id_stands_for_them(tmp_path: Path) -> None:
    table = groups_of(tmp_path / "in", TEXTS, IDS)
    assert table.select(["row", "representative", "id"]).to_pydict() == {
        "row": [1, 5, 6, 2, 0],
        "representative": [1, 1, 6, 6, 6],
        "id": ["1", "2", "10", "3", "5"],
    }
    groups = DuplicateGroups.of(table)
    assert groups.dropped.tolist() == [0, 2, 5]
    assert groups.representatives.tolist() == [1, 6] and groups.offsets.tolist() == [0, 2, 5]
    starts, sizes = groups.spans(np.array([0, 1, 3, 6]))
    assert starts.tolist() == [-1, 0, -1, 2] and sizes.tolist() == [1, 2, 1, 3]
    assert groups_of(tmp_path / "other", TEXTS, IDS, block_rows=11).equals(table)


def test_ids_of_more_characters_than_an_array_of_strings_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = groups_of(tmp_path / "in", TEXTS, IDS)
    monkeypatch.setattr(long_strings, "MOST_BYTES", 8)
    groups = DuplicateGroups.of(groups_of(tmp_path / "in2", TEXTS, IDS))
    assert (groups.ids.type, groups.ids.to_pylist()) == (pa.large_string(), expected.column("id").to_pylist())


def test_more_rows_go_through_more_buckets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert [n_buckets(n) for n in (0, 64 << 21, (64 << 21) + 1, 10**9)] == [64, 64, 65, 477]
    expected = groups_of(tmp_path / "in", TEXTS, IDS)
    monkeypatch.setattr(duplicate_texts, "BUCKETS", 1)
    monkeypatch.setattr(duplicate_texts, "BUCKET_ROWS", 2)
    assert groups_of(tmp_path / "in2", TEXTS, IDS).equals(expected)


def test_rows_of_one_text_and_one_id_are_one_member(tmp_path: Path) -> None:
    groups = DuplicateGroups.of(groups_of(tmp_path / "in", ["a", "b", "a", "a"], ["x", "y", "x", "z"]))
    assert groups.members.tolist() == [0, 3] and groups.dropped.tolist() == [2, 3]
    assert groups.pairs_within(Limits()) == 1


def test_groups_survive_the_file_and_there_may_be_none(tmp_path: Path) -> None:
    for name, texts in (("some", TEXTS), ("none", ["a", "b"])):
        table = groups_of(tmp_path / name, texts, IDS[: len(texts)])
        save_groups(str(tmp_path / f"{name}.arrow"), table)
        found, wanted = load_groups(str(tmp_path / f"{name}.arrow")), DuplicateGroups.of(table)
        assert found.members.tolist() == wanted.members.tolist() and found.ids == wanted.ids
        assert found.pairs_within(Limits()) == (4 if name == "some" else 0)
    assert [x.tolist() for x in found.spans(np.array([0, 1]))] == [[-1, -1], [1, 1]]
    assert [len(x) for x in within(found, 0, 2, Limits())] == [0, 0]


def within(groups: DuplicateGroups, start: int, stop: int, limits: Limits) -> tuple[np.ndarray, np.ndarray]:
    """Pairs inside the groups of some rows, as places in `members`."""
    left, firsts, counts = groups.lines(start, stop, limits)
    return np.repeat(left, counts), np.repeat(firsts, counts) + ragged_arange(counts)


@given(st.lists(st.integers(0, 5)), st.integers(1, 7))
def test_pages_together_are_every_place_of_every_line(counts: list[int], most: int) -> None:
    pages = list(pages_of(np.array(counts, np.int64), most))
    assert [len(line) for line, _ in pages[:-1]] == [most] * (len(pages) - 1)
    found = [place for line, k in pages for place in zip(line.tolist(), k.tolist(), strict=True)]
    assert found == [(line, k) for line, count in enumerate(counts) for k in range(count)]


@given(st.lists(st.integers(0, 5)))
def test_ragged_arange_counts_up_to_each(counts: list[int]) -> None:
    assert ragged_arange(np.array(counts, np.int64)).tolist() == [i for c in counts for i in range(c)]


def _of_sizes(sizes: list[int]) -> DuplicateGroups:
    offsets = np.cumsum([0, *sizes])
    rows = np.arange(offsets[-1])
    ids = pa.array([f"{i:04d}" for i in rows], pa.string())
    none, new = np.empty(0, np.int64), np.zeros(len(sizes), bool)
    return DuplicateGroups(none, offsets[:-1], offsets, rows, ids, offsets[:-1], new, none)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=4))
def test_without_limits_all_pairs_inside_groups_are_there(sizes: list[int]) -> None:
    groups = _of_sizes(sizes)
    left, right = within(groups, 0, sum(sizes), Limits())
    wanted = [p for a, b in itertools.pairwise(groups.offsets) for p in itertools.combinations(range(a, b), 2)]
    assert list(zip(left.tolist(), right.tolist(), strict=True)) == wanted
    assert groups.pairs_within(Limits()) == len(wanted)


@given(st.integers(1, 12), st.integers(1, 30))
def test_the_limit_of_pairs_keeps_the_first_of_a_group(size: int, n: int) -> None:
    left, right = within(_of_sizes([size]), 0, 1, Limits(max_pairs=n))
    assert list(zip(left, right, strict=True)) == list(itertools.combinations(range(size), 2))[:n]


@given(st.integers(1, 12), st.integers(1, 12))
def test_the_limit_of_partners_keeps_each_members_first(size: int, k: int) -> None:
    left, right = within(_of_sizes([size]), 0, 1, Limits(top_k=k))
    found = set(zip(left.tolist(), right.tolist(), strict=True))
    for row in range(size):
        partners = [i for i in range(size) if i != row][:k]
        assert {(min(row, i), max(row, i)) for i in partners} <= found
    assert len(found) <= size * k


ids_of_a_group = st.lists(st.integers(0, 11), min_size=1, max_size=9, unique=True).map(sorted)


@given(ids_of_a_group, ids_of_a_group, st.integers(1, 40))
def test_the_limits_across_groups_lose_no_pair_that_counts(a: list[int], b: list[int], limit: int) -> None:
    """Of two groups with ids in any order, some of which both may have, and which are no pairs: the best `limit` pairs,
    and each member's first `limit` partners."""
    i, sizes = np.arange(len(a)), np.full(len(a), len(b))

    def kept(limits: Limits) -> set[tuple[int, int]]:
        return {(a[x], b[y]) for x, count in zip(i, limits.across(i, sizes), strict=True) for y in range(count)}

    pairs = [(x, y) for x, y in itertools.product(a, b) if x != y]
    assert set(sorted(pairs, key=lambda pair: (min(pair), max(pair)))[:limit]) <= kept(Limits(max_pairs=limit))
    partners = {(x, y) for x in a for y in [y for y in b if y != x][:limit]}
    partners |= {(x, y) for y in b for x in [x for x in a if x != y][:limit]}
    assert partners <= kept(Limits(top_k=limit))
    assert len(kept(Limits(top_k=limit))) <= (limit + 1) * (len(a) + len(b))
    assert kept(Limits()) == set(itertools.product(a, b))


@pytest.mark.parametrize("limits", [Limits(max_pairs=10), Limits(top_k=2)])
def test_a_million_equal_rows_make_few_pairs_under_a_limit(limits: Limits) -> None:
    sizes = np.full(1, 1_000_000)
    assert limits.within(np.arange(1_000_000), np.repeat(sizes, sizes)).sum() <= 2_000_000
    assert limits.across(np.arange(1_000_000), np.repeat(sizes, sizes)).sum() <= 6_000_000
