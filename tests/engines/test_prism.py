"""Prism publishes what the DirectRunner does, byte by byte."""

from pathlib import Path

import pytest

from tests.engines.clusters import run
from tests.engines.conftest import JOIN, MINE, SAMPLE, assert_same_pairs
from tests.faults import harness

pytestmark = pytest.mark.prism


def test_the_dataset_is_the_same(prism: Path, clean: Path, tmp_path: Path) -> None:
    flags = ["--runner=PrismRunner", f"--prism_location={prism}"]
    ended = run("jobs.embed", *flags, *SAMPLE, "--output", tmp_path / "out")
    assert ended.status == 0, ended.stderr
    harness.assert_same_dataset(tmp_path / "out", clean)


def test_pairs_are_the_same(prism: Path, clean: Path, clean_pairs: Path, tmp_path: Path) -> None:
    flags = ["--runner=PrismRunner", f"--prism_location={prism}"]
    ended = run("jobs.mine", *flags, "--input", clean, "--output", tmp_path / "pairs", *MINE)
    assert ended.status == 0, ended.stderr
    assert_same_pairs(tmp_path / "pairs", clean_pairs)


def test_matches_are_the_same(prism: Path, clean: Path, clean_matches: Path, tmp_path: Path) -> None:
    ended = run(
        "jobs.join",
        "--runner=PrismRunner",
        f"--prism_location={prism}",
        "--corpus",
        clean,
        "--output",
        tmp_path / "out",
        *JOIN,
    )
    assert ended.status == 0, ended.stderr
    assert_same_pairs(tmp_path / "out", clean_matches)


def test_what_fails_on_a_worker_is_one_clear_line(prism: Path, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "one", "key": "k"}\n{"text": "two", "key": "k"}\n')
    flags = ["--input", tmp_path / "a.jsonl", "--id_column", "key", "--output", tmp_path / "out"]
    ended = run("jobs.embed", "--runner=PrismRunner", f"--prism_location={prism}", *flags)
    assert ended.status == 1
    last = ended.stderr.splitlines()[-1]
    assert last.startswith("failed: ")
    assert "--duplicate_ids keep" in last
