"""A Flink cluster of two TaskManagers publishes what the DirectRunner does, byte by byte, also where processes die."""

import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from jobs import embed
from tests.engines.clusters import ENGINES, ROOT, Driver, Ended, FlinkCluster, run, wait_for
from tests.engines.conftest import JOIN, MINE, SAMPLE, assert_same_pairs
from tests.faults import harness

pytestmark = pytest.mark.flink
LOADED = re.compile(r"(\d+) INFO transforms\.encode: .* loaded in")


class External(NamedTuple):
    ended: Ended
    output: Path
    log: str  # of the worker pools, of this run


@pytest.fixture(scope="module")
def external(flink: FlinkCluster, tmp_path_factory: pytest.TempPathFactory) -> External:
    """The sample, embedded by the workers of two pools."""
    output, before = tmp_path_factory.mktemp("external") / "out", flink.logs()
    ended = run("jobs.embed", *flink.external, *SAMPLE, "--json", "--output", output)
    return External(ended, output, flink.logs().removeprefix(before))


def test_workers_of_two_pools_publish_the_same_dataset(external: External, clean: Path) -> None:
    assert external.ended.status == 0, external.ended.stderr
    harness.assert_same_dataset(external.output, clean)
    summary = json.loads(external.ended.stdout)
    assert (summary["rows_in"], summary["rows_out"], summary["reused"]["rows"]) == (374, 374, 0)


def test_each_worker_loads_the_model_once(external: External) -> None:
    """Both pools start more than one worker in a run, but the encoder is in one stage."""
    pids = LOADED.findall(external.log)
    assert len(pids) == len(set(pids)) == 2


def test_workers_in_the_drivers_process_publish_the_same_dataset_with_one_model(
    flink: FlinkCluster, clean: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "transforms.encode")
    output = tmp_path / "out"
    assert embed.main([*map(str, [*flink.loopback, *SAMPLE, "--output", output])]) == 0
    harness.assert_same_dataset(output, clean)
    assert len([r for r in caplog.records if " loaded in " in r.getMessage()]) == 1


def test_pairs_are_the_same(flink: FlinkCluster, clean: Path, clean_pairs: Path, tmp_path: Path) -> None:
    ended = run("jobs.mine", *flink.external, "--input", clean, "--output", tmp_path / "pairs", *MINE)
    assert ended.status == 0, ended.stderr
    assert_same_pairs(tmp_path / "pairs", clean_pairs)


def test_matches_are_the_same(flink: FlinkCluster, clean: Path, clean_matches: Path, tmp_path: Path) -> None:
    ended = run("jobs.join", *flink.external, "--corpus", clean, "--output", tmp_path / "out", *JOIN)
    assert ended.status == 0, ended.stderr
    assert_same_pairs(tmp_path / "out", clean_matches)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus") / "in"
    harness.write_corpus(folder)
    return folder


@pytest.fixture(scope="module")
def clean_fake(corpus: Path) -> Path:
    """The corpus as the DirectRunner embeds it with the fake encoder."""
    output = corpus.parent / "clean"
    assert harness.run(harness.arguments(corpus, output), corpus.parent / "log") == 0
    return output


def test_flink_runner_starts_its_own_job_server(
    flink: FlinkCluster, corpus: Path, clean_fake: Path, tmp_path: Path
) -> None:
    jar = f"--flink_job_server_jar={ENGINES / 'flink-job-server.jar'}"
    master = ["--runner=FlinkRunner", f"--flink_master=localhost:{flink.rest}", jar, "--environment_type=LOOPBACK"]
    ended = run("tests.benchmarks.fake_job", *master, *harness.arguments(corpus, tmp_path / "out"))
    assert ended.status == 0, ended.stderr
    harness.assert_same_dataset(tmp_path / "out", clean_fake)


def test_what_fails_on_a_worker_is_one_clear_line(flink: FlinkCluster, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "one", "key": "k"}\n{"text": "two", "key": "k"}\n')
    flags = ["--input", tmp_path / "a.jsonl", "--id_column", "key", "--output", tmp_path / "out"]
    ended = run("jobs.embed", *flink.external, *flags)
    assert ended.status == 1
    assert ended.stdout == ""
    last = ended.stderr.splitlines()[-1]
    assert last.startswith("failed: ")
    assert "--duplicate_ids keep" in last
    assert "Traceback" not in ended.stderr
    assert not list((tmp_path / "out" / "_manifest").glob("*.json"))


def test_what_only_a_worker_can_refuse_is_a_wrong_command_line(flink: FlinkCluster, tmp_path: Path) -> None:
    import torch

    device = "mps" if torch.cuda.is_available() else "cuda"
    (tmp_path / "a.txt").write_text("one\n")
    flags = ["--input", tmp_path / "a.txt", "--device", device, "--output", tmp_path / "out"]
    ended = run("jobs.embed", *flink.external, *flags)
    assert ended.status == 2
    assert ended.stderr.splitlines()[-1].startswith(f"error: --device {device}: torch ")
    assert not (tmp_path / "out" / "_SUCCESS").exists()


@pytest.fixture
def slow_workers(flink: FlinkCluster) -> Iterator[None]:
    """Pools whose workers have a fake encoder that is slow."""
    _restart_pools(flink, "--program", ROOT / "tests/engines/slow_worker.py")
    yield
    _restart_pools(flink)


def _restart_pools(flink: FlinkCluster, *flags: object) -> None:
    for n in (1, 2):
        os.kill(pid := flink.pid(f"pool{n}"), signal.SIGTERM)
        wait_for(lambda pid=pid: not Path(f"/proc/{pid}").exists(), "the pool's end")
        flink.script("pool", n, *flags)


def kill_taskmanager(flink: FlinkCluster, n: int) -> None:
    """kill -9, and a new one as a cluster manager would start it."""
    os.kill(flink.pid(f"taskmanager{n}"), signal.SIGKILL)
    flink.script("taskmanager", n)


def kill_worker(flink: FlinkCluster, n: int) -> None:
    workers = flink.workers(n)
    assert workers
    for pid in workers:
        os.kill(pid, signal.SIGKILL)


KILLS = {"taskmanager": kill_taskmanager, "worker": kill_worker}


@pytest.mark.parametrize("victim", KILLS)
def test_a_process_killed_while_it_encodes_costs_nothing_but_time(
    flink: FlinkCluster, slow_workers: None, corpus: Path, clean_fake: Path, tmp_path: Path, victim: str
) -> None:
    output, before = tmp_path / "out", _restarts(flink)
    driver = Driver("jobs.embed", *flink.external, *harness.arguments(corpus, output))
    wait_for(lambda: len(list(output.glob("part-*"))) >= 2, "the second part")
    KILLS[victim](flink, 1)
    assert not (output / "_SUCCESS").exists(), "the kill came too late to show anything"
    ended = driver.end()
    assert ended.status == 0, ended.stderr
    assert _restarts(flink) > before
    harness.assert_same_dataset(output, clean_fake)


def test_taskmanager_and_worker_killed_with_the_real_model(flink: FlinkCluster, clean: Path, tmp_path: Path) -> None:
    output, before = tmp_path / "out", _restarts(flink)
    driver = Driver("jobs.embed", *flink.external, *SAMPLE, "--output", output)
    wait_for(lambda: list(output.glob("part-*")), "the first part")
    kill_worker(flink, 2)
    kill_taskmanager(flink, 1)
    assert not (output / "_SUCCESS").exists(), "the kill came too late to show anything"
    ended = driver.end()
    assert ended.status == 0, ended.stderr
    assert _restarts(flink) > before
    harness.assert_same_dataset(output, clean)


def _restarts(flink: FlinkCluster) -> int:
    return len(re.findall(r"switched from state RUNNING to RESTARTING", flink.log("jobmanager")))
