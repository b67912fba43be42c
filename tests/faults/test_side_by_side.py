"""Two at once, full disks, read-only folders, hung encoders: one dataset or a clear error, never a half."""

import os
import random
import threading
import time
from pathlib import Path

import pytest

from schemas import storage
from schemas.manifest import newest_manifest, versions
from tests.faults import harness
from tests.faults.test_kills import clean, corpus  # noqa: F401

pytestmark = pytest.mark.faults


def test_of_two_drivers_one_publishes_and_the_other_says_so(
    corpus: Path,  # noqa: F811
    clean: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    argv = harness.arguments(corpus, tmp_path / "out")
    logs = [tmp_path / "log-0", tmp_path / "log-1"]
    processes = [harness.start(argv, log) for log in logs]
    for process in processes:
        process.join(120)
    assert sorted(p.exitcode or 0 for p in processes) == [0, 1]
    (loser,) = (log for log, p in zip(logs, processes, strict=True) if p.exitcode == 1)
    assert "another run published version 1" in loser.read_text()
    harness.assert_same_dataset(tmp_path / "out", clean)


def test_a_bundle_that_runs_twice_at_once_leaves_one_part(tmp_path: Path, clean: Path, corpus: Path) -> None:  # noqa: F811
    """Both attempts' drivers read and write the same splits; only their parts meet here, before either publishes."""
    argv = harness.arguments(corpus, tmp_path / "out")
    fault = ("create", "/_manifest/00000001.json", 1, False)
    processes = [harness.start(argv, tmp_path / "log", harness.die_at, *fault) for _ in range(2)]
    for process in processes:
        process.join(120)
    assert harness.contents(tmp_path / "out") == harness.contents(clean)


def test_a_create_whose_answer_was_lost_is_adopted(corpus: Path, clean: Path, tmp_path: Path) -> None:  # noqa: F811
    assert harness.run(harness.arguments(corpus, tmp_path / "out"), tmp_path / "log", _lose_answers) == 0
    harness.assert_same_dataset(tmp_path / "out", clean)


def _lose_answers() -> None:
    """Every third create is done but says that something was there already, as a retried PUT does."""
    real, calls = storage.create, [0]

    def lossy(uri: str, data: bytes) -> bool:
        calls[0] += 1
        created = real(uri, data)
        return created and (calls[0] % 3 != 0 and "_manifest" not in uri)

    storage.create = lossy


def test_a_full_disk_is_a_clear_error_and_the_next_run_goes_on(corpus: Path, clean: Path, tmp_path: Path) -> None:  # noqa: F811
    argv = harness.arguments(corpus, tmp_path / "out")
    assert harness.run(argv, tmp_path / "log", harness.limit_file_size, 75_000) == 1  # fewer than the largest part
    message = (tmp_path / "log").read_text()
    assert "cannot be written: File too large" in message
    assert "Traceback" not in message
    assert newest_manifest(str(tmp_path / "out")) is None
    assert harness.run(argv, tmp_path / "log") == 0
    harness.assert_same_dataset(tmp_path / "out", clean)


def test_a_hung_encode_ends_the_process_and_the_next_run_goes_on(corpus: Path, clean: Path, tmp_path: Path) -> None:  # noqa: F811
    argv = harness.arguments(corpus, tmp_path / "out")
    started = time.monotonic()
    assert harness.run([*argv, "--encode_timeout_seconds", "1"], tmp_path / "log", _hang_in_block, 5) == 1
    assert time.monotonic() - started < 30
    assert "no batch was encoded for 1 s" in (tmp_path / "log").read_text()
    assert newest_manifest(str(tmp_path / "out")) is None
    assert harness.run(argv, tmp_path / "log") == 0
    harness.assert_same_dataset(tmp_path / "out", clean)


def _hang_in_block(number: int) -> None:
    real, calls = harness.SlowEncoder.encode, [0]

    def hanging(self: harness.SlowEncoder, *args: object) -> object:
        calls[0] += 1
        if calls[0] == number:
            threading.Event().wait()
        return real(self, *args)  # type: ignore[arg-type]

    harness.SlowEncoder.encode = hanging  # type: ignore[method-assign, assignment]


def test_a_dead_device_ends_the_process_and_the_next_run_goes_on(corpus: Path, clean: Path, tmp_path: Path) -> None:  # noqa: F811
    argv = harness.arguments(corpus, tmp_path / "out")
    assert harness.run(argv, tmp_path / "log", _lose_device_in_block, 5) == 1
    message = (tmp_path / "log").read_text()
    assert "failed: part-" in message
    assert "device cuda:0 is gone (RuntimeError: CUDA error: unspecified launch failure)" in message
    assert "run again to go on" in message
    assert "Traceback" not in message
    assert newest_manifest(str(tmp_path / "out")) is None
    assert harness.run(argv, tmp_path / "log") == 0
    harness.assert_same_dataset(tmp_path / "out", clean)


def _lose_device_in_block(number: int) -> None:
    from transforms.device_faults import raise_if_gone

    real, calls = harness.SlowEncoder.encode, [0]

    def dying(self: harness.SlowEncoder, *args: object) -> object:
        calls[0] += 1
        if calls[0] >= number:
            raise_if_gone(RuntimeError("CUDA error: unspecified launch failure"), "cuda:0")
        return real(self, *args)  # type: ignore[arg-type]

    harness.SlowEncoder.encode = dying  # type: ignore[method-assign, assignment]


def test_a_sibling_folder_with_a_similar_name_is_untouched(corpus: Path, tmp_path: Path) -> None:  # noqa: F811
    sibling = tmp_path / "out-2"
    assert harness.run(harness.arguments(corpus, sibling), tmp_path / "log") == 0
    before = harness.contents(sibling), sorted(os.listdir(sibling / "_manifest"))
    other = tmp_path / "other"
    harness.write_corpus(other, files=1, seed=random.getrandbits(30))
    for source in (other, corpus, other):
        assert harness.run(harness.arguments(source, tmp_path / "out"), tmp_path / "log") == 0
    assert (harness.contents(sibling), sorted(os.listdir(sibling / "_manifest"))) == before


def test_a_publisher_that_needs_what_another_removes_gives_up(corpus: Path, tmp_path: Path) -> None:  # noqa: F811
    """A run that adopted parts of a removed version must not list them once a clean-up has them on its list."""
    output = tmp_path / "out"
    argv = harness.arguments(corpus, output)
    assert harness.run(argv, tmp_path / "log", harness.die_at, "create", "/_manifest/00000001.json", 1, False) == -9
    assert harness.run(argv, tmp_path / "log", _announce_removal, str(output)) == 1
    assert "cleaned up" in (tmp_path / "log").read_text()
    assert versions(str(output)) == []
    assert harness.run(argv, tmp_path / "log") == 0


def _announce_removal(output: str) -> None:
    """As if a clean-up beside this run began right after this run had planned."""
    real = storage.replace

    def announcing(uri: str, data: bytes) -> None:
        if uri.endswith(".intent"):
            names = [name for name in storage.listing(output) if name.startswith("part-")]
            real(storage.join(output, "_manifest", "00000000.removing"), f'["{names[0]}"]'.encode())
        real(uri, data)

    storage.replace = announcing
