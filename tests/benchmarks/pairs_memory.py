"""How much memory mining and joining take: largest resident set by rows, pairs, k, text length and dimensions.

    python -m tests.benchmarks.pairs_memory [--only long_texts]

Each case is a process of its own over a made-up dataset, with `--memory_mb 256`. What a process takes beside that is
`CONSTANT_MB`: Python with Beam, torch and pyarrow, half a gigabyte, and pairs on their way: a million of them in order,
with the texts of a file and of a part.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.benchmarks.processes import machine, markdown, run
from tests.datasets import clustered, write_dataset

MEMORY_MB, CONSTANT_MB = 256, 1800


def near(rows: int, dims: int = 64) -> np.ndarray:
    """Vectors that are all alike."""
    return (np.ones((rows, dims)) + 1e-3 * np.random.default_rng(0).standard_normal((rows, dims))).astype(np.float32)


def texts_of(rows: int, length: int) -> list[str]:
    words = np.random.default_rng(0).integers(0, 36**4, (rows, -(-length // 5)))
    return [" ".join(np.base_repr(word, 36).zfill(4) for word in of_row)[:length] for of_row in words]


def mine(folder: Path, vectors: np.ndarray, *flags: object, texts: list[str] | None = None) -> list[str]:
    source = write_dataset(folder / "in", vectors, texts=texts, part_rows=50_000)
    return ["-m", "jobs.mine", "--input", str(source), *map(str, flags)]


def join(folder: Path, queries: np.ndarray, corpus: np.ndarray, *flags: object, texts: list[str] | None = None) -> list:
    here, there = write_dataset(folder / "q", queries), write_dataset(folder / "c", corpus, texts=texts)
    return ["-m", "jobs.join", "--queries", str(here), "--corpus", str(there), *map(str, flags)]


CASES: dict[str, Callable[[Path], list[str]]] = {
    "mine: 1,000 rows of 64 dimensions": lambda f: mine(f, clustered(1000, 64), "--min_score", 0.8),
    "mine: 50,000 rows of 384": lambda f: mine(f, clustered(50_000, 384), "--min_score", 0.8),
    "mine: 3,000 alike, all 4.5 million pairs": lambda f: mine(f, near(3000), "--min_score", 0.8),
    "mine: 8,000 alike, the best 10": lambda f: mine(f, near(8000), "--min_score", 0.8, "--max_pairs", 10),
    "mine: 6,000 alike, the best 3 million": lambda f: mine(
        f, near(6000), "--min_score", 0.8, "--max_pairs", 3_000_000
    ),
    "mine: 4,000 alike, the 1,000 best of each": lambda f: mine(f, near(4000), "--min_score", 0.8, "--top_k", 1000),
    "mine: two texts of 2,000 rows each": lambda f: mine(
        f, near(4000), "--min_score", 0.8, texts=["one", "other"] * 2000
    ),
    "mine: 80 texts of 150 KB, with text": lambda f: mine(
        f, near(80), "--min_score", 0.8, "--with_text", texts=texts_of(80, 150_000)
    ),
    "mine: 50 rows of 4,096 dimensions": lambda f: mine(f, clustered(50, 4096), "--min_score", 0.8),
    "join: 1,000 by 50,000, top 10": lambda f: join(f, clustered(1000, 384), clustered(50_000, 384), "--top_k", 10),
    "join: 500 by 20,000, top 5,000": lambda f: join(f, clustered(500, 64), clustered(20_000, 64), "--top_k", 5000),
    "join: 1,000 by 3,000 alike, at 0.8": lambda f: join(f, near(1000), near(3000), "--min_score", 0.8),
    "join: 20 by 100 texts of 150 KB": lambda f: join(
        f, near(20), near(100), "--min_score", 0.8, "--with_text", texts=texts_of(100, 150_000)
    ),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="cases whose names have this in them")
    only = parser.parse_args().only
    table = [["case", "seconds", "peak RSS, MB", f"beside --memory_mb {MEMORY_MB}", f"within {CONSTANT_MB}"]]
    for name, make in CASES.items():
        if only not in name:
            continue
        with tempfile.TemporaryDirectory() as folder:
            argv = [*make(Path(folder)), "--output", f"{folder}/out", "--memory_mb", str(MEMORY_MB), "--json"]
            finished = run(argv)
        beside = finished.peak_mb - MEMORY_MB
        cells = [f"{finished.seconds:.1f}", f"{finished.peak_mb:,.0f}", f"{beside:,.0f}"]
        table.append([name, *cells, "yes" if beside <= CONSTANT_MB else "NO"])
        sys.stderr.write(f"{table[-1]}\n")
    sys.stdout.write(f"{markdown(table)}\n{machine()}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
