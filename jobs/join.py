"""Two embeddings datasets in, for each row of the one its best matches in the other out, exactly.

python -m jobs.join --queries asked --corpus out --output matches --top_k 10
python -m jobs.join --queries 'questions/*.txt' --corpus out --output matches --top_k 3 --min_score 0.5 --with_text
python -m jobs.join --queries ours --corpus theirs --output matched --min_score 0.8 --one_to_one --keep_unmatched
python -m jobs.join --corpus out --self --output neighbours --top_k 5
"""

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from jobs import cli, dataflow, embed, engines
from jobs.embed import EmbedConfig
from jobs.found_report import carry_out, histogram, histogram_lines, open_lines, put
from jobs.join_plan import JoinConfig, describe, make_plan, open_corpus, open_queries
from jobs.join_queries import embed_queries, is_dataset
from schemas.errors import InputError
from schemas.manifest import Manifest
from schemas.matches import QUERIES_FOLDER
from transforms.join import JoinDatasets
from transforms.join_publish import JoinPlan
from transforms.sources import ReadOptions

DESCRIPTION = __doc__.split("\n", 1)[0]


def arguments() -> argparse.ArgumentParser:
    """Every flag of the job."""
    own = cli.parser("join", DESCRIPTION)
    add = own.add_argument
    add(
        "--queries",
        nargs="+",
        action="extend",
        metavar="DATASET",
        help="folder of a dataset that jobs.embed published; or files, folders or globs of text",
    )
    add("--corpus", required=True, metavar="DATASET", help="folder of a dataset that jobs.embed published")
    add("--output", required=True, metavar="DIR", help="folder of the matches; an earlier output gets a new version")
    add("--top_k", type=int, help="so many best matches of each query, ties by corpus id")
    add("--min_score", type=float, help="least cosine of a match, above 0 and up to 1")
    add("--self", action="store_true", help="join the corpus with itself; no row matches itself")
    add("--one_to_one", action="store_true", help="no row in two matches: greedy by score, ties by ids")
    add("--with_text", action="store_true", help="columns query_text and corpus_text")
    add("--keep_unmatched", action="store_true", help="list queries without a match in _unmatched")
    add_text_flags(own.add_argument_group("queries that are text").add_argument)
    add("--device", default="auto", choices=["auto", "cpu", "cuda"], help="where vectors are compared")
    add("--memory_mb", type=int, default=1024, help="for the vectors that a worker holds")
    add("--keep_versions", type=int, default=1, help="published versions to keep, the newest included")
    add("--json", action="store_true", help="the summary as one JSON object on stdout")
    return own


def add_text_flags(add: Callable[..., argparse.Action]) -> None:
    """How queries that are text are read and embedded."""
    embed.add_reader_flags(add)
    add("--duplicate_ids", default="error", choices=["error", "keep"], help="what to do about double ids")
    add("--max_record_bytes", type=int, default=ReadOptions.max_record_bytes, help="a longer record is rejected")
    rate = EmbedConfig.max_error_rate
    add("--max_error_rate", type=float, default=rate, help="share of the queries that may be broken")
    add("--skip_bad_files", action="store_true", help="go on without files that cannot be read")
    add("--query_prompt_name", help="one of the model's own prompts; default: the corpus's prompt")
    add("--query_prompt", help="text to put before every query")
    add("--model", help="where the corpus's model is, if not at the name that it was used by")


def refuse_text_flags(args: argparse.Namespace) -> None:
    """Raises InputError naming a flag of queries that are text, where they are rows that have vectors."""
    own = argparse.ArgumentParser(add_help=False)
    add_text_flags(own.add_argument)
    for name, default in vars(own.parse_args([])).items():
        if getattr(args, name) != default:
            where = "--self" if args.self else f"--queries {args.queries[0]}: a dataset"
            raise InputError(f"--{name}: says how text is embedded, and {where} has vectors; leave it out")


def run(argv: Sequence[str] | None) -> None:
    """The job. Raises InputError or RunFailed."""
    args, options = cli.parse(arguments(), argv)
    given = vars(args) | {"itself": args.self, "queries": tuple(args.queries or ())}
    config = JoinConfig(**{f.name: given[f.name] for f in dataclasses.fields(JoinConfig)})
    places = {"--queries": config.queries, "--corpus": (config.corpus,), "--output": (config.output,)}
    engines.check(options, places, config.device)
    dataflow.prepare(options)
    corpus = queries = open_corpus(config)
    text = bool(config.queries) and not is_dataset(config.queries)
    if not text:
        refuse_text_flags(args)
    if config.queries:
        uri = embed_queries(args, corpus.manifest.fingerprint, options) if text else config.queries[0]
        queries = open_queries(uri, corpus)
    plan, choice = make_plan(config, queries, corpus, cli.local_workers(options), text)
    cli.say(describe(plan, choice))
    found = carry_out(plan, plan.query_rows * plan.corpus_rows, lambda: JoinDatasets(plan, choice), options, summarize)
    put(found, config.output, _summary_text, args.json)


def summarize(manifest: Manifest, plan: JoinPlan) -> dict[str, Any]:
    """What a run comes down to, for people and for programs."""
    details = manifest.details
    counted = ("queries", "rejected", "corpus_rows", "matched", "unmatched", "pairs", "best", "filter", "estimate")
    asked = ("top_k", "min_score", "one_to_one")
    return {
        "output": plan.output,
        "version": manifest.version,
        "unchanged": manifest.run != plan.run,
        **{name: details.get(name) for name in counted},  # an earlier version had no `rejected`
        **{name: manifest.options[name] for name in asked},
        "histogram": histogram(details["histogram"]),
        "seconds": manifest.timings["wall_seconds"],
        "folders": sorted({entry.name.split("/")[0] for entry in manifest.extras}),
    }


def _summary_text(found: dict[str, Any]) -> str:
    lines = [
        f"{found['output']}: version {found['version']}{', unchanged' if found['unchanged'] else ''}",
        f"  {found['pairs']:,} matches of {found['queries']:,} queries among {found['corpus_rows']:,} rows",
        f"  {found['matched']:,} queries have a match, {found['unmatched']:,} have none",
        *_rejected_lines(found),
        *histogram_lines(found["histogram"]),
    ]
    for query, match, score, query_text, match_text in found["best"]:
        lines += [f"  {query}: {query_text}", f"    {score:.4f}  {match}: {match_text}"]
    lines += [f"  {found['filter']}", f"  {found['seconds']:.1f} s", *open_lines(found["output"], found["folders"])]
    return "\n".join(lines)


def _rejected_lines(found: dict[str, Any]) -> list[str]:
    """Queries that are counted and have no vector, if there are any."""
    if not found["rejected"]:
        return []
    reasons = ", ".join(f"{n:,} {reason}" for reason, n in found["rejected"].items())
    return [f"  {sum(found['rejected'].values()):,} of these were refused: {reasons}; see {QUERIES_FOLDER}/_rejects"]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the job; returns its exit status: 0 published, 1 failed and published nothing, 2 wrong command or input."""
    return cli.main(run, argv, "what is compared is kept; run the same command again to go on")


if __name__ == "__main__":
    cli.leave(main())
