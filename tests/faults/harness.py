"""Runs the job in processes of their own that can be killed, starved or started side by side.

They are forks of one clean interpreter that has imported everything, so that a hundred starts cost seconds.
"""

import hashlib
import multiprocessing
import os
import random
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from jobs import embed
from schemas import storage
from schemas.dataset import open_dataset
from tests.fakes import FakeEncoder

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.faults.harness", "jobs.embed", "apache_beam.runners.portability.fn_api_runner"])


class SlowEncoder(FakeEncoder):
    """Takes its time, so that a kill meets it at work."""

    seconds_per_block = 0.02

    def encode(self, texts: Sequence[str], on_batch: Callable[[int, int], None] | None = None) -> Any:
        time.sleep(self.seconds_per_block)
        return super().encode(texts, on_batch)


def start(argv: list[str], log: Path, fault: Callable[..., None] | None = None, *args: Any) -> ForkServerProcess:
    """The job, started. `fault(*args)` is called in its process first, to arrange for what goes wrong."""
    process = CONTEXT.Process(target=_child, args=(argv, str(log), dict(os.environ), fault, args))
    process.start()
    return process


def _child(
    argv: list[str], log: str, environ: dict[str, str], fault: Callable[..., None] | None, args: tuple[Any, ...]
) -> None:
    os.environ.update(environ)  # a fork has that of its fork server
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    import transforms.encode

    transforms.encode.Encoder = SlowEncoder  # type: ignore[assignment, misc]
    if fault:
        fault(*args)
    sys.exit(embed.main(argv))


def run(argv: list[str], log: Path, fault: Callable[..., None] | None = None, *args: Any) -> int:
    """Runs the job to its end; its exit status, negative for the signal that ended it."""
    process = start(argv, log, fault, *args)
    process.join(120)
    assert process.exitcode is not None, f"hangs: {log.read_text()}"
    return process.exitcode


def die_at(verb: str, match: str, occurrence: int, after: bool) -> None:
    """Kills this process at a storage verb on a URI that contains `match`, before or after it is done."""
    real = getattr(storage, verb)
    counting, seen = threading.Lock(), 0

    def deadly(uri: Any, *args: Any) -> Any:
        nonlocal seen
        uris = [uri] if isinstance(uri, str) else list(uri)
        with counting:  # parts are written by several threads
            hit = any(match in u for u in uris)
            seen += hit
            last = hit and seen == occurrence
        if last and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = real(uri if isinstance(uri, str) else uris, *args)
        if last:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(storage, verb, deadly)


def limit_file_size(bytes_: int) -> None:
    """Every write beyond this fails, as on a full disk."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_, bytes_))


def write_corpus(folder: Path, files: int = 4, rows: int = 300, seed: int = 0) -> None:
    """JSONL shards with a broken row each and a text file, in a folder of their own."""
    rng = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(files):
        lines = [f'{{"text": "row {rng.getrandbits(60):x} of file {number}"}}' for _ in range(rows)]
        lines[rows // 2] = '{"text": '
        (folder / f"shard-{number}.jsonl").write_text("\n".join(lines) + "\n")


def arguments(source: Path | str, output: Path | str, *more: str) -> list[str]:
    """A command line that makes many splits, blocks and parts of a small corpus."""
    small = ["--rows_per_part", "128", "--split_bytes", "5000", "--max_error_rate", "0.02"]
    no_torch = ["--device", "cpu"]  # auto would import it to look: longer than a run may live here
    return ["--input", str(source), "--output", str(output), *small, *no_torch, *more]


def contents(output: Path) -> dict[str, str]:
    """sha256 of every file that a reader of the folder may see, by name."""
    return {
        str(path.relative_to(output)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(output.rglob("*.parquet"))
    }


def published(output: Path) -> tuple[list[str], dict[str, Any]]:
    """What the newest version says it is: parts in order, and counts. Checks that its rows can be read."""
    dataset = open_dataset(str(output))
    manifest = dataset.manifest
    assert dataset.read(["id"]).num_rows == manifest.counts.rows_out
    assert sum(pq.read_metadata(output / p.name).num_rows for p in manifest.parts) == manifest.counts.rows_out
    return [p.name for p in manifest.parts], {
        "counts": manifest.counts,
        "splits": manifest.splits,
        "rejects": manifest.rejects,
    }


def assert_same_dataset(output: Path, clean: Path) -> None:
    """Byte by byte what one clean run published, and nothing else to see."""
    assert published(output) == published(clean)
    assert contents(output) == contents(clean)
    left = [p.name for p in (output / "_manifest").iterdir() if storage.TEMPORARY not in p.name]
    assert [Path(name).suffix for name in left] == [".json"], left
