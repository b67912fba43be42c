"""What running again costs: with nothing new, and after ten lines were inserted near the start of a large file.

    python -m tests.benchmarks.incremental [--rows 1000000] [--splits 1000]

The encoder is a fake one: what is measured is all the rest. Prints a Markdown table.
"""

import argparse
import contextlib
import io
import json
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import transforms.encode
from jobs import embed
from schemas import storage
from tests.fakes import FakeEncoder


def run(*argv: str) -> tuple[float, dict[str, Any], int]:
    """Seconds, the summary, and how many input files were opened."""
    opened = 0
    real = storage.open_read

    def counting(file: Any, *args: Any) -> Any:
        nonlocal opened
        opened += "/in" in getattr(file, "uri", file)
        return real(file, *args)

    storage.open_read = counting
    out = io.StringIO()
    started = time.monotonic()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
            status = embed.main([*argv, "--json"])
    finally:
        storage.open_read = real
    assert status == 0
    return time.monotonic() - started, json.loads(out.getvalue()), opened


def lines(seed: int, n: int) -> list[str]:
    rng = random.Random(seed)
    return [f"row {rng.getrandbits(60):x} of a text file" for _ in range(n)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--splits", type=int, default=1_000)
    args = parser.parse_args()
    transforms.encode.Encoder = FakeEncoder  # type: ignore[assignment, misc]
    print("| run | seconds | rows encoded | share | input files opened |\n| --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "in"
        source.mkdir()
        for number in range(args.splits):  # each a split of its own
            (source / f"{number:05}.txt").write_text("\n".join(lines(number, 20)))
        flags = ("--input", str(source), "--output", f"{folder}/out", "--split_bytes", "1000")
        first = report(f"{args.splits} splits, first run", *flags)
        again = report(f"{args.splits} splits, nothing new", *flags)
        assert first["version"] == again["version"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "in.txt"
        text = lines(0, args.rows)
        flags = ("--input", str(path), "--output", f"{folder}/out", "--id_from", "text")
        path.write_text("\n".join(text))
        report(f"{args.rows:,} rows in one file, first run", *flags)
        path.write_text("\n".join([*text[:1000], *lines(1, 10), *text[1000:]]))
        report("10 lines inserted near its start", *flags)


def report(what: str, *flags: str) -> dict[str, Any]:
    seconds, summary, opened = run(*flags)
    encoded = 0 if summary["unchanged"] else summary["rows_out"] - summary["reused"]["rows"]
    share = encoded / summary["rows_out"]
    print(f"| {what} | {seconds:.1f} | {encoded:,} | {share:.2%} | {opened} |", flush=True)
    return summary


if __name__ == "__main__":
    main()
