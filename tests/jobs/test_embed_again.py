"""What a second run makes of what the first left: failures that have passed, and work that asks for more now."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import transforms.encode
from schemas.rejects import Reason
from tests.fakes import FakeEncoder
from tests.jobs.conftest import Run
from transforms.encoder_job import Encoded, Failure


class FailingEncoder(FakeEncoder):
    """Fails texts that hold a word, as a device that lacks memory would."""

    word = "bad"
    encoded: list[str] = []
    cosines: tuple[float, ...] = ()

    def encode(self, texts: Sequence[str], on_batch: Any = None) -> Encoded:
        self.encoded.extend(texts)
        failures = [
            Failure(n, Reason.ENCODE_ERROR, "OutOfMemoryError: full")
            for n, text in enumerate(texts)
            if self.word and self.word in text
        ]
        return super().encode(texts, on_batch)._replace(failures=failures, cosines=self.cosines)


@pytest.fixture
def encoder(monkeypatch: pytest.MonkeyPatch) -> type[FailingEncoder]:
    class Own(FailingEncoder):
        encoded: list[str] = []

    monkeypatch.setattr(transforms.encode, "Encoder", Own)
    return Own


def put_files(folder: Path) -> Path:
    folder.mkdir()
    for name, words in (("a.txt", "one two bad three"), ("b.txt", "four five six")):
        (folder / name).write_text("\n".join(words.split()) + "\n")
    return folder


def test_rows_whose_encoding_failed_are_encoded_by_the_next_run(
    run_job: Run, encoder: type[FailingEncoder], tmp_path: Path
) -> None:
    path = put_files(tmp_path / "in")
    flags = ("--max_error_rate", 0.5, "--split_bytes", 10, "--device", "cpu")
    first = run_job(path, *flags)
    assert first.status == 0
    assert first.manifest.counts.rejected == {"encode_error": 1}
    assert "1 rows failed to encode; the same command tries them again" in first.stdout
    encoder.encoded.clear()
    again = run_job(path, *flags)  # as ill as before
    assert "unchanged" in again.stdout
    assert again.manifest.counts.rejected == {"encode_error": 1}
    assert "four" not in encoder.encoded  # a split without failures is taken over
    encoder.word = ""
    healed = run_job(path, *flags)
    assert healed.manifest.version == 2
    assert healed.manifest.counts.rejected == {}
    assert sorted(healed.texts.values()) == sorted(["one", "two", "bad", "three", "four", "five", "six"])
    assert healed.rejects == []
    clean = run_job(path, *flags, output=tmp_path / "clean")
    assert clean.texts == healed.texts
    assert clean.manifest.counts == healed.manifest.counts
    assert "unchanged" in run_job(path, *flags).stdout


def test_finished_work_is_held_to_the_fidelity_that_is_asked_for_now(
    run_job: Run, encoder: type[FailingEncoder], tmp_path: Path
) -> None:
    path = put_files(tmp_path / "in")
    encoder.word, encoder.cosines = "", (0.9991, 0.9999)
    flags = ("--dtype", "bfloat16", "--device", "cpu")
    assert run_job(path, *flags, "--min_fidelity", 0.99).status == 0
    strict = run_job(path, *flags, "--min_fidelity", 0.9995)
    assert strict.status == 1
    assert "a vector's cosine to float32 is 0.99910, below --min_fidelity 0.9995" in strict.stderr
    assert strict.manifest.version == 1
    assert run_job(path, *flags, "--min_fidelity", 0.9991).status == 0  # at the least itself
    for name in ("_manifest", "_SUCCESS"):  # parts of a run that did not publish are held to it too
        target = tmp_path / "out" / name
        for file in target.iterdir() if target.is_dir() else [target]:
            file.unlink()
    unpublished = run_job(path, *flags, "--min_fidelity", 0.9995)
    assert unpublished.status == 1
    assert "below --min_fidelity 0.9995" in unpublished.stderr
    assert not list((tmp_path / "out/_manifest").glob("*.json"))


def test_vectors_that_are_no_numbers_do_not_pass_whatever_is_asked_for(
    run_job: Run, encoder: type[FailingEncoder], tmp_path: Path
) -> None:
    encoder.word, encoder.cosines = "", (1.0, np.nan, 1.0)
    ran = run_job(put_files(tmp_path / "in"), "--dtype", "bfloat16", "--device", "cpu", "--min_fidelity", -1)
    assert ran.status == 1
    assert "cosine to float32 is nan" in ran.stderr


def test_another_scale_of_cut_vectors_is_another_dataset(run: Run, tmp_path: Path) -> None:
    path = put_files(tmp_path / "in")
    flags = ("--truncate_dim", 64, "--device", "cpu")
    assert run(path, *flags).manifest.version == 1
    other = run(path, *flags, "--normalize", "false")
    assert "everything is encoded anew, the model is another: pooling: 'mean' -> 'mean, not normalized'" in other.stderr
    assert other.manifest.version == 2
    assert "unchanged" in run(path, *flags, "--normalize", "false").stdout


def test_a_plan_counts_the_tokens_of_chunks(run_job: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Cutting(FakeEncoder):
        def chunk(self, texts: Sequence[str]) -> list[list[str]]:
            words = [text.split() for text in texts]
            return [[" ".join(some[n : n + 5]) for n in range(0, len(some), 5)] for some in words]

    monkeypatch.setattr(transforms.encode, "Encoder", Cutting)
    path = tmp_path / "a.txt"
    path.write_text("".join("word " * (1 + n % 40) + f"{n}\n" for n in range(300)))
    flags = ("--long_texts", "chunk", "--device", "cpu", "--json")
    planned = json.loads(run_job(path, *flags, "--plan").stdout)
    ran = json.loads(run_job(path, *flags).stdout)
    assert ran["chunks"] > 500
    assert (planned["rows"], planned["tokens"]) == (300, ran["tokens"])


@pytest.mark.parametrize(
    ("failed", "cosine", "why"),
    [
        ((3,), 1.0, "openvino fails 1 of 40 rows that torch encodes"),
        ((), 0.99, "a vector's cosine to float32 is 0.99000, below --min_fidelity 0.999"),
        ((), np.nan, "a vector's cosine to float32 is nan"),
    ],
)
def test_auto_does_not_take_a_backend_that_fails_rows_or_fidelity(
    run_job: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, failed: tuple[int, ...], cosine: float, why: str
) -> None:
    class Bad(FakeEncoder):
        def __init__(self, model: Any, options: Any) -> None:
            super().__init__(model, options)
            self.backend = options.backend

        def encode(self, texts: Sequence[str], on_batch: Any = None) -> Encoded:
            found = super().encode(texts, on_batch)
            if self.backend == "torch":
                return found
            failures = [Failure(row, Reason.ENCODE_ERROR, "no") for row in failed]
            return found._replace(failures=failures, cosines=(1.0, cosine))

    monkeypatch.setattr(transforms.encode, "Encoder", Bad)
    path = tmp_path / "a.txt"
    path.write_text("".join(f"row {n}\n" for n in range(40)))
    ran = run_job(path, "--backend", "auto", "--device", "cpu")
    assert (ran.status, ran.manifest.fingerprint.backend) == (0, "torch")
    assert "backend torch: " in ran.stderr
    assert why in ran.stderr


@pytest.mark.model
def test_a_plain_folder_is_said_to_be_pooled_by_assumption(run: Run, bundled_model: str, tmp_path: Path) -> None:
    plain = tmp_path / "model"
    plain.mkdir()
    for file in Path(bundled_model).iterdir():
        if file.is_file() and file.name != "modules.json":
            (plain / file.name).symlink_to(file)
    path = put_files(tmp_path / "in")
    said = "mean pooling is assumed: the model has no modules.json"
    assert said in run(path, "--model", plain, "--device", "cpu").stderr
    assert said not in run(path, "--device", "cpu", output=tmp_path / "other").stderr
