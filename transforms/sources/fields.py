"""What makes a text or an id good, the same in every format, and the Reject where it is not."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa

from schemas.rejects import RAW_BYTES, Reason, Reject
from schemas.splits import Slice
from transforms.sources.lines import LongLine

_COLUMNS_SHOWN = 30


class Refused(Exception):
    """This row is no good; the ones after it may be."""

    def __init__(self, reason: Reason, error: str) -> None:
        super().__init__(reason, error)
        self.reason, self.error = reason, error


def good_text(value: Any, column: str) -> str:
    """The text as it is. Raises Refused where it is null, no string, or nothing but white space."""
    if type(value) is str:
        if not value or value.isspace():
            raise Refused(Reason.BLANK_TEXT, f"field '{column}' is blank")
        return value
    if value is None:
        raise Refused(Reason.NULL_TEXT, f"field '{column}' is null")
    raise Refused(Reason.WRONG_TYPE, f"field '{column}' should be a string, is {type(value).__name__}")


def good_id(value: Any, column: str) -> str:
    """The id as a string, an integer by its digits. Raises Refused where it is missing, blank or of another type."""
    if type(value) is str and value and not value.isspace():
        return value
    if type(value) is int:
        return str(value)
    if value is None or type(value) is str:
        raise Refused(
            Reason.MISSING_ID, f"id field '{column}' is {'blank' if value is not None else 'missing or null'}"
        )
    raise Refused(Reason.WRONG_TYPE, f"id field '{column}' should be a string or an integer, is {type(value).__name__}")


def blank_rows(texts: pa.StringArray) -> list[int]:
    """Which of the strings are empty or nothing but white space. A string that begins with a printable ASCII character
    is not, which settles nearly all of them without a look at each."""
    _, bounds, data = texts.buffers()
    starts = np.frombuffer(bounds, np.int32)[texts.offset : texts.offset + len(texts) + 1] if len(texts) else None
    if starts is None:
        return []
    content = np.frombuffer(data or b"", np.uint8)
    first = np.append(content, np.uint8(0))[np.minimum(starts[:-1], len(content))]
    in_doubt = np.flatnonzero((np.diff(starts) == 0) | (first <= ord(" ")) | (first >= 127))
    strings = texts.take(pa.array(in_doubt)).to_pylist()
    return [i for i, text in zip(in_doubt.tolist(), strings, strict=True) if not text or text.isspace()]


def decoded(line: bytes) -> str:
    """Raises Refused where the bytes are no UTF-8."""
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise Refused(Reason.INVALID_UTF8, f"no UTF-8 at byte {error.start} of the line: {error.reason}") from None


def reject(piece: Slice, offset: int, refused: Refused, raw: bytes) -> Reject:
    return Reject(piece.name, offset, "read", refused.reason, refused.error, raw[:RAW_BYTES])


def reject_long(piece: Slice, offset: int, line: LongLine, max_record_bytes: int) -> Reject:
    error = f"a line of more than {max_record_bytes} bytes (--max_record_bytes)"
    return reject(piece, offset, Refused(Reason.TOO_LARGE, error), line.head)


def in_words(columns: Iterable[str]) -> str:
    """Column names for an error message."""
    names = [repr(c) for c in columns]
    more = f" and {len(names) - _COLUMNS_SHOWN} more" if len(names) > _COLUMNS_SHOWN else ""
    return ", ".join(names[:_COLUMNS_SHOWN]) + more if names else "none"
