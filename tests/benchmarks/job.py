"""The whole job against a plain script and Beam's own ways to embed text: whole processes, start included.

    python -m tests.benchmarks.job [--rows 10000] [--repeats 3] [--texts sentences|mixed] [--peers plain,mltransform]

All read the same text file and write Parquet. They take turns, so that a machine that is busy with something else is
unfair to all alike; figures are medians, ratios are medians of the turns' ratios. The peers in `peers/` are written as
their own documentation shows, and each has the threads that it takes by itself. Beam's run on the in-process runner,
as the job does: their default would first look for another runner on the network and then take this one.
"""

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.benchmarks import corpus
from tests.benchmarks.processes import Finished, machine, markdown, run
from transforms.device import has_fast_bfloat16
from transforms.model import EncodeOptions, resolve_model
from transforms.trace import Span, Trace

IN_PROCESS = "--runner=apache_beam.runners.portability.fn_api_runner.FnApiRunner"
PEERS = {
    "plain": ("plain_script", []),
    "mltransform": ("mltransform", [IN_PROCESS]),
    "run_inference": ("run_inference", [IN_PROCESS]),
}
REFERENCE = "plain"
START = "start of "
TARGETS = {
    ("plain", "torch float32"): 1.35,
    ("mltransform", "torch float32"): 1.5,
    ("plain", "torch bfloat16"): 2.3,
    ("plain", "openvino bfloat16"): 3.0,
}
OVERHEAD_TARGET = 0.10
WARM_UP_ROWS = 64


class Turn(NamedTuple):
    finished: Finished
    agreement: tuple[float, float] | None  # largest difference, least cosine; to the reference of the same turn
    shares: dict[str, float] = {}  # of the time of the pipeline, in which some thread was at each step


def contenders(peers: list[str], model: str) -> dict[str, list[str]]:
    """Command lines, without input and output, by name. The reference is first, if it takes part."""
    found = {}
    for peer in sorted(peers, key=lambda name: name != REFERENCE):
        script, flags = PEERS[peer]
        found[peer] = [f"tests/benchmarks/peers/{script}.py", "--model", model, *flags]
    job = ["-m", "jobs.embed", "--runner=DirectRunner", "--model", model, "--device", "cpu", "--json"]
    for dtype in ("float32", "bfloat16") if has_fast_bfloat16("cpu") else ("float32",):
        for backend in ("torch", "openvino"):
            found[f"job {backend} {dtype}"] = [*job, "--backend", backend, "--dtype", dtype]
    return found


def take_turns(commands: dict[str, list[str]], texts: Path, one: Path) -> dict[str, Turn]:
    """One run of each; the jobs on a single row too, which is what starting and publishing take."""
    turns = {}
    reference: tuple[pa.Array, np.ndarray] | None = None
    for name, command in commands.items():
        with tempfile.TemporaryDirectory() as folder:
            output, trace = Path(folder) / "out", Path(folder) / "trace.json"
            profile = ["--profile", str(trace)] if is_job(name) else []
            output.mkdir()
            finished = run([*command, "--input", str(texts), "--output", str(output), *profile])
            vectors = read_vectors(output)
            shares = shares_of(trace) if profile else {}
        reference = vectors if name == REFERENCE else reference
        turns[name] = Turn(finished, agreement(vectors, reference) if reference else None, shares)
        progress(f"{name} {finished.seconds:.1f} s")
    for job in filter(is_job, commands):
        with tempfile.TemporaryDirectory() as output:
            turns[START + job] = Turn(run([*commands[job], "--input", str(one), "--output", output]), None)
    return turns


def is_job(name: str) -> bool:
    return name.startswith("job ")


def shares_of(file: Path) -> dict[str, float]:
    trace = Trace()
    for event in json.loads(file.read_text())["traceEvents"]:
        if event["ph"] == "X" and event["name"] != "load model":
            trace.spans.append(Span(event["name"], event["ts"] / 1e6, (event["ts"] + event["dur"]) / 1e6, "", {}))
    return trace.shares()


def read_vectors(folder: Path) -> tuple[pa.Array, np.ndarray]:
    """Texts and their (n, dim) vectors, sorted by text, since Beam keeps no order."""
    parts = [pq.ParquetFile(path).read(columns=["text", "embedding"]) for path in sorted(folder.glob("*.parquet"))]
    table = pa.concat_tables(parts).sort_by("text")
    vectors = table.column("embedding").combine_chunks().flatten().to_numpy()
    return table.column("text").combine_chunks(), vectors.reshape(len(table), -1)


def agreement(found: tuple[pa.Array, np.ndarray], reference: tuple[pa.Array, np.ndarray]) -> tuple[float, float]:
    if not found[0].equals(reference[0]):
        raise RuntimeError(f"{len(found[0])} texts came out, which are not the {len(reference[0])} of {REFERENCE}")
    a, b = found[1], reference[1]
    cosines = (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    return float(np.abs(a - b).max()), float(cosines.min())


def ratio(turns: list[dict[str, Turn]], name: str, to: str) -> float:
    return statistics.median(turn[name].finished.seconds / turn[to].finished.seconds for turn in turns)


def overhead(turns: list[dict[str, Turn]], job: str) -> float:
    """What the job does beside starting and encoding, as a share of the time that it encodes."""
    shares = []
    for turn in turns:
        encode = json.loads(turn[job].finished.stdout)["encode_seconds"]
        shares.append((turn[job].finished.seconds - turn[START + job].finished.seconds - encode) / encode)
    return statistics.median(shares)


def report(turns: list[dict[str, Turn]], rows: int) -> str:
    """The table, and below it what was to be reached."""
    jobs = [name for name in turns[0] if is_job(name)]
    table = [["contender", "seconds", "rows/s", *(f"x {j}" for j in jobs), "peak RSS, MB", "max diff", "min cosine"]]
    for name in turns[0]:
        seconds = statistics.median(turn[name].finished.seconds for turn in turns)
        peak = statistics.median(turn[name].finished.peak_mb for turn in turns)
        rate = [f"{rows / seconds:,.0f}", *(f"{ratio(turns, name, job):.2f}" for job in jobs)]
        rate = [""] * len(rate) if name.startswith(START) else rate
        known = turns[0][name].agreement
        agrees = [f"{known[0]:.1e}", f"{known[1]:.5f}"] if known else ["", ""]
        table.append([name, f"{seconds:.1f}", *rate, f"{peak:,.0f}", *agrees])
    reached = [
        f"{peer} takes {ratio(turns, peer, f'job {how}'):.2f} times the job by {how} (to reach: {target})"
        for (peer, how), target in TARGETS.items()
        if peer in turns[0] and f"job {how}" in jobs
    ]
    beside = [f"{job}: {overhead(turns, job):.1%} beside its encoder (at most {OVERHEAD_TARGET:.0%})" for job in jobs]
    return "\n".join([markdown(table), "", *reached, *beside, *(said_shares(turns, job) for job in jobs), machine()])


def said_shares(turns: list[dict[str, Turn]], job: str) -> str:
    """Of the pipeline's time, the model loaded, in which share some thread was at each step."""
    each = {name: statistics.median(turn[job].shares.get(name, 0) for turn in turns) for name in turns[0][job].shares}
    return f"{job}: " + ", ".join(f"{name} {share:.1%}" for name, share in sorted(each.items(), key=lambda s: -s[1]))


def progress(text: str) -> None:
    sys.stderr.write(text + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--texts", choices=["sentences", "mixed"], default="sentences")
    parser.add_argument("--peers", default=",".join(PEERS), help="comma-separated; '' for the job alone")
    args = parser.parse_args()
    peers = [peer for peer in args.peers.split(",") if peer]
    if unknown := set(peers) - set(PEERS):
        parser.error(f"--peers {sorted(unknown)[0]}: there are {', '.join(PEERS)}")
    texts = corpus.sentences(args.rows) if args.texts == "sentences" else corpus.mixed_lengths(args.rows)
    commands = contenders(peers, resolve_model(EncodeOptions()).folder)
    with tempfile.TemporaryDirectory() as folder:
        files = {"all": texts, "few": texts[:WARM_UP_ROWS], "one": texts[:1]}
        paths = {name: Path(folder) / f"{name}.txt" for name in files}
        for name, path in paths.items():
            path.write_text("".join(text + "\n" for text in files[name]), encoding="utf-8")
        progress("a first turn on a few rows, for what is compiled and cached once")
        take_turns(commands, paths["few"], paths["one"])
        turns = []
        for number in range(1, args.repeats + 1):
            progress(f"turn {number} of {args.repeats}")
            turns.append(take_turns(commands, paths["all"], paths["one"]))
    sys.stdout.write(report(turns, len(texts)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
