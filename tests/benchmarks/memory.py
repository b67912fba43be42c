"""Does memory grow with the corpus? Peak resident set of the job with a fake encoder, on few and on many rows.

    python -m tests.benchmarks.memory [--rows 500000 5000000]

The input is a text file of about 115 bytes a row. Input and output are on disk while a size runs: about 1.4 GB for a
million rows in the folder that TMPDIR names.
"""

import argparse
import itertools
import json
import sys
import tempfile
from pathlib import Path

from tests.benchmarks import corpus
from tests.benchmarks.processes import Finished, machine, markdown, run

TARGET = 1.2


def write_rows(path: Path, rows: int) -> None:
    """`rows` distinct lines, never all in memory."""
    numbered = enumerate(itertools.islice(itertools.cycle(corpus.real_sentences()), rows))
    with path.open("w", encoding="utf-8") as file:
        file.writelines(f"{text} ({number})\n" for number, text in numbered)


def measure(rows: int) -> tuple[Finished, int]:
    """A run of the job over `rows` rows, and the size of its input in bytes."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "rows.txt"
        write_rows(source, rows)
        job = ["-m", "tests.benchmarks.fake_job", "--runner=DirectRunner", "--json"]
        finished = run([*job, "--input", str(source), "--output", f"{folder}/out"])
        if (out := json.loads(finished.stdout)["rows_out"]) != rows:
            raise RuntimeError(f"{rows} rows went in, {out} came out")
        return finished, source.stat().st_size


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[500_000, 5_000_000])
    rows = sorted(parser.parse_args().rows)
    runs = [measure(n) for n in rows]
    table = [["rows", "input, MB", "seconds", "µs a row", "peak RSS, MB", "x the first"]]
    for n, (finished, size) in zip(rows, runs, strict=True):
        cells = [f"{size / 1e6:,.0f}", f"{finished.seconds:.1f}", f"{finished.seconds / n * 1e6:.1f}"]
        table.append([f"{n:,}", *cells, f"{finished.peak_mb:,.0f}", f"{finished.peak_mb / runs[0][0].peak_mb:.2f}"])
    sys.stdout.write(f"{markdown(table)}\n\nto reach: at most {TARGET}\n{machine()}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
