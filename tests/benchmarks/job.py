"""The whole job against a plain script and Beam's own ways to embed text, and against the matmul bound.

    python -m tests.benchmarks.job [--rows 10000] [--repeats 3] [--texts sentences|18|68|120|mixed]
        [--device cpu|cuda] [--jobs 'torch bfloat16,…'] [--peers plain,mltransform] [--plan]

Whole processes, start included. All read the same text file and write Parquet. They take turns, so that a machine that
is busy with something else is unfair to all alike; figures are medians, ratios are medians of the turns' ratios. The
peers in `peers/` are written as their own documentation shows, and each has the threads, and the device, that it takes
by itself. Beam's run on the in-process runner, as the job does: their default would first look for another runner on
the network and then take this one. `--plan` also asks the job what it would take.
"""

import argparse
import functools
import json
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.benchmarks import corpus
from tests.benchmarks.encoder import BACKENDS, DTYPES
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
TARGETS = {
    ("plain", "torch float32"): 1.35,
    ("mltransform", "torch float32"): 1.5,
    ("plain", "torch bfloat16"): 2.3,
    ("plain", "openvino bfloat16"): 3.0,
}
OVERHEAD_TARGET = 0.10
BOUND_TARGETS = {"float32": 0.90, "bfloat16": 0.75}
PLAN_TARGET = 0.20
WARM_UP_ROWS = 64
WINDOW = 256
"""Tokens of a text that all-MiniLM-L6-v2 computes."""
TEXTS: dict[str, Callable[[int], list[str]]] = {
    "sentences": corpus.sentences,
    "mixed": corpus.mixed_lengths,
    **{str(tokens): functools.partial(corpus.runs_of_words, tokens=tokens) for tokens in (18, 68, 120)},
}


class Turn(NamedTuple):
    finished: Finished
    agreement: tuple[float, float] | None = None  # largest difference, least cosine; to the turn's reference
    shares: dict[str, float] = {}  # of the working seconds, in which some thread was at each step
    working_seconds: float = 0.0  # start apart: from the first byte that is read to the published version
    tokens: int = 0  # that were computed
    bound: float = 0.0  # tokens a second
    planned_seconds: float = 0.0


def contenders(peers: list[str], model: str, device: str) -> dict[str, list[str]]:
    """Command lines, without input and output, by name. The reference is first, if it takes part."""
    found = {}
    for peer in sorted(peers, key=lambda name: name != REFERENCE):
        script, flags = PEERS[peer]
        found[peer] = [f"tests/benchmarks/peers/{script}.py", "--model", model, *flags]
    job = ["-m", "jobs.embed", "--runner=DirectRunner", "--model", model, "--device", device, "--json"]
    for dtype in DTYPES[device] if has_fast_bfloat16(device) else ("float32",):
        for backend in BACKENDS[device]:
            found[f"job {backend} {dtype}"] = [*job, "--backend", backend, "--dtype", dtype]
    return found


def take_turns(commands: dict[str, list[str]], texts: Path, device: str, plan: bool) -> dict[str, Turn]:
    """One run of each."""
    turns: dict[str, Turn] = {}
    reference: tuple[pa.Array, np.ndarray] | None = None
    for name, command in commands.items():
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder) / "out"
            output.mkdir()
            command = [*command, "--input", str(texts), "--output", str(output)]
            turn = take_turn_job(command, output, device, plan) if is_job(name) else Turn(run(command))
            vectors = read_vectors(output)
        reference = vectors if name == REFERENCE else reference
        turns[name] = turn._replace(agreement=agreement(vectors, reference) if reference else None)
        progress(f"{name} {turn.finished.seconds:.1f} s, start apart {turn.working_seconds:.1f} s")
    return turns


def take_turn_job(command: list[str], output: Path, device: str, plan: bool) -> Turn:
    """The bound is measured before and after."""
    trace, dtype = output.parent / "trace.json", command[command.index("--dtype") + 1]
    planned = json.loads(run([*command, "--plan"]).stdout)["seconds_on_this_machine"] if plan else 0.0
    before = bound(device, dtype)
    finished = run([*command, "--profile", str(trace)])
    rate = (before + bound(device, dtype)) / 2
    spans = spans_of(trace)
    return Turn(finished, None, spans.shares(), spans.seconds(), computed(output), rate, planned)


def bound(device: str, dtype: str) -> float:
    return float(run(["-m", "tests.benchmarks.bound", device, dtype]).stdout)


def computed(folder: Path) -> int:
    counts = pq.read_table(folder, columns=["token_count"])["token_count"].to_numpy()
    return int(np.minimum(counts, WINDOW).sum())


def is_job(name: str) -> bool:
    return name.startswith("job ")


def spans_of(file: Path) -> Trace:
    """All to the published version from when the model was loaded, which is after the first block was read."""
    events = [event for event in json.loads(file.read_text())["traceEvents"] if event["ph"] == "X"]
    loaded = max(event["ts"] + event["dur"] for event in events if event["name"] == "load model")
    trace = Trace()
    for event in events:
        if (end := event["ts"] + event["dur"]) > loaded:
            trace.spans.append(Span(event["name"], max(event["ts"], loaded) / 1e6, end / 1e6, "", {}))
    return trace


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
    """In what share of its working seconds the job does not encode."""
    encoding = [json.loads(turn[job].finished.stdout)["encode_seconds"] for turn in turns]
    return statistics.median(1 - e / turn[job].working_seconds for e, turn in zip(encoding, turns, strict=True))


def report(turns: list[dict[str, Turn]], rows: int) -> str:
    """The table, and below it what was to be reached."""
    jobs = [name for name in turns[0] if is_job(name)]
    table = [["contender", "seconds", "rows/s", *(f"x {j}" for j in jobs), "peak RSS, MB", "max diff", "min cosine"]]
    for name in turns[0]:
        seconds = statistics.median(turn[name].finished.seconds for turn in turns)
        peak = statistics.median(turn[name].finished.peak_mb for turn in turns)
        rate = [f"{rows / seconds:,.0f}", *(f"{ratio(turns, name, job):.2f}" for job in jobs)]
        known = turns[0][name].agreement
        agrees = [f"{known[0]:.1e}", f"{known[1]:.5f}"] if known else ["", ""]
        table.append([name, f"{seconds:.1f}", *rate, f"{peak:,.0f}", *agrees])
    reached = [
        f"{peer} takes {ratio(turns, peer, f'job {how}'):.2f} times the job by {how} (to reach: {target})"
        for (peer, how), target in TARGETS.items()
        if peer in turns[0] and f"job {how}" in jobs
    ]
    beside = [f"{job}: {overhead(turns, job):.1%} without its encoder (at most {OVERHEAD_TARGET:.0%})" for job in jobs]
    planned = [said_plan(turns, job) for job in jobs if turns[0][job].planned_seconds]
    shares = [said_shares(turns, job) for job in jobs]
    return "\n".join(
        [markdown(table), "", rates(turns, jobs, rows), "", *reached, *beside, *planned, *shares, machine()]
    )


def rates(turns: list[dict[str, Turn]], jobs: list[str], rows: int) -> str:
    """What the jobs make, start apart, and their encoders alone."""
    table = [["start apart", "texts/s", "tokens/s", "of the bound", "to reach", "encoder: texts/s", "tokens/s"]]
    for job in jobs:
        found = []
        for turn in turns:
            seconds = turn[job].working_seconds
            encoding = json.loads(turn[job].finished.stdout)["encode_seconds"]
            tokens = turn[job].tokens
            of_bound = tokens / seconds / turn[job].bound
            found.append((rows / seconds, tokens / seconds, of_bound, rows / encoding, tokens / encoding))
        texts, tokens_, share, encoder_texts, encoder_tokens = (
            statistics.median(each) for each in zip(*found, strict=True)
        )
        target = BOUND_TARGETS.get(job.split()[-1], "")
        cells = [f"{texts:,.0f}", f"{tokens_:,.0f}", f"{share:.2f}", str(target)]
        table.append([job, *cells, f"{encoder_texts:,.0f}", f"{encoder_tokens:,.0f}"])
    return markdown(table)


def said_plan(turns: list[dict[str, Turn]], job: str) -> str:
    each = [f"{turn[job].planned_seconds:.1f} for {turn[job].finished.seconds:.1f}" for turn in turns]
    worst = max(abs(turn[job].planned_seconds / turn[job].finished.seconds - 1) for turn in turns)
    return f"{job}: --plan said {', '.join(each)} s, {worst:.0%} off at most (to reach: {PLAN_TARGET:.0%})"


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
    parser.add_argument("--texts", choices=list(TEXTS), default="sentences")
    parser.add_argument("--device", choices=sorted(DTYPES), default="cpu")
    parser.add_argument("--jobs", default="", help="comma-separated, as 'torch bfloat16'; '' for all")
    parser.add_argument("--plan", action="store_true", help="also compare with what --plan says")
    parser.add_argument("--peers", default=",".join(PEERS), help="comma-separated; '' for the job alone")
    args = parser.parse_args()
    peers = [peer for peer in args.peers.split(",") if peer]
    if unknown := set(peers) - set(PEERS):
        parser.error(f"--peers {sorted(unknown)[0]}: there are {', '.join(PEERS)}")
    texts = TEXTS[args.texts](args.rows)
    commands = contenders(peers, resolve_model(EncodeOptions()).folder, args.device)
    if args.jobs:
        asked = {*(f"job {job}" for job in args.jobs.split(",")), *peers}
        if unknown := asked - set(commands):
            parser.error(f"--jobs: there is no '{sorted(unknown)[0]}', but {', '.join(commands)}")
        commands = {name: command for name, command in commands.items() if name in asked}
    with tempfile.TemporaryDirectory() as folder:
        files = {"all": texts, "few": texts[:WARM_UP_ROWS]}
        paths = {name: Path(folder) / f"{name}.txt" for name in files}
        for name, path in paths.items():
            path.write_text("".join(text + "\n" for text in files[name]), encoding="utf-8")
        progress("each once on a few rows, for what is compiled and cached once")
        for name, command in commands.items():
            (Path(folder) / name).mkdir()
            run([*command, "--input", str(paths["few"]), "--output", str(Path(folder) / name)])
        turns = []
        for number in range(1, args.repeats + 1):
            progress(f"turn {number} of {args.repeats}")
            turns.append(take_turns(commands, paths["all"], args.device, args.plan))
    sys.stdout.write(report(turns, len(texts)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
