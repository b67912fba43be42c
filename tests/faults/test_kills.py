"""Killed at any moment, the same command goes on, and the dataset is what one clean run publishes."""

import random
import signal
import time
from pathlib import Path

import pytest

from tests.faults import harness

pytestmark = pytest.mark.faults
KILLED = -signal.SIGKILL
KILLS = 40


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus") / "in"
    harness.write_corpus(folder)
    return folder


@pytest.fixture(scope="module")
def clean(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clean")
    assert harness.run(harness.arguments(corpus, folder / "out"), folder / "log") == 0
    names, found = harness.published(folder / "out")
    assert len(names) > 15
    assert found["counts"].rejected == {"broken_json": 4}
    return folder / "out"


def test_killed_at_random_until_published(corpus: Path, clean: Path, tmp_path: Path) -> None:
    rng = random.Random(time.time_ns())
    kills = rounds = 0
    while kills < KILLS:
        output = tmp_path / f"out-{rounds}"
        rounds += 1
        while True:
            process = harness.start(harness.arguments(corpus, output), tmp_path / "log")
            process.join(rng.uniform(0.1, 1.2))
            if process.exitcode is None:
                process.kill()
                process.join()
                kills += 1
                continue
            assert process.exitcode == 0, (tmp_path / "log").read_text()
            break
        harness.assert_same_dataset(output, clean)
    assert kills >= KILLS


POINTS = [
    ("create", "/_rejects/part-", 2),
    ("create", "/out/part-", 5),
    ("create", "/_manifest/00000001.json", 1),
    ("replace", "_SUCCESS", 1),
]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(("verb", "match", "occurrence"), POINTS)
def test_killed_at_a_put_the_next_run_goes_on(
    corpus: Path, clean: Path, tmp_path: Path, verb: str, match: str, occurrence: int, after: bool
) -> None:
    argv = harness.arguments(corpus, tmp_path / "out")
    fault = (verb, match, occurrence, after)
    assert harness.run(argv, tmp_path / "log", harness.die_at, *fault) == KILLED
    assert harness.run(argv, tmp_path / "log") == 0
    harness.assert_same_dataset(tmp_path / "out", clean)


CLEAN_UP_POINTS = [
    ("remove", "/_manifest/00000001.json", 1),
    ("replace", ".removing", 1),
    ("remove", "/out/part-", 1),
    ("remove", ".removing", 1),
    ("remove", ".intent", 1),
]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(("verb", "match", "occurrence"), CLEAN_UP_POINTS)
def test_killed_while_cleaning_up_the_next_run_ends_it(
    corpus: Path, clean: Path, tmp_path: Path, verb: str, match: str, occurrence: int, after: bool
) -> None:
    """The first run publishes another corpus, so that the second has much to remove."""
    other = tmp_path / "other"
    harness.write_corpus(other, files=2, seed=1)
    output = tmp_path / "out"
    assert harness.run(harness.arguments(other, output), tmp_path / "log") == 0
    argv = harness.arguments(corpus, output)
    assert harness.run(argv, tmp_path / "log", harness.die_at, verb, match, occurrence, after) == KILLED
    assert harness.run(argv, tmp_path / "log") == 0
    harness.assert_same_dataset(output, clean)
