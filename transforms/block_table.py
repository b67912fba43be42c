"""Rows of one block -> its Arrow table, whose bytes are a function of what the rows hold and of nothing else."""

import dataclasses
import hashlib
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

from schemas import storage
from schemas.blocks import OFFSET, SOURCE
from schemas.errors import RunFailed
from transforms.sources import ReadOptions, Rows


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockOptions:
    """What turns rows into blocks. All of it but the last two is part of every split's identity."""

    read: ReadOptions
    kept: pa.Schema
    fingerprint_digest: str
    id_from: str = "offset"  # offset or text; an id column wins over both
    rows_per_part: int = 16_384
    split_bytes: int = 8 << 20
    skip_bad_files: bool = False
    http: str = storage.NO_HTTP  # what workers may read by http


def block_table(rows: Sequence[tuple[str, Rows]], read: ReadOptions, kept: pa.Schema, id_from: str) -> pa.Table:
    """The table of a `Block` from `(source, rows)`, with the kept columns in these types."""
    columns = {
        "text": pa.concat_arrays([some.texts for _, some in rows]),
        SOURCE: pa.array([source for source, _ in rows], pa.string()).take(
            np.repeat(np.arange(len(rows)), [len(some) for _, some in rows])
        ),
        OFFSET: pa.array(np.concatenate([some.offsets for _, some in rows]), pa.int64()),
    }
    if read.id_column:
        ids = pa.concat_arrays([some.ids for _, some in rows])
    elif id_from == "text":
        ids = pa.array(map(text_id, columns["text"].to_pylist()), pa.string())
    else:
        ids = pc.binary_join_element_wise(columns[SOURCE], columns[OFFSET].cast(pa.string()), "#")
    columns = {"id": ids} | columns
    for i, field in enumerate(kept):
        column = pa.concat_arrays([some.kept.column(i) for _, some in rows if some.kept is not None])
        columns[field.name] = _of_its_values(column, field)
    return pa.table(columns)


def text_id(text: str) -> str:
    """Hex of a 128-bit hash of the text: the id under `--id_from text`."""
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def kept_bytes(rows: Rows) -> np.ndarray:
    """(n,) int64: what a row's id and kept values take in memory beside its text."""
    columns = [*([] if rows.ids is None else [rows.ids]), *([] if rows.kept is None else rows.kept.columns)]
    return sum((_value_bytes(column) for column in columns), np.zeros(len(rows), np.int64))


def _of_its_values(column: pa.Array, field: pa.Field) -> pa.Array:
    """The column without a trace of the file that it was a slice of, since the name of a part is a digest of it: what
    stands under a null, and in which order a dictionary has its values."""
    if types.is_dictionary(field.type):
        return _encoded(column, field)
    column = column.take(pa.array(np.arange(len(column))))
    return _empty_below_nulls(column, np.zeros(len(column), bool)) if _has_struct(field.type) else column


def _has_struct(type_: pa.DataType) -> bool:
    if types.is_struct(type_):
        return True
    return types.is_nested(type_) and any(_has_struct(type_.field(i).type) for i in range(type_.num_fields))


def _empty_below_nulls(column: pa.Array, absent: np.ndarray) -> pa.Array:
    """The column with empty values below structs that are null, as Arrow builds it of Python values: so names of parts
    were made at first. Parquet's reader has nulls there.

    absent: (n,) bool, where the struct around this column is null; the column is null there
    """
    type_, nulls = column.type, column.is_null().to_numpy(zero_copy_only=False)
    own = nulls & ~absent
    mask = pa.array(own) if own.any() else None
    if types.is_struct(type_) and type_.num_fields:
        children = column.flatten()  # null where the struct is; taking them clears what stands below that
        if nulls.any():
            children = [child.take(pa.array(np.arange(len(column)))) for child in children]
        children = [_empty_below_nulls(child, nulls) for child in children]
        return pa.StructArray.from_arrays(children, fields=list(type_), mask=mask)
    if types.is_map(type_):
        keys, items = column.keys, _empty_below_nulls(column.items, np.zeros(len(column.items), bool))
        return pa.MapArray.from_arrays(column.offsets, keys, items, type=type_, mask=mask)
    if types.is_list(type_) or types.is_large_list(type_):
        values = _empty_below_nulls(column.values, np.zeros(len(column.values), bool))
        return type(column).from_arrays(column.offsets, values, type=type_, mask=mask)
    if types.is_fixed_size_list(type_) and not nulls.any():
        values = column.flatten()
        return pa.FixedSizeListArray.from_arrays(_empty_below_nulls(values, np.zeros(len(values), bool)), type=type_)
    if types.is_nested(type_) or not absent.any():
        return column
    valid = pa.py_buffer(np.packbits(~own, bitorder="little").tobytes()) if own.any() else None
    return pa.Array.from_buffers(type_, len(column), [valid, *column.buffers()[1:]], offset=column.offset)


def _encoded(column: pa.Array, field: pa.Field) -> pa.Array:
    values = column.dictionary_decode() if types.is_dictionary(column.type) else column
    encoded = values.dictionary_encode()
    try:
        indices = encoded.indices.cast(field.type.index_type)
    except pa.ArrowInvalid:
        raise RunFailed(
            f"kept column '{field.name}': the published parts number its values with {field.type.index_type}, and "
            f"{len(encoded.dictionary)} in one part are too many; encode everything anew: --fresh"
        ) from None
    return pa.DictionaryArray.from_arrays(indices, encoded.dictionary, ordered=field.type.ordered)


def _value_bytes(column: pa.Array) -> np.ndarray:
    """(n,) int64: bytes of each value; the mean of them where they are nested or of a fixed size."""
    type_ = column.type
    if types.is_string(type_) or types.is_large_string(type_) or types.is_binary(type_) or types.is_large_binary(type_):
        return pc.binary_length(column).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    return np.full(len(column), column.nbytes // max(len(column), 1), np.int64)
