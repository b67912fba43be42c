"""A dataset that was damaged is not read, and what the error says to do helps."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.datasets import clustered, write_dataset
from tests.found import Joiner, Miner
from tests.jobs.conftest import Run


@pytest.fixture
def run_mine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Miner:
    return Miner(tmp_path, capsys)


@pytest.fixture
def run_join(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Joiner:
    return Joiner(tmp_path, capsys)


def flip(file: Path) -> None:
    """Of the same size, so that no listing tells."""
    data = bytearray(file.read_bytes())
    data[len(data) // 3] ^= 1
    file.write_bytes(data)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-20])


def without_rows(file: Path) -> None:
    pq.write_table(pq.read_table(file).slice(0, 0), file)


Damage = Callable[[Path], object]
OTHER = "is not the file that version 1 lists, but of other content; was it damaged or replaced? Remove it, and run "


@pytest.mark.parametrize(
    ("damage", "said"), [(cut, OTHER), (without_rows, OTHER), (Path.unlink, "gone, though version 1 lists it; run ")]
)
def test_what_an_earlier_run_collapsed_is_read_as_it_was_published(
    run_mine: Miner, tmp_path: Path, damage: Damage, said: str
) -> None:
    """Without it, rows that were collapsed would be taken for rows whose pairs are known."""
    vectors = np.concatenate([clustered(30, 8)] * 2)
    rows = write_dataset(tmp_path / "in", vectors, texts=[f"text {i % 30}" for i in range(60)])
    before = run_mine(rows, 0.5, "--duplicates", "collapse")
    (file,) = (before.output / "_duplicates").iterdir()
    damage(file)
    found = run_mine(rows, 0.6, "--duplicates", "collapse", "--previous", before.output)
    last = found.stderr.splitlines()[-1]
    assert found.status == 1 and last.startswith(f"failed: {file}: {said}") and "Traceback" not in found.stderr


@pytest.mark.parametrize("damage", [flip, cut, Path.unlink])
def test_a_damaged_part_of_what_is_mined_is_made_again_as_the_error_says(
    run: Run, run_mine: Miner, tmp_path: Path, damage: Damage
) -> None:
    rows = run("tests/data/sentences.txt").output
    wanted = run_mine(rows, 0.5).files
    (file,) = rows.glob("*.parquet")
    damage(file)
    output = tmp_path / "pairs"
    found = run_mine(rows, 0.5, output=output)
    assert found.status == 1 and f"failed: {file}: " in found.stderr
    assert found.stderr.strip().endswith(" the command that made it again")
    file.unlink(missing_ok=True)
    assert run("tests/data/sentences.txt").status == 0
    assert run_mine(rows, 0.5, output=output).files == wanted


@pytest.mark.parametrize("folder", ["_queries", "_queries/_rejects"])
def test_damaged_queries_of_a_join_are_embedded_again_as_the_error_says(
    run: Run, run_join: Joiner, tmp_path: Path, folder: str
) -> None:
    corpus, asked, output = run("tests/data/sentences.txt").output, tmp_path / "asked.jsonl", tmp_path / "matches"
    asked.write_text('{"text": "Which socks keep feet warm?"}\n{"text": ""}\n')
    assert run_join(asked, corpus, "--top_k", 1, output=output).status == 0
    (file,) = (output / folder).glob("*.parquet")
    flip(file)
    found = run_join(asked, corpus, "--top_k", 2, output=output)
    assert found.status == 1 and f"failed: {file}: {OTHER}the command that made it again" in found.stderr
    file.unlink()
    found = run_join(asked, corpus, "--top_k", 2, "--keep_unmatched", output=output)
    assert found.status == 0 and (found.manifest.details["queries"], found.manifest.details["unmatched"]) == (2, 1)
