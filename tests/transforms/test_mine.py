"""The steps of mining by themselves: work items, the running threshold, comparisons, publishing again."""

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.mine_plan import MineConfig, make_plan
from schemas.dataset import open_dataset
from schemas.pairs import PAIRS_SCHEMA
from tests.datasets import clustered, write_dataset
from transforms.bounds import whole_filter
from transforms.compare import Floor, compare, in_files, load_block
from transforms.duplicate_texts import DuplicateGroups, Limits, equal_texts, groups_table, hash_texts, save_groups
from transforms.expand import Comparison, Expansion
from transforms.loaded_blocks import HELD_BLOCKS, LastUsed, squares
from transforms.pair_files import plan_ranges, write_pairs
from transforms.progress import PROGRESS
from transforms.publish_pairs import MinePlan, publish, write_range
from transforms.row_blocks import RowBlock, Source, plan_blocks


@given(st.integers(0, 70), st.booleans())
def test_squares_cover_each_pair_of_blocks_once(blocks: int, alone: bool) -> None:
    covered = [
        (a.number, b.number)
        for square in squares(plan_blocks(blocks, 1), alone)
        for a, b in itertools.product(square.rows, square.cols)
        if a.number <= b.number
    ]
    assert sorted(covered) == list(itertools.combinations_with_replacement(range(blocks), 2))


@given(st.lists(st.lists(st.floats(0, 1, width=32), max_size=20), max_size=10), st.integers(1, 50))
def test_the_floor_never_passes_the_nth_best_score_and_counts_an_item_once(items: list[list[float]], n: int) -> None:
    floor, seen = Floor(n, 0.1), []
    for number, scores in enumerate(items):
        for attempt in range(2):
            new = floor.begin(f"item-{number}")
            assert new == (attempt == 0)
            if new:
                floor.add(np.array(scores, np.float32))
                seen += scores
        nth = sorted(seen, reverse=True)[n - 1] if len(seen) >= n else -1
        assert floor.floor <= max(nth, 0.1)
        assert nth < 0.1 or floor.floor > nth - 1 / 1024 - 1e-9


N = 240


def job_of(folder: Path, **options: object) -> tuple[Comparison, DuplicateGroups, list[str], np.ndarray, list[str]]:
    random = np.random.default_rng(3)
    vectors, ids = clustered(N, 16, noise=0.2), [f"{i:03d}" for i in random.permutation(N)]
    texts = [f"text {random.integers(0, 15)}" if i % 3 == 0 else str(i) for i in range(N)]
    source = Source.of(open_dataset(str(write_dataset(folder / "in", vectors, ids, texts, part_rows=70))))
    hashed: dict[int, list[bytes]] = {}
    for bucket, rows in hash_texts(RowBlock(0, 0, N), source):
        hashed.setdefault(bucket, []).append(rows)
    table = groups_table([equal_texts(chunks) for chunks in hashed.values()], source, None, True)
    save_groups(str(folder / "work" / "duplicates.arrow"), table)
    job = Comparison(
        source=source,
        work=str(folder / "work"),
        min_score=0.8,
        block_rows=100,
        limits=Limits(),
        expand=True,
        with_text=True,
        device="cpu",
        threads=1,
    )
    return dataclasses.replace(job, **options), DuplicateGroups.of(table), ids, vectors, texts  # type: ignore[arg-type]


@settings(max_examples=5, deadline=None)
@given(st.sampled_from([10_000, 50, 1]))
def test_compared_blocks_expand_to_the_pairs_of_all_rows(
    tmp_path_factory: pytest.TempPathFactory, file_pairs: int
) -> None:
    job, groups, ids, vectors, texts = job_of(tmp_path_factory.mktemp("job"))
    stands = {text: min(i for i, t in zip(ids, texts, strict=True) if t == text) for text in texts}
    wide = vectors[[ids.index(stands[text]) for text in texts]].astype(np.float64)
    wide /= np.linalg.norm(wide, axis=1, keepdims=True)
    blocks = [load_block(b, job, whole_filter(16), groups) for b in plan_blocks(N, 100)]
    assert sum(len(b.numbers) for b in blocks) == len(set(texts))
    found = {}
    with pytest.MonkeyPatch().context() as patch:
        patch.setattr("transforms.compare.FILE_PAIRS", file_pairs)
        patch.setattr("transforms.expand.PAGE_PAIRS", file_pairs)
        for a, b in itertools.combinations_with_replacement(blocks, 2):
            expansion = Expansion(a, b, groups, job)
            for some in compare(a, b, job, Floor(0, 0.8)):
                for page in expansion.pages(some):
                    assert len(page) <= file_pairs
                    for table in page.in_order().tables():
                        for row in table.to_pylist():
                            assert (row["id_a"], row["id_b"]) not in found
                            found[row["id_a"], row["id_b"]] = row["score"]
                            assert [ids[row["row_a"]], ids[row["row_b"]]] == [row["id_a"], row["id_b"]]
                            assert [texts[row["row_a"]], texts[row["row_b"]]] == [row["text_a"], row["text_b"]]
    scores = (wide @ wide.T).astype(np.float32)
    pairs = [(i, j) for i, j in itertools.combinations(range(N), 2) if texts[i] != texts[j] and scores[i, j] >= 0.8]
    wanted = {(min(ids[i], ids[j]), max(ids[i], ids[j])): float(scores[i, j]) for i, j in pairs}
    assert len(wanted) > 300 and found == pytest.approx(wanted)


def test_the_bar_ends_at_all_pairs(tmp_path: Path) -> None:
    job, groups, *_ = job_of(tmp_path)
    block = load_block(RowBlock(0, 0, N), job, whole_filter(16), groups)
    before = PROGRESS.pairs
    list(compare(block, block, job, Floor(0, 0.8)))
    assert PROGRESS.pairs - before == len(block.numbers) * (len(block.numbers) - 1) // 2


def test_a_process_holds_the_last_few_blocks_only() -> None:
    held, loads = LastUsed[int](HELD_BLOCKS), []

    def load() -> int:
        loads.append(number)
        return number

    for number in (0, 1, 2, 3, 4, 0, 5, 0, 1, 6, 0):
        assert held.get(number, load) == number
        assert len(held.held) <= 5
    assert loads == [0, 1, 2, 3, 4, 5, 1, 6]


def plan_of(folder: Path) -> MinePlan:
    source = write_dataset(folder / "in", clustered(300, 16))
    config = MineConfig(input=str(source), output=str(folder / "pairs"), min_score=0.7, device="cpu")
    plan, choice = make_plan(config, 1)
    job = plan.comparison
    save_groups(f"{job.work}/duplicates.arrow", groups_table([], job.source, None, True))
    none = DuplicateGroups.of(groups_table([], job.source, None, True))
    block = load_block(RowBlock(0, 0, 300), job, choice, none)
    assert block is not None
    expansion = Expansion(block, block, none, job)
    pages = (page for found in compare(block, block, job, Floor(0, 0.7)) for page in expansion.pages(found))
    (pairs,) = in_files(pages, Floor(0, 0.7), True)
    files = write_pairs(job.work, "pairs-0-0", pairs, job.block_rows)
    publish(plan, [part for r in plan_ranges(files) for part in write_range(r, plan)])
    return plan


def test_publishing_tried_again_after_its_work_is_gone_is_no_failure(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    first = open_dataset(plan.output)
    assert not (tmp_path / "pairs" / "_work").exists()
    assert publish(plan, []) == first.manifest
    assert first.read().schema.remove_metadata() == PAIRS_SCHEMA
    assert first.manifest.details["pairs"] == first.read().num_rows > 100


@pytest.mark.parametrize(("workers", "memory_mb", "blocks"), [(1, 1024, 1), (1, 1, 10), (2, 1024, 8), (0, 1024, 8)])
def test_blocks_fit_memory_and_are_shared_out(tmp_path: Path, workers: int, memory_mb: int, blocks: int) -> None:
    source = write_dataset(tmp_path / "in", clustered(10_000, 16), part_rows=5000)
    config = MineConfig(input=str(source), output=str(tmp_path / "out"), min_score=0.9, memory_mb=memory_mb)
    plan, _ = make_plan(config, workers)
    assert len(plan_blocks(plan.n_rows, plan.comparison.block_rows)) == blocks
    assert plan.comparison.threads >= 1
