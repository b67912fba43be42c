"""Casts of lists, maps and structs to wider ones of their kind: field by field, a missing field being null.

Arrow's own cast makes arrays of a wrong length where a field of nulls inside a list becomes a struct or a list.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types


def nested_cast(column: pa.Array, target: pa.DataType) -> pa.Array:
    """The column as Arrow's checked cast would make it. Raises pa.ArrowInvalid for a value that does not fit."""
    source = column.type
    if source.equals(target, check_metadata=True):
        return column
    if types.is_null(source):
        return pa.nulls(len(column), target)
    if types.is_dictionary(source):
        return nested_cast(column.dictionary_decode(), target)
    if types.is_struct(source) and types.is_struct(target):
        return _cast_struct(column, target)
    if types.is_fixed_size_list(source) and types.is_fixed_size_list(target):
        values = nested_cast(column.flatten(), target.value_type)  # none of them is null: Parquet cannot hold that
        return pa.FixedSizeListArray.from_arrays(values, type=target)
    if types.is_map(source) and types.is_map(target):
        entries = _as_list(column).flatten()
        keys, items = nested_cast(entries.field(0), target.key_type), nested_cast(entries.field(1), target.item_type)
        offsets = _offsets(_as_list(column))
        return pa.MapArray.from_arrays(offsets, keys, items, type=target, mask=_nulls(column))
    if _is_list(source) and (types.is_list(target) or types.is_large_list(target)):
        array = pa.LargeListArray if types.is_large_list(target) else pa.ListArray
        values = nested_cast(column.flatten(), target.value_type)
        offsets = _offsets(column).cast(pa.int64()) if types.is_large_list(target) else _offsets(column)
        return array.from_arrays(offsets, values, type=target, mask=_nulls(column))
    return column.cast(target)


def _cast_struct(column: pa.Array, target: pa.DataType) -> pa.Array:
    children = [
        nested_cast(column.field(place), field.type)
        if (place := column.type.get_field_index(field.name)) >= 0
        else pa.nulls(len(column), field.type)
        for field in target
    ]
    if not children:
        return column.cast(target)
    return pa.StructArray.from_arrays(children, fields=list(target), mask=_nulls(column))


def _as_list(column: pa.MapArray) -> pa.ListArray:
    """The same memory as a list of entries, which more kernels take."""
    fields = [column.type.key_field, column.type.item_field]
    entries = pa.StructArray.from_arrays([column.keys, column.items], fields=fields)
    return pa.Array.from_buffers(
        pa.list_(entries.type), len(column), column.buffers()[:2], offset=column.offset, children=[entries]
    )


def _is_list(type_: pa.DataType) -> bool:
    return types.is_list(type_) or types.is_large_list(type_) or types.is_fixed_size_list(type_)


def _nulls(column: pa.Array) -> pa.Array | None:
    return column.is_null() if column.null_count else None


def _offsets(column: pa.Array) -> pa.Array:
    """Where each list begins among the values of those that are not null."""
    lengths = pc.list_value_length(column).fill_null(0).to_numpy(zero_copy_only=False)
    return pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
