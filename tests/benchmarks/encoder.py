"""The encoder against `SentenceTransformer.encode` as its documentation shows it, and against the matmul bound.

    python -m tests.benchmarks.encoder [--rows 10000] [--rounds 3] [--device cpu|cuda]

Each contender has a process of its own (they set the number of threads), and they take turns on slices of the same
texts, so that a machine that is busy with something else is unfair to all alike. Figures are medians over the turns.
The bound is what the matrix products alone would take in the same precision (see `bound`), measured in the same turns.
"""

import argparse
import concurrent.futures
import multiprocessing
import statistics
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

if __name__ == "__main__":  # also as a file, from anywhere
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.benchmarks import corpus
from tests.benchmarks.bound import tokens_per_second
from tests.benchmarks.processes import machine

PEER = "encode"
DTYPES = {"cpu": ("float32", "bfloat16"), "cuda": ("float32", "bfloat16", "float16")}
BACKENDS = {"cpu": ("torch", "openvino"), "cuda": ("torch",)}
FIRST = "torch float32"
TARGETS = {"float32": 0.95, "bfloat16": 0.80}
"""Of the bound, for the faster of the two backends on a CPU."""


class Turn(NamedTuple):
    seconds: float
    vectors: np.ndarray | None
    tokens: int


_model: Any = None  # of a contender's process


def start_encode(device: str, backend: str, dtype: str) -> None:
    """Our encoder."""
    global _model
    from transforms.encoder import Encoder
    from transforms.model import EncodeOptions, resolve_model

    options = EncodeOptions(backend=backend, dtype=dtype, device=device)
    _model = Encoder(resolve_model(options), options)
    _model.encode(corpus.sentences(64))


def take_turn_encode(texts: list[str]) -> Turn:
    started = time.perf_counter()
    encoded = _model.encode(texts)
    seconds = time.perf_counter() - started
    return Turn(seconds, encoded.vectors, int(np.minimum(encoded.token_counts, 256).sum()))


def start_peer(device: str) -> None:
    """sentence-transformers, as its first page has it."""
    global _model
    from sentence_transformers import SentenceTransformer

    from transforms.model import EncodeOptions, resolve_model

    _model = SentenceTransformer(resolve_model(EncodeOptions()).folder, device=device)
    _model.encode(corpus.sentences(64))


def take_turn_peer(texts: list[str]) -> Turn:
    started = time.perf_counter()
    vectors = _model.encode(texts)
    return Turn(time.perf_counter() - started, vectors, 0)


def contenders(device: str) -> dict[str, tuple[str, str]]:
    """Ours: (backend, dtype) by name."""
    return {f"{backend} {dtype}": (backend, dtype) for dtype in DTYPES[device] for backend in BACKENDS[device]}


def compare(name: str, texts: list[str], rounds: int, device: str, pools: dict[str, Any]) -> list[list[str]]:
    """Rows of the table for one set of texts."""
    ours = contenders(device)
    turns: dict[str, list[Turn]] = {name: [] for name in (PEER, *ours)}
    bounds: dict[str, list[float]] = {dtype: [] for dtype in DTYPES[device]}
    for part in range(rounds):
        slice_ = texts[part::rounds]
        turns[PEER].append(pools[PEER].submit(take_turn_peer, slice_).result())
        for dtype in DTYPES[device]:
            bounds[dtype].append(pools["bound"].submit(tokens_per_second, device, dtype).result())
            for own in (name for name, (_, of) in ours.items() if of == dtype):
                turns[own].append(pools[own].submit(take_turn_encode, slice_).result())
    of_each = {own: bounds[dtype] for own, (_, dtype) in ours.items()}
    return [_row(name, contender, turns, of_each.get(contender), len(texts) / rounds) for contender in turns]


def _row(name: str, contender: str, turns: dict[str, list[Turn]], bounds: list[float] | None, rows: float) -> list[str]:
    tokens = [turn.tokens for turn in turns[FIRST]]
    rate = [n / turn.seconds for n, turn in zip(tokens, turns[contender], strict=True)]
    ratios = [peer.seconds / own.seconds for peer, own in zip(turns[PEER], turns[contender], strict=True)]
    texts = statistics.median(rows / turn.seconds for turn in turns[contender])
    row = [name, contender, f"{statistics.median(rate):,.0f}", f"{texts:,.0f}", f"{statistics.median(ratios):.2f}"]
    if bounds is None:
        return [*row, "", "", ""]
    share = statistics.median(r / b for r, b in zip(rate, bounds, strict=True))
    differences = [np.abs(a.vectors - b.vectors).max() for a, b in zip(turns[contender], turns[PEER], strict=True)]
    cosines = [(a.vectors * b.vectors).sum(1).min() for a, b in zip(turns[contender], turns[PEER], strict=True)]
    return [*row, f"{share:.2f}", f"{max(differences):.1e}", f"{min(cosines):.5f}"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", choices=sorted(DTYPES), default="cpu")
    args = parser.parse_args()
    spawn = multiprocessing.get_context("spawn")
    starts: dict[str, tuple] = {
        PEER: (start_peer, (args.device,)),
        **{name: (start_encode, (args.device, *of)) for name, of in contenders(args.device).items()},
        "bound": (int, ()),
    }
    pools = {
        name: concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn, initializer=start, initargs=arguments)
        for name, (start, arguments) in starts.items()
    }
    sets = {
        "sentences": corpus.sentences(args.rows),
        "of 68 tokens": corpus.runs_of_words(max(1, args.rows // 2), 68),
        "of 120 tokens": corpus.runs_of_words(max(1, args.rows // 4), 120),
        "of 3 to 400": corpus.mixed_lengths(max(1, args.rows // 3)),
    }
    table = [["texts", "contender", "tokens/s", "texts/s", "x encode", "of bound", "max diff", "min cosine"]]
    for name, texts in sets.items():
        table += compare(f"{len(texts):,} {name}", texts, args.rounds, args.device, pools)
    for pool in pools.values():
        pool.shutdown()
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    for row in table:
        print("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))
    print(f"to reach, of the bound: {TARGETS}; {machine()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
