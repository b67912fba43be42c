"""Joining without a runner: the same matches however rows fall into blocks, files and ranges, ties and all."""

import dataclasses
import itertools
import random as randoms
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.join_plan import JoinConfig, make_plan, open_corpus, open_queries
from schemas import storage
from schemas.dataset import open_dataset
from schemas.matches import matches_schema
from tests.datasets import clustered, write_dataset
from tests.matches import Match, brute_matches, exact_scores, greedy
from transforms.bounds import Filter, whole_filter
from transforms.join import _ranges, _rectangles
from transforms.join_best import best_of_block, free_pairs, match_one_to_one, ranked
from transforms.join_matches import KnownBest, _FindMatches, rectangles
from transforms.join_publish import JoinPlan, plan_query_ranges, publish_matches, write_query_range
from transforms.row_blocks import plan_blocks
from transforms.sorted_files import PairFile, settled
from transforms.top_k import NO_RANK, TopK


def carry_out(plan: JoinPlan, choice: Filter, shuffled: randoms.Random | None = None) -> None:
    """All steps of the pipeline in turn, in this process; with `shuffled`, items in any order and some of them twice,
    as an engine has them that tries again."""
    job = plan.matching
    step = _FindMatches(job)
    step.setup()
    items = list(_rectangles(plan))
    if shuffled:
        shuffled.shuffle(items)
        for item in items[: len(items) // 2]:
            with pytest.MonkeyPatch.context() as lost, pytest.raises(OSError):
                lost.setattr("transforms.join_matches.settle", _lost)
                list(step.process(item, choice))
    files = [file for item in items for file in step.process(item, choice)]
    if job.top_k:
        by_block = itertools.groupby(sorted(files, key=lambda f: f.blocks), key=lambda f: f.blocks[0])
        files = [best for block, some in by_block for best in best_of_block(block, [f.name for f in some], job)]
    if job.one_to_one:
        files = match_one_to_one(job, files)
    publish_matches(plan, [write_query_range(*wanted) for wanted in _ranges(plan, files)])


def _lost(*_: Any) -> Any:
    raise OSError("the worker is gone")


def read_matches(plan: JoinPlan) -> list[Match]:
    """What is in the parts, as rows: each text tells its row and its id."""
    table = open_dataset(plan.output).read()
    assert plan.matching.with_text and table.schema.remove_metadata() == matches_schema(True)
    rows = table.to_pylist()
    for _, of_query in itertools.groupby(rows, key=lambda r: r["query_text"]):
        assert all(row["rank"] == rank for rank, row in enumerate(of_query, 1))
    assert all(row[f"{side}_text"].split(" ")[1] == row[f"{side}_id"] for row in rows for side in ("query", "corpus"))
    return [(row_of(r["query_text"]), row_of(r["corpus_text"]), np.float32(r["score"])) for r in rows]


def row_of(text: str) -> int:
    return int(text.split(" ")[0])


def make(folder: Path, name: str, vectors: np.ndarray, ids: list[str], part_rows: int = 7) -> tuple[Path, list[str]]:
    """A dataset whose texts tell the row."""
    texts = [f"{row} {i}" for row, i in enumerate(ids)]
    return write_dataset(folder / name, vectors, ids, texts, part_rows=part_rows), ids


def plan_of(folder: Path, corpus: Path, queries: Path | None, blocks: tuple[int, int], **asked: Any) -> JoinPlan:
    config = JoinConfig(
        queries=(str(queries),) if queries else (),
        itself=queries is None,
        corpus=str(corpus),
        output=str(folder / f"out-{len(list(folder.iterdir()))}"),
        device="cpu",
        **asked,
    )
    there = open_corpus(config)
    here = open_queries(str(queries), there) if queries else there
    plan, _ = make_plan(config, here, there, 1)
    job = dataclasses.replace(plan.matching, query_rows=blocks[0], corpus_rows=blocks[1])
    return dataclasses.replace(plan, matching=job)


def some_rows(n: int, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).integers(-1, 2, (n, 3)).astype(np.float32)
    vectors[~vectors.any(axis=1), 0] = 1
    return vectors


few_values = st.builds(some_rows, st.integers(1, 25), st.integers(0, 2**16))
names = st.integers(0, 2**16).map(lambda seed: np.random.default_rng(seed).choice(["a", "b", "é", "z"], 40).tolist())


@pytest.fixture(scope="module", autouse=True)
def small_files() -> Any:
    """Portions, bins, row groups, ranges and parts of a few matches, so that each has many borders."""
    sizes = {
        "transforms.join_matches.PORTION_PAIRS": 40,
        "transforms.join_matches.QUERY_BIN": 3,
        "transforms.join_publish.QUERY_BIN": 3,
        "transforms.join_publish.RANGE_PAIRS": 23,
        "transforms.join_publish.RANGE_QUERIES": 9,
        "transforms.join_publish.PART_PAIRS": 10,
        "transforms.join_publish.PART_PAIRS_WITH_TEXT": 30,
        "transforms.pair_files.ROW_GROUP_PAIRS": 4,
        "transforms.join_best.ROW_GROUP_PAIRS": 4,
        "transforms.loaded_blocks.SQUARE": 2,
        "transforms.join_best.FILE_PAIRS": 90,
        "transforms.join_best.FILE_TEXT_BYTES": 700,
        "transforms.join_best.ROW_GROUP_TEXT_BYTES": 100,
        "transforms.pair_files.FILE_TEXT_BYTES": 700,
        "transforms.pair_files.ROW_GROUP_TEXT_BYTES": 100,
        "transforms.join_publish.PART_TEXT_BYTES": 200,
    }
    with pytest.MonkeyPatch().context() as patch:
        for name, size in sizes.items():
            patch.setattr(name, size)
        yield


@settings(max_examples=30, deadline=None)
@given(
    few_values,
    few_values,
    names,
    names,
    st.sampled_from([{"top_k": 1}, {"top_k": 3}, {"top_k": 50}, {"min_score": 0.5}, {"top_k": 2, "min_score": 0.57}]),
    st.booleans(),
    st.booleans(),
    st.tuples(st.integers(4, 26), st.integers(4, 26)),
    st.booleans(),
    st.none() | st.randoms(use_true_random=False),
)
def test_matches_are_the_brute_force_whatever_the_blocks_ties_and_retries(
    tmp_path_factory: pytest.TempPathFactory,
    queries: np.ndarray,
    corpus: np.ndarray,
    query_names: list[str],
    corpus_names: list[str],
    asked: dict,
    itself: bool,
    one_to_one: bool,
    blocks: tuple[int, int],
    unique: bool,
    shuffled: Any,
) -> None:
    folder = tmp_path_factory.mktemp("join")
    if unique:
        query_names, corpus_names = ([f"{i}#{n}" for n, i in enumerate(some)] for some in (query_names, corpus_names))
    there, corpus_ids = make(folder, "corpus", corpus, corpus_names[: len(corpus)])
    here, query_ids = (None, corpus_ids) if itself else make(folder, "queries", queries, query_names[: len(queries)])
    more = {"one_to_one": one_to_one, "with_text": True, "keep_unmatched": True}
    plan = plan_of(folder, there, here, blocks, **more, **asked)
    wanted = brute_matches(exact_scores(corpus if itself else queries, corpus), corpus_ids, itself=itself, **asked)
    if one_to_one:
        wanted = greedy(wanted, query_ids, corpus_ids, itself)
    carry_out(plan, whole_filter(3), shuffled)
    assert read_matches(plan) == wanted
    details = open_dataset(plan.output).manifest.details
    matched = {row for match in wanted for row in match[: 2 if itself and one_to_one else 1]}
    assert (details["pairs"], details["matched"]) == (len(wanted), len(matched))
    assert details["unmatched"] == plan.query_rows - len(matched) and sum(details["histogram"]) == len(wanted)
    extras = [
        pq.read_table(storage.join(plan.output, entry.name)) for entry in open_dataset(plan.output).manifest.extras
    ]
    unmatched = pa.concat_tables(extras).to_pylist()
    assert [row_of(row["query_text"]) for row in unmatched] == [i for i in range(len(query_ids)) if i not in matched]
    assert [row["query_id"] for row in unmatched] == [i for n, i in enumerate(query_ids) if n not in matched]


def test_rows_of_one_id_are_rows_of_their_own_and_ties_between_them_are_by_row(tmp_path: Path) -> None:
    ids = ["b", "a", "b", "a", "c", "a"]
    corpus = write_dataset(tmp_path / "corpus", np.ones((6, 4), np.float32), ids, part_rows=4)
    queries = write_dataset(tmp_path / "queries", np.ones((2, 4), np.float32), ["q", "q"])
    plan = plan_of(tmp_path, corpus, queries, (1, 2), top_k=4)
    carry_out(plan, whole_filter(4))
    rows = open_dataset(plan.output).read().to_pylist()
    assert [(r["query_id"], r["corpus_id"], r["rank"]) for r in rows] == [
        ("q", i, n) for _ in range(2) for n, i in enumerate(["a", "a", "a", "b"], 1)
    ]


@given(st.integers(0, 40), st.integers(0, 40), st.booleans())
def test_work_items_cover_each_pair_of_blocks_once(n_queries: int, n_corpus: int, alone: bool) -> None:
    items = list(rectangles(plan_blocks(n_queries, 1), plan_blocks(n_corpus, 1), alone))
    covered = [(a.number, b.number) for item in items for a, b in itertools.product(item.rows, item.cols)]
    assert sorted(covered) == list(itertools.product(range(n_queries), range(n_corpus)))
    assert len(set(covered)) == len(covered)
    assert not alone or all(len(item.rows) <= 4 and len(item.cols) <= 4 for item in items)


@pytest.mark.parametrize(("n_queries", "n_corpus"), [(10, 10_000_000), (10_000_000, 10), (200_000, 200_000)])
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_no_item_is_the_whole_job_whichever_side_is_large(n_queries: int, n_corpus: int, workers: int) -> None:
    from transforms.loaded_blocks import block_rows, row_bytes

    sizes = [block_rows(1024, row_bytes(384), n, workers) for n in (n_queries, n_corpus)]
    items = list(rectangles(plan_blocks(n_queries, sizes[0]), plan_blocks(n_corpus, sizes[1]), workers == 1))
    pairs = [sum(a.rows for a in item.rows) * sum(b.rows for b in item.cols) for item in items]
    assert sum(pairs) == n_queries * n_corpus
    assert max(pairs) <= sum(pairs) / (1 if workers == 1 and n_queries == n_corpus else 8)


def test_what_is_told_twice_raises_no_bound(tmp_path: Path) -> None:
    known = KnownBest(2, 3)
    found = TopK(np.array([[0.9, 0.8, -np.inf], [0.7, 0.6, 0.5]], np.float32), np.array([[4, 7, NO_RANK], [1, 2, 3]]))
    for _ in range(3):
        known.add(found)
        assert known.floor(None).tolist() == [-np.inf, 0.5]
    assert known.floor(0.55).tolist() == [np.float32(0.55)] * 2
    better = np.array([[0.85, 0.1, -np.inf], [0.65, 0.1, 0]], np.float32)
    known.add(TopK(better, np.array([[9, 8, NO_RANK], [9, 8, 7]])))
    assert known.floor(None).tolist() == [np.float32(0.8), np.float32(0.6)]


def test_later_runs_of_the_corpus_are_searched_no_lower_than_earlier_ones_found(tmp_path: Path) -> None:
    """Of 200 rows in 20 blocks, all after the first two that hold the queries themselves have nothing better."""
    vectors = clustered(200, 16)
    corpus, _ = make(tmp_path, "corpus", np.concatenate([vectors[:20]] * 2 + [vectors[20:]]), ["x"] * 220)
    queries, _ = make(tmp_path, "queries", vectors[:20], ["q"] * 20)
    plan = plan_of(tmp_path, corpus, queries, (20, 10), top_k=2)
    carry_out(plan, whole_filter(16))
    fresh = _FindMatches(plan.matching)
    fresh.setup()
    files = [f for item in _rectangles(plan) for f in fresh.process(item, whole_filter(16))]
    assert sum(f.pairs for f in files) == 2 * 40  # at 1 in both copies, and of all other runs nothing


def test_an_item_that_was_settled_is_not_compared_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus, _ = make(tmp_path, "corpus", clustered(60, 8), ["c"] * 60)
    plan = plan_of(tmp_path, corpus, None, (20, 10), top_k=2)
    first, second = _FindMatches(plan.matching), _FindMatches(plan.matching)
    items = list(_rectangles(plan))
    first.setup()
    second.setup()
    made = [f for item in items for f in first.process(item, whole_filter(8))]
    monkeypatch.delattr("transforms.join_matches.load_rows")
    assert [f for item in items for f in second.process(item, whole_filter(8))] == made
    assert settled(plan.matching.work, "matches-0-0-1") is not None


def test_ranks_go_on_over_the_border_of_tables() -> None:
    rows = [0, 0, 1, 1, 1, 1, 4]
    cuts = [slice(0, 1), slice(1, 3), slice(3, 4), slice(4, 7)]
    tables = list(ranked(pa.table({"row_a": rows[cut]}) for cut in cuts))
    assert [rank for t in tables for rank in t["rank"].to_pylist()] == [1, 2, 1, 2, 3, 4, 1]


def test_free_pairs_are_taken_in_order_and_once() -> None:
    taken_a, taken_b = bytearray(4), bytearray(b"\0\0\1\0")
    table = pa.table({"row_a": [0, 0, 1, 1, 2, 3], "row_b": [2, 1, 1, 0, 0, 3]})
    kept = free_pairs(table, taken_a, taken_b)
    assert list(zip(*kept.to_pydict().values(), strict=True)) == [(0, 1), (1, 0), (3, 3)]
    assert list(taken_a) == [1, 1, 0, 1] and list(taken_b) == [1, 1, 1, 1]


@given(st.dictionaries(st.integers(0, 30), st.integers(1, 40)), st.integers(0, 93))
def test_ranges_cover_every_query_once_and_name_the_files_that_they_need(counts: dict, queries: int) -> None:
    counts = {b: n for b, n in counts.items() if b * 3 < queries}
    files = [PairFile(f"f{b}", n, ((b, n),), (0,)) for b, n in counts.items()]
    ranges = plan_query_ranges(files, queries)
    assert [row for r in ranges for row in range(r.start, r.stop)] == list(range(queries))
    assert [set(r.files) for r in ranges] == [{f"f{b}" for b in counts if r.start <= 3 * b < r.stop} for r in ranges]
    assert all(r.stop - r.start <= 9 for r in ranges)
    assert plan_query_ranges(files[::-1], queries) == ranges
