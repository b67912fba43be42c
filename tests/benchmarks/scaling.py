"""Does a second machine help? The same corpus on Flink with one and with two TaskManagers of one core each.

    deploy/install_engines.sh flink
    python -m tests.benchmarks.scaling [--rows 4000] [--repeats 3]

A TaskManager and its Python workers are held to one core of their own; JobManager, job server and driver run on any.
What is timed is the job's own process, from its start to its exit; a run on one row is what starting and publishing
take. Needs as many cores as TaskManagers, and nothing else running. Prints a Markdown table.
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

from tests.benchmarks import corpus
from tests.benchmarks.processes import machine, markdown, run
from tests.engines.clusters import FlinkCluster
from tests.faults.harness import contents
from transforms.device import cpu_threads

SPLIT_BYTES = 16_384
"""Some 120 sentences: enough splits for two to share a small corpus evenly."""


def seconds(cluster: FlinkCluster, source: Path, output: Path) -> float:
    """Of the job, workers in the cluster's pools."""
    flags = ["--split_bytes", str(SPLIT_BYTES), "--device", "cpu", "--input", str(source), "--output", str(output)]
    return run(["-m", "jobs.embed", *cluster.external, *flags]).seconds


def measure(taskmanagers: int, sources: dict[str, Path], folder: Path, repeats: int) -> dict[str, list[float]]:
    """Seconds by source, repeats in turn; a first run on one row warms the cluster. Datasets stay in `folder`."""
    cluster = FlinkCluster(folder / f"cluster-{taskmanagers}", taskmanagers)
    cluster.folder.mkdir()
    found: dict[str, list[float]] = {name: [] for name in sources}
    try:
        cluster.start(pinned=True)
        seconds(cluster, sources["start"], folder / f"warm-{taskmanagers}")
        for turn in range(repeats):
            for name, source in sources.items():
                found[name].append(seconds(cluster, source, folder / f"{name}-{taskmanagers}-{turn}"))
                sys.stderr.write(f"{taskmanagers} TaskManagers, {name}: {found[name][-1]:.1f} s\n")
    finally:
        cluster.stop()
    return found


def report(turns: dict[int, dict[str, list[float]]], rows: int) -> str:
    table = [["TaskManagers", "seconds", "of them start", "rows/s", "rows/s without start", "x one"]]
    one = None
    for n, found in turns.items():
        whole, start = (statistics.median(found[name]) for name in ("all", "start"))
        rate = rows / (whole - start)
        one = one or rate
        cells = [f"{whole:.1f}", f"{start:.1f}", f"{rows / whole:,.0f}", f"{rate:,.0f}", f"{rate / one:.2f}"]
        table.append([str(n), *cells])
    return f"{markdown(table)}\n\n{machine()}\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=4000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--taskmanagers", type=int, nargs="+", default=[1, 2])
    args = parser.parse_args()
    if max(args.taskmanagers) > cpu_threads():
        parser.error(f"--taskmanagers {max(args.taskmanagers)}: this machine has {cpu_threads()} cores")
    texts = corpus.sentences(args.rows)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sources = {"all": folder / "all.txt", "start": folder / "start.txt"}
        for source, lines in (("all", texts), ("start", texts[:1])):
            sources[source].write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        turns = {n: measure(n, sources, folder, args.repeats) for n in args.taskmanagers}
        datasets = [contents(folder / f"all-{n}-0") for n in args.taskmanagers]
        if any(dataset != datasets[0] for dataset in datasets):
            raise RuntimeError("the datasets differ")
    sys.stdout.write(report(turns, len(texts)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
