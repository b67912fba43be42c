"""The types of kept columns, settled over all inputs before any work."""

import contextlib
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa
from pyarrow import types

from schemas import storage
from schemas.blocks import OFFSET, SOURCE
from schemas.embeddings import read_footer
from schemas.errors import InputError
from schemas.kept_types import TYPE_NAMES, common_type, holds, parse_type
from schemas.manifest import Manifest
from schemas.splits import Slice
from transforms.sources import BadFile, can_cast, columns_of, kept_type, read_footers

if TYPE_CHECKING:
    from jobs.embed import EmbedConfig

RESERVED = ("id", "text", "token_count", "truncated", "embedding")


class _Seen(NamedTuple):
    """A type that a column has, and the first file that has it so."""

    uri: str
    type: pa.DataType


def parse_keep_columns(text: str) -> tuple[tuple[str, ...], dict[str, pa.DataType]]:
    """Names of `a,b:double`, and the types that are given. A comma in brackets belongs to a type."""
    names: list[str] = []
    given: dict[str, pa.DataType] = {}
    for item in filter(None, _split(text)):
        name, type_ = _named_type(item)
        names.append(name)
        if type_ is not None:
            given[name] = type_
    return tuple(names), given


def _split(text: str) -> Iterable[str]:
    """The items between commas that stand in no brackets."""
    depth = start = 0
    for at, character in enumerate(text):
        depth += (character in "([") - (character in ")]")
        if character == "," and depth <= 0:
            yield text[start:at]
            start = at + 1
    yield text[start:]


def _named_type(item: str) -> tuple[str, pa.DataType | None]:
    """A name may have a colon: what follows the first one that a type follows is the type."""
    at = item.find(":")
    while at > 0:
        if type_ := parse_type(item[at + 1 :].strip()):
            return item[:at], type_
        at = item.find(":", at + 1)
    return item, None


def type_hint(name: str) -> str:
    """For a message about a column that is not there: whether its name ends in what may have been meant as a type."""
    _, colon, ending = name.rpartition(":")
    return f" ('{ending}' is no type; types are {', '.join(TYPE_NAMES)})" if colon else ""


def check_names(names: Collection[str]) -> None:
    """Raises InputError for a name that is taken, or that readers who ignore case take for another column."""
    known = {name: name for name in (*RESERVED, SOURCE, OFFSET)}
    for name in names:
        other = known.get(name.lower())
        if name in (SOURCE, OFFSET):
            raise InputError(f"--keep_columns {name}: this job keeps a row's place under that name; rename the column")
        if name in RESERVED:
            raise InputError(f"--keep_columns {name}: the dataset has a column of that name already")
        if name == other:
            raise InputError(f"--keep_columns {name}: is named twice")
        if other is not None:
            raise InputError(
                f"--keep_columns {name}: differs from the dataset's column '{other}' by case alone, and readers that "
                "ignore case, as Spark, Hive and DuckDB, would rename or refuse it; rename the column"
            )
        known[name.lower()] = name


def settle_kept(pieces: Collection[Slice], config: "EmbedConfig") -> pa.Schema:
    """The kept columns' schema: what was asked for, else the narrowest type that holds each file's. Line files hold
    strings.

    Raises:
        InputError: no type holds the types of two files, or a file lacks a column.
        RunFailed: a Parquet file cannot be read, and bad files are not skipped.
    """
    read_footers(piece.file for piece in pieces if piece.format == "parquet")
    fields = []
    for name in config.read.keep_columns:
        seen: dict[pa.DataType, _Seen] = {}
        for piece in pieces:
            type_ = _type_in(piece, name, config)
            if type_ is not None:
                seen.setdefault(type_, _Seen(piece.file.uri, type_))
        asked = config.kept_types.get(name)
        type_ = _as_asked(name, asked, seen.values()) if asked is not None else _held_by(name, list(seen.values()))
        fields.append(pa.field(name, type_))
    return pa.schema(fields)


def _type_in(piece: Slice, name: str, config: "EmbedConfig") -> pa.DataType | None:
    """The column's type in a file. None where the file is to be skipped."""
    if piece.format != "parquet":
        return pa.string()
    try:
        type_ = kept_type(piece.file, name)
    except BadFile as error:
        if config.skip_bad_files:
            return None
        raise error.as_failure() from None
    if type_ is None and config.read.missing_columns == "error":
        if config.skip_bad_files:
            return None  # the reader will list the file among the bad ones
        there = ", ".join(columns_of(piece, config.read) or [])
        raise InputError(
            f"--keep_columns {name}: {piece.file.uri} has no such column, but {there}{type_hint(name)}; with "
            "--missing_columns null its rows have a null there"
        )
    return pa.null() if type_ is None else type_


def _held_by(name: str, seen: list[_Seen]) -> pa.DataType:
    held = pa.null()
    for number, one in enumerate(seen):
        wider = common_type(held, one.type)
        if wider is None:
            other = next((s for s in seen[:number] if common_type(s.type, one.type) is None), seen[0])
            raise InputError(
                f"--keep_columns {name}: it is {other.type} in {other.uri} and {one.type} in {one.uri}, and no type "
                f"holds the values of both; {_what_to_do(name, other.type, one.type)}"
            )
        held = wider
    return held


def _what_to_do(name: str, *given: pa.DataType) -> str:
    if any(types.is_nested(type_) for type_ in given):
        return "make the files alike, or leave the column out"
    numbers = (types.is_integer, types.is_floating, types.is_decimal)
    likely = "string"
    if all(any(is_kind(type_) for is_kind in numbers) for type_ in given):
        likely = "double"
    elif all(types.is_timestamp(type_) and type_.tz for type_ in given):
        likely = "timestamp[us, UTC]"
    elif all(types.is_temporal(type_) for type_ in given):
        likely = "timestamp[us]"
    return (
        f"say which it is to be, as --keep_columns {name}:{likely}. A row whose value does not fit is rejected then. "
        f"Types: {', '.join(TYPE_NAMES)}"
    )


def _as_asked(name: str, asked: pa.DataType, seen: Iterable[_Seen]) -> pa.DataType:
    for one in seen:
        if not can_cast(one.type, asked):
            raise InputError(
                f"--keep_columns {name}:{asked}: {one.uri} has {one.type}, of which no {asked} can be made"
            )
    return asked


def as_published(kept: pa.Schema, base: Manifest, output: str, asked: Collection[str]) -> pa.Schema:
    """The types that the published parts have, where these hold what the columns are now: readers take the parts of a
    dataset for one table only if their types are the same. Types that were asked for stay.

    Raises:
        InputError: the published parts' types do not hold the values of this input.
    """
    if base.options.get("kept_types") == [str(type_) for type_ in kept.types]:
        return kept
    published = _published_schema(base, output)
    return pa.schema(
        [
            field
            if field.name in asked or field.name not in published.names
            else field.with_type(_still_held(field, published.field(field.name).type, base.version))
            for field in kept
        ]
    )


def _still_held(field: pa.Field, published: pa.DataType, version: int) -> pa.DataType:
    if not holds(published, field.type):
        keep = f", or keep the type with --keep_columns {field.name}:{published}, which rejects rows that do not fit"
        raise InputError(
            f"--keep_columns {field.name}: it is {field.type} in this input and {published} in the published version "
            f"{version}; no reader takes parts of both for one table. Encode everything anew with --fresh"
            f"{keep if parse_type(str(published)) == published else ''}"
        )
    return published


def _published_schema(base: Manifest, output: str) -> pa.Schema:
    """The schema of the first part that can be read; damaged ones are made again."""
    for entry in base.parts:
        part = storage.stat(storage.join(output, entry.name))
        if part is not None and part.size == entry.size:
            with storage.open_random(part) as file, contextlib.suppress(pa.ArrowInvalid, KeyError):
                return read_footer(file)[0]
    return pa.schema([])
