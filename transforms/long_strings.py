"""Columns of strings beyond the 2 GiB that one Arrow array of `string` can hold. No Beam."""

import pyarrow as pa

MOST_BYTES = (1 << 31) - 1
"""Of one array's characters: its offsets are 32 bits."""


def as_one_array(column: pa.ChunkedArray) -> pa.Array:
    """A column's values in one array: of `large_string`, with offsets of 64 bits, where `string` cannot hold them."""
    if pa.types.is_string(column.type) and column.nbytes > MOST_BYTES:
        column = column.cast(pa.large_string())
    combined = column.combine_chunks()
    return combined if isinstance(combined, pa.Array) else pa.concat_arrays(combined.chunks)


def as_strings(values: pa.Array) -> pa.ChunkedArray:
    """The values as `string`, in as many chunks as that takes."""
    if pa.types.is_string(values.type):
        return pa.chunked_array([values])
    pieces = max(1, -(-values.nbytes // max(1, MOST_BYTES // 2)))
    rows = max(1, -(-len(values) // pieces))
    some = [values.slice(start, rows) for start in range(0, len(values), rows)]
    chunks = [chunk for values in some for chunk in _cast(values)]
    return pa.chunked_array(chunks, pa.string())


def _cast(values: pa.Array) -> list[pa.Array]:
    """Halves what does not fit, since values are of different lengths."""
    if values.nbytes <= MOST_BYTES or len(values) <= 1:
        return [values.cast(pa.string())]
    half = len(values) // 2
    return [*_cast(values.slice(0, half)), *_cast(values.slice(half))]
