"""Components and stars, against definitions written out."""

import itertools

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms import long_strings
from transforms.groups import find_groups

Edges = list[tuple[int, int]]


def groups_of(edges: Edges, ids: list[str]) -> dict[str, tuple[str, str, bool]]:
    ends = np.array(edges, np.int64).reshape(-1, 2)
    table = find_groups(ends[:, 0], ends[:, 1], pa.array(ids, pa.string()))
    assert table.column("id").to_pylist() == sorted(ids)
    return {row["id"]: (row["component"], row["star"], row["keep"]) for row in table.to_pylist()}


def test_a_chain_is_one_component_and_several_stars() -> None:
    found = groups_of([(0, 1), (1, 2), (2, 3), (3, 4)], list("abcde"))
    assert {component for component, *_ in found.values()} == {"a"}
    assert {i: star for i, (_, star, _) in found.items()} == {"a": "b", "b": "b", "c": "b", "d": "d", "e": "d"}
    assert [i for i, (*_, keep) in found.items() if keep] == ["b", "d"]


def test_the_row_with_most_partners_represents_then_the_smallest_id() -> None:
    assert groups_of([(0, 1), (0, 2), (0, 3), (1, 2)], list("zyxw"))["y"] == ("w", "z", False)
    assert groups_of([(0, 1)], ["b", "a"]) == {"a": ("a", "a", True), "b": ("a", "a", False)}
    assert groups_of([], []) == {}


@given(st.sets(st.sampled_from(list(itertools.combinations(range(9), 2))), min_size=1), st.permutations(range(9)))
def test_groups_follow_their_definitions(pairs: set[tuple[int, int]], order: list[int]) -> None:
    nodes = sorted({node for pair in pairs for node in pair})
    ids = [f"id-{order[node]}" for node in nodes]
    edges = [(nodes.index(a), nodes.index(b)) for a, b in sorted(pairs)]
    found = groups_of(edges, ids)
    near = {i: {ids[b] if ids[a] == i else ids[a] for a, b in edges if i in (ids[a], ids[b])} for i in ids}
    stars: dict[str, str] = {}
    for i in sorted(ids, key=lambda i: (-len(near[i]), i)):
        if i not in stars:
            stars |= {i: i} | {j: i for j in near[i] if j not in stars}
    assert {i: star for i, (_, star, _) in found.items()} == stars
    assert all(keep == (star == i) for i, (_, star, keep) in found.items())
    for i in ids:
        reached, new = {i}, {i}
        while new:
            new = set().union(*(near[j] for j in new)) - reached
            reached |= new
        assert found[i][0] == min(reached)


def test_groups_of_more_characters_than_an_array_of_strings_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    rows_a, rows_b = np.arange(0, 60, 2), np.arange(1, 60, 2)
    ids = pa.array([f"id {n:03} of a usual length" for n in range(60)])
    expected = find_groups(rows_a, rows_b, ids)
    monkeypatch.setattr(long_strings, "MOST_BYTES", 300)
    found = find_groups(rows_a, rows_b, long_strings.as_one_array(pa.chunked_array([ids])))
    assert found.equals(expected) and found.column("star").num_chunks > 3
