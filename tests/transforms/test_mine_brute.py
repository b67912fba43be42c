"""Mining without a runner: the pairs of a brute-force scan, whatever the flags, blocks, files, threads and retries."""

import dataclasses
import itertools
import random as randoms
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.mine_plan import MineConfig, make_plan
from schemas import storage
from schemas.dataset import open_dataset
from schemas.pairs import DUPLICATES_FOLDER, GROUPS_FOLDER
from tests.datasets import write_dataset
from tests.pairs import Dataset, Pair, brute_pairs, components, members_of
from transforms.best_partners import bounds_of_block, keep_best
from transforms.bounds import Filter, whole_filter
from transforms.compare import _CompareBlocks
from transforms.duplicate_texts import equal_texts, hash_texts
from transforms.mine import _blocks, _publish, _ranges, _save_duplicates, _squares
from transforms.publish_pairs import MinePlan, write_range
from transforms.sorted_files import PairFile


def carry_out(plan: MinePlan, choice: Filter, shuffled: randoms.Random | None = None) -> None:
    """All steps of the pipeline in turn, in this process; with `shuffled`, items in any order and some of them twice,
    as an engine has them that tries again."""
    job = plan.comparison
    hashed: dict[int, list[bytes]] = {}
    for block in _blocks(plan):
        for bucket, rows in hash_texts(block, job.source):
            hashed.setdefault(bucket, []).append(rows)
    duplicates = _save_duplicates(plan, [equal_texts(chunks) for chunks in hashed.values()])
    step = _CompareBlocks(job)
    step.setup()
    items = list(_squares(plan))
    if shuffled:
        shuffled.shuffle(items)
        for item in items[: len(items) // 2]:
            with pytest.MonkeyPatch.context() as lost, pytest.raises(OSError):
                lost.setattr("transforms.compare.settle", _lost)
                list(step.process(item, duplicates, choice))
    files = [file for item in items for file in step.process(item, duplicates, choice)]
    if job.limits.top_k:
        files = best_partners(files, plan)
    _publish(plan, [part for wanted in _ranges(plan, files) for part in write_range(*wanted)])


def _lost(*_: Any) -> Any:
    raise OSError("the worker is gone")


def best_partners(files: list[PairFile], plan: MinePlan) -> list[PairFile]:
    job = plan.comparison
    for block in sorted({block for file in files for block in file.blocks}):
        of_block = [(file.name, file.pairs) for file in files if block in file.blocks]
        bounds_of_block(block, of_block, job.work, job.block_rows, job.limits.top_k)
    return [kept for file in files for kept in keep_best(file, job.work)]


def plan_of(folder: Path, rows: Dataset, block_rows: int, **asked: Any) -> MinePlan:
    source = write_dataset(folder / "in", *rows, part_rows=7)
    config = MineConfig(input=str(source), output=str(folder / "out"), device="cpu", **asked)
    plan, _ = make_plan(config, 1)
    job = dataclasses.replace(plan.comparison, block_rows=block_rows, threads=1 + block_rows % 2)
    return dataclasses.replace(plan, comparison=job)


@pytest.fixture(scope="module", autouse=True)
def small_files() -> Any:
    """Pages, files, row groups, ranges and parts of a few pairs, so that each has many borders."""
    sizes = {
        "transforms.best_partners.MOST_PARTNERS": 13,
        "transforms.compare.FILE_PAIRS": 17,
        "transforms.compare.LEAST_HELD_PAIRS": 5,
        "transforms.expand.PAGE_PAIRS": 6,
        "transforms.pair_files.ROW_GROUP_PAIRS": 4,
        "transforms.pair_files.ROW_GROUP_TEXT_BYTES": 90,
        "transforms.pair_files.FILE_TEXT_BYTES": 400,
        "transforms.publish_pairs.PART_TEXT_BYTES": 100,
        "transforms.row_blocks.BATCH_ROWS": 4,
        "transforms.publish_pairs.PART_PAIRS": 10,
        "transforms.publish_pairs.PART_PAIRS_WITH_TEXT": 10,
        "transforms.loaded_blocks.SQUARE": 2,
    }
    with pytest.MonkeyPatch().context() as patch:
        for name, size in sizes.items():
            patch.setattr(name, size)
        yield


def make_rows(n: int, n_ids: int, n_texts: int, values: int, seed: int) -> Dataset:
    """Rows with many ties: few vectors, texts that stand several times, ids that are unique (0) or not."""
    random = np.random.default_rng(seed)
    vectors = random.integers(-values, values + 1, (n, 3)).astype(np.float32)
    vectors[~vectors.any(axis=1), 0] = 1
    ids = [f"é{i}" if i % 3 else f"{i}" for i in (random.integers(0, n_ids, n) if n_ids else random.permutation(n))]
    return Dataset(vectors, ids, [f"text {i}" for i in random.integers(0, n_texts, n)])


datasets = st.builds(
    make_rows,
    st.integers(1, 30),
    st.sampled_from([0, 2, 5, 12]),
    st.sampled_from([1, 4, 12, 1000]),
    st.integers(1, 2),
    st.integers(0, 2**16),
)
asked = st.fixed_dictionaries(
    {"min_score": st.sampled_from([0.1, 0.5, 0.57, 1.0])},
    optional={
        "top_k": st.sampled_from([1, 2, 40]),
        "max_pairs": st.sampled_from([1, 3, 9, 1000]),
        "duplicates": st.just("collapse"),
        "groups": st.just(True),
        "with_text": st.just(True),
    },
)


@settings(max_examples=60, deadline=None)
@given(datasets, asked, st.integers(4, 31), st.none() | st.randoms(use_true_random=False))
def test_pairs_are_the_brute_force_whatever_the_flags_blocks_ties_and_retries(
    tmp_path_factory: pytest.TempPathFactory, rows: Dataset, asked: dict, block_rows: int, shuffled: Any
) -> None:
    folder = tmp_path_factory.mktemp("mine")
    plan = plan_of(folder, rows, block_rows, **asked)
    carry_out(plan, whole_filter(3), shuffled)
    collapse = asked.get("duplicates") == "collapse"
    limits = {name: asked.get(name, 0) for name in ("top_k", "max_pairs")}
    wanted = brute_pairs(rows, asked["min_score"], collapse=collapse, **limits)
    assert_published(plan, rows, wanted, collapse)


def assert_published(plan: MinePlan, rows: Dataset, wanted: list[Pair], collapse: bool) -> None:
    dataset = open_dataset(plan.output)
    columns = ["id_a", "id_b", "score"] + (["text_a", "text_b"] if plan.comparison.with_text else [])
    listed = [tuple(row[name] for name in columns) for row in dataset.read().to_pylist()]
    texts = [(rows.texts[p.row_a], rows.texts[p.row_b]) if plan.comparison.with_text else () for p in wanted]
    assert listed == [(rows.ids[p.row_a], rows.ids[p.row_b], p.score, *t) for p, t in zip(wanted, texts, strict=True)]
    details = dataset.manifest.details
    assert (details["pairs"], sum(details["histogram"])) == (len(wanted), len(wanted))
    assert [best[:3] for best in details["best"]] == [
        [rows.ids[p.row_a], rows.ids[p.row_b], float(p.score)]
        for p in wanted[: min(10, dataset.manifest.parts[0].rows)]
    ]
    if plan.groups:
        found = components(wanted, rows.ids)
        in_order = [(rows.ids[i], *found[i]) for i in sorted(found, key=lambda i: (rows.ids[i], i))]
        assert [tuple(row.values()) for row in _extra(plan, GROUPS_FOLDER)] == in_order
    several = [of_text for of_text in members_of(rows).values() if len(of_text) > 1]
    assert details["duplicates"] == {"groups": len(several), "rows": sum(map(len, several))}
    if collapse:
        listed = [(row["representative"], row["id"]) for row in _extra(plan, DUPLICATES_FOLDER)]
        assert sorted(listed) == sorted((rows.ids[of[0]], rows.ids[i]) for of in several for i in of)


def _extra(plan: MinePlan, folder: str) -> list[dict]:
    return [
        row for part in Path(storage.join(plan.output, folder)).iterdir() for row in pq.read_table(part).to_pylist()
    ]


def test_the_reference_is_what_it_says_it_is() -> None:
    """By hand: x and y stand for two rows each; a pair of one id is none, and ties go by ids, then by rows."""
    rows = Dataset(np.eye(3, dtype=np.float32)[[0, 0, 0, 1, 0]], ["b", "a", "b", "c", "a"], ["x", "x", "y", "z", "y"])
    assert brute_pairs(rows, 0.5) == [(1, 0, 1), (1, 2, 1), (4, 0, 1), (4, 2, 1)]
    assert brute_pairs(rows, 0.5, collapse=True) == []
    assert brute_pairs(rows, 0.5, top_k=1) == [(1, 0, 1), (1, 2, 1), (4, 0, 1)]
    assert list(itertools.chain(*brute_pairs(rows, 0.5, max_pairs=1))) == [1, 0, 1]
