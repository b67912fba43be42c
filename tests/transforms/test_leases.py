"""A run is alive as long as its process is, or as it renews its lease by the store's own clock."""

import json
import os
import time
from pathlib import Path

import pytest

from schemas.processes import Process, this_process
from transforms import leases
from transforms.leases import DETACHED_SECONDS, LEASE_SECONDS, Lease, leased, others

HERE = this_process()
ELSEWHERE = Process("host", "boot", "pid:[1]", 1, "0")


@pytest.mark.parametrize(
    ("process", "age", "newest_file", "alive"),
    [
        (HERE, 10 * DETACHED_SECONDS, 0, True),
        (HERE and HERE._replace(pid=1 << 30), 0, 0, False),
        (ELSEWHERE, LEASE_SECONDS - 1, 0, True),
        (ELSEWHERE, LEASE_SECONDS + 1, 0, False),
        (None, DETACHED_SECONDS - 1, 0, True),
        (None, DETACHED_SECONDS + 1, 0, False),
        (None, DETACHED_SECONDS + 1, DETACHED_SECONDS - 1, True),
        (ELSEWHERE, LEASE_SECONDS + 1, 1, False),
    ],
)
def test_who_counts_as_alive(process: Process | None, age: float, newest_file: float, alive: bool) -> None:
    now = 1e9
    lease = Lease("run", 1, process, now - age)
    assert lease.is_alive(now, now - newest_file if newest_file else 0.0) == alive


def test_ages_are_told_between_files_of_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver whose clock is years ahead or behind changes nothing."""
    folder = tmp_path / "_manifest"
    folder.mkdir()
    for name, age in (("young", LEASE_SECONDS - 60), ("old", LEASE_SECONDS + 60)):
        (folder / f"{name}.lease").write_text(json.dumps({"base": 1, "process": ELSEWHERE}))
        os.utime(folder / f"{name}.lease", (time.time() - age, time.time() - age))
    for skew in (-1e8, 1e8):
        monkeypatch.setattr(time, "time", lambda skew=skew: 1.7e9 + skew)  # type: ignore[misc]
        found = others(str(tmp_path), "this", 0.0)
        assert ([x.run for x in found.alive], [x.run for x in found.ended]) == (["young"], ["old"])


def test_a_lease_is_renewed_and_released(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "RENEW_SECONDS", 0.02)
    path = tmp_path / "_manifest" / "run.lease"
    with leased(str(tmp_path), "run", 3, here=True):
        assert json.loads(path.read_text()) == {"base": 3, "process": list(HERE or ())}
        os.utime(path, (1000, 1000))
        deadline = time.monotonic() + 20
        while path.stat().st_mtime < 2000 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert path.stat().st_mtime > 2000
    assert not path.exists()
    with leased(str(tmp_path), "detached", 3, here=False) as lease:
        lease.leave()
    assert json.loads((tmp_path / "_manifest/detached.lease").read_text()) == {"base": 3, "process": None}


def test_a_lease_that_cannot_be_understood_protects_all(tmp_path: Path) -> None:
    (tmp_path / "_manifest").mkdir()
    (tmp_path / "_manifest/odd.lease").write_text("{")
    (lease,) = others(str(tmp_path), "this", 0.0).alive
    assert (lease.run, lease.base_version > 10**8) == ("odd", True)
