"""`kill -9` and two at once, on stores: nothing partial is ever there, and the job goes on as it does on a disk."""

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from schemas import storage
from schemas.manifest import versions
from tests.faults import harness
from tests.servers.faulty_proxy import FaultyProxy, Kind
from tests.servers.store import Store, environment
from tests.stores.conftest import OBJECT_STORES
from tests.stores.datasets import assert_same_dataset, upload

pytestmark = pytest.mark.faults
CONTENT = bytes(range(250)) * 280_000
"""70 MB: a very large part, that Azure's client alone would send in many requests."""
PATIENCE_SECONDS = 60


@pytest.fixture(params=OBJECT_STORES)
def server(request: pytest.FixtureRequest) -> Store:
    return request.getfixturevalue(f"{request.param}_server")


@pytest.mark.parametrize("kind", ["stall", "half", "late"])
def test_killed_at_a_request_of_a_put_all_or_nothing_is_there(server: Store, kind: Kind) -> None:
    """Before the store is asked, in the middle of what it is sent, and when it has done it."""
    with environment(server.environment):
        uri = f"{server.bucket()}/folder/part"
        assert _exit_status_of_create(server, uri, kind) == -signal.SIGKILL
        info = storage.stat(uri)
        assert bool(info) == (kind == "late")
        assert info is None or storage.read_bytes(uri) == CONTENT
        assert storage.names(uri.rsplit("/", 1)[0]) == (["part"] if info else [])
        assert storage.create(uri, b"x") == (info is None)
        storage.replace(uri, b"y")
        assert storage.read_bytes(uri) == b"y"


@pytest.mark.parametrize("verb", [storage.create, storage.replace])
def test_a_large_part_goes_up_in_one_request(server: Store, verb: Callable[[str, bytes], object]) -> None:
    with FaultyProxy(server.url) as proxy, environment(server.through(proxy.url)):
        verb(f"{server.bucket()}/part", CONTENT)
    assert len([request for request in proxy.requests if request.method in ("PUT", "POST")]) == 1


def _exit_status_of_create(server: Store, uri: str, kind: Kind) -> int | None:
    """Of a process that creates and is killed when its request meets the fault."""
    with FaultyProxy(server.url) as proxy:
        fault = proxy.fail(kind, "PUT POST", numbers=range(1, 100), seconds=PATIENCE_SECONDS)
        with environment(server.through(proxy.url)):
            child = harness.CONTEXT.Process(target=_create, args=(uri, dict(os.environ)))
            child.start()
        while child.is_alive() and not fault.waiting.wait(0.05):
            pass
        child.kill()
        child.join()
        return child.exitcode


def _create(uri: str, environ: dict[str, str]) -> None:
    os.environ.update(environ)
    storage.create(uri, CONTENT)


@pytest.fixture
def argv(object_folder: str, corpus: Path) -> list[str]:
    """From a store to the same store."""
    upload(corpus, f"{object_folder}/in")
    return harness.arguments(f"{object_folder}/in", f"{object_folder}/out")


def test_killed_at_random_until_published(object_folder: str, argv: list[str], clean: str, tmp_path: Path) -> None:
    rng = random.Random(time.time_ns())
    kills = 0
    while (status := _status_within(argv, tmp_path / "log", rng.uniform(0.5, 2.5) + 0.2 * kills)) != 0:
        assert status == -signal.SIGKILL, (tmp_path / "log").read_text()
        kills += 1
    assert_same_dataset(f"{object_folder}/out", clean)


def _status_within(argv: list[str], log: Path, seconds: float) -> int | None:
    process = harness.start(argv, log)
    process.join(seconds)
    if process.exitcode is None:
        process.kill()
        process.join()
    return process.exitcode


@pytest.mark.parametrize(
    ("match", "occurrence", "after"),
    [("/out/part-", 3, True), ("/_manifest/00000001.json", 1, False), ("/_manifest/00000001.json", 1, True)],
    ids=["after a part", "before the manifest", "after the manifest"],
)
def test_killed_at_a_put_the_next_run_goes_on(
    object_folder: str, argv: list[str], clean: str, tmp_path: Path, match: str, occurrence: int, after: bool
) -> None:
    fault = ("create", match, occurrence, after)
    assert harness.run(argv, tmp_path / "log", harness.die_at, *fault) == -signal.SIGKILL
    assert harness.run(argv, tmp_path / "log") == 0, (tmp_path / "log").read_text()
    assert_same_dataset(f"{object_folder}/out", clean)


def test_of_two_drivers_one_publishes_and_the_other_says_so(
    object_folder: str, argv: list[str], clean: str, tmp_path: Path
) -> None:
    logs = [tmp_path / "log-0", tmp_path / "log-1"]
    processes = [harness.start(argv, log) for log in logs]
    for process in processes:
        process.join(120)
    assert sorted(p.exitcode or 0 for p in processes) == [0, 1]
    (loser,) = (log for log, p in zip(logs, processes, strict=True) if p.exitcode == 1)
    assert "another run published version 1" in loser.read_text()
    assert versions(f"{object_folder}/out") == [1]
    assert_same_dataset(f"{object_folder}/out", clean)
