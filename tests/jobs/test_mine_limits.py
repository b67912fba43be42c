"""What `--max_pairs` and rows of one id, equal texts and long texts come to: the right pairs, in bounded memory."""

import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import transforms.compare
import transforms.row_blocks
from tests.datasets import clustered, write_dataset
from tests.found import Miner
from tests.pairs import Dataset, brute_pairs

KEEP = {"id_column": "key", "duplicate_ids": "keep"}


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Miner:
    return Miner(tmp_path, capsys)


def listed(found: Any) -> list[tuple[str, str, float]]:
    return [(a, b, np.float32(score)) for a, b, score in found.table[["id_a", "id_b", "score"]].itertuples(index=False)]


def wanted(rows: Dataset, min_score: float, **limits: int) -> list[tuple[str, str, float]]:
    return [(rows.ids[a], rows.ids[b], score) for a, b, score in brute_pairs(rows, min_score, **limits)]


def at_cosine(cosine: float, n: int, dims: int = 16) -> np.ndarray:
    """`n` pairs of vectors, each pair in a plane of its own and at that cosine, then the same plane again."""
    vectors = np.zeros((2 * n, dims), np.float32)
    for i in range(n):
        vectors[2 * i, 2 * i] = 1
        vectors[2 * i + 1, [2 * i, 2 * i + 1]] = cosine, np.sqrt(1 - cosine**2)
    return vectors


@pytest.mark.parametrize("memory_mb", [1, 1024])
@pytest.mark.parametrize("max_pairs", [1, 2, 3, 100])
def test_pairs_of_one_id_take_no_other_pairs_place(run: Miner, tmp_path: Path, memory_mb: int, max_pairs: int) -> None:
    """Three pairs at 0.9; beside them 40 rows of one id, all alike, whose pairs score higher and are no pairs."""
    alike = np.zeros((40, 16), np.float32)
    alike[:, -1] = 1
    rows = Dataset(
        np.concatenate([alike, at_cosine(0.9, 3)]),
        ["same"] * 40 + [f"{i}" for i in range(6)],
        [f"text {i}" for i in range(46)],
    )
    source = write_dataset(tmp_path / "in", *rows, options=KEEP)
    found = run(source, 0.8, "--max_pairs", max_pairs, "--memory_mb", memory_mb)
    assert listed(found) == wanted(rows, 0.8, max_pairs=max_pairs)
    assert len(listed(found)) == min(3, max_pairs)


def test_of_equal_texts_pairs_of_one_id_take_no_other_pairs_place(run: Miner, tmp_path: Path) -> None:
    """Rows 1 and 2, x and y, of one text; row 0, x too, of another text and an equal vector: its pair with y comes
    first, by its row, though it is y's second with that text."""
    rows = Dataset(np.ones((3, 4), np.float32), ["x", "x", "y"], ["other", "one", "one"])
    found = run(write_dataset(tmp_path / "in", *rows, options=KEEP), 0.8, "--max_pairs", 1, "--with_text")
    assert listed(found) == wanted(rows, 0.8, max_pairs=1) == [("x", "y", 1)]
    assert found.table["text_a"].tolist() == ["other"]


@pytest.mark.parametrize("flags", [[], ["--max_pairs", 700], ["--top_k", 2]])
def test_pairs_of_equal_ids_and_scores_go_by_row_whatever_the_blocks(run: Miner, tmp_path: Path, flags: list) -> None:
    """1,200 rows of 40 vectors and 30 ids: most pairs have a score and two ids that others have, too."""
    random = np.random.default_rng(0)
    vectors = clustered(40, 8)[random.integers(0, 40, 1200)]
    ids, texts = [f"{i}" for i in random.integers(0, 30, 1200)], [f"text {i}" for i in range(1200)]
    source = write_dataset(tmp_path / "in", vectors, ids, texts, options=KEEP)
    large, small = (run(source, 0.999, "--with_text", *flags, "--memory_mb", mb) for mb in (1024, 1))
    assert "1 block," in large.stderr and "2 blocks" in small.stderr
    assert len(large.table) > 600 and large.files == small.files
    order = large.table.assign(**{side: large.table[side].str[5:].astype(int) for side in ("text_a", "text_b")})
    by = ["score", "id_a", "id_b", "text_a", "text_b"]
    assert order[by].equals(order.sort_values(by, ascending=[False, *[True] * 4], ignore_index=True)[by])


def peak_mb(work: Any) -> float:
    tracemalloc.start(1)
    try:
        work()
        return tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()


def test_the_best_of_very_many_pairs_are_found_in_little_memory(run: Miner, tmp_path: Path) -> None:
    """2,000 rows that are all alike but for their last bits: two million pairs, of which ten are wanted."""
    random = np.random.default_rng(0)
    vectors = (np.ones((2000, 8)) + 1e-4 * random.standard_normal((2000, 8))).astype(np.float32)
    rows = Dataset(vectors, [f"{i:04d}" for i in random.permutation(2000)], [f"text {i}" for i in range(2000)])
    source = write_dataset(tmp_path / "in", *rows)
    every: list[Any] = []
    assert peak_mb(lambda: every.append(run(source, 0.5, "--max_pairs", 10))) < 150
    scores = np.triu(exact(vectors), 1)
    a, b = np.nonzero(scores >= np.sort(scores, axis=None)[-10])
    pairs = [(*sorted((rows.ids[i], rows.ids[j])), scores[i, j]) for i, j in zip(a, b, strict=True)]
    assert listed(every[0]) == sorted(pairs, key=lambda p: (-p[2], *p[:2]))[:10]


def exact(vectors: np.ndarray) -> np.ndarray:
    from tests.matches import exact_scores

    return exact_scores(vectors, vectors)


def test_an_attempt_that_found_other_files_counts_no_side_twice(
    run: Miner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A work item that is tried again after others have raised the floor: its sides are known by their number."""
    vectors = clustered(200, 8)
    texts = [f"text {i // 2}" for i in range(200)]
    old = write_dataset(tmp_path / "old", vectors[:100], texts=texts[:100], part_rows=20)
    new = write_dataset(tmp_path / "new", vectors, texts=texts, part_rows=20)
    before = run(old, 0.5)
    begun: list[list[str]] = []
    real = transforms.compare.Floor.begin

    def begin(floor: Any, item: str) -> bool:
        begun[-1].append(item)
        return real(floor, item)

    monkeypatch.setattr(transforms.compare.Floor, "begin", begin)
    monkeypatch.setattr("transforms.compare.FILE_PAIRS", 20)
    monkeypatch.setattr("transforms.expand.PAGE_PAIRS", 20)
    for max_pairs in (10, 10**6):  # of few files, and of many
        begun.append([])
        found = run(new, 0.8, "--previous", before.output, "--max_pairs", max_pairs)
        assert found.status == 0, found.stderr
    assert begun[0] == begun[1] == ["pairs-0-0-0", "pairs-0-0-1"]


def test_apple_silicon_compares_on_the_cpu(run: Miner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its mps has no float64."""
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    rows = Dataset(clustered(50), [f"{i:02d}" for i in range(50)], [f"{i}" for i in range(50)])
    found = run(write_dataset(tmp_path / "in", *rows), 0.8, "--device", "auto")
    assert found.status == 0, found.stderr
    assert listed(found) == wanted(rows, 0.8)


def test_long_texts_make_files_and_parts_of_bounded_size(
    run: Miner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Texts of 1 to 4,000 characters, whose pairs' texts are many times as much."""
    sizes: list[int] = []
    for name, most in (("ROW_GROUP_TEXT_BYTES", 10_000), ("FILE_TEXT_BYTES", 50_000)):
        monkeypatch.setattr(f"transforms.pair_files.{name}", most)
    monkeypatch.setattr("transforms.publish_pairs.PART_TEXT_BYTES", 30_000)
    texts = [f"{i}" * (1 + i * 37 % 1000) for i in range(200)]
    rows = Dataset(clustered(200), [f"{i:03d}" for i in range(200)], texts)
    source = write_dataset(tmp_path / "in", *rows)
    found = run(source, 0.5, "--with_text")
    table = found.table
    assert listed(found) == wanted(rows, 0.5)
    assert list(table["text_a"]) == [texts[int(i)] for i in table["id_a"]]
    assert list(table["text_b"]) == [texts[int(i)] for i in table["id_b"]]
    sizes = [part_bytes(found.output / part.name) for part in found.manifest.parts]
    assert len(sizes) > 20 and sum(sizes) > 600_000 and max(sizes) <= 30_000
    assert run(source, 0.5, "--with_text", "--memory_mb", 1).files == found.files


def part_bytes(part: Path) -> int:
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    table = pq.read_table(part)
    return sum(pc.sum(pc.binary_length(table[name])).as_py() for name in ("text_a", "text_b"))


def test_samples_read_no_text(run: Miner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Iterator[str]] = []
    real = transforms.row_blocks.Rows.take

    def take(self: Any, rows: np.ndarray, columns: Any) -> Any:
        read.append(columns)
        return real(self, rows, columns)

    monkeypatch.setattr(transforms.row_blocks.Rows, "take", take)
    assert run(write_dataset(tmp_path / "in", clustered(50)), 0.8, "--with_text").status == 0
    assert read and not any("text" in columns for columns in read)


def test_more_dimensions_than_the_proof_is_for_are_refused(
    run: Miner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = run(write_dataset(tmp_path / "in", np.ones((2, 10_001), np.float32)), 0.8)
    assert found.status == 2 and "--truncate_dim" in found.stderr and "10,001 dimensions" in found.stderr
    monkeypatch.setattr("jobs.found_plan.MOST_DIMS", 16)
    assert run(write_dataset(tmp_path / "most", clustered(50, 16)), 0.8).status == 0
    assert run(write_dataset(tmp_path / "more", clustered(50, 17)), 0.8).status == 2


def test_a_flag_cut_short_is_named_in_full(run: Miner, tmp_path: Path) -> None:
    found = run(tmp_path, 0.8, "--dup", "collapse")
    assert found.status == 2 and "--dup: no such flag; did you mean --duplicates?" in found.stderr
