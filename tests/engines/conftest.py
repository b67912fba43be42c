"""Engines that are started once, and the datasets of the DirectRunner that theirs are held against."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from schemas.dataset import open_dataset
from tests.engines.clusters import ENGINES, ROOT, FlinkCluster, run
from tests.faults import harness
from tests.needs import need

SAMPLE = ["--input", ROOT / "tests/data", "--split_bytes", 5000, "--rows_per_part", 64]
"""Nine splits and a dozen parts, for several workers to share."""
MINE = ["--min_score", 0.6, "--with_text", "--groups"]
JOIN = ["--self", "--top_k", 3, "--with_text"]


@pytest.fixture(scope="session")
def flink(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlinkCluster]:
    need((ENGINES / "flink-job-server.jar").exists(), "Flink: deploy/install_engines.sh flink")
    cluster = FlinkCluster(tmp_path_factory.mktemp("flink"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(scope="session")
def prism() -> Path:
    need((ENGINES / "prism").exists(), "Prism: deploy/install_engines.sh prism")
    return ENGINES / "prism"


@pytest.fixture(scope="session")
def spark() -> list[str]:
    """Flags for a Spark of two cores that the job itself starts, with workers in the job's process."""
    jar = ENGINES / "spark-job-server.jar"
    need(jar.exists(), "Spark: deploy/install_engines.sh spark")
    return ["--runner=SparkRunner", f"--spark_job_server_jar={jar}", "--spark_master_url=local[2]"]


@pytest.fixture(scope="session")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample as the DirectRunner embeds it, with the real model."""
    output = tmp_path_factory.mktemp("clean") / "out"
    ended = run("jobs.embed", "--runner=DirectRunner", *SAMPLE, "--output", output)
    assert ended.status == 0, ended.stderr
    return output


@pytest.fixture(scope="session")
def clean_pairs(clean: Path) -> Path:
    """Its pairs as the DirectRunner finds them."""
    output = clean.parent / "pairs"
    ended = run("jobs.mine", "--runner=DirectRunner", "--input", clean, "--output", output, *MINE)
    assert ended.status == 0, ended.stderr
    return output


@pytest.fixture(scope="session")
def clean_matches(clean: Path) -> Path:
    """And the best matches of each row."""
    output = clean.parent / "matches"
    ended = run("jobs.join", "--runner=DirectRunner", "--corpus", clean, "--output", output, *JOIN)
    assert ended.status == 0, ended.stderr
    return output


def assert_same_pairs(output: Path, clean: Path) -> None:
    """Pairs or matches: the same parts in the same order, and the same groups, byte by byte."""
    assert harness.contents(clean)
    assert harness.contents(output) == harness.contents(clean)
    parts, expected = (open_dataset(str(folder)).manifest.parts for folder in (output, clean))
    assert [part.name for part in parts] == [part.name for part in expected]
