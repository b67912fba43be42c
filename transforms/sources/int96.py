"""Times in Parquet's old INT96, as Spark and Impala wrote them. Arrow reads them as nanoseconds; where 64 bits cannot
count so many, which is from the year 2262 on, it makes another time of them without a word."""

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from schemas.splits import FileInfo
from transforms.sources.parquet_batches import record_batches
from transforms.sources.parquet_footer import opened
from transforms.sources.rows import BadFile

_MOST_MICROSECONDS = np.iinfo(np.int64).max // 1000


def is_int96(parquet: pq.ParquetFile, column: str) -> bool:
    leaves = (parquet.schema.column(i) for i in range(parquet.metadata.num_columns))
    return any(leaf.path == column and leaf.physical_type == "INT96" for leaf in leaves)


def coarse_batches(
    file: FileInfo, groups: Sequence[int], columns: Sequence[str], buffer_bytes: int, batch_bytes: int
) -> Iterator[pa.RecordBatch]:
    """The same batches once more, with such times in microseconds: these reach far enough."""
    with opened(file, buffer_bytes, coerce_int96_timestamp_unit="us") as parquet:
        yield from record_batches(parquet, file, groups, columns, batch_bytes)


def true_times(file: FileInfo, fine: pa.Array, coarse: pa.Array) -> pa.Array:
    """The times in nanoseconds if all of them can be counted so, else in microseconds.

    Raises:
        BadFile: some need the one and some the other.
    """
    micros = coarse.cast(pa.int64()).fill_null(0).to_numpy()
    far = np.abs(micros) > _MOST_MICROSECONDS
    if not far.any():
        return fine
    nanos = fine.cast(pa.int64()).fill_null(0).to_numpy()
    if (nanos[~far] % 1000).any():
        raise BadFile(file.uri, "INT96 times, some beyond the year 2262 and some in nanoseconds: no type holds both")
    return coarse
