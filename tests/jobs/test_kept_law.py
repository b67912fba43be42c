"""Every value of a kept column comes out equal, or its row is rejected, or the run is refused before it begins."""

import decimal
import fractions
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from pyarrow import types

from schemas.errors import InputError
from schemas.kept_types import common_type
from tests.kept import came_out, pieces_of
from transforms.sources.kept_cast import can_cast, checked_cast

ROWS = 4
NANOSECONDS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
units = st.sampled_from(["s", "ms", "us", "ns"])
zones = st.sampled_from([None, "UTC", "Europe/Paris"])
decimals = (
    st.integers(1, 38).flatmap(lambda p: st.tuples(st.just(p), st.integers(0, p))).map(lambda d: pa.decimal128(*d))
)
flat_types = st.one_of(
    st.sampled_from([pa.null(), pa.bool_(), pa.date32(), pa.date64(), pa.time32("s"), pa.time32("ms")]),
    st.sampled_from([pa.time64("us"), pa.time64("ns"), pa.float16(), pa.float32(), pa.float64()]),
    st.sampled_from([pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()]),
    st.sampled_from(
        [pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary(), pa.binary_view()]
    ),
    st.sampled_from([pa.dictionary(pa.int8(), pa.string()), pa.dictionary(pa.int32(), pa.large_string())]),
    st.sampled_from([pa.binary(1), pa.binary(3)]),
    st.builds(pa.timestamp, units, zones),
    st.builds(pa.duration, units),
    decimals,
)


def nested(inner: st.SearchStrategy[pa.DataType]) -> st.SearchStrategy[pa.DataType]:
    fields = st.dictionaries(st.sampled_from("abc"), inner, min_size=1)
    structs = fields.map(lambda found: pa.struct(list(found.items())))
    return st.one_of(
        inner.map(pa.list_),
        inner.map(pa.large_list),
        inner.filter(lambda t: "null" not in str(t)).map(lambda t: pa.list_(t, 2)),  # which Arrow itself gets wrong
        inner.map(lambda t: pa.map_(pa.string(), t)),
        structs,
    )


kinds = st.recursive(flat_types, nested, max_leaves=4)


def integers(bits: int, signed: bool = True) -> st.SearchStrategy[int]:
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    return st.sampled_from([low, high, 0, 1]) | st.integers(low, high)


@st.composite
def arrays(draw: st.DrawFn, type_: pa.DataType, count: int, nulls: bool = True) -> pa.Array:
    """Values that a writer may have put there, whether or not Python can hold them."""

    def column(values: st.SearchStrategy[Any], of: pa.DataType) -> pa.Array:
        found = [draw(st.none() | values) if nulls else draw(values) for _ in range(count)]
        return pa.array(found, of)

    if types.is_null(type_):
        return pa.nulls(count)
    if types.is_dictionary(type_):
        return draw(arrays(type_.value_type, count)).dictionary_encode().cast(type_)
    if types.is_struct(type_):
        children = [draw(arrays(field.type, count)) for field in type_]
        mask = pa.array([draw(st.booleans()) for _ in range(count)], pa.bool_()) if nulls else None
        return pa.StructArray.from_arrays(children, fields=list(type_), mask=mask)
    if types.is_fixed_size_list(type_):  # a null one cannot be read
        return pa.FixedSizeListArray.from_arrays(draw(arrays(type_.value_type, 2 * count)), type=type_)
    if types.is_map(type_):
        sizes = draw(st.lists(st.integers(0, 2), min_size=count, max_size=count))
        offsets = pa.array(np.concatenate([[0], np.cumsum(sizes)]), pa.int32())
        keys = draw(arrays(type_.key_type, sum(sizes), nulls=False))
        return pa.MapArray.from_arrays(offsets, keys, draw(arrays(type_.item_type, sum(sizes))))
    if types.is_list(type_) or types.is_large_list(type_):
        sizes = draw(st.lists(st.integers(0, 2), min_size=count, max_size=count))
        offsets = np.concatenate([[0], np.cumsum(sizes)])
        mask = pa.array([draw(st.booleans()) for _ in range(count)], pa.bool_())
        made = pa.LargeListArray if types.is_large_list(type_) else pa.ListArray
        index = pa.int64() if types.is_large_list(type_) else pa.int32()
        return made.from_arrays(pa.array(offsets, index), draw(arrays(type_.value_type, sum(sizes))), mask=mask)
    if types.is_decimal(type_):
        most = 10**type_.precision - 1
        return column(st.integers(-most, most).map(lambda n: decimal.Decimal(n).scaleb(-type_.scale, CONTEXT)), type_)
    if types.is_time(type_):
        day = 86_400 * 10**9 // NANOSECONDS[type_.unit]
        return column(st.integers(0, day - 1), pa.int32() if type_.bit_width == 32 else pa.int64()).view(type_)
    if types.is_date64(type_):
        return column(integers(16).map(lambda days: days * 86_400_000), pa.int64()).view(type_)
    if types.is_temporal(type_):
        return column(integers(type_.bit_width), pa.int32() if type_.bit_width == 32 else pa.int64()).view(type_)
    if types.is_integer(type_):
        return column(integers(type_.bit_width, types.is_signed_integer(type_)), type_)
    if types.is_floating(type_):
        return column(st.floats(width=type_.bit_width), type_)
    if types.is_boolean(type_):
        return column(st.booleans(), type_)
    if types.is_fixed_size_binary(type_):
        return column(st.binary(min_size=type_.byte_width, max_size=type_.byte_width), type_)
    if type_ in (pa.binary(), pa.large_binary(), pa.binary_view()):
        return column(st.binary(max_size=20), type_)
    return column(st.text(st.characters(exclude_categories=["Cs"]), max_size=20), type_)


CONTEXT = decimal.Context(prec=80)


def meaning(value: pa.Scalar) -> Any:
    """What the value says, in a form that does not depend on its type's width, unit or kind of list."""
    type_ = value.type
    if not value.is_valid:
        return None
    if types.is_dictionary(type_):
        return meaning(value.value)
    if types.is_struct(type_):  # a field that is not there is one that is null
        return {name: said for name, field in value.items() if (said := meaning(field)) is not None}
    if types.is_map(type_):
        return [(meaning(pair["key"]), meaning(pair["value"])) for pair in value.values] if value.values else []
    if types.is_list(type_) or types.is_large_list(type_) or types.is_fixed_size_list(type_):
        return [meaning(item) for item in value.values]
    if types.is_date32(type_):
        return "date", value.value
    if types.is_date64(type_):
        return "date", value.value / 86_400_000
    if types.is_temporal(type_):
        zone = type_.tz if types.is_timestamp(type_) else None
        kind = next(k for k in (types.is_timestamp, types.is_duration, types.is_time) if k(type_))
        return kind.__name__, zone, value.value * NANOSECONDS[type_.unit]
    if types.is_floating(type_):
        return "float", repr(float(value.as_py()))  # nan is nan, and -0.0 is not 0.0
    return value.as_py()


def write(folder: Path, name: str, column: pa.Array) -> pa.Array:
    """A file with the column; the column as pyarrow reads it from there. Some types become others on the way."""
    try:
        table = pa.table({"text": [f"{name} row {i}" for i in range(len(column))], "k": column})
        pq.write_table(table, folder / name, row_group_size=3)
        return pq.read_table(folder / name)["k"].combine_chunks()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return assume(False)


def overflows(value: pa.Scalar) -> bool:
    """Whether a time in the value is too far for the finest unit there is."""
    return any(abs(leaf) >= 2**63 for leaf in _nanoseconds(meaning(value)))


def _nanoseconds(said: Any) -> Iterator[int]:
    if isinstance(said, dict | list):
        for item in said.values() if isinstance(said, dict) else said:
            yield from _nanoseconds(item)
    elif isinstance(said, tuple) and len(said) == 3:
        yield said[2]
    elif isinstance(said, tuple) and len(said) == 2:
        yield from _nanoseconds(said[1])


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data(), one=kinds, other=kinds, alike=st.booleans())
def test_every_value_comes_out_equal_or_is_rejected_or_the_run_is_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, one: pa.DataType, other: pa.DataType, alike: bool
) -> None:
    folder = tmp_path_factory.mktemp("in")
    columns = [data.draw(arrays(type_, ROWS)) for type_ in (one, one if alike else other)]
    there = [write(folder, name, column) for name, column in zip(("a.parquet", "b.parquet"), columns, strict=True)]
    pieces = pieces_of(folder)
    try:
        _, values, rejected = came_out(pieces)
    except InputError as error:
        assert common_type(there[0].type, there[1].type) is None
        assert all(piece.file.uri in str(error) for piece in pieces)
        return
    for piece, column in zip(pieces, there, strict=True):
        for row, value in enumerate(column):
            if (piece.name, row) in rejected:
                assert overflows(value)
            else:
                assert meaning(values[piece.name, row]) == meaning(value)


EXACT = [pa.int8(), pa.int64(), pa.uint8(), pa.uint64(), pa.float16(), pa.float32(), pa.float64(), pa.bool_()]
TIMES = [pa.date32(), pa.date64(), *(pa.timestamp(unit, zone) for unit in NANOSECONDS for zone in (None, "UTC"))]
CLOCKS = [pa.time32("s"), pa.time32("ms"), pa.time64("us"), pa.time64("ns")]
SPANS = [pa.duration(unit) for unit in NANOSECONDS]


def amount(value: pa.Scalar) -> Any:
    """A number or a time as a number that can be compared whatever its type is."""
    if not value.is_valid:
        return None
    said = meaning(value)
    if isinstance(said, tuple) and said[0] == "date":
        return fractions.Fraction(said[1]) * 86_400 * 10**9
    if isinstance(said, tuple) and said[0] != "float":
        return fractions.Fraction(said[-1])
    number = value.as_py()
    return fractions.Fraction(number) if math.isfinite(number) else repr(float(number))


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data(), family=st.sampled_from([EXACT, TIMES, CLOCKS, SPANS]))
def test_a_value_that_is_cast_as_asked_is_equal_or_is_told(data: st.DataObject, family: list[pa.DataType]) -> None:
    source, target = data.draw(st.sampled_from(family)), data.draw(st.sampled_from(family))
    column = data.draw(arrays(source, ROWS))
    if not can_cast(source, target):  # refused before the run
        assert source != target
        return
    cast, errors = checked_cast(column, target)
    for row, value in enumerate(column):
        if row not in errors:
            assert amount(cast[row]) == amount(value)
