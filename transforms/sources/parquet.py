"""Parquet: the columns that are needed, of the row groups that are asked for."""

import contextlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from schemas.kept_types import plain_type
from schemas.rejects import RAW_BYTES, Reason
from schemas.splits import FileInfo, Slice
from transforms.sources.fields import Refused, blank_rows, in_words, reject
from transforms.sources.int96 import coarse_batches, is_int96, true_times
from transforms.sources.parquet_batches import BATCH_BYTES, record_batches
from transforms.sources.parquet_footer import FIRST_BUFFER_BYTES, opened, parquet_footer
from transforms.sources.rows import BadFile, ReadOptions, Rows

_FIRST_BATCH_BYTES = 1 << 20
_BUFFER_BYTES = 4 << 20
"""Column chunks are streamed by this much; without it, or with pyarrow's pre_buffer, each is held whole, and a row
group may be the whole file. By less where only first rows are wanted."""


def read_parquet(piece: Slice, options: ReadOptions) -> Iterator[Rows]:
    """Every row of row groups `start` to `stop`. Offsets are row numbers in the whole file. A column may be a field of
    a struct, `doc.text`. A column of nulls counts as one of null texts.

    Raises:
        BadFile: no readable Parquet, or a column is missing, or of a type that is no text (no text or integer: the id).
    """
    buffer_bytes, batch_bytes = (_BUFFER_BYTES, BATCH_BYTES) if piece.size else (FIRST_BUFFER_BYTES, _FIRST_BATCH_BYTES)
    with opened(piece.file, buffer_bytes) as parquet:
        columns = _Columns(piece, parquet.schema_arrow, options)
        rows_of = [rows for rows, _ in parquet_footer(piece.file).groups]
        groups = range(len(rows_of))[piece.start : piece.stop if piece.stop >= 0 else None]
        number = sum(rows_of[: piece.start])
        for arrays in _arrays(piece, parquet, groups, columns, batch_bytes):
            yield _rows(piece, options, arrays, number)
            number += len(arrays[0])


def _arrays(
    piece: Slice, parquet: pq.ParquetFile, groups: Sequence[int], columns: "_Columns", batch_bytes: int
) -> Iterator[list[pa.Array]]:
    """The columns, some thousand rows at a time."""
    batches = record_batches(parquet, piece.file, groups, columns.names, batch_bytes)
    old_times = columns.positions_of([name for name in columns.names if is_int96(parquet, name)])
    if not old_times:
        yield from map(columns.of, batches)
        return
    again = coarse_batches(piece.file, groups, columns.names, _BUFFER_BYTES, batch_bytes)
    for batch, coarse in zip(batches, again, strict=True):
        arrays, times = columns.of(batch), columns.of(coarse)
        for i in old_times:
            arrays[i] = true_times(piece.file, arrays[i], times[i])
        yield arrays


def parquet_row_groups(file: FileInfo) -> list[tuple[int, int]]:
    """`(rows, bytes)` of each row group, from the footer alone; bytes of all columns, before compression."""
    return list(parquet_footer(file).groups)


def parquet_schema(file: FileInfo) -> pa.Schema:
    return parquet_footer(file).schema


def kept_type(file: FileInfo, column: str) -> pa.DataType | None:
    """The column's type in the file; None where the file has no such column.

    Raises:
        BadFile: no readable Parquet, or two columns of that name.
    """
    schema = parquet_schema(file)
    path = _path(file.uri, schema, column, required=False)
    return plain_type(_type_at(schema, path)) if path else None


class _Columns:
    """Where in a file the columns are that were asked for: text, id if any, kept ones. Raises BadFile."""

    def __init__(self, piece: Slice, schema: pa.Schema, options: ReadOptions) -> None:
        asked = [options.text_column, *([options.id_column] if options.id_column else [])]
        required = options.missing_columns == "error"
        self._paths = [_path(piece.file.uri, schema, name) for name in asked]
        kept = [_path(piece.file.uri, schema, name, required) for name in options.keep_columns]
        self._paths += kept
        _check_types(piece, schema, options, self._paths)
        self.names = [name for name, path in zip([*asked, *options.keep_columns], self._paths, strict=True) if path]

    def positions_of(self, names: Collection[str]) -> list[int]:
        return [i for i, path in enumerate(self._paths) if ".".join(path) in names]

    def of(self, batch: pa.RecordBatch) -> list[pa.Array]:
        return [_column(batch, path) if path else pa.nulls(batch.num_rows) for path in self._paths]


def _path(uri: str, schema: pa.Schema, name: str, required: bool = True) -> list[str]:
    """Where the column is: its name, or the names of a struct and its fields; [] where it is nowhere and need not be.
    Raises BadFile."""
    if schema.names.count(name) == 1:
        return [name]
    path = name.split(".")
    with contextlib.suppress(KeyError):
        _type_at(schema, path)
        return path
    if not required and name not in schema.names:
        return []
    found = "two columns" if name in schema.names else "no column"
    raise BadFile(uri, f"{found} '{name}'; there are {in_words(schema.names)}")


def _type_at(schema: pa.Schema, path: list[str]) -> pa.DataType:
    """Raises KeyError where there is none, or not just one."""
    type_: Any = pa.struct(list(schema))
    for name in path:
        at = type_.get_field_index(name) if pa.types.is_struct(type_) else -1
        if at < 0:
            raise KeyError(name)
        type_ = type_.field(at).type
    return type_


def _check_types(piece: Slice, schema: pa.Schema, options: ReadOptions, paths: list[list[str]]) -> None:
    text_type = _type_at(schema, paths[0])
    if not _is_text(text_type):
        raise BadFile(piece.file.uri, f"column '{options.text_column}' should hold strings, holds {text_type}")
    if options.id_column:
        id_type = _type_at(schema, paths[1])
        if not _is_text(id_type) and not pa.types.is_integer(id_type):
            error = f"id column '{options.id_column}' should hold strings or integers, holds {id_type}"
            raise BadFile(piece.file.uri, error)


def _is_text(type_: pa.DataType) -> bool:
    if pa.types.is_dictionary(type_):
        type_ = type_.value_type
    kinds = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null)
    return any(is_kind(type_) for is_kind in kinds)


def _column(batch: pa.RecordBatch, path: list[str]) -> pa.Array:
    column = batch.column(path[0])
    for name in path[1:]:
        column = pc.struct_field(column, name)
    return column


def _rows(piece: Slice, options: ReadOptions, columns: list[pa.Array], number: int) -> Rows:
    texts, ids, kept = columns[0], columns[1] if options.id_column else None, columns[1 + bool(options.id_column) :]
    refused: dict[int, Refused] = {}  # by row; the first reason counts

    def refuse(rows: Iterable[int], reason: Reason, error: str) -> None:
        for row in rows:
            refused.setdefault(row, Refused(reason, error))

    for column in columns:
        for row, error in _invalid(column):
            refused.setdefault(row, error)
    texts = _strings(texts)
    refuse(_null_rows(texts), Reason.NULL_TEXT, f"field '{options.text_column}' is null")
    refuse(blank_rows(texts), Reason.BLANK_TEXT, f"field '{options.text_column}' is blank")
    too_large = f"a text of more than {options.max_record_bytes} bytes (--max_record_bytes)"
    refuse(_rows_where(pc.greater(pc.binary_length(texts), options.max_record_bytes)), Reason.TOO_LARGE, too_large)
    if ids is not None:
        ids = _strings(ids)
        refuse(_null_rows(ids), Reason.MISSING_ID, f"id field '{options.id_column}' is missing or null")
        refuse(blank_rows(ids), Reason.MISSING_ID, f"id field '{options.id_column}' is blank")
    others = [reject(piece, number + row, error, _raw(texts[row])) for row, error in sorted(refused.items())]
    batch = pa.record_batch(kept, names=list(options.keep_columns)) if kept else None
    good = np.ones(len(texts), bool)
    good[list(refused)] = False
    return Rows(np.arange(number, number + len(texts)), texts, ids, batch, others).where(good)


def _strings(column: pa.Array) -> pa.StringArray:
    """Any kind of string, or digits of integers."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    return column.cast(pa.string())


def _null_rows(column: pa.Array) -> list[int]:
    return _rows_where(column.is_null()) if column.null_count else []


def _rows_where(mask: pa.Array) -> list[int]:
    return np.flatnonzero(mask.fill_null(False).to_numpy(zero_copy_only=False)).tolist()


def _invalid(column: pa.Array) -> Iterator[tuple[int, Refused]]:
    """Rows whose value breaks the rules of its own type, such as a string that is no UTF-8."""
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        for row in range(len(column)):
            value = column.take(pa.array([row]))
            try:
                value.validate(full=True)
                _strings(value).to_pylist() if _is_text(value.type) else None
            except pa.ArrowInvalid as error:
                yield row, _what_is_wrong(value[0], error)


def _what_is_wrong(value: pa.Scalar, error: Exception) -> Refused:
    try:
        value.as_py()
    except UnicodeDecodeError as found:
        return Refused(Reason.INVALID_UTF8, f"no UTF-8 at byte {found.start} of a value: {found.reason}")
    except (ValueError, OverflowError):
        pass
    return Refused(Reason.WRONG_TYPE, f"no good {value.type}: {error}")


def _raw(text: pa.Scalar) -> bytes:
    return memoryview(text.as_buffer())[:RAW_BYTES].tobytes() if text.is_valid else b""
