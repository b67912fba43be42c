"""What `jobs.embed` settles before it starts: the splits, what is taken over, whether the input is what was meant."""

import dataclasses
import secrets
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from schemas.errors import InputError, RunFailed
from schemas.manifest import Manifest, newest_manifest
from schemas.rejects import BLANK_REASONS, Reason, Reject
from schemas.splits import Slice, digest
from transforms.device import choose_device
from transforms.inputs import LINE_FORMATS, check_output, list_inputs, make_splits, slice_files
from transforms.model import EncodeOptions, ResolvedModel
from transforms.plan import Plan
from transforms.publish import finish_removals
from transforms.read import BlockOptions
from transforms.sources import BadFile, Row, columns_of, kept_schema, read_rows

if TYPE_CHECKING:
    from jobs.embed import EmbedConfig

SAMPLE_ROWS = 1000


@dataclasses.dataclass(frozen=True)
class Sample:
    """The first rows of what is to be done."""

    texts: tuple[str, ...]
    text_bytes: int
    input_bytes: int  # of the files that they came from, as far as they were read; an estimate for all but line files


def make_plan(config: "EmbedConfig", model: ResolvedModel) -> tuple[Plan, BlockOptions, str]:
    """The plan, what readers are told, and why everything is encoded anew where it is.

    Raises:
        InputError: no such input, no such column, an output that is no place for a dataset.
    """
    started = time.time()
    files = list_inputs(config.input)
    check_output(config.output, (file for file, _ in files))
    slices = slice_files(files, config.format, config.split_bytes)
    kept = _check_columns([pieces[0] for pieces in slices], config)
    recorded = _recorded_options(config)
    splits = make_splits(slices, digest(recorded, model.fingerprint.digest))
    finish_removals(config.output)
    base = newest_manifest(config.output)
    known = {split.id for split in base.splits} if base and not config.fresh else set()
    todo = tuple(split for split in splits if split.id not in known)
    plan = Plan(
        output=config.output,
        run=secrets.token_hex(8),
        started=started,
        base_version=base.version if base else 0,
        order=tuple(split.id for split in splits),
        todo=todo,
        inputs=tuple(file for file, _ in files),
        fingerprint=model.fingerprint,
        kept=kept,
        options=recorded,
        input_bytes=sum(split.input_bytes for split in todo),
        unique_ids=not config.read.id_column and config.id_from == "offset",
        max_error_rate=config.max_error_rate,
        duplicate_ids=config.duplicate_ids,
        keep_versions=config.keep_versions,
        fresh=config.fresh,
    )
    blocks = BlockOptions(
        read=config.read,
        kept=kept,
        fingerprint_digest=model.fingerprint.digest,
        id_from=config.id_from,
        rows_per_part=config.rows_per_part,
        split_bytes=config.split_bytes,
        skip_bad_files=config.skip_bad_files,
    )
    return plan, blocks, _why_anew(config, base, model, recorded)


def _recorded_options(config: "EmbedConfig") -> dict[str, Any]:
    """The options that decide what rows a dataset has, as the manifest keeps them and split ids include them."""
    return {
        "format": config.format,
        "id_from": config.id_from,
        "rows_per_part": config.rows_per_part,
        "split_bytes": config.split_bytes,
        **dataclasses.asdict(config.read),
        "keep_columns": list(config.read.keep_columns),
    }


def _why_anew(config: "EmbedConfig", base: Manifest | None, model: ResolvedModel, recorded: dict[str, Any]) -> str:
    if base is None:
        return ""
    if config.fresh:
        return "everything is encoded anew: --fresh"
    changed = model.fingerprint.differences(base.fingerprint)
    if changed:
        return f"everything is encoded anew, the model is another: {'; '.join(changed)}"
    changed = [f"{k}: {base.options.get(k)!r} -> {v!r}" for k, v in recorded.items() if base.options.get(k) != v]
    if changed:
        return f"everything is read anew, the reader's options changed: {'; '.join(changed)}"
    return ""


def _check_columns(firsts: list[Slice], config: "EmbedConfig") -> pa.Schema:
    """Raises InputError unless the first file of each format has the columns asked for; returns the kept ones'
    schema."""
    asked = {
        "--text_column": [config.read.text_column],
        "--id_column": [config.read.id_column] if config.read.id_column else [],
        "--keep_columns": list(config.read.keep_columns),
    }
    kept: pa.Schema | None = None
    for piece in {piece.format: piece for piece in reversed(firsts)}.values():
        if piece.format == "text" and (config.read.id_column or config.read.keep_columns):
            raise InputError(f"{piece.file.uri}: a text file has no columns for --id_column or --keep_columns")
        try:
            there = columns_of(piece, config.read)
            schema = kept_schema(piece, config.read) if config.read.keep_columns else pa.schema([])
        except BadFile as error:
            if config.skip_bad_files:
                continue
            raise InputError(str(error)) from None
        for flag, names in asked.items():
            for name in names:
                if there is not None and piece.format != "jsonl" and name not in there:
                    raise InputError(f"{flag} {name}: {piece.file.uri} has no such column, but {', '.join(there)}")
        kept = schema if kept is None else _common_types(kept, schema)
    return kept if kept is not None else pa.schema([])


def _common_types(one: pa.Schema, other: pa.Schema) -> pa.Schema:
    """Where formats are mixed, a kept column that is not of one type everywhere would be text in some files only."""
    for field in one:
        if field.type != other.field(field.name).type:
            raise InputError(
                f"--keep_columns {field.name}: is {field.type} in some input files and {other.field(field.name).type} "
                "in others; embed them into two datasets"
            )
    return one


def sample_rows(plan: Plan, options: BlockOptions) -> Sample:
    """The first rows of what is to be done, looked at before the run starts.

    Raises:
        InputError: there is no such field.
        RunFailed: more than half of them are broken, or a file cannot be read.
    """
    texts: list[str] = []
    rejects: list[Reject] = []
    input_bytes = 0
    first: Slice | None = None
    for piece in (piece for split in plan.todo for piece in split.slices):
        first = first or piece
        last = piece.start if piece.format in LINE_FORMATS else 0
        try:
            for item in read_rows(piece, options.read):
                last = item.offset
                if isinstance(item, Row):
                    texts.append(item.text)
                elif isinstance(item, Reject):
                    rejects.append(item)
                if len(texts) + len(rejects) >= SAMPLE_ROWS:
                    break
        except BadFile as error:
            if not options.skip_bad_files:
                raise RunFailed(f"{error}; mend or remove the file, or go on without it: --skip_bad_files") from None
        full = len(texts) + len(rejects) >= SAMPLE_ROWS
        partly = full and piece.format in LINE_FORMATS and not piece.codec
        input_bytes += last - piece.start if partly else piece.size
        if full:
            break
    _check_sample(len(texts), rejects, options, first)
    return Sample(tuple(texts), sum(len(t.encode("utf-8", "replace")) for t in texts), max(1, input_bytes))


def _check_sample(good: int, rejects: list[Reject], options: BlockOptions, piece: Slice | None) -> None:
    broken = [r for r in rejects if r.reason not in BLANK_REASONS]
    if not broken or len(broken) * 2 <= good + len(rejects):
        return
    if piece is not None and all(r.reason == Reason.MISSING_FIELD for r in broken):
        there = ", ".join(columns_of(piece, options.read) or [])
        raise InputError(f"--text_column {options.read.text_column}: not in {piece.file.uri}, which has {there}")
    examples = {r.reason: f"{r.source}#{r.offset}: {r.error}" for r in reversed(broken)}
    frequent = Counter(r.reason for r in broken).most_common(3)
    listed = "; ".join(f"{n} x {reason} (as {examples[reason]})" for reason, n in frequent)
    raise RunFailed(
        f"{len(broken)} of the first {good + len(rejects)} rows are broken: {listed}. Is --format or --text_column "
        "wrong?"
    )


def describe(config: "EmbedConfig", plan: Plan, model: ResolvedModel, why: str) -> str:
    """What is about to happen. Raises InputError where there is something to encode and no such device."""
    device = choose_device(config.encode.device) if plan.todo else config.encode.device
    files, size = len(plan.inputs), sum(file.size for file in plan.inputs)
    done = len(plan.order) - len(plan.todo)
    fingerprint = model.fingerprint
    lines = [
        f"input   {files:,} files, {size / 1e6:,.1f} MB; {len(plan.order):,} splits, {done:,} of them done before",
        f"model   {fingerprint.name}: {fingerprint.dim} dimensions, {fingerprint.max_seq_length} tokens, "
        f"{fingerprint.pooling} pooling{', normalized' if fingerprint.normalized else ''}",
        f"encode  device {device}, {fingerprint.dtype}, {fingerprint.backend}",
        f"output  {plan.output}" + (f", version {plan.base_version} is there" if plan.base_version else ""),
    ]
    return "\n".join([*lines, *([why] if why else [])])


def estimate(plan: Plan, sample: Sample, model: ResolvedModel, options: EncodeOptions) -> dict[str, Any]:
    """What the run would take, from a sample of its rows encoded now."""
    from transforms.encoder import Encoder

    rows = round(len(sample.texts) * plan.input_bytes / sample.input_bytes)
    found = {"splits": len(plan.todo), "input_bytes": plan.input_bytes, "rows": rows, "sample_rows": len(sample.texts)}
    if not sample.texts:
        return found
    encoder = Encoder(model, options)
    encoder.encode(sample.texts[:100])  # the first batches also pay for start-up
    started = time.monotonic()
    tokens = int(encoder.encode(sample.texts).token_counts.sum())
    seconds = time.monotonic() - started
    share = rows / len(sample.texts)
    return found | {
        "tokens": round(tokens * share),
        "tokens_per_second": round(tokens / seconds),
        "hours_on_this_machine": round(seconds * share / 3600, 3),
    }
