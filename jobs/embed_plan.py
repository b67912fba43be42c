"""What `jobs.embed` settles before it starts: the splits, what is taken over, whether the input is what was meant."""

import dataclasses
import secrets
import time
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from jobs.embed_kept import as_published, settle_kept, type_hint
from jobs.embed_root import ROOT, check_root, input_root
from schemas import storage
from schemas.errors import InputError
from schemas.manifest import Manifest, SplitEntry, newest_manifest
from schemas.rejects import Reason
from schemas.splits import FileInfo, Slice, digest
from transforms.inputs import check_output, list_inputs, make_splits, slice_files
from transforms.model import ResolvedModel
from transforms.plan import Plan, check_fidelity
from transforms.publish import damaged_files
from transforms.read import BlockOptions
from transforms.sources import BadFile, columns_of, detect, read_footers

if TYPE_CHECKING:
    from jobs.embed import EmbedConfig


def make_plan(config: "EmbedConfig", model: ResolvedModel) -> tuple[Plan, BlockOptions, str]:
    """The plan, what readers are told, and why everything is encoded anew where it is.

    Raises:
        InputError: no such input, no such column, an output that is no place for a dataset.
    """
    started = time.time()
    root = input_root(config)
    files = list_inputs(config.input, root)
    check_output(config.output, config.input, (file for file, _ in files))
    read_footers(file for file, name in files if _footer_is_needed(file, name, config))
    slices = slice_files(files, config.format, config.split_bytes, config.rows_per_part)
    base = newest_manifest(config.output)
    check_root(config, base, root, files)
    earlier = None if config.fresh else base
    kept = _kept_columns({p.file.uri: p for pieces in slices for p in pieces}.values(), config, model, earlier)
    recorded = _recorded_options(config, kept)
    splits = make_splits(slices, digest(recorded, model.fingerprint.digest))
    damaged = damaged_files(config.output, earlier) if earlier else set()
    known = _whole_splits(earlier, damaged) if earlier else set()
    todo = tuple(split for split in splits if split.id not in known)
    plan = Plan(
        output=config.output,
        run=secrets.token_hex(8),
        started=started,
        base_version=base.version if base else 0,
        order=tuple(split.id for split in splits),
        todo=todo,
        inputs=tuple(file._replace(uri=storage.blanked(file.uri)) for file, _ in files),
        fingerprint=model.fingerprint,
        kept=kept,
        options=recorded | _duplicates_kept(config) | {ROOT: storage.blanked(root)},
        input_bytes=sum(split.input_bytes for split in todo),
        unique_ids=config.unique_ids,
        max_error_rate=config.max_error_rate,
        duplicate_ids=config.duplicate_ids,
        keep_versions=config.keep_versions,
        fresh=config.fresh,
        min_fidelity=config.encode.min_fidelity,
    )
    _check_finished(plan, earlier, known)
    blocks = BlockOptions(
        read=dataclasses.replace(config.read, kept=kept),
        kept=kept,
        fingerprint_digest=model.fingerprint.digest,
        id_from=config.id_from,
        rows_per_part=config.rows_per_part,
        split_bytes=config.split_bytes,
        skip_bad_files=config.skip_bad_files,
        http=storage.permitted_http(),
    )
    return plan, blocks, _why_anew(config, base, model, recorded, damaged)


def _check_finished(plan: Plan, base: Manifest | None, known: set[str]) -> None:
    """Raises RunFailed where splits that would be taken over are less near to float32 than this run asks for."""
    kept = known.intersection(plan.order)
    for split in base.splits if base else ():
        if split.id in kept and split.cosines:
            check_fidelity(plan, {"min_cosine": split.cosines[0]})


def _whole_splits(base: Manifest, damaged: set[str]) -> set[str]:
    """Ids of the splits to take over without reading their input: those whose files stand as they were written. What
    could not be read then (`--skip_bad_files`) or not be encoded is looked at again: a right, a disk or a device may
    have been mended since."""
    return {s.id for s in base.splits if _is_whole(s) and damaged.isdisjoint((*s.parts, *s.rejects))}


def _is_whole(split: SplitEntry) -> bool:
    return not split.bad_files and Reason.ENCODE_ERROR not in split.counts.rejected


def _duplicates_kept(config: "EmbedConfig") -> dict[str, str]:
    """For the record alone: a version with double ids is not what a run without the flag may publish."""
    return {"duplicate_ids": "keep"} if config.duplicate_ids == "keep" and not config.unique_ids else {}


def _footer_is_needed(file: FileInfo, name: str, config: "EmbedConfig") -> bool:
    """To cut the file into splits, or to know the types of its columns."""
    is_parquet = detect(name, config.format)[0] == "parquet"
    return is_parquet and (file.size > config.split_bytes or bool(config.read.keep_columns))


def _kept_columns(
    files: Collection[Slice], config: "EmbedConfig", model: ResolvedModel, earlier: Manifest | None
) -> pa.Schema:
    """The kept columns' schema. Raises InputError for a column that is asked for and is not there, for types that
    cannot be one; RunFailed for a file that cannot be read."""
    _check_columns(files, config)
    kept = settle_kept(files, config)
    goes_on = earlier is not None and earlier.fingerprint.digest == model.fingerprint.digest
    if earlier is not None and goes_on and _same_but_for_types(earlier, _recorded_options(config, kept)):
        return as_published(kept, earlier, config.output, config.kept_types)
    return kept


def _same_but_for_types(earlier: Manifest, recorded: dict[str, Any]) -> bool:
    return all(earlier.options.get(name) == value for name, value in recorded.items() if name != "kept_types")


def _recorded_options(config: "EmbedConfig", kept: pa.Schema) -> dict[str, Any]:
    """The options that decide what rows a dataset has, as the manifest keeps them and split ids include them."""
    read = dataclasses.asdict(config.read)
    return {
        **({"kept_types": [str(field.type) for field in kept]} if len(kept) else {}),
        "format": config.format,
        "id_from": config.id_from,
        "rows_per_part": config.rows_per_part,
        "split_bytes": config.split_bytes,
        **{name: value for name, value in read.items() if name not in ("kept", "missing_columns")},
        "keep_columns": list(config.read.keep_columns),
    }


def _why_anew(
    config: "EmbedConfig", base: Manifest | None, model: ResolvedModel, recorded: dict[str, Any], damaged: set[str]
) -> str:
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
    if damaged:
        return (
            f"gone or damaged since version {base.version}, and made again: {len(damaged):,} files, as {min(damaged)}"
        )
    return ""


def _check_columns(files: Collection[Slice], config: "EmbedConfig") -> None:
    """Looks at the first file of each format; with `--skip_bad_files`, at the first good one.

    Raises:
        InputError: it lacks a column that was asked for.
        RunFailed: it cannot be read.
    """
    for format_ in sorted({piece.format for piece in files}):
        pieces = [piece for piece in files if piece.format == format_]
        _check_first(pieces if config.skip_bad_files else pieces[:1], config)


def _check_first(pieces: list[Slice], config: "EmbedConfig") -> None:
    problem: InputError | None = None
    for piece in pieces:
        try:
            _check_asked(piece, columns_of(piece, config.read), config)
            return
        except BadFile as error:
            if not config.skip_bad_files:
                raise error.as_failure() from None
        except InputError as error:
            problem = problem or error
    if problem:
        raise problem


def _check_asked(piece: Slice, there: list[str] | None, config: "EmbedConfig") -> None:
    """Raises InputError for a column that is asked for and is not there. Objects of JSONL may each have others: of
    these, `jobs.embed_sample` judges."""
    read = config.read
    kept = read.keep_columns if read.missing_columns == "error" else ()
    if there is None and (read.id_column or kept):
        raise InputError(f"{piece.file.uri}: a text file has no columns for --id_column or --keep_columns")
    if not there or piece.format == "jsonl":  # not there: text, or a file without a byte
        return
    asked = [("--text_column", read.text_column), *([("--id_column", read.id_column)] if read.id_column else [])]
    for flag, name in [*asked, *(("--keep_columns", name) for name in kept)]:
        known = name in there or (piece.format == "parquet" and name.split(".")[0] in there)  # a field of a struct
        if not known:
            hint = type_hint(name) if flag == "--keep_columns" else ""
            raise InputError(f"{flag} {name}: {piece.file.uri} has no such column, but {', '.join(there)}{hint}")


def describe(plan: Plan, model: ResolvedModel, device: str, why: str) -> str:
    """What is about to happen."""
    files, size = len(plan.inputs), sum(file.size for file in plan.inputs)
    done = len(plan.order) - len(plan.todo)
    fingerprint = model.fingerprint
    lines = [
        f"input   {files:,} file{'s' * (files != 1)}, {_in_units(size)}; {len(plan.order):,} splits, {done:,} of them "
        "done before",
        f"model   {fingerprint.name}: {fingerprint.dim} dimensions, {fingerprint.max_seq_length} tokens, "
        f"{fingerprint.pooling} pooling{', normalized' if fingerprint.normalized else ''}",
        *(["        mean pooling is assumed: the model has no modules.json"] if model.pooling_assumed else []),
        f"encode  device {device}, {fingerprint.dtype}, {fingerprint.backend}",
        f"output  {plan.output}" + (f", version {plan.base_version} is there" if plan.base_version else ""),
    ]
    return "\n".join([*lines, *([why] if why else [])])


def _in_units(size: int) -> str:
    return f"{size / 1e6:,.1f} MB" if size >= 1e6 else f"{size:,} bytes"
