"""Kept columns as a file has them -> as the dataset has them. A value that cannot become one of the dataset's type
without loss rejects its row."""

import dataclasses
import math
import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

from schemas.rejects import RAW_BYTES, Reason, Reject
from schemas.splits import Slice
from transforms.sources.nested_cast import nested_cast
from transforms.sources.rows import Rows

DELIMITED = ("csv", "tsv")
_INFINITE_OR_NAN = re.compile(r"[+-]?(inf|infinity|nan)", re.IGNORECASE)
_INTEGER = re.compile(r"[+-]?\d+")
_DIGITS = {16: 5, 32: 9, 64: 17}
"""Decimal digits that a float of so many bits can be told by. Text with more of them says what no float can say."""


def cast_kept(piece: Slice, rows: Rows, kept: pa.Schema) -> Rows:
    """The rows with their kept columns in these types, and a reject for each row of which a value does not fit."""
    count = len(rows)
    columns: list[pa.Array] = []
    refused: dict[int, str] = {}
    for i, field in enumerate(kept):
        column = rows.kept.column(i) if rows.kept is not None else pa.nulls(count)
        if piece.format in DELIMITED and not _is_bytes(_decoded(field.type)):
            column = pc.if_else(pc.equal(column, ""), None, column)  # how such a file says that there is no value
        cast, errors = checked_cast(column, field.type)
        columns.append(cast)
        for row, error in errors.items():
            refused.setdefault(row, f"kept column '{field.name}': a value that is no {field.type}: {error}")
    rows = dataclasses.replace(rows, kept=pa.record_batch(columns, names=kept.names))
    if not refused:
        return rows
    good = np.ones(count, bool)
    good[list(refused)] = False
    rejects = [_reject(piece, rows, row, error) for row, error in sorted(refused.items())]
    return rows.where(good).with_others(rejects)


def _reject(piece: Slice, rows: Rows, row: int, error: str) -> Reject:
    raw = rows.texts[row].as_py().encode()[:RAW_BYTES]
    return Reject(piece.name, int(rows.offsets[row]), "read", Reason.WRONG_TYPE, error, raw)


def can_cast(source: pa.DataType, target: pa.DataType) -> bool:
    """Whether there is a way at all from one type to the other."""
    try:
        checked_cast(pa.nulls(1, _decoded(source)), target)
    except (pa.ArrowNotImplementedError, pa.ArrowTypeError):
        return False
    return True


def checked_cast(column: pa.Array, target: pa.DataType) -> tuple[pa.Array, dict[int, str]]:
    """The column in another type (a dictionary's values stand for the dictionary), and by row why a value has no equal
    there."""
    target = _decoded(target)
    if types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if column.type.equals(target, check_metadata=True):
        return column, {}
    errors: dict[int, str] = {}
    cast = _cast(column, target, 0, errors)
    for row in _changed(column, cast):
        errors.setdefault(row, f"{_shown(column[row])} would become {_shown(cast[row])}")
    return cast, errors


def _shown(value: pa.Scalar) -> str:
    try:
        return repr(value.as_py())
    except (ValueError, OverflowError):  # beyond what Python's types hold
        return str(value.cast(pa.string()))


def _decoded(type_: pa.DataType) -> pa.DataType:
    return type_.value_type if types.is_dictionary(type_) else type_


def _cast(column: pa.Array, target: pa.DataType, at: int, errors: dict[int, str]) -> pa.Array:
    """The column cast, null where that fails: halved until the failing rows are alone."""
    try:
        return nested_cast(column, target)
    except pa.ArrowInvalid as error:
        if len(column) == 1:
            errors[at] = str(error).splitlines()[0]
            return pa.nulls(1, target)
        half = len(column) // 2
        parts = _cast(column[:half], target, at, errors), _cast(column[half:], target, at + half, errors)
        return pa.concat_arrays(parts)


def _changed(column: pa.Array, cast: pa.Array) -> list[int]:
    """Rows whose value is another after an Arrow cast, which lets some losses pass: 0.1 as float32, 1e400 as infinity,
    "007" as 7."""
    source, target = column.type, cast.type
    if _widens(source, target):
        return []
    if types.is_string(source) or types.is_large_string(source):
        return _changed_from_text(column, cast)
    if types.is_string(target) or types.is_large_string(target):
        return []  # the text of a value
    same = pc.equal(cast.cast(source, safe=False), column)
    if types.is_floating(source) and types.is_floating(target):
        same = pc.or_(same, pc.and_(pc.is_nan(column), pc.is_nan(cast)))
    return np.flatnonzero(pc.invert(same).fill_null(False).to_numpy(zero_copy_only=False)).tolist()


def _widens(source: pa.DataType, target: pa.DataType) -> bool:
    """Whether the cast checks all that can go wrong, if anything can."""
    if types.is_nested(source) or types.is_null(source):
        return True
    alike = (types.is_integer, types.is_temporal, types.is_decimal, _is_bytes)
    if any(is_kind(source) and is_kind(target) for is_kind in alike):
        return types.is_integer(source) or source.id == target.id or _is_bytes(source)
    return types.is_floating(source) and types.is_floating(target) and source.bit_width <= target.bit_width


def _is_bytes(type_: pa.DataType) -> bool:
    is_text = types.is_string(type_) or types.is_large_string(type_)
    return is_text or types.is_binary(type_) or types.is_large_binary(type_) or types.is_fixed_size_binary(type_)


def _changed_from_text(column: pa.Array, cast: pa.Array) -> list[int]:
    if not types.is_integer(cast.type) and not types.is_floating(cast.type):
        return []
    pairs = enumerate(zip(column.to_pylist(), cast.to_pylist(), strict=True))
    return [row for row, (text, value) in pairs if value is not None and not _is_number(text, value, cast.type)]


def _is_number(text: str, value: int | float, type_: pa.DataType) -> bool:
    """Whether the number says what the text says: a whole number digit by digit, a fraction to the nearest float."""
    if types.is_integer(type_):
        return text == str(value)
    if _INFINITE_OR_NAN.fullmatch(text):
        return True
    if not math.isfinite(value):
        return False
    if _INTEGER.fullmatch(text):
        return int(value) == int(text)
    digits = re.split("[eE]", text)[0].replace(".", "").lstrip("+-0").rstrip("0")
    return len(digits) <= _DIGITS[type_.bit_width] and (value != 0 or not digits)
