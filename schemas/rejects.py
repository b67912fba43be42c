"""Rows that were refused, and why."""

from collections.abc import Iterable
from enum import StrEnum
from typing import NamedTuple

import pyarrow as pa

RAW_BYTES = 1024
"""A reject keeps at most this many of its first raw bytes."""


class Reason(StrEnum):
    """Why a row was refused. The text is what the manifest and the rejects file say."""

    INVALID_UTF8 = "invalid_utf8"
    LONE_SURROGATE = "lone_surrogate"
    BROKEN_JSON = "broken_json"
    MISSING_FIELD = "missing_field"
    NULL_TEXT = "null_text"
    BLANK_TEXT = "blank_text"
    WRONG_TYPE = "wrong_type"
    MISSING_ID = "missing_id"
    TOO_LARGE = "too_large"
    WRONG_WIDTH = "wrong_width"
    BROKEN_CSV = "broken_csv"
    TOO_LONG = "too_long"
    NON_FINITE = "non_finite_vector"
    ZERO_VECTOR = "zero_vector"
    ENCODE_ERROR = "encode_error"


BLANK_REASONS = frozenset({Reason.NULL_TEXT, Reason.BLANK_TEXT})
"""Rows with nothing to encode. They are no sign of a broken input, so the error rate leaves them out."""


class Reject(NamedTuple):
    """One refused row. `offset` is what an id would carry: a byte offset in a line file, else a row number."""

    source: str
    offset: int
    stage: str  # read or encode
    reason: Reason
    error: str
    raw: bytes


REJECTS_SCHEMA = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("stage", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("error", pa.string(), nullable=False),
        pa.field("raw", pa.binary(), nullable=False),
    ]
)


def rejects_table(rejects: Iterable[Reject]) -> pa.Table:
    """Rejects as an Arrow table of `REJECTS_SCHEMA`."""
    columns = list(zip(*rejects, strict=True)) or [()] * len(REJECTS_SCHEMA)
    arrays = [
        pa.array([str(v) for v in column] if pa.types.is_string(field.type) else column, field.type)
        for field, column in zip(REJECTS_SCHEMA, columns, strict=True)
    ]
    return pa.Table.from_arrays(arrays, schema=REJECTS_SCHEMA)
