"""Which Arrow type holds the values of two others without loss: what a kept column is where files differ."""

import re
from collections.abc import Callable

import pyarrow as pa
from pyarrow import types

_UNITS = ("s", "ms", "us", "ns")
_DECIMALS = ((9, pa.decimal32), (18, pa.decimal64), (38, pa.decimal128), (76, pa.decimal256))
_FLOATS = (pa.float16(), pa.float32(), pa.float64())
_VIEWS = {pa.string_view(): pa.string(), pa.binary_view(): pa.binary()}
_TIMESTAMP = re.compile(r"timestamp\[(s|ms|us|ns)(?:, *(?:tz=)?([^\]]+))?\]")
_CLOCK = re.compile(r"time32\[(s|ms)\]|time64\[(us|ns)\]|duration\[(s|ms|us|ns)\]")
_DECIMAL = re.compile(r"decimal(?:32|64|128|256)?\((\d+)(?:, *(\d+))?\)")

_INTEGERS = [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
_NAMED = {
    **{name: pa.type_for_alias(name) for name in ("bool", *_INTEGERS, "float", "double", "string", "binary")},
    "date": pa.date32(),
}
TYPE_NAMES = (*_NAMED, "decimal(10, 2)", "timestamp[us]", "timestamp[us, UTC]", "time64[us]", "duration[us]")
"""As a person may write a type, with examples of those that take arguments."""


def common_type(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """The narrowest type that holds every value of both; None where there is none. Where both hold the same values, as
    string and large_string do, it is `one`. Whole numbers and fractions, dates and times, times with and without a
    zone, numbers and strings have none: which of them is meant, only a person can say.

    A time of the coarser unit may lie beyond what the finer one can count. Nothing but the value can tell.
    """
    one, other = plain_type(one), plain_type(other)
    if one == other:
        return one
    if types.is_null(one) or types.is_null(other):
        return _nullable(other if types.is_null(one) else one)
    if types.is_dictionary(one) or types.is_dictionary(other):
        return _common_of_dictionaries(one, other)
    for is_kind, common in _KINDS:
        if is_kind(one) and is_kind(other):
            return common(one, other)
    return None


def holds(type_: pa.DataType, other: pa.DataType) -> bool:
    """Whether every value of `other` fits into `type_`, which parts may have been written with."""
    if types.is_dictionary(type_):
        return holds(type_.value_type, other.value_type if types.is_dictionary(other) else other)
    return common_type(type_, other) == type_


def plain_type(type_: pa.DataType) -> pa.DataType:
    """The type without views, which some kernels do not take, and without dictionaries but for the outermost: that one
    counts with 32 bits, as rows of several files may have more values than each file's own index has numbers for."""
    if types.is_dictionary(type_):
        return pa.dictionary(pa.int32(), _without_dictionaries(type_.value_type), type_.ordered)
    return _without_dictionaries(type_)


def _without_dictionaries(type_: pa.DataType) -> pa.DataType:
    if types.is_dictionary(type_):
        return _without_dictionaries(type_.value_type)
    return _with_fields(type_, _without_dictionaries)


def _with_fields(type_: pa.DataType, change: Callable[[pa.DataType], pa.DataType]) -> pa.DataType:
    """The type with its fields' types changed. The same object where nothing changes: it may carry field ids."""
    if type_ in _VIEWS:
        return _VIEWS[type_]
    fields = [type_.field(i).with_type(change(type_.field(i).type)) for i in range(_number_of_fields(type_))]
    if all(field.type is type_.field(i).type or field.type == type_.field(i).type for i, field in enumerate(fields)):
        return type_
    if types.is_struct(type_):
        return pa.struct(fields)
    if types.is_map(type_):
        key, item = type_.key_field, type_.item_field
        return pa.map_(key.with_type(change(key.type)), item.with_type(change(item.type)), type_.keys_sorted)
    if types.is_fixed_size_list(type_):
        return pa.list_(fields[0], type_.list_size)
    return pa.large_list(fields[0]) if types.is_large_list(type_) else pa.list_(fields[0])


def _number_of_fields(type_: pa.DataType) -> int:
    is_nested = types.is_struct(type_) or types.is_map(type_) or _is_list(type_)
    return type_.num_fields if is_nested else 0


def _nullable(type_: pa.DataType) -> pa.DataType:
    """The type of a column that lacks values. Arrow's Parquet reader fails on a fixed-size list that is null."""
    if types.is_fixed_size_list(type_):
        return pa.list_(type_.value_field)
    if types.is_struct(type_):
        return _with_fields(type_, _nullable)
    return type_


def _common_of_dictionaries(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    both = types.is_dictionary(one) and types.is_dictionary(other)
    values = [t.value_type if types.is_dictionary(t) else t for t in (one, other)]
    common = common_type(*values)
    if common is not None and both:
        return pa.dictionary(pa.int32(), common, one.ordered and other.ordered)
    return common


def _common_integer(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    signed = [t for t in (one, other) if types.is_signed_integer(t)]
    unsigned = [t for t in (one, other) if types.is_unsigned_integer(t)]
    if not signed or not unsigned:
        return max(one, other, key=lambda t: t.bit_width)
    bits = max(signed[0].bit_width, 2 * unsigned[0].bit_width)
    return {16: pa.int16(), 32: pa.int32(), 64: pa.int64()}.get(bits)


def _common_float(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    return _FLOATS[max(_FLOATS.index(one), _FLOATS.index(other))]


def _finer(one: pa.DataType, other: pa.DataType) -> str:
    return _UNITS[max(_UNITS.index(one.unit), _UNITS.index(other.unit))]


def _common_timestamp(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    return pa.timestamp(_finer(one, other), one.tz) if one.tz == other.tz else None


def _common_time(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    unit = _finer(one, other)
    return pa.time32(unit) if unit in ("s", "ms") else pa.time64(unit)


def _common_decimal(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    scale = max(one.scale, other.scale)
    precision = max(one.precision - one.scale, other.precision - other.scale) + scale
    widest = max(one.bit_width, other.bit_width)
    for most, decimal in _DECIMALS:
        if precision <= most and decimal(1, 0).bit_width >= widest:
            return decimal(precision, scale)
    return None


def _common_list(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    item = _common_field(one.value_field, other.value_field)
    if item is None:
        return None
    fixed = [t.list_size for t in (one, other) if types.is_fixed_size_list(t)]
    if len(fixed) == 2 and fixed[0] == fixed[1]:
        return pa.list_(item, fixed[0])
    return pa.large_list(item) if types.is_large_list(one) else pa.list_(item)


def _common_map(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    key, item = _common_field(one.key_field, other.key_field), _common_field(one.item_field, other.item_field)
    return None if key is None or item is None else pa.map_(key, item, one.keys_sorted and other.keys_sorted)


def _common_struct(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """All fields of both, by name, in the order of `one`; a field that is missing is null."""
    fields = {}
    for name in dict.fromkeys(field.name for field in (*one, *other)):
        places = [type_.get_all_field_indices(name) for type_ in (one, other)]
        if max(map(len, places)) > 1:
            return None  # which of the fields that have one name?
        there = [type_.field(place[0]) for type_, place in zip((one, other), places, strict=True) if place]
        field = _common_field(there[0], there[-1]) if len(there) == 2 else _optional(there[0])
        if field is None:
            return None
        fields[name] = field
    return pa.struct(list(fields.values()))


def _optional(field: pa.Field) -> pa.Field:
    return field.with_type(_nullable(field.type)).with_nullable(True)


def _common_field(one: pa.Field, other: pa.Field) -> pa.Field | None:
    type_ = common_type(one.type, other.type)
    return None if type_ is None else one.with_type(type_).with_nullable(one.nullable or other.nullable)


def _is_string(type_: pa.DataType) -> bool:
    return types.is_string(type_) or types.is_large_string(type_)


def _is_binary(type_: pa.DataType) -> bool:
    return types.is_binary(type_) or types.is_large_binary(type_) or types.is_fixed_size_binary(type_)


def _is_list(type_: pa.DataType) -> bool:
    return types.is_list(type_) or types.is_large_list(type_) or types.is_fixed_size_list(type_)


_KINDS: tuple[tuple[Callable[[pa.DataType], bool], Callable[[pa.DataType, pa.DataType], pa.DataType | None]], ...] = (
    (types.is_integer, _common_integer),
    (types.is_floating, _common_float),
    (_is_string, lambda one, _: one),
    (_is_binary, lambda one, _: pa.binary() if types.is_fixed_size_binary(one) else one),
    (types.is_date, lambda *_: pa.date64()),
    (types.is_time, _common_time),
    (types.is_timestamp, _common_timestamp),
    (types.is_duration, lambda one, other: pa.duration(_finer(one, other))),
    (types.is_decimal, _common_decimal),
    (_is_list, _common_list),
    (types.is_map, _common_map),
    (types.is_struct, _common_struct),
)


def parse_type(text: str) -> pa.DataType | None:
    """A type as a person writes it, `int64`, `double`, `timestamp[us, UTC]`, `decimal(10, 2)`; None for no type."""
    if found := _TIMESTAMP.fullmatch(text):
        return pa.timestamp(found[1], found[2])
    if found := _DECIMAL.fullmatch(text):
        digits, scale = int(found[1]), int(found[2] or 0)
        return _decimal_of(digits, scale) if 0 < digits <= 76 and scale <= digits else None
    if _CLOCK.fullmatch(text):
        return pa.type_for_alias(text)
    return _NAMED.get(text)


def _decimal_of(precision: int, scale: int) -> pa.DataType:
    return pa.decimal128(precision, scale) if precision <= 38 else pa.decimal256(precision, scale)
