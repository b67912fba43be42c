"""Runs jobs that compare datasets as a user does, here or in a process that is killed, and reads what they wrote."""

import dataclasses
import hashlib
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from jobs import join, mine
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


Scores = dict[tuple[str, str], np.float32]
Listed = list[tuple[str, str, int, np.float32]]


class Mined(Found):
    @property
    def scores(self) -> Scores:
        table = self.table
        found = dict(zip(zip(table["id_a"], table["id_b"], strict=True), table["score"], strict=True))
        assert len(found) == len(table), "a pair is there twice"
        return found


class Miner:
    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capsys, self.runs = folder, capsys, 0

    def __call__(self, source: Path, min_score: float, *flags: object, output: Path | None = None) -> Mined:
        self.runs += 1
        output = output or self.folder / f"pairs-{self.runs}"
        argv = ["--input", source, "--min_score", min_score, *flags]
        return Mined(*run_main(mine.main, argv, output, self.capsys))


class Joined(Found):
    @property
    def listed(self) -> Listed:
        """Query, match, rank and score, in the order of the parts."""
        table = self.table
        return list(zip(*(table[name] for name in ("query_id", "corpus_id", "rank", "score")), strict=True))


class Joiner:
    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capsys, self.runs = folder, capsys, 0

    def __call__(self, queries: object, corpus: Path, *flags: object, output: Path | None = None) -> Joined:
        self.runs += 1
        output = output or self.folder / f"matches-{self.runs}"
        argv = [*(["--queries", queries] if queries else []), "--corpus", corpus, *flags]
        return Joined(*run_main(join.main, argv, output, self.capsys))


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
