"""Record batches of a Parquet file that take some MiB in memory, however well the file packs its values."""

from collections.abc import Iterable, Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from schemas.splits import FileInfo
from transforms.sources.parquet_footer import FIRST_BUFFER_BYTES, opened

BATCH_ROWS = 4096
BATCH_BYTES = 16 << 20
_ROWS_OF_DICTIONARY = 512
_LARGE_DICTIONARY_BYTES = 1 << 20
"""As it is stored. The usual writers give up a dictionary at 1 MiB before compression, if its values are short."""
_ROWS_OF_LARGE_DICTIONARY = 16


def record_batches(
    parquet: pq.ParquetFile, file: FileInfo, groups: Iterable[int], columns: Sequence[str], most_bytes: int
) -> Iterator[pa.RecordBatch]:
    """All rows of the row groups, in order. What was decoded before an error comes before it.

    most_bytes: about the bytes of a batch, BATCH_BYTES at most
    """
    held: list[pa.RecordBatch] = []
    size = 0
    try:
        for batch in _decoded(parquet, file, groups, columns, most_bytes):
            held.append(batch)
            size += max(batch.nbytes, batch.num_rows * BATCH_BYTES // BATCH_ROWS)
            if size >= most_bytes:
                yield from _joined(held)
                held, size = [], 0
    except (pa.ArrowException, OSError):
        yield from _joined(held)
        raise
    yield from _joined(held)


def _decoded(
    parquet: pq.ParquetFile, file: FileInfo, groups: Iterable[int], columns: Sequence[str], most_bytes: int
) -> Iterator[pa.RecordBatch]:
    """Row group by row group: pyarrow fails where dictionaries inside lists or structs differ from one to the next."""
    leaves = _leaves(parquet, columns)
    for number in groups:
        rows = _rows_to_decode(parquet, file, number, leaves, most_bytes)
        yield from parquet.iter_batches(rows, row_groups=[number], columns=columns)


def _joined(batches: list[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    if batches:
        yield batches[0] if len(batches) == 1 else pa.concat_batches(batches)


def _rows_to_decode(
    parquet: pq.ParquetFile, file: FileInfo, number: int, leaves: Sequence[int], most_bytes: int
) -> int:
    """How many rows of a row group to decode at once.

    A footer tells the bytes of a column as they are encoded. A dictionary may make gigabytes of few: one text of 100 KB
    in 4,096 rows is encoded in 100 KB. So fewer rows are decoded at once where a dictionary may do so, and where it is
    a large one, as many as its longest value allows.
    """
    group = parquet.metadata.row_group(number)
    chunks = [group.column(i) for i in leaves]
    largest = max(1, sum(chunk.total_uncompressed_size for chunk in chunks) // max(group.num_rows, 1))
    most = BATCH_ROWS
    for i, chunk in zip(leaves, chunks, strict=True):
        if not _may_grow(parquet, chunk, i, min(BATCH_ROWS, group.num_rows)):
            continue
        if chunk.data_page_offset - (chunk.dictionary_page_offset or 0) < _LARGE_DICTIONARY_BYTES:
            most = min(most, _ROWS_OF_DICTIONARY)
        elif longest := _longest_value(file, number, parquet.schema.column(i).path):
            largest = max(largest, longest)
        else:
            most = min(most, _ROWS_OF_LARGE_DICTIONARY)
    return max(1, min(most, most_bytes // largest))


def _leaves(parquet: pq.ParquetFile, columns: Sequence[str]) -> list[int]:
    """Numbers of the column chunks that hold these columns, each named as itself or as `struct.field`."""
    paths = [parquet.schema.column(i).path for i in range(parquet.metadata.num_columns)]
    return [i for i, path in enumerate(paths) if any(path == name or path.startswith(f"{name}.") for name in columns)]


def _may_grow(parquet: pq.ParquetFile, chunk: pq.ColumnChunkMetaData, leaf: int, rows: int) -> bool:
    """Whether so many of the chunk's rows, if all were its longest value, could take more than a batch may."""
    is_bytes = parquet.schema.column(leaf).physical_type == "BYTE_ARRAY"
    return is_bytes and chunk.has_dictionary_page and chunk.total_uncompressed_size * rows > BATCH_BYTES


def _longest_value(file: FileInfo, group: int, path: str) -> int | None:
    """Bytes of the longest value in the dictionary of a column: its first row, read as a dictionary, brings all of its
    page. None where the column is nested and cannot be read so."""
    with opened(file, FIRST_BUFFER_BYTES, read_dictionary=[path]) as parquet:
        batch = next(parquet.iter_batches(1, row_groups=[group], columns=[path]))
        column = batch.column(0)
        if not pa.types.is_dictionary(column.type):
            return None
        return pc.max(pc.binary_length(column.dictionary)).as_py()
