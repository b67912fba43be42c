"""Runs jobs that compare datasets as a user does, here or in a process that is killed, and reads what they wrote."""

import dataclasses
import hashlib
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import pytest

from schemas.dataset import open_dataset
from schemas.manifest import Manifest

ROOT = Path(__file__).parents[1]


@dataclasses.dataclass(frozen=True)
class Found:
    """How a command line ended, and what is in its output folder."""

    status: int
    stdout: str
    stderr: str
    output: Path

    @property
    def manifest(self) -> Manifest:
        return open_dataset(str(self.output)).manifest

    @property
    def table(self) -> pd.DataFrame:
        """The parts in the manifest's order."""
        assert self.status == 0, self.stderr
        return open_dataset(str(self.output)).read().to_pandas()

    @property
    def files(self) -> dict[str, str]:
        found = self.output.rglob("*.parquet")
        return {str(f.relative_to(self.output)): hashlib.sha256(f.read_bytes()).hexdigest() for f in found}


def run_main(
    main: Callable[[Sequence[str]], int], argv: Sequence[object], output: Path, capsys: pytest.CaptureFixture[str]
) -> tuple[int, str, str, Path]:
    """The fields of `Found`."""
    capsys.readouterr()
    return main([*map(str, argv), "--output", str(output)]), *capsys.readouterr(), output


KILLED = """
import importlib, os, signal, sys
job, module, after = sys.argv[1:4]
module = importlib.import_module(module)
real, seen = module.settle, []
def settle(*args):
    seen.append(real(*args))
    if len(seen) == int(after):
        os.kill(os.getpid(), signal.SIGKILL)
    return seen[-1]
module.settle = settle
sys.exit(importlib.import_module(f"jobs.{job}").main(sys.argv[4:]))
"""


def killed_after(settled: int, job: str, module: str, argv: Sequence[object]) -> None:
    """The job in a process that dies when `module` has settled so many work items."""
    command = [sys.executable, "-c", KILLED, job, module, str(settled), *map(str, argv)]
    process = subprocess.run(command, cwd=ROOT, capture_output=True)
    assert process.returncode == -signal.SIGKILL, process.stderr.decode()
