"""A published embeddings dataset in, every pair of rows whose cosine is at least a threshold out, exactly.

python -m jobs.mine --input out --output pairs --min_score 0.8
python -m jobs.mine --input out --output pairs --min_score 0.8 --with_text --groups
python -m jobs.mine --input out --output pairs --min_score 0.8 --previous pairs
python -m jobs.mine --input out --output best --min_score 0.5 --max_pairs 100000 --duplicates collapse
"""

import argparse
import dataclasses
from collections.abc import Sequence
from typing import Any

from jobs import cli, dataflow, engines
from jobs.found_report import carry_out, histogram, histogram_lines, open_lines, put
from jobs.mine_plan import MineConfig, describe, make_plan
from schemas.manifest import Manifest
from transforms.mine import MineDataset
from transforms.publish_pairs import MinePlan

DESCRIPTION = __doc__.split("\n", 1)[0]


def arguments() -> argparse.ArgumentParser:
    """Every flag of the job."""
    own = cli.parser("mine", DESCRIPTION)
    add = own.add_argument
    add("--input", required=True, metavar="DATASET", help="folder of a dataset that jobs.embed published")
    add("--output", required=True, metavar="DIR", help="folder of the pairs; an earlier output gets a new version")
    add("--min_score", type=float, required=True, help="least cosine of a pair, above 0 and up to 1")
    add("--top_k", type=int, help="keep a pair if it is among so many best of either row, ties by id")
    add("--max_pairs", type=int, help="keep the best so many, ties by ids")
    add("--duplicates", default="expand", choices=["expand", "collapse"], help="what becomes of rows of equal text")
    add("--with_text", action="store_true", help="columns text_a and text_b")
    add("--groups", action="store_true", help="write groups of near-duplicates to _groups, with the row to keep")
    add("--previous", metavar="PAIRS", help="an earlier output for the same dataset: compare only what is new since")
    add("--device", default="auto", choices=["auto", "cpu", "cuda"], help="where vectors are compared")
    add("--memory_mb", type=int, default=1024, help="for the vectors that a worker holds")
    add("--keep_versions", type=int, default=1, help="published versions to keep, the newest included")
    add("--json", action="store_true", help="the summary as one JSON object on stdout")
    return own


def run(argv: Sequence[str] | None) -> None:
    """The job. Raises InputError or RunFailed."""
    args, options = cli.parse(arguments(), argv)
    config = MineConfig(**{f.name: getattr(args, f.name) for f in dataclasses.fields(MineConfig)})
    engines.check(options, {"--input": (config.input,), "--output": (config.output,)}, config.device)
    dataflow.prepare(options)
    plan, choice = make_plan(config, cli.local_workers(options))
    cli.say(describe(plan, choice))
    found = carry_out(plan, plan.n_rows * (plan.n_rows - 1) // 2, lambda: MineDataset(plan, choice), options, summarize)
    put(found, config.output, _summary_text, args.json)


def summarize(manifest: Manifest, plan: MinePlan) -> dict[str, Any]:
    """What a run comes down to, for people and for programs."""
    details = manifest.details
    duplicates = details["duplicates"]
    return {
        "output": plan.output,
        "version": manifest.version,
        "unchanged": manifest.run != plan.run,
        "rows": plan.n_rows,
        "unique_rows": plan.n_rows - duplicates["rows"] + duplicates["groups"],
        "duplicates": duplicates | {"mode": manifest.options["duplicates"]},
        "pairs": details["pairs"],
        "min_score": manifest.options["min_score"],
        "histogram": histogram(details["histogram"]),
        "best": details["best"],
        "filter": details["filter"],
        "estimate": details["estimate"],
        "seconds": manifest.timings["wall_seconds"],
        "folders": sorted({entry.name.split("/")[0] for entry in manifest.extras}),
    }


def _summary_text(found: dict[str, Any]) -> str:
    equal = found["duplicates"]
    collapsed = equal["rows"] - equal["groups"]
    how = {"expand": "compared once, and their pairs are listed", "collapse": "left to one row each, see _duplicates"}
    lines = [
        f"{found['output']}: version {found['version']}{', unchanged' if found['unchanged'] else ''}",
        f"  {found['pairs']:,} pairs at {found['min_score']} or above, of {found['rows']:,} rows",
    ]
    if collapsed:
        lines.append(f"  {equal['groups']:,} texts stand in {equal['rows']:,} rows: {how[equal['mode']]}")
    lines += histogram_lines(found["histogram"])
    for id_a, id_b, score, text_a, text_b in found["best"]:
        lines += [f"  {score:.4f}  {id_a}: {text_a}", f"          {id_b}: {text_b}"]
    lines += [f"  {found['filter']}", f"  {found['seconds']:.1f} s", *open_lines(found["output"], found["folders"])]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the job; returns its exit status: 0 published, 1 failed and published nothing, 2 wrong command or input."""
    return cli.main(run, argv, "what is compared is kept; run the same command again to go on")


if __name__ == "__main__":
    cli.leave(main())
