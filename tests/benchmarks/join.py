"""Joining of queries with a corpus: our kernel against sentence-transformers, faiss and DuckDB.

    python -m tests.benchmarks.join [--queries 5000] [--rows 100000] [--top_k 10] [--min_score 0.8] [--rounds 3]

Vectors are those of `tests.benchmarks.mine`: the first rows are the queries, the others the corpus. Each contender has
a process of its own, and they take turns. Seconds are from vectors in memory to matches in memory; ours include fitting
the filter and preparing both sides, faiss's filling its index. DuckDB scans for `--duckdb_queries` queries, and its
seconds are scaled up to all. Ratios are medians over the rounds.

Results are compared with ours: a match that one has and not the other counts, unless float64 cannot tell its score from
that of the query's last match, or from the threshold.
"""

import argparse
import importlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.mine import BLOCK_ROWS, GROWTH_ROWS, MAKERS, UNDECIDED, vectors_file
from tests.benchmarks.processes import machine, markdown, run
from transforms.device import cpu_threads

IMPORTED = ("sentence_transformers", "faiss", "duckdb", "pyarrow", "transforms.top_k", "transforms.tuning")
Matches = tuple[np.ndarray, np.ndarray]  # rows of the queries, rows of the corpus
TARGETS = {
    "top_k": {"faiss": 2, "sentence-transformers": 5},
    "min_score": {"faiss": 8},
}


def prepared(
    queries: np.ndarray, corpus: np.ndarray, min_score: float | None, device: str = "cpu"
) -> tuple[Any, list[tuple[int, Any]], dict]:
    """The queries, and the corpus in blocks as `jobs.join` cuts it, under the filter that it takes."""
    from transforms.bounds import prepare, whole_filter
    from transforms.tuning import FIT_ROWS, fit_filter
    from transforms.units import normalize

    sample = np.random.default_rng(0).choice(len(corpus), min(FIT_ROWS, len(corpus)), replace=False)
    started = time.perf_counter()
    choice = whole_filter(corpus.shape[1])
    if min_score is not None:
        choice = fit_filter(normalize(corpus[sample]), min_score, pairs=len(queries) * len(corpus))
    fitted = time.perf_counter()
    starts = range(0, len(corpus), BLOCK_ROWS)
    blocks = [(s, prepare(corpus[s : s + BLOCK_ROWS], choice, device, cpu_threads())) for s in starts]
    left = prepare(queries, choice, device, cpu_threads())
    said = {"filter": choice.name, "why": choice.why, "fit": fitted - started, "prepare": time.perf_counter() - fitted}
    return left, blocks, said


def ours_top_k(
    queries: np.ndarray, corpus: np.ndarray, top_k: int, device: str = "cpu"
) -> tuple[Matches, dict[str, Any]]:
    from transforms.top_k import TopK, top_k_in_blocks

    left, blocks, said = prepared(queries, corpus, None, device)
    best = TopK.empty(len(queries), top_k)
    for start, block in blocks:
        ranks = np.arange(start, start + len(block))
        best = top_k_in_blocks(left, block, ranks, best, threads=cpu_threads())
    return (np.repeat(np.arange(len(queries)), top_k), best.ranks.ravel()), said


def ours_min_score(queries: np.ndarray, corpus: np.ndarray, min_score: float) -> tuple[Matches, dict[str, Any]]:
    from transforms.similarity import pairs_in_blocks

    left, blocks, said = prepared(queries, corpus, min_score)
    rows, cols = [], []
    for start, block in blocks:
        for found in pairs_in_blocks(left, block, min_score, threads=cpu_threads()):
            rows.append(found.rows_a)
            cols.append(found.rows_b + start)
    return (np.concatenate(rows), np.concatenate(cols)), said


def semantic_search(queries: np.ndarray, corpus: np.ndarray, top_k: int) -> tuple[Matches, dict[str, Any]]:
    import torch
    from sentence_transformers.util import semantic_search

    found = semantic_search(torch.from_numpy(queries), torch.from_numpy(corpus), top_k=top_k)
    cols = np.array([match["corpus_id"] for matches in found for match in matches])
    return (np.repeat(np.arange(len(queries)), top_k), cols), {}


def faiss_index(corpus: np.ndarray) -> Any:
    import faiss

    index = faiss.IndexFlatIP(corpus.shape[1])
    index.add(corpus)
    return index


def faiss_top_k(queries: np.ndarray, corpus: np.ndarray, top_k: int) -> tuple[Matches, dict[str, Any]]:
    _, cols = faiss_index(corpus).search(queries, top_k)
    return (np.repeat(np.arange(len(queries)), top_k), cols.ravel()), {}


def faiss_min_score(queries: np.ndarray, corpus: np.ndarray, min_score: float) -> tuple[Matches, dict[str, Any]]:
    limits, _, cols = faiss_index(corpus).range_search(queries, min_score)
    return (np.repeat(np.arange(len(queries)), np.diff(limits.astype(np.int64))), cols), {}


def duckdb_of(queries: np.ndarray, corpus: np.ndarray, query: str) -> tuple[Matches, dict[str, Any]]:
    import duckdb
    import pyarrow as pa

    connection = duckdb.connect()
    connection.execute(f"SET threads = {cpu_threads()}")
    for name, vectors in (("queries", queries), ("corpus", corpus)):
        table = pa.table(
            {
                "id": np.arange(len(vectors)),
                "v": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1]),
            }
        )
        connection.register(name, table)
    found = connection.sql(query).fetchnumpy()
    return (np.asarray(found["q"]), np.asarray(found["c"])), {}


SCORED = "SELECT q.id AS q, c.id AS c, array_cosine_similarity(q.v, c.v) AS score FROM queries q, corpus c"


def duckdb_top_k(queries: np.ndarray, corpus: np.ndarray, top_k: int) -> tuple[Matches, dict[str, Any]]:
    best = f"SELECT q, unnest(max_by(c, score, {top_k})) AS c FROM ({SCORED}) GROUP BY q"
    return duckdb_of(queries, corpus, best)


def duckdb_min_score(queries: np.ndarray, corpus: np.ndarray, min_score: float) -> tuple[Matches, dict[str, Any]]:
    return duckdb_of(queries, corpus, f"{SCORED} WHERE array_cosine_similarity(q.v, c.v) >= {min_score}")


CONTENDERS: dict[str, dict[str, Callable[..., tuple[Matches, dict[str, Any]]]]] = {
    "top_k": {
        "ours": ours_top_k,
        "sentence-transformers": semantic_search,
        "faiss": faiss_top_k,
        "duckdb": duckdb_top_k,
    },
    "min_score": {"ours": ours_min_score, "faiss": faiss_min_score, "duckdb": duckdb_min_score},
}


def in_process(contender: str, question: str, given: argparse.Namespace) -> dict[str, Any]:
    vectors = np.load(given.vectors, mmap_mode="r")
    queries = np.ascontiguousarray(vectors[: given.queries])
    corpus = np.ascontiguousarray(vectors[given.queries : given.queries + given.rows])
    if contender == "duckdb":
        queries = queries[: given.duckdb_queries]
    for module in IMPORTED:  # all pay for it alike, in memory, and none in time
        importlib.import_module(module)

    started = time.perf_counter()
    (rows, cols), said = CONTENDERS[question][contender](queries, corpus, getattr(given, question))
    seconds = (time.perf_counter() - started) * given.queries / len(queries)
    np.save(given.pairs, np.sort(rows.astype(np.int64) * given.rows + cols))
    return {"seconds": seconds, "pairs": len(rows), "queries": len(queries), **said}


def disagreements(ours: np.ndarray, theirs: np.ndarray, question: str, queries: int, given: argparse.Namespace) -> int:
    """Matches that only one of two found, of the queries that both have, and that float64 tells from the last one."""
    rows = given.rows
    ours = ours[ours < queries * rows]
    only = np.setxor1d(ours, theirs)
    whole = np.load(given.vectors, mmap_mode="r")

    def cosines(pairs: np.ndarray) -> np.ndarray:
        left, right = (whole[some].astype(np.float64) for some in (pairs // rows, given.queries + pairs % rows))
        return (left * right).sum(axis=1) / np.linalg.norm(left, axis=1) / np.linalg.norm(right, axis=1)

    if not len(only):
        return 0
    last = np.full(len(only), given.min_score)
    if question == "top_k":
        last = np.array([cosines(ours[ours // rows == query]).min() for query in only // rows])
    return int((np.abs(cosines(only) - last) > UNDECIDED).sum())


def compare(question: str, given: argparse.Namespace, folder: Path) -> str:
    turns: dict[str, list[dict[str, Any]]] = {name: [] for name in CONTENDERS[question]}
    for _ in range(given.rounds):
        for name, of_one in turns.items():
            of_one.append(take_turn(name, question, given, folder / f"{name}.npy"))
    ours = np.load(folder / "ours.npy")
    table = [
        ["contender", "seconds", "M pairs/s", "peak RSS, MB", "matches", "disagree", "ours is x faster", "to reach"]
    ]
    for name, of_one in turns.items():
        ratio = statistics.median(t["seconds"] / o["seconds"] for t, o in zip(of_one, turns["ours"], strict=True))
        seconds, last = statistics.median(t["seconds"] for t in of_one), of_one[-1]
        wrong = disagreements(ours, np.load(folder / f"{name}.npy"), question, last["queries"], given)
        cells = [f"{seconds:.2f}", f"{given.queries * given.rows / 1e6 / seconds:,.0f}", f"{last['peak_mb']:,.0f}"]
        cells += [f"{last['pairs']:,}", str(wrong), f"{ratio:.1f}", str(TARGETS[question].get(name, ""))]
        table.append([name if last["queries"] == given.queries else f"{name} (scaled up)", *cells])
    said = turns["ours"][-1]
    steps = f"ours: fitting the filter {said['fit']:.2f} s, preparing {said['prepare']:.2f} s\n{said['why']}"
    asked = f"{question} {getattr(given, question)}"
    return f"{given.queries:,} queries, {given.rows:,} rows, {asked}\n\n{markdown(table)}\n\n{steps}"


def take_turn(contender: str, question: str, given: argparse.Namespace, pairs: Path) -> dict[str, Any]:
    """One contender, in its process: seconds, peak memory and matches, whose file it writes."""
    numbers = {name: getattr(given, name) for name in ("queries", "rows", "top_k", "min_score", "duckdb_queries")}
    flags = {"contender": contender, "question": question, "vectors": given.vectors, "pairs": pairs, **numbers}
    finished = run(
        ["-m", __spec__.name, *(part for name, value in flags.items() for part in (f"--{name}", str(value)))]
    )
    return json.loads(finished.stdout) | {"peak_mb": finished.peak_mb}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=5000)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--top_k", type=int, default=10)
    parser.add_argument("--min_score", type=float, default=0.8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--duckdb_queries", type=int, default=100)
    parser.add_argument("--kind", choices=MAKERS, default="real")
    for hidden in ("contender", "question"):
        parser.add_argument(f"--{hidden}", help=argparse.SUPPRESS)
    for hidden in ("vectors", "pairs"):
        parser.add_argument(f"--{hidden}", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.contender:
        sys.stdout.write(json.dumps(in_process(given.contender, given.question, given)))
        return 0
    given.vectors = vectors_file(given.kind, max(given.queries + given.rows, GROWTH_ROWS[-1]))
    with tempfile.TemporaryDirectory() as name:
        for question in CONTENDERS:
            sys.stdout.write(compare(question, given, Path(name)) + "\n\n")
            sys.stdout.flush()
    sys.stdout.write(f"{machine()}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
