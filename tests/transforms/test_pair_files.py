"""Sorted files of pairs, merged by ranges: all the pairs, in one order, however they were dealt out."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import RunFailed
from transforms import pair_files
from transforms.pair_files import (
    BINS,
    FoundPairs,
    bins_of,
    histogram_of,
    merge_range,
    plan_ranges,
    write_pairs,
)
from transforms.sorted_files import PairFile, settle, settled

Pair = tuple[int, int, float]
IDS = [f"{i:x}é" for i in range(40)]
SCORES = [0.5, 0.5001, 0.8, 0.80001, np.nextafter(np.float32(0.8), 1), 1023 / 1024, 1.0]
pairs_of_rows = st.dictionaries(
    st.tuples(st.integers(0, 39), st.integers(0, 39)).filter(lambda p: p[0] < p[1]), st.sampled_from(SCORES)
)


def found_pairs(pairs: list[Pair], flip: bool = False) -> FoundPairs:
    a, b = (np.array([p[i] for p in pairs], np.int64) for i in (0, 1))
    a, b = (b, a) if flip else (a, b)
    scores = np.array([p[2] for p in pairs], np.float32)
    texts = pa.array([f"text {i}" for i in range(40)])
    return FoundPairs(a, b, scores, a, b, a, b, pa.array(IDS), texts)


def in_final_order(pairs: list[Pair]) -> list[tuple[str, str, float]]:
    named = [(*sorted((IDS[a], IDS[b])), float(np.float32(score))) for a, b, score in pairs]
    return sorted(named, key=lambda p: (-p[2], p[0], p[1]))  # type: ignore[arg-type, return-value]


def listed(tables: list[pa.Table]) -> list[tuple[str, str, float]]:
    return [
        (row["id_a"], row["id_b"], row["score"])
        for t in tables
        for row in t.select(["id_a", "id_b", "score"]).to_pylist()
    ]


@given(pairs_of_rows, st.booleans(), st.integers(0, 20))
def test_pairs_in_order_are_best_first_with_the_smaller_id_first(pairs: dict, flip: bool, limit: int) -> None:
    given_pairs = [(a, b, s) for (a, b), s in pairs.items()]
    ordered = found_pairs(given_pairs, flip).in_order(limit)
    wanted = in_final_order(given_pairs)[: limit or None]
    table = pa.concat_tables(ordered.tables())
    assert listed([table]) == wanted
    for row in table.to_pylist():
        assert IDS[row["row_a"]] == row["id_a"] and IDS[row["row_b"]] == row["id_b"]
        assert row["text_a"] == f"text {row['row_a']}" and row["text_b"] == f"text {row['row_b']}"


def test_pairs_of_rows_with_one_id_are_left_out() -> None:
    pairs = found_pairs([(0, 1, 0.9), (1, 2, 0.8)])
    same = FoundPairs(**pairs.__dict__ | {"ids": pa.array(["x", "x", "y"])})
    assert listed(list(same.in_order().tables())) == [("x", "y", pytest.approx(0.8))]


@settings(max_examples=40, deadline=None)
@given(pairs_of_rows, st.integers(1, 4), st.integers(1, 9), st.integers(0, 30), st.data())
def test_ranges_merge_to_all_pairs_in_order_or_the_best(
    tmp_path_factory: pytest.TempPathFactory, pairs: dict, files: int, range_pairs: int, best: int, data: st.DataObject
) -> None:
    folder = str(tmp_path_factory.mktemp("work"))
    dealt: list[list[Pair]] = [[] for _ in range(files)]
    for (a, b), score in pairs.items():
        dealt[data.draw(st.integers(0, files - 1))].append((a, b, score))
    with pytest.MonkeyPatch().context() as patch:
        patch.setattr(pair_files, "ROW_GROUP_PAIRS", 3)
        patch.setattr(pair_files, "FILE_TEXT_BYTES", 60)
        dealt_in_order = [found_pairs(d).in_order() for d in dealt]
        written = [f for n, pairs in enumerate(dealt_in_order) for f in write_pairs(folder, f"p{n}", pairs, 10)]
    ranges = plan_ranges(written, best, range_pairs)
    merged = [listed(list(merge_range(folder, r))) for r in ranges]
    wanted = in_final_order([(a, b, s) for (a, b), s in pairs.items()])[: best or None]
    assert [p for part in merged for p in part] == wanted
    assert [len(part) for part in merged] == [r.pairs for r in ranges]
    assert sum(r.pairs for r in ranges) == len(wanted)
    hot = max((n for f in [histogram_of(written)] for n in f.tolist()), default=0)
    assert all(r.pairs <= max(range_pairs, hot) for r in ranges)


def test_ranges_of_the_best_do_not_depend_on_what_else_is_there() -> None:
    few = [PairFile("a", 30, ((900, 10), (800, 20)), (0,))]
    more = [*few, PairFile("b", 500, ((799, 400), (800, 100)), (0,))]
    few_ranges, more_ranges = (plan_ranges(files, 25, 8) for files in (few, more))
    assert [r[:4] for r in few_ranges] == [r[:4] for r in more_ranges] == [(0, 900, 1024, 10), (1, 800, 900, 15)]


def test_bins_have_edges_that_float32_knows() -> None:
    edges = np.arange(BINS + 1, dtype=np.float32) / BINS
    assert (bins_of(edges[:-1]) == np.arange(BINS)).all()
    assert (bins_of(np.nextafter(edges[1:], np.float32(0))) == np.arange(BINS)).all()
    assert bins_of(edges[-1:]) == [BINS - 1]


def test_the_first_attempt_to_settle_wins(tmp_path: Path) -> None:
    folder = str(tmp_path)
    assert settled(folder, "pairs-0-1") is None
    one = write_pairs(folder, "pairs-0-1", found_pairs([(0, 1, 0.9)]).in_order(), 10)
    other = write_pairs(folder, "pairs-0-1", found_pairs([(0, 12, 0.9)]).in_order(), 10)
    assert one[0].blocks == (0,) and other[0].blocks == (0, 1) and one[0].name != other[0].name
    assert settle(folder, "pairs-0-1", one) == one
    assert settle(folder, "pairs-0-1", other) == one == settled(folder, "pairs-0-1")
    assert settle(folder, "pairs-0-2", []) == [] == settled(folder, "pairs-0-2")


def test_a_file_that_is_gone_is_a_clear_error(tmp_path: Path) -> None:
    (file,) = write_pairs(str(tmp_path), "p", found_pairs([(0, 1, 0.9)]).in_order(), 10)
    (tmp_path / file.name).unlink()
    with pytest.raises(RunFailed, match="a run beside this one"):
        list(merge_range(str(tmp_path), plan_ranges([file])[0]))
