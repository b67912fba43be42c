"""Which runs are alive, so that a clean-up beside them leaves what they work on.

A run puts a lease, `_manifest/<run>.lease`, before it relies on any file that no version lists, and renews it. A lease
protects progress, and nothing else: were one overlooked, its run would find files missing when it publishes, publish
nothing, and say run again (`transforms.publish`). So it may run out. Ages are told by the store's own clock, between
files of the store: no machine's clock counts.
"""

import contextlib
import json
import logging
import threading
from collections.abc import Iterator
from typing import NamedTuple

from schemas import storage
from schemas.errors import RunFailed
from schemas.manifest import FOLDER
from schemas.processes import Process, is_here, is_over, process_of, this_process

ENDING = ".lease"
RENEW_SECONDS = 300.0
LEASE_SECONDS = 3600.0
"""A driver that renewed nothing for so long is taken for dead, unless its process can be looked at."""
DETACHED_SECONDS = 86_400.0
"""The same for runs whose workers go on without the driver: they are alive while files come."""

_LOGGER = logging.getLogger(__name__)


class Lease(NamedTuple):
    """A run that said it is alive."""

    run: str
    base_version: int  # that it builds on: it publishes the next one or none
    process: Process | None  # that the run ends with; None where workers are elsewhere
    moment: float  # when it was renewed, by the store's clock

    @property
    def is_over(self) -> bool:
        """Whether its run has ended for certain."""
        return is_over(self.process)

    def is_alive(self, now: float, newest_file: float) -> bool:
        """Whether its run may be alive. now, newest_file: by the store's clock; when the newest file came that no
        version lists."""
        if self.process is None:
            return max(self.moment, newest_file) > now - DETACHED_SECONDS
        return not self.is_over if is_here(self.process) else self.moment > now - LEASE_SECONDS


class Kept:
    """A lease that is being renewed."""

    def __init__(self) -> None:
        self.left = False

    def leave(self) -> None:
        """Leaves it for the run's last step to release: the run goes on without this process."""
        self.left = True


@contextlib.contextmanager
def leased(output: str, run: str, base_version: int, here: bool) -> Iterator[Kept]:
    """Says for as long as the block takes that the run is alive.

    here: the run ends with this process
    """
    data = json.dumps({"base": base_version, "process": this_process() if here else None}).encode()
    storage.replace(_uri(output, run), data)
    done, kept = threading.Event(), Kept()
    renewing = threading.Thread(target=_renew_until, args=(done, output, run, data), daemon=True, name="lease")
    renewing.start()
    try:
        yield kept
    finally:
        done.set()
        renewing.join()
        if not kept.left:
            release(output, run)


def _renew_until(done: threading.Event, output: str, run: str, data: bytes) -> None:
    while not done.wait(RENEW_SECONDS):
        with contextlib.suppress(RunFailed, OSError):  # the next time may do; a lease that runs out costs no data
            storage.replace(_uri(output, run), data)


def release(output: str, run: str) -> None:
    """Takes a run's lease away. One that stays for a fault of the store runs out."""
    try:
        storage.remove([_uri(output, run)])
    except Exception as error:
        _LOGGER.warning("the run is over, and its lease stays until it runs out: %s", error)


class Others(NamedTuple):
    """Other runs' leases."""

    alive: list[Lease]
    ended: list[Lease]

    @property
    def runs(self) -> set[str]:
        """Those that may be alive."""
        return {lease.run for lease in self.alive}


def others(output: str, run: str, newest_file: float) -> Others:
    """Looks at the leases of other runs. Renews this run's own, whose time is the store's time now."""
    storage.replace(_uri(output, run), _read(_uri(output, run)) or _UNKNOWN)
    moments = storage.moments(storage.join(output, FOLDER))
    names = [name.removesuffix(ENDING) for name in moments if name.endswith(ENDING)]
    found = [lease for name in names if name != run and (lease := _lease(output, name, moments[f"{name}{ENDING}"]))]
    now = moments[f"{run}{ENDING}"]
    alive = [lease for lease in found if lease.is_alive(now, newest_file)]
    return Others(alive, [lease for lease in found if lease not in alive])


def remove(output: str, leases: list[Lease]) -> None:
    storage.remove(_uri(output, lease.run) for lease in leases)


_UNKNOWN = b'{"base": 0, "process": null}'


def _uri(output: str, run: str) -> str:
    return storage.join(output, FOLDER, f"{run}{ENDING}")


def _read(uri: str) -> bytes:
    try:
        return storage.read_bytes(uri)
    except FileNotFoundError:
        return b""


def _lease(output: str, run: str, moment: float) -> Lease | None:
    """None where the run is over and has taken it away. One that cannot be understood protects all."""
    text = _read(_uri(output, run))
    if not text:
        return None
    try:
        said = json.loads(text)
        return Lease(run, int(said["base"]), process_of(said["process"]), moment)
    except (ValueError, KeyError, TypeError):
        return Lease(run, 1 << 60, None, moment)
