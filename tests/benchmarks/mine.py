"""Mining of all pairs at a threshold: our kernel against sentence-transformers, faiss and plain float32 tiles.

    python -m tests.benchmarks.mine [--rows 50000] [--min_score 0.8] [--rounds 3]

Real vectors are the reference manual's sentences and, where Debian's `wordnet-base` is installed, WordNet's glosses
(`apt-get install wordnet-base`), embedded once and kept in a temporary folder; synthetic ones are clusters of ten
around random directions, where no prefix holds much. faiss needs `pip install faiss-cpu`.

Each contender has a process of its own, and they take turns. Seconds are from vectors in memory to pairs in memory;
ours include fitting the filter. Ratios are medians over the rounds. The bound is what the products of the chosen
filter alone would take, one thread a core, measured in the same process.
"""

import argparse
import functools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.processes import machine, markdown, run
from transforms.device import cpu_threads

WORDNET = Path("/usr/share/wordnet")
GROWTH_ROWS = (12_500, 25_000, 50_000, 100_000)
CLUSTER_ROWS = 10
BLOCK_ROWS = 65_536
UNDECIDED = 1e-6
TARGETS = {"real": {"sentence-transformers": 20, "faiss": 5}, "synthetic": {"sentence-transformers": 8}}
Pairs = tuple[np.ndarray, np.ndarray]


def mine_ours(vectors: np.ndarray, min_score: float, device: str = "cpu") -> tuple[Pairs, dict[str, Any]]:
    """The kernel, in blocks as `jobs.mine` cuts them."""
    from transforms.bounds import prepare
    from transforms.similarity import pairs_in_blocks
    from transforms.tuning import FIT_ROWS, fit_filter
    from transforms.units import normalize

    sample = np.random.default_rng(0).choice(len(vectors), min(FIT_ROWS, len(vectors)), replace=False)
    choice = fit_filter(normalize(vectors[sample]), min_score, pairs=len(vectors) * (len(vectors) - 1) / 2)
    starts = range(0, len(vectors), BLOCK_ROWS)
    blocks = [prepare(vectors[start : start + BLOCK_ROWS], choice, device, cpu_threads()) for start in starts]
    rows: list[np.ndarray] = []
    cols: list[np.ndarray] = []
    for i, a in enumerate(blocks):
        for j, b in enumerate(blocks[i:], i):
            for found in pairs_in_blocks(
                a, b, min_score, same=i == j, threads=1 if device == "cuda" else cpu_threads()
            ):
                rows.append(found.rows_a + starts[i])
                cols.append(found.rows_b + starts[j])
    return _joined(rows, cols), {"filter": choice.name, "why": choice.why, "dims": choice.dims}


def mine_sentence_transformers(vectors: np.ndarray, min_score: float) -> tuple[Pairs, dict[str, Any]]:
    import torch
    from sentence_transformers.util import paraphrase_mining_embeddings

    found = paraphrase_mining_embeddings(torch.from_numpy(vectors))
    kept = np.array([(i, j) for score, i, j in found if score >= min_score], dtype=np.int64).reshape(-1, 2)
    return (kept[:, 0], kept[:, 1]), {}


def mine_faiss(vectors: np.ndarray, min_score: float) -> tuple[Pairs, dict[str, Any]]:
    import faiss

    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    limits, _, cols = index.range_search(vectors, min_score)
    rows = np.repeat(np.arange(len(vectors)), np.diff(limits.astype(np.int64)))
    return (rows[rows < cols], cols[rows < cols]), {}


def mine_float32(vectors: np.ndarray, min_score: float) -> tuple[Pairs, dict[str, Any]]:
    """Tiles of the upper triangle as anyone would write them."""
    import torch

    side, whole = 2048, torch.from_numpy(vectors)
    rows: list[np.ndarray] = []
    cols: list[np.ndarray] = []
    for top in range(0, len(whole), side):
        for left in range(top, len(whole), side):
            found = torch.nonzero(whole[top : top + side] @ whole[left : left + side].t() >= min_score).numpy()
            rows.append(found[:, 0] + top)
            cols.append(found[:, 1] + left)
    i, j = _joined(rows, cols)
    return (i[i < j], j[i < j]), {}


def _joined(rows: list[np.ndarray], cols: list[np.ndarray]) -> Pairs:
    empty = [np.empty(0, dtype=np.int64)]
    return np.concatenate(empty + rows), np.concatenate(empty + cols)


CONTENDERS: dict[str, Callable[[np.ndarray, float], tuple[Pairs, dict[str, Any]]]] = {
    "ours": mine_ours,
    "sentence-transformers": mine_sentence_transformers,
    "faiss": mine_faiss,
    "float32 tiles": mine_float32,
}


def products_bound(dims: int) -> float:
    """Pairs a second of the filter's products alone, tiles in a cache, one thread a core: the most to look at."""
    import torch

    from transforms.products import PRODUCT_OF, code_dtype, multiply, seconds
    from transforms.similarity import TALL_TILE, TILE
    from transforms.threads import in_threads

    dtype = code_dtype("cpu", dims)
    tile = TILE if dtype == torch.int8 else TALL_TILE

    def rate(_: int) -> float:
        left, right = (torch.randint(-127, 127, (side, dims)).to(dtype) for side in tile)
        out = torch.empty(tile, dtype=PRODUCT_OF[dtype])
        return tile[0] * tile[1] / seconds(lambda: multiply(left, right, out), 50)

    return sum(in_threads(rate, range(cpu_threads()), cpu_threads()))


def real_vectors(rows: int) -> np.ndarray:
    from tests.benchmarks import corpus
    from transforms.device import has_fast_bfloat16
    from transforms.encoder import Encoder
    from transforms.model import EncodeOptions, resolve_model

    glosses = [
        line.split(" | ", 1)[1].strip()
        for path in sorted(WORDNET.glob("data.*"))
        for line in path.read_text("latin-1").splitlines()
        if " | " in line
    ]
    texts = list(dict.fromkeys([*corpus.real_sentences(), *glosses])) if glosses else corpus.sentences(rows)
    order = np.random.default_rng(0).permutation(len(texts))[:rows]
    options = EncodeOptions(dtype="bfloat16" if has_fast_bfloat16("cpu") else "float32", device="cpu")
    vectors = Encoder(resolve_model(options), options).encode([texts[i] for i in order]).vectors
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def synthetic_vectors(rows: int, dims: int = 384) -> np.ndarray:
    """Cosines of about 0.82 within a cluster of ten, of 0 +- 0.05 otherwise."""
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((-(-rows // CLUSTER_ROWS), dims), dtype=np.float32)
    vectors = vectors[rng.permutation(rows) % len(vectors)]
    for start in range(0, rows, 10_000):
        vectors[start : start + 10_000] += 0.47 * rng.standard_normal(vectors[start : start + 10_000].shape)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


MAKERS = {"real": real_vectors, "synthetic": synthetic_vectors}


def vectors_file(kind: str, rows: int) -> Path:
    """Made by a process of its own, so that this one stays small; kept for the next run."""
    path = Path(tempfile.gettempdir()) / f"mine-{kind}-{rows}.npy"
    if not path.exists():
        run(["-m", __spec__.name, "--make", kind, "--rows", str(rows), "--vectors", str(path)])
    return path


def take_turn(contender: str, vectors: Path, rows: int, min_score: float, pairs: Path) -> dict[str, Any]:
    """One contender, in its process: seconds, peak memory and pairs, whose file it writes."""
    arguments = ["--contender", contender, "--vectors", str(vectors), "--rows", str(rows), "--pairs", str(pairs)]
    finished = run(["-m", __spec__.name, *arguments, "--min_score", str(min_score)])
    return json.loads(finished.stdout) | {"peak_mb": finished.peak_mb}


def in_process(contender: str, path: Path, rows: int, min_score: float, pairs: Path) -> dict[str, Any]:
    vectors = np.ascontiguousarray(np.load(path, mmap_mode="r")[:rows])
    import sentence_transformers  # noqa: F401  all pay for it alike, in memory, and none in time

    started = time.perf_counter()
    (left, right), said = CONTENDERS[contender](vectors, min_score)
    seconds = time.perf_counter() - started
    np.save(pairs, np.sort(np.minimum(left, right) * len(vectors) + np.maximum(left, right)))
    return {"seconds": seconds, "pairs": len(left), **said} | ({"bound": products_bound(said["dims"])} if said else {})


def disagreements(vectors: Path, rows: int, ours: Path, theirs: Path, min_score: float) -> int:
    """Pairs that only one of two found, but for those whose float64 cosine is within 1e-6 of the threshold."""
    only = np.setxor1d(np.load(ours), np.load(theirs))
    whole = np.load(vectors, mmap_mode="r")
    cosines = np.array([whole[p // rows].astype(np.float64) @ whole[p % rows].astype(np.float64) for p in only])
    return int((np.abs(cosines - min_score) > UNDECIDED).sum()) if len(only) else 0


def compare(kind: str, rows: int, min_score: float, rounds: int, folder: Path) -> str:
    vectors = vectors_file(kind, max(rows, GROWTH_ROWS[-1] if kind == "real" else 0))
    turns: dict[str, list[dict[str, Any]]] = {name: [] for name in CONTENDERS}
    for _ in range(rounds):
        for name, of_one in turns.items():
            of_one.append(take_turn(name, vectors, rows, min_score, folder / f"{name}.npy"))
    table = [["contender", "seconds", "M pairs/s", "peak RSS, MB", "pairs", "disagree", "ours is x faster", "to reach"]]
    for name, of_one in turns.items():
        ratio = statistics.median(t["seconds"] / o["seconds"] for t, o in zip(of_one, turns["ours"], strict=True))
        seconds = statistics.median(t["seconds"] for t in of_one)
        wrong = disagreements(vectors, rows, folder / "ours.npy", folder / f"{name}.npy", min_score)
        cells = [f"{seconds:.2f}", f"{rows * (rows - 1) / 2e6 / seconds:,.0f}", f"{of_one[-1]['peak_mb']:,.0f}"]
        cells += [f"{of_one[-1]['pairs']:,}", str(wrong), f"{ratio:.1f}", str(TARGETS[kind].get(name, ""))]
        table.append([name, *cells])
    ours = turns["ours"][-1]
    share = statistics.median(rows * (rows - 1) / 2 / t["seconds"] / t["bound"] for t in turns["ours"])
    bound = f"{share:.0%} of the bound by products alone, {ours['bound'] / 1e6:,.0f} M pairs/s at {ours['filter']}"
    return f"{kind}, {rows:,} rows at {min_score}\n\n{markdown(table)}\n\nours: {bound}\n{ours['why']}"


def growth(min_score: float, folder: Path) -> str:
    vectors = vectors_file("real", GROWTH_ROWS[-1])
    turns = [take_turn("ours", vectors, rows, min_score, folder / "growth.npy") for rows in GROWTH_ROWS]
    seconds = [turn["seconds"] for turn in turns]
    exponent = np.polyfit(np.log(GROWTH_ROWS), np.log(seconds), 1)[0]
    last = np.log2(seconds[-1] / seconds[-2])
    table = [["rows", "seconds", "M pairs/s", "peak RSS, MB"]]
    for rows, turn in zip(GROWTH_ROWS, turns, strict=True):
        rate = rows * (rows - 1) / 2e6 / turn["seconds"]
        table.append([f"{rows:,}", f"{turn['seconds']:.2f}", f"{rate:,.0f}", f"{turn['peak_mb']:,.0f}"])
    return f"growth: seconds ~ rows^{exponent:.2f} (the last doubling ^{last:.2f}; to reach: 2)\n\n{markdown(table)}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--min_score", type=float, default=0.8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kinds", nargs="+", choices=MAKERS, default=list(MAKERS))
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--make", choices=MAKERS, help=argparse.SUPPRESS)
    parser.add_argument("--vectors", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--pairs", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.make:
        np.save(given.vectors, MAKERS[given.make](given.rows))
    elif given.contender:
        said = in_process(given.contender, given.vectors, given.rows, given.min_score, given.pairs)
        sys.stdout.write(json.dumps(said))
    else:
        with tempfile.TemporaryDirectory() as name:
            each = functools.partial(compare, rows=given.rows, min_score=given.min_score, rounds=given.rounds)
            for kind in given.kinds:
                sys.stdout.write(each(kind, folder=Path(name)) + "\n\n")
                sys.stdout.flush()
            sys.stdout.write(f"{growth(given.min_score, Path(name))}\n\n{machine()}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
