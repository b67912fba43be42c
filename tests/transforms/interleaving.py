"""The real code, one request to the store at a time, in the order that a test chooses, with stalls and kills."""

import contextlib
import hashlib
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from schemas import removals, storage
from schemas.errors import RunFailed
from schemas.manifest import newest_manifest
from schemas.processes import Process
from tests.publishing import MODEL, encoded, plan, read
from transforms import clean_up, leases, publish
from transforms.write import write_part

VERBS = ("create", "replace", "remove", "listing", "names", "moments", "read_bytes", "stat", "open_random")
SECONDS = 20


class Killed(BaseException):
    """Ends a run where it is; whatever it wants to do after that, nothing reaches the store."""


class Run:
    """A run in a thread of its own, which waits before each request until it may go on."""

    def __init__(self, name: str, work: Callable[[], Any]) -> None:
        self.name, self.work = name, work
        self.process = Process("host", "boot", "space", hash(name) & 0xFFFF, "0")
        self.may_go, self.waits = threading.Semaphore(0), threading.Semaphore(0)
        self.killed = self.over = False
        self.asks: tuple[str, Any] = ("", None)  # the request that it waits with
        self.outcome: Any = None
        self.thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.thread.start()
        self._wait()

    def _run(self) -> None:
        try:
            self.before("start", None)
            self.outcome = self.work()
        except (RunFailed, Killed) as error:
            self.outcome = error
        except BaseException as error:  # a bug, which the test reports
            self.outcome = error
        self.over = True
        self.waits.release()

    def before(self, verb: str, argument: Any) -> None:
        """Called in the run's thread."""
        if self.killed:
            raise Killed
        self.asks = verb, argument
        self.waits.release()
        self.may_go.acquire()
        if self.killed:
            raise Killed

    def _wait(self) -> None:
        assert self.waits.acquire(timeout=SECONDS), f"{self.name} hangs at {self.asks}"

    def step(self) -> None:
        """Lets it make the request that it waits with, and waits until it has another."""
        self.may_go.release()
        self._wait()

    def kill(self) -> None:
        self.killed = True
        self.step()


class Stage:
    """Runs on one output. Checks after each change that the newest version is whole."""

    def __init__(self, output: Path) -> None:
        self.output = output
        self.runs: dict[str, Run] = {}

    def add(self, name: str, work: Callable[[], Any]) -> Run:
        self.runs[name] = Run(name, work)
        return self.runs[name]

    def go(self, name: str, steps: int = 1 << 30, until: Callable[[str, Any], bool] | None = None) -> int:
        """So many steps of a run, at most to its end, or until it is about to ask for what `until` says."""
        run = self.runs[name]
        for done in range(steps):
            if run.over or (until and done and until(*run.asks)):
                return done
            changes = run.asks[0] in ("create", "replace", "remove")
            run.step()
            if changes:
                assert_whole(self.output)
        return steps


def assert_whole(output: Path) -> None:
    """Every file that the newest version lists is there with its checksum."""
    if newest := newest_manifest(str(output)):
        for entry in newest.files:
            data = (output / entry.name).read_bytes()
            assert entry.checksum == f"sha256:{hashlib.sha256(data).hexdigest()}", entry


@contextlib.contextmanager
def stage(output: Path) -> Iterator[Stage]:
    """Verbs wait in the threads of runs, a run counts as a process, and no file is synced, for speed."""
    found = Stage(output)

    def waiting(verb: str) -> Callable[..., Any]:
        real = getattr(storage, verb)

        def call(*args: Any) -> Any:
            if (run := found.runs.get(threading.current_thread().name)) is None:
                return real(*args)
            if verb == "remove":
                for uri in list(args[0]):  # each may be the last before a kill
                    run.before(verb, uri)
                    real([uri])
                return None
            run.before(verb, args[0])
            return real(*args)

        return call

    def this_process() -> Process | None:
        run = found.runs.get(threading.current_thread().name)
        return run.process if run else None

    def is_over(process: Process | None) -> bool:
        return any(run.process == process and run.over for run in found.runs.values())

    with pytest.MonkeyPatch.context() as patch:
        for verb in VERBS:
            patch.setattr(storage, verb, waiting(verb))
        for module in (removals, leases, clean_up):
            patch.setattr(module, "this_process", this_process)
            patch.setattr(module, "is_over", is_over)
        patch.setattr(leases, "is_here", lambda process: process is not None)
        patch.setattr(clean_up, "REMOVERS", 1)
        patch.setattr(clean_up, "ThreadPoolExecutor", InThisThread)
        patch.setattr("os.fsync", lambda _: None)
        yield found


class InThisThread(contextlib.nullcontext):  # type: ignore[type-arg]
    """A pool whose work the run's own thread does, so that it waits as all of the run's requests do."""

    def __enter__(self) -> Any:
        return self

    def map(self, call: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        return [call(item) for item in items]


def whole_run(output: Path, name: str, ids: Iterable[str]) -> Any:
    """What a driver does without a pipeline: looks what there is, says that it is alive, writes a part for each id that
    the version before does not have, and publishes."""
    folder, wanted = str(output), list(ids)
    base = newest_manifest(folder)
    version, known = (base.version, {split.id for split in base.splits}) if base else (0, set())
    settled = plan(folder, run=name, base_version=version, order=tuple(f"s-{i}" for i in wanted))
    new = [i for i in wanted if f"s-{i}" not in known]
    with leases.leased(folder, name, version, here=True):
        publish.check_base(folder, version, newest_manifest(folder))
        parts = [write_part(folder, name, encoded(f"s-{i}", 0, [i]), MODEL) for i in new]
        return publish.publish(settled, [read(f"s-{i}", 1, 1) for i in new], parts, [])
