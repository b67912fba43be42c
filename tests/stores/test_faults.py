"""A store that misbehaves: the dataset is that of a clean run, or one clear line says why nothing is published."""

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import transforms.encode
from jobs import embed
from schemas import cloud_stores, store_faults
from schemas.manifest import versions
from tests.fakes import FakeEncoder
from tests.faults import harness
from tests.servers.faulty_proxy import FaultyProxy, Kind
from tests.servers.store import Store, environment
from tests.stores.datasets import assert_same_dataset, upload

pytestmark = pytest.mark.faults
SILENCE_SECONDS = 1
STALL_SECONDS = 60
ALWAYS = range(1, 100_000)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits are as in earnest, but shorter."""
    monkeypatch.setattr(transforms.encode, "Encoder", FakeEncoder)
    monkeypatch.setattr(cloud_stores, "SILENCE_SECONDS", SILENCE_SECONDS)
    monkeypatch.setattr(cloud_stores, "AZURE_PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(store_faults, "PAUSE_SECONDS", 0.05)


@pytest.fixture(params=["s3", "gs", "az"])
def scheme(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def bucket(scheme: str, request: pytest.FixtureRequest, corpus: Path) -> str:
    bucket: str = request.getfixturevalue(scheme)
    upload(corpus, f"{bucket}/in")
    return bucket


@pytest.fixture
def proxy(scheme: str, request: pytest.FixtureRequest, bucket: str) -> Iterator[FaultyProxy]:
    """Between the job and the store, from here on."""
    server: Store = request.getfixturevalue(f"{scheme}_server")
    with FaultyProxy(server.url) as proxy, environment(server.through(proxy.url)):
        yield proxy


def run(bucket: str) -> int:
    return embed.main(harness.arguments(f"{bucket}/in", f"{bucket}/out"))


PLACES = {
    "s3": {
        "listing": ("GET", "list-type=2"),
        "reading": ("GET", "/in/shard-1"),
        "part": ("PUT", "/out/part-"),
        "manifest": ("PUT", "/_manifest/00000001.json"),
        "clean-up": ("POST", "?delete"),
    },
    "gs": {
        "listing": ("GET", "prefix="),
        "reading": ("GET", "/in/shard-1"),
        "part": ("POST", "/out/part-"),
        "manifest": ("POST", "/_manifest/00000001.json"),
        "clean-up": ("DELETE", ""),
    },
    "az": {
        "listing": ("GET", "comp=list"),
        "reading": ("GET", "/in/shard-1"),
        "part": ("PUT", "/out/part-"),
        "manifest": ("PUT", "/_manifest/00000001.json"),
        "clean-up": ("DELETE", ""),
    },
}


@pytest.mark.parametrize("kind", ["503", "reset", "truncated", "lost", "stall"])
def test_faults_that_pass_leave_the_dataset_of_a_clean_run(
    scheme: str, bucket: str, proxy: FaultyProxy, clean: str, kind: Kind
) -> None:
    """Twice in each place, one after the other; but an answer that has no body, as that of most to a put, is not cut
    short."""
    faults = [proxy.fail(kind, *place, numbers=(1, 2), seconds=STALL_SECONDS) for place in PLACES[scheme].values()]
    started = time.monotonic()
    assert run(bucket) == 0
    manifests = 1 if kind == "truncated" and scheme != "gs" else 2
    assert [fault.met for fault in faults] == [2, 2, 2, manifests, 2]
    assert_same_dataset(f"{bucket}/out", clean)
    assert time.monotonic() - started < STALL_SECONDS


@pytest.mark.parametrize("scheme", ["s3"], indirect=True)  # gcsfs alone waits for a minute before it gives up
@pytest.mark.parametrize(
    ("kind", "place"), [("503", "listing"), ("reset", "reading"), ("truncated", "reading"), ("503", "part")]
)
def test_a_fault_that_stays_is_one_clear_line_and_the_next_run_goes_on(
    bucket: str, proxy: FaultyProxy, clean: str, kind: Kind, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    fault = proxy.fail(kind, *PLACES["s3"][place], numbers=ALWAYS)
    assert run(bucket) == (2 if place == "listing" else 1)
    assert fault.met > 1
    assert_one_clear_line(capsys.readouterr().err, "s3://")
    fault.numbers = ()
    assert versions(f"{bucket}/out") == []
    assert run(bucket) == 0
    assert_same_dataset(f"{bucket}/out", clean)


def assert_one_clear_line(stderr: str, *words: str) -> None:
    """What went wrong is said in one line, with these words in it."""
    assert "Traceback" not in stderr
    (line,) = (line for line in stderr.splitlines() if "error" in line.lower() or "cannot" in line)
    for word in words:
        assert word in line


def test_a_create_whose_answer_is_always_lost_is_done(scheme: str, bucket: str, proxy: FaultyProxy, clean: str) -> None:
    """Each part is put and then found there, by whoever tries again: the libraries or the job."""
    fault = proxy.fail("lost", *PLACES[scheme]["part"], numbers=range(1, 100_000, 2))
    assert run(bucket) == 0
    assert fault.met >= 8
    assert_same_dataset(f"{bucket}/out", clean)


def test_whatever_goes_wrong_in_the_end_the_dataset_is_that_of_a_clean_run(
    bucket: str, proxy: FaultyProxy, clean: str
) -> None:
    """One request in ten meets a fault. A run either publishes or says that it did not; another run goes on."""
    seed = time.time_ns()
    rng = random.Random(seed)
    kinds: list[Kind] = ["503", "reset", "truncated", "lost", "stall"]
    faults = [
        proxy.fail(kind, "GET PUT POST HEAD DELETE", "", {n for n in range(5000) if rng.random() < 0.02}, STALL_SECONDS)
        for kind in kinds
    ]
    for _ in range(5):
        status = run(bucket)
        if status == 0:
            break
        assert status in (1, 2), f"seed {seed}"
    for fault in faults:
        fault.numbers = ()
    assert status == 0, f"seed {seed}"
    assert sum(fault.met for fault in faults) > 3
    assert_same_dataset(f"{bucket}/out", clean)
