"""Spark publishes what the DirectRunner does, byte by byte."""

from pathlib import Path

import pytest

from tests.engines.clusters import run
from tests.engines.conftest import MINE, SAMPLE, assert_same_pairs
from tests.faults import harness

pytestmark = pytest.mark.spark


def test_the_dataset_is_the_same(spark: list[str], clean: Path, tmp_path: Path) -> None:
    ended = run("jobs.embed", *spark, *SAMPLE, "--output", tmp_path / "out")
    assert ended.status == 0, ended.stderr
    harness.assert_same_dataset(tmp_path / "out", clean)


def test_pairs_are_the_same(spark: list[str], clean: Path, clean_pairs: Path, tmp_path: Path) -> None:
    ended = run("jobs.mine", *spark, "--input", clean, "--output", tmp_path / "pairs", *MINE)
    assert ended.status == 0, ended.stderr
    assert_same_pairs(tmp_path / "pairs", clean_pairs)
