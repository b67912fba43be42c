"""The encoder against `SentenceTransformer.encode` as its documentation shows it, and against the matmul bound.

    python -m tests.benchmarks.encoder [--rows 10000] [--rounds 3]

Each contender has a process of its own (they set the number of threads), and they take turns on slices of the same
texts, so that a machine that is busy with something else is unfair to all alike. Figures are medians over the turns.
The bound is what the matrix products alone would take: 21.3 MFLOP a token of all-MiniLM-L6-v2, at the rate that this
machine multiplies matrices of its shapes in the same precision, measured in the same turns.
"""

import argparse
import concurrent.futures
import multiprocessing
import statistics
import sys
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

if __name__ == "__main__":  # also as a file, from anywhere
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.benchmarks import corpus
from tests.benchmarks.processes import machine
from transforms.device import cpu_threads

MFLOP_A_TOKEN = 21.3
SHAPES = [(384, 384)] * 4 + [(384, 1536), (1536, 384)]  # of one layer
BOUND_SECONDS = 2.0
PEER = "encode"
DTYPES = ("float32", "bfloat16")
OURS = {f"{backend} {dtype}": (backend, dtype) for dtype in DTYPES for backend in ("torch", "openvino")}
FIRST = "torch float32"
TARGETS = {"float32": 0.95, "bfloat16": 0.80}
"""Of the bound, for the faster of the two backends."""


class Turn(NamedTuple):
    seconds: float
    vectors: np.ndarray | None
    tokens: int


_model: Any = None  # of a contender's process


def start_encode(backend: str, dtype: str) -> None:
    """Our encoder."""
    global _model
    from transforms.encoder import Encoder
    from transforms.model import EncodeOptions, resolve_model

    options = EncodeOptions(backend=backend, dtype=dtype, device="cpu")
    _model = Encoder(resolve_model(options), options)
    _model.encode(corpus.sentences(64))


def take_turn_encode(texts: list[str]) -> Turn:
    started = time.perf_counter()
    encoded = _model.encode(texts)
    seconds = time.perf_counter() - started
    return Turn(seconds, encoded.vectors, int(np.minimum(encoded.token_counts, 256).sum()))


def start_peer() -> None:
    """sentence-transformers, as its first page has it."""
    global _model
    from sentence_transformers import SentenceTransformer

    from transforms.model import EncodeOptions, resolve_model

    _model = SentenceTransformer(resolve_model(EncodeOptions()).folder, device="cpu")
    _model.encode(corpus.sentences(64))


def take_turn_peer(texts: list[str]) -> Turn:
    started = time.perf_counter()
    vectors = _model.encode(texts)
    return Turn(time.perf_counter() - started, vectors, 0)


def start_bound() -> None:
    import torch

    torch.set_num_threads(1)


def take_turn_bound(dtype: str) -> float:
    """Tokens a second that the matrix products of the model would allow, all cores together."""
    import torch

    rates: list[float] = []

    def multiply() -> None:
        torch.set_num_threads(1)
        matrices = [torch.randn(n, k, dtype=getattr(torch, dtype)) for k, n in SHAPES]
        inputs = {k: torch.randn(1024, k, dtype=getattr(torch, dtype)) for k in (384, 1536)}
        products, started = 0, time.perf_counter()
        with torch.inference_mode():
            while time.perf_counter() - started < BOUND_SECONDS:
                for matrix in matrices:
                    torch.nn.functional.linear(inputs[matrix.shape[1]], matrix)
                products += 1
        flop = products * sum(2 * 1024 * k * n for k, n in SHAPES)
        rates.append(flop / (time.perf_counter() - started))

    threads = [threading.Thread(target=multiply) for _ in range(cpu_threads())]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(rates) / (MFLOP_A_TOKEN * 1e6)


def compare(name: str, texts: list[str], rounds: int, pools: dict[str, Any]) -> list[list[str]]:
    """Rows of the table for one set of texts."""
    turns: dict[str, list[Turn]] = {name: [] for name in (PEER, *OURS)}
    bounds: dict[str, list[float]] = {dtype: [] for dtype in DTYPES}
    for part in range(rounds):
        slice_ = texts[part::rounds]
        turns[PEER].append(pools[PEER].submit(take_turn_peer, slice_).result())
        for dtype in DTYPES:
            bounds[dtype].append(pools["bound"].submit(take_turn_bound, dtype).result())
            for own in (name for name, (_, of) in OURS.items() if of == dtype):
                turns[own].append(pools[own].submit(take_turn_encode, slice_).result())
    of_each = {own: bounds[dtype] for own, (_, dtype) in OURS.items()}
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
    args = parser.parse_args()
    spawn = multiprocessing.get_context("spawn")
    starts: dict[str, tuple] = {
        PEER: (start_peer, ()),
        **{name: (start_encode, of) for name, of in OURS.items()},
        "bound": (start_bound, ()),
    }
    pools = {
        name: concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn, initializer=start, initargs=arguments)
        for name, (start, arguments) in starts.items()
    }
    sets = {
        "sentences": corpus.sentences(args.rows),
        "of 120 tokens": corpus.paragraphs(max(1, args.rows // 4)),
        "of 3 to 400": corpus.mixed_lengths(max(1, args.rows // 3)),
    }
    table = [["texts", "contender", "tokens/s", "texts/s", "x encode", "of bound", "max diff", "min cosine"]]
    for name, texts in sets.items():
        table += compare(f"{len(texts):,} {name}", texts, args.rounds, pools)
    for pool in pools.values():
        pool.shutdown()
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    for row in table:
        print("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))
    print(f"to reach, of the bound: {TARGETS}; {machine()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
