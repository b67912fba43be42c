"""Runs `jobs.embed` as a user does, in this process, and reads back what it wrote."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pyarrow.parquet as pq
import pytest

import transforms.encode
from jobs import embed
from schemas.dataset import open_dataset
from schemas.manifest import Manifest
from tests.benchmarks.corpus import sentences
from tests.fakes import FakeEncoder


class Ran(NamedTuple):
    """How a command line ended, and what is in its output folder."""

    status: int
    stdout: str
    stderr: str
    output: Path

    @property
    def manifest(self) -> Manifest:
        return open_dataset(str(self.output)).manifest

    @property
    def rows(self) -> pd.DataFrame:
        return pd.read_parquet(self.output).sort_values("id", ignore_index=True)

    @property
    def texts(self) -> dict[str, str]:
        return dict(zip(self.rows["id"], self.rows["text"], strict=True))

    @property
    def rejects(self) -> list[dict[str, Any]]:
        files = sorted((self.output / "_rejects").glob("*.parquet"))
        found = [row for file in files for row in pq.read_table(file).to_pylist()]
        return sorted(found, key=lambda row: (row["source"], row["offset"]))


Run = Callable[..., Ran]


@pytest.fixture
def fake_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transforms.encode, "Encoder", FakeEncoder)


@pytest.fixture
def run_job(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """`run_job(inputs, *flags, output=…)`: the job with the real model."""

    def run(inputs: Any, *flags: object, output: Path | None = None) -> Ran:
        output = tmp_path / "out" if output is None else output
        inputs = [inputs] if isinstance(inputs, str | Path) else inputs
        capsys.readouterr()
        status = embed.main(["--input", *map(str, inputs), "--output", str(output), *map(str, flags)])
        return Ran(status, *capsys.readouterr(), output)

    return run


@pytest.fixture
def run(run_job: Run, fake_encoder: None) -> Run:
    """The same with an encoder that takes no time."""
    return run_job


@pytest.fixture(scope="session")
def real_rows(tmp_path_factory: pytest.TempPathFactory, bundled_model: str) -> Path:
    """5,000 sentences, embedded by the job with the real model."""
    folder = tmp_path_factory.mktemp("real")
    (folder / "in.txt").write_text("\n".join(sentences(5000)) + "\n")
    argv = ["--input", str(folder / "in.txt"), "--output", str(folder / "out"), "--model", bundled_model]
    assert embed.main([*argv, "--device", "cpu"]) == 0
    return folder / "out"
