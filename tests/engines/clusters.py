"""Real engines, started by the scripts that users start them with, on free ports of loopback."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]
ENGINES = Path(os.environ.get("ENGINES", ROOT / ".engines"))
RUN_SECONDS = 400


def free_ports(n: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


class Ended(NamedTuple):
    status: int
    stdout: str
    stderr: str


class Driver:
    """A job's process, started. `python -m MODULE FLAGS`, as a user does."""

    def __init__(self, module: str, *flags: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, *map(str, flags)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def end(self) -> Ended:
        try:
            stdout, stderr = self.process.communicate(timeout=RUN_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        return Ended(self.process.returncode, stdout, stderr)


def run(module: str, *flags: object) -> Ended:
    return Driver(module, *flags).end()


def wait_for(found: Callable[[], Any], what: str, seconds: float = 120) -> Any:
    """The first true value of `found()`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := found():
            return value
        time.sleep(0.05)
    raise AssertionError(f"{what} did not come within {seconds} s")


class FlinkCluster:
    """One JobManager, TaskManagers of one slot each with a worker pool, and Beam's job server."""

    def __init__(self, folder: Path, taskmanagers: int = 2) -> None:
        self.folder = folder
        self.rest, rpc, self.job, self.pool = free_ports(4)
        self.environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"} | {
            "ENGINES": str(ENGINES),
            "RUN": str(folder),
            "PYTHON": sys.executable,
            "PYTHONPATH": str(ROOT),
            "REST_PORT": str(self.rest),
            "RPC_PORT": str(rpc),
            "JOB_PORT": str(self.job),
            "POOL_PORT": str(self.pool),
        }
        self.taskmanagers = taskmanagers

    def start(self, pinned: bool = False) -> None:
        """pinned: each TaskManager and its workers have one core of their own."""
        self.script("jobmanager")
        for n in range(1, self.taskmanagers + 1):
            core = ["taskset", "-c", str(n - 1)] if pinned else []
            self.script("taskmanager", n, before=core)
            self.script("pool", n, before=core)
        self.script("jobserver")
        wait_for(lambda: self.overview()["slots-available"] == self.taskmanagers, "TaskManagers")

    def script(self, *arguments: object, before: list[str] | None = None) -> None:
        """`deploy/flink/cluster.sh ARGUMENTS`. Its output goes to a file: what it starts would hold a pipe open."""
        command = [*(before or []), str(ROOT / "deploy/flink/cluster.sh"), *map(str, arguments)]
        with (self.folder / "script.log").open("a") as log:
            done = subprocess.run(command, env=self.environment, stdout=log, stderr=log, timeout=120)
        assert done.returncode == 0, (self.folder / "script.log").read_text()

    def stop(self) -> None:
        pids = [int(file.read_text()) for file in self.folder.glob("*.pid")]
        self.script("stop")
        assert not [pid for pid in pids if Path(f"/proc/{pid}").exists() and "Z" not in _state(pid)]

    def overview(self) -> dict[str, Any]:
        return json.load(urllib.request.urlopen(f"http://127.0.0.1:{self.rest}/overview", timeout=10))

    def pid(self, name: str) -> int:
        return int((self.folder / f"{name}.pid").read_text())

    def workers(self, n: int) -> list[int]:
        """Python workers that pool `n` has started and that live."""
        pool = self.pid(f"pool{n}")
        threads = Path(f"/proc/{pool}/task").glob("*/children")  # a child is its thread's
        children = " ".join(thread.read_text() for thread in threads).split()
        return [int(child) for child in children if "Z" not in _state(int(child))]

    def logs(self) -> str:
        return "".join(self.log(f"pool{n}") for n in range(1, self.taskmanagers + 1))

    def log(self, name: str) -> str:
        return (self.folder / "log" / f"{name}.log").read_text()

    @property
    def loopback(self) -> list[str]:
        return [*self._portable, "--environment_type=LOOPBACK"]

    @property
    def external(self) -> list[str]:
        pools = f"--environment_config=worker-pool:{self.pool}"
        return [*self._portable, "--environment_type=EXTERNAL", pools, "--environment_cache_millis=20000"]

    @property
    def _portable(self) -> list[str]:
        parallelism = f"--parallelism={self.taskmanagers}"
        return ["--runner=PortableRunner", f"--job_endpoint=localhost:{self.job}", parallelism]


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return "Z"
