"""Whole processes, timed and weighed from outside, and the machine that they ran on."""

import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from transforms.device import cpu_threads

ROOT = Path(__file__).resolve().parents[2]
LOG_CHARACTERS = 2000


class Finished(NamedTuple):
    seconds: float  # from its start to its exit
    peak_mb: float  # largest resident set of the process, or of one that it started and waited for
    stdout: str


def run(arguments: list[str]) -> Finished:
    """Runs `python ARGUMENTS` in the repository's root. Keep the caller small: on Linux the peak of a process is never
    less than what its parent held when it started it.

    Raises:
        RuntimeError: it failed, with the end of its stderr.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as log:
        started = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, *arguments], cwd=ROOT, env=_environment(), stdout=out, stderr=log, stdin=subprocess.DEVNULL
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)  # it is reaped; Popen would wait for it again
        if process.returncode:
            log.seek(0)
            said = log.read().decode("utf-8", "replace")[-LOG_CHARACTERS:]
            raise RuntimeError(f"{' '.join(arguments)}: exit status {process.returncode}\n{said}")
        out.seek(0)
        return Finished(seconds, usage.ru_maxrss * _maxrss_bytes() / 1e6, out.read().decode())


def _environment() -> dict[str, str]:
    """The caller's, but for what doubles the time of every start."""
    return {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}


def _maxrss_bytes() -> int:
    return 1 if sys.platform == "darwin" else 1024


def machine() -> str:
    """The processor, its cores that may be used, and the versions that matter here."""
    from importlib.metadata import version

    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        fields = dict(line.split(":", 1) for line in cpuinfo.read_text().splitlines() if ":" in line)
        found = {key.strip(): value.strip() for key, value in fields.items()}
        model = f"{found.get('model name', model)} (family {found.get('cpu family')}, model {found.get('model')})"
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "sentence-transformers", "apache-beam"))
    return f"{model}, {cpu_threads()} cores, Python {platform.python_version()}, {packages}"


def markdown(table: list[list[str]]) -> str:
    """A Markdown table of rows of cells, the heads first; numbers to the right."""
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]

    def line(row: list[str]) -> str:
        cells = [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
        return f"| {' | '.join(cells)} |"

    rule = [":" + "-" * (widths[0] - 1), *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join([line(table[0]), line(rule), *map(line, table[1:])])
