"""Text shards in, a published embeddings dataset out.

python -m jobs.embed --runner=DirectRunner --input 'tests/data/*' --output out
python -m jobs.embed --input 'shards/*.jsonl.gz' --text_column body --id_column key --output out --dtype bfloat16
python -m jobs.embed --input 'shards/*.jsonl.gz' --text_column body --output out --plan
"""

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path, PurePath
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.transforms.resources import parse_resource_hints

from jobs import cli, dataflow, engines
from jobs.embed_backend import settle_backend
from jobs.embed_estimate import estimate
from jobs.embed_kept import check_names, parse_keep_columns
from jobs.embed_plan import describe, make_plan
from jobs.embed_sample import sample_rows
from jobs.publishing import run_to_publish
from schemas.errors import InputError, RunFailed
from schemas.manifest import Manifest, newest_manifest
from schemas.rejects import Reason
from transforms.device import choose_device
from transforms.encode import EncodeTexts
from transforms.model import EncodeOptions, ResolvedModel
from transforms.plan import Plan, PlanSplits
from transforms.publish import PublishDataset
from transforms.read import BlockOptions, ReadBlocks
from transforms.sources import ReadOptions
from transforms.write import AdoptParts, WriteParts, WriteRejects

DESCRIPTION = __doc__.split("\n", 1)[0]


@dataclasses.dataclass(frozen=True, kw_only=True)
class EmbedConfig:
    """What to embed, how, and where to. Validated when built; raises InputError naming the flag."""

    input: tuple[str, ...]
    output: str
    read: ReadOptions
    encode: EncodeOptions
    format: str = "auto"
    id_from: str = "offset"
    input_root: str | None = None
    may_rename: bool = False  # whether ids may change with the folder that names of files are relative to
    kept_types: dict[str, pa.DataType] = dataclasses.field(default_factory=dict)  # by kept column, where given
    rows_per_part: int = 16_384
    split_bytes: int = 8 << 20
    redistribute: bool = False
    max_error_rate: float = 0.001
    skip_bad_files: bool = False
    duplicate_ids: str = "error"
    keep_versions: int = 1
    fresh: bool = False
    encode_timeout_seconds: float = 600.0
    encode_accelerator: str | None = None
    encode_min_ram: str | None = None

    def __post_init__(self) -> None:
        if not all(self.input) or not self.output:
            raise InputError("--input and --output: an empty name ('.' is the folder that you are in)")
        for name in ("rows_per_part", "split_bytes", "keep_versions"):
            if getattr(self, name) < 1:
                raise InputError(f"--{name} {getattr(self, name)}: must be 1 or more")
        if self.read.max_record_bytes < 1:
            raise InputError(f"--max_record_bytes {self.read.max_record_bytes}: must be 1 or more")
        if not self.encode_timeout_seconds > 0:
            raise InputError(f"--encode_timeout_seconds {self.encode_timeout_seconds}: must be more than 0")
        if not 0 <= self.max_error_rate <= 1:
            raise InputError(f"--max_error_rate {self.max_error_rate}: a share of the rows, from 0 to 1")
        try:
            parse_resource_hints(self.hints)
        except ValueError as error:
            raise InputError(f"--encode_accelerator or --encode_min_ram: {error}") from None
        if self.id_from == "text" and self.read.id_column:
            raise InputError("--id_from text and --id_column: ids come from one of them")
        check_names(self.read.keep_columns)
        kept = self.read.keep_columns if self.read.missing_columns == "error" else ()
        if self.format == "text" and (self.read.id_column or kept):
            raise InputError("--format text: a line of text has no columns for --id_column or --keep_columns")

    @property
    def unique_ids(self) -> bool:
        """Whether no two rows can have one id: it is made of file name and offset."""
        return not self.read.id_column and self.id_from == "offset"

    @property
    def hints(self) -> dict[str, str]:
        """Resource hints for the encode step, as Beam names them."""
        asked = {"accelerator": self.encode_accelerator, "min_ram": self.encode_min_ram}
        return {name: value for name, value in asked.items() if value}


def build(
    pipeline: beam.Pipeline, config: EmbedConfig, plan: Plan, blocks: BlockOptions, model: ResolvedModel
) -> beam.PCollection:
    """The pipeline: plan -> splits -> blocks -> encoded blocks -> parts -> the published version."""
    planned = pipeline | PlanSplits(plan)
    read = planned.splits | beam.Reshuffle() | ReadBlocks(blocks)
    missing, adopted, refused = read.blocks, [], [read.rejects]
    if not config.fresh:
        found = read.blocks | AdoptParts(config.output, plan.run, model.fingerprint)
        missing, adopted = found.missing, [found.parts]
        refused.append(found.rejects)
    if config.redistribute:
        missing = missing | "Redistribute" >> beam.Reshuffle()
    encode = missing | EncodeTexts(model, config.encode, config.encode_timeout_seconds, config.hints)
    written = encode.encoded | WriteParts(config.output, plan.run, model.fingerprint, config.fresh)
    rejects = (*refused, encode.rejects) | "AllRejects" >> beam.Flatten() | WriteRejects(config.output, plan.run)
    parts = (*adopted, written) | "AllParts" >> beam.Flatten()
    return {"plan": planned.plan, "reads": read.reads, "parts": parts, "rejects": rejects} | PublishDataset()


def add_reader_flags(add: Callable[..., argparse.Action]) -> None:
    """How records become rows."""
    add(
        "--format",
        default="auto",
        choices=["auto", "text", "jsonl", "csv", "tsv", "parquet"],
        help="auto: by file name",
    )
    add("--text_column", default="text", help="column or field to embed")
    add("--id_column", help="column or field that holds unique ids")
    add("--id_from", default="offset", choices=["offset", "text"], help="without --id_column: what ids are made of")


def arguments() -> argparse.ArgumentParser:
    """Every flag of the job."""
    own = cli.parser("embed", DESCRIPTION)
    add = own.add_argument
    add(
        "--input",
        nargs="+",
        action="extend",
        required=True,
        metavar="GLOB",
        help="files, folders or globs of text shards",
    )
    add("--input_root", metavar="DIR", help="ids name files below it; default: the deepest folder that --input shares")
    add("--output", required=True, metavar="DIR", help="folder of the dataset; an earlier output is brought up to date")
    add_reader_flags(add)
    add(
        "--keep_columns",
        default="",
        metavar="A,B:TYPE",
        help="columns to carry over into the dataset; TYPE (double, timestamp[us, UTC], …) decides where files differ",
    )
    add(
        "--missing_columns",
        default="error",
        choices=["error", "null"],
        help="null: a kept column that a file, or every row, lacks is null there",
    )
    add("--model", default="all-MiniLM-L6-v2", help="a name, a model hub's id, or a folder, s3://bucket/model too")
    add("--model_revision", help="revision on the model hub")
    add("--device", default="auto", choices=["auto", "cpu", "cuda", "mps"], help="where the encoder computes")
    add("--dtype", default="float32", choices=["float32", "bfloat16", "float16", "auto"], help="of the transformer")
    add(
        "--backend",
        default="torch",
        choices=["torch", "openvino", "auto"],
        help="what runs the transformer; auto measures",
    )
    add("--batch_tokens", type=int, help="tokens in a batch, padding included; default: what suits the device")
    add("--prompt_name", help="one of the model's own prompts")
    add("--prompt", help="text to put before every row")
    add(
        "--normalize",
        default="model",
        choices=["model", "true", "false"],
        help="unit vectors; model: as the model does",
    )
    add("--truncate_dim", type=int, help="keep this many dimensions")
    add("--max_seq_length", type=int, help="tokens of a text that count; default: the model's own")
    add("--long_texts", default="truncate", choices=["truncate", "chunk", "reject"], help="texts longer than that")
    add("--min_fidelity", type=float, default=0.999, help="least cosine to float32 that a lower precision may have")
    add("--rows_per_part", type=int, default=EmbedConfig.rows_per_part, help="most rows of a part; the mean is a third")
    add("--max_record_bytes", type=int, default=ReadOptions.max_record_bytes, help="a longer record is rejected")
    add("--split_bytes", type=int, default=EmbedConfig.split_bytes, help="input that one worker reads in one go")
    add("--redistribute", action="store_true", help="shuffle texts after reading: for few, huge, unsplittable files")
    add("--max_error_rate", type=float, default=EmbedConfig.max_error_rate, help="share of rows that may be broken")
    add("--skip_bad_files", action="store_true", help="go on without files that cannot be read, and list them")
    add("--duplicate_ids", default="error", choices=["error", "keep"], help="what to do about ids that are not unique")
    add("--keep_versions", type=int, default=1, help="published versions to keep, the newest included")
    add("--fresh", action="store_true", help="encode everything anew, whatever is there")
    add(
        "--encode_timeout_seconds",
        type=float,
        default=600.0,
        help="a worker that finishes no batch for so long is hung",
    )
    add("--encode_accelerator", metavar="TYPE", help="resource hint of the encode step alone: type:nvidia-l4;count:1;…")
    add("--encode_min_ram", metavar="SIZE", help="resource hint of the encode step alone: 16GB")
    add("--plan", action="store_true", help="say what would be done and how long it would take; do nothing")
    add("--profile", metavar="FILE", help="write what took the time, as a Chrome trace; DirectRunner only")
    add("--json", action="store_true", help="the summary as one JSON object on stdout")
    return own


def config_of(args: argparse.Namespace) -> EmbedConfig:
    def chosen(cls: type) -> dict[str, Any]:
        return {f.name: getattr(args, f.name) for f in dataclasses.fields(cls) if hasattr(args, f.name)}

    kept, types = parse_keep_columns(args.keep_columns)
    read = ReadOptions(**chosen(ReadOptions) | {"keep_columns": kept})
    own = {k: v for k, v in chosen(EmbedConfig).items() if k != "input"}
    encode = EncodeOptions(**chosen(EncodeOptions))
    return EmbedConfig(**own, input=tuple(args.input), read=read, encode=encode, kept_types=types)


def _paths(config: EmbedConfig) -> dict[str, Sequence[str]]:
    """What workers open, by flag. Models in the workers' image are there, wherever the workers are."""
    model = config.encode.model
    local = Path(model).is_dir() and not PurePath(model).is_relative_to(dataflow.BAKED_MODELS)
    return {"--input": config.input, "--output": (config.output,), "--model": (model,) if local else ()}


@dataclasses.dataclass(frozen=True)
class Run:
    """All that is settled before anything is encoded."""

    config: EmbedConfig
    options: PipelineOptions
    model: ResolvedModel
    plan: Plan
    blocks: BlockOptions
    sample: Any

    @classmethod
    def settle(cls, config: EmbedConfig, model: ResolvedModel, options: PipelineOptions) -> "Run":
        """Looks at the input and says what is about to happen. Raises InputError or RunFailed."""
        plan, blocks, why = make_plan(config, model)
        sample = sample_rows(plan, blocks)
        here = engines.workers_here(options)
        device = choose_device(config.encode.device) if here and plan.todo else config.encode.device
        cli.say(describe(plan, model, device, why))
        return cls(config, options, model, plan, blocks, sample)

    def go(self) -> cli.Submitted | None:
        """Encodes and publishes. Raises RunFailed."""
        plan, here = self.plan, engines.workers_here(self.options)
        with cli.progress_bar(plan.input_bytes, here=here):
            return run_to_publish(
                plan, lambda pipeline: build(pipeline, self.config, plan, self.blocks, self.model), self.options, here
            )


def run(argv: Sequence[str] | None) -> None:
    """The job. Raises InputError or RunFailed."""
    args, options = cli.parse(arguments(), argv)
    config = config_of(args)
    engines.check(options, _paths(config), config.encode.device)
    config, model = settle_backend(config, cli.runs_here(options))
    dataflow.prepare(options, model)
    settled = Run.settle(config, model, options)
    plan = settled.plan
    if args.plan:
        predicted = estimate(plan, settled.blocks, settled.sample, settled.model, config.encode)
        cli.put_result(predicted, _lines(predicted), args.json)
        return
    with cli.profiled(args.profile, options):
        submitted = settled.go()
    if submitted:
        cli.put_submitted(submitted, config.output, args.json)
        return
    manifest = newest_manifest(config.output)
    if manifest is None:
        raise RunFailed(f"{config.output}: the pipeline ended and published nothing; see the runner's log")
    summary = summarize(config, manifest, plan)
    cli.put_result(summary, _summary_text(summary), args.json)


def summarize(config: EmbedConfig, manifest: Manifest, plan: Plan) -> dict[str, Any]:
    """What a run comes down to, for people and for programs."""
    counts = manifest.counts
    unchanged = manifest.run != plan.run
    timings = manifest.timings
    return {
        "output": config.output,
        "version": manifest.version,
        "unchanged": unchanged,
        "rows_in": counts.rows_in,
        "rows_out": counts.rows_out,
        "rejected": counts.rejected,
        "blank_lines": counts.blank_lines,
        "truncated": counts.truncated,
        "chunks": counts.chunks,
        "tokens": counts.tokens,
        "parts": len(manifest.parts),
        "reused": manifest.reused,
        "bad_files": manifest.bad_files,
        "fidelity": manifest.fidelity,
        "seconds": timings["wall_seconds"],
        "encode_seconds": timings["encode_seconds"],
        "tokens_per_second": round(timings["encoded_tokens"] / max(1e-3, timings["encode_seconds"])),
    }


def _summary_text(found: dict[str, Any]) -> str:
    rejected = ", ".join(f"{n:,} {reason}" for reason, n in found["rejected"].items()) or "none"
    reused = found["reused"]
    lines = [
        f"{found['output']}: version {found['version']}{', unchanged' if found['unchanged'] else ''}",
        f"  rows in {found['rows_in']:,}, out {found['rows_out']:,}; rejected: {rejected}",
        f"  truncated {found['truncated']:,}; tokens {found['tokens']:,}; parts {found['parts']:,}",
    ]
    if failed := found["rejected"].get(Reason.ENCODE_ERROR):
        lines.append(f"  {failed:,} rows failed to encode; the same command tries them again")
    if found["chunks"]:
        lines.append(f"  rows added by cutting long texts {found['chunks']:,}")
    if found["blank_lines"]:
        lines.append(f"  blank lines {found['blank_lines']:,}")
    if found["bad_files"]:
        lines.append(f"  files left out: {', '.join(uri for uri, _ in found['bad_files'])}")
    if found["unchanged"]:
        lines.append("  nothing was new")
    else:
        lines.append(f"  {found['seconds']:.1f} s, {found['tokens_per_second']:,.0f} tokens/s")
        lines.append(f"  reused: {reused['splits']:,} splits, {reused['parts']:,} parts, {reused['rows']:,} rows")
    if found["fidelity"]:
        lines.append(f"  fidelity: least cosine to float32 {found['fidelity']['min_cosine']:.5f}")
    lines.append(f"  open it: pandas.read_parquet({found['output']!r})")
    return "\n".join(lines)


def _lines(found: dict[str, Any]) -> str:
    return "\n".join(
        f"{key}: {value:,}" if isinstance(value, int | float) else f"{key}: {value}" for key, value in found.items()
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the job; returns its exit status: 0 published, 1 failed and published nothing, 2 wrong command or input."""
    return cli.main(run, argv, "what is finished is kept; run the same command again to go on")


if __name__ == "__main__":
    cli.leave(main())
