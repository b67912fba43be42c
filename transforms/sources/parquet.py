"""Parquet: the columns that are needed, of the row groups that are asked for."""

import contextlib
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from schemas import storage
from schemas.rejects import RAW_BYTES, Reason, Reject
from schemas.splits import FileInfo, Slice
from transforms.sources.chunks import reading
from transforms.sources.fields import Refused, good_id, good_text, in_words, reject
from transforms.sources.rows import BadFile, ReadOptions, Row

_BATCH_ROWS = 4096
_BATCH_BYTES = 16 << 20
_BUFFER_BYTES, _FIRST_BUFFER_BYTES = 4 << 20, 256 << 10
"""Column chunks are streamed by this much, the second where only first rows are wanted; without it, or with pyarrow's
pre_buffer, each is held whole, and a row group may be the whole file."""
_OF_VIEW = {pa.string_view(): pa.string(), pa.binary_view(): pa.binary()}


def read_parquet(piece: Slice, options: ReadOptions) -> Iterator[Row | Reject]:
    """Every row of row groups `start` to `stop`. Offsets are row numbers in the whole file. A column may be a field of
    a struct, `doc.text`.

    Raises:
        BadFile: no readable Parquet, or a column is missing, or of a type that is no text (no text or integer: the id).
    """
    with _opened(piece.file, _BUFFER_BYTES if piece.size else _FIRST_BUFFER_BYTES) as parquet:
        names = [options.text_column, *([options.id_column] if options.id_column else []), *options.keep_columns]
        paths = [_path(piece.file.uri, parquet.schema_arrow, name) for name in names]
        _check_types(piece, parquet.schema_arrow, options, paths)
        groups = range(parquet.metadata.num_row_groups)[piece.start : piece.stop if piece.stop >= 0 else None]
        number = sum(parquet.metadata.row_group(i).num_rows for i in range(piece.start))
        for batch in parquet.iter_batches(_batch_rows(parquet, groups), row_groups=list(groups), columns=names):
            columns = [_column(batch, path) for path in paths]
            yield from _rows(piece, options, columns, number)
            number += batch.num_rows


def parquet_row_groups(file: FileInfo) -> list[tuple[int, int]]:
    """`(rows, bytes)` of each row group, from the footer alone; bytes of all columns, before compression."""
    with _opened(file) as parquet:
        groups = map(parquet.metadata.row_group, range(parquet.metadata.num_row_groups))
        return [(g.num_rows, g.total_byte_size) for g in groups]


def parquet_schema(file: FileInfo) -> pa.Schema:
    with _opened(file) as parquet:
        return parquet.schema_arrow


def kept_fields(piece: Slice, options: ReadOptions) -> list[pa.Field]:
    """The kept columns as the file has them: its types, without its metadata, and nullable. Views become what they are
    views of: Arrow cannot take rows of them."""
    schema = parquet_schema(piece.file)
    fields = []
    for name in options.keep_columns:
        type_ = _type_at(schema, _path(piece.file.uri, schema, name))
        fields.append(pa.field(name, _OF_VIEW.get(type_, type_)))
    return fields


@contextlib.contextmanager
def _opened(listed: FileInfo, buffer_bytes: int = _FIRST_BUFFER_BYTES) -> Iterator[pq.ParquetFile]:
    uri = listed.uri
    with reading(uri), storage.open_random(listed) as file:
        try:
            yield pq.ParquetFile(file, buffer_size=buffer_bytes, pre_buffer=False, page_checksum_verification=True)
        except (ConnectionError, TimeoutError):
            raise
        except (pa.ArrowException, OSError) as error:
            raise BadFile(uri, f"no readable Parquet file: {str(error).strip()}") from None


def _batch_rows(parquet: pq.ParquetFile, groups: range) -> int:
    """Fewer where rows are large, so that a batch is some MiB in any case."""
    groups_ = [parquet.metadata.row_group(i) for i in groups]
    largest_row = max((g.total_byte_size // max(g.num_rows, 1) for g in groups_), default=0)
    return max(1, min(_BATCH_ROWS, _BATCH_BYTES // max(largest_row, 1)))


def _path(uri: str, schema: pa.Schema, name: str) -> list[str]:
    """Where the column is: its name, or the names of a struct and its fields. Raises BadFile."""
    if schema.names.count(name) == 1:
        return [name]
    path = name.split(".")
    with contextlib.suppress(KeyError):
        _type_at(schema, path)
        return path
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
    return pa.types.is_string(type_) or pa.types.is_large_string(type_) or pa.types.is_string_view(type_)


def _column(batch: pa.RecordBatch, path: list[str]) -> pa.Array:
    column = batch.column(path[0])
    for name in path[1:]:
        column = pc.struct_field(column, name)
    return column


def _rows(piece: Slice, options: ReadOptions, columns: list[pa.Array], number: int) -> Iterator[Row | Reject]:
    columns[0] = columns[0].cast(pa.large_string())
    for i, values in enumerate(zip(*map(_values, columns), strict=True)):
        try:
            for value in values:
                if type(value) is Refused:
                    raise value
            text = good_text(values[0], options.text_column)
            _check_size(text, options.max_record_bytes)
            if options.id_column:
                yield Row(number + i, text, good_id(values[1], options.id_column), values[2:])
            else:
                yield Row(number + i, text, None, values[1:])
        except Refused as refused:
            yield reject(piece, number + i, refused, _raw(columns[0][i]))


def _values(column: pa.Array) -> list[Any]:
    """Python values; a Refused for each that cannot be one, such as a string that is no UTF-8."""
    try:
        return column.to_pylist()
    except (ValueError, OverflowError):
        return [_value(scalar) for scalar in column]


def _value(scalar: pa.Scalar) -> Any:
    try:
        return scalar.as_py()
    except UnicodeDecodeError as error:
        return Refused(Reason.INVALID_UTF8, f"no UTF-8 at byte {error.start} of a value: {error.reason}")
    except (ValueError, OverflowError) as error:
        return Refused(Reason.WRONG_TYPE, f"a {scalar.type} that Python cannot hold: {error}")


def _check_size(text: str, max_record_bytes: int) -> None:
    if 4 * len(text) > max_record_bytes and len(text.encode()) > max_record_bytes:
        raise Refused(Reason.TOO_LARGE, f"a text of more than {max_record_bytes} bytes (--max_record_bytes)")


def _raw(text: pa.Scalar) -> bytes:
    return memoryview(text.as_buffer())[:RAW_BYTES].tobytes() if text.is_valid else b""
