"""Plain text: a line is a record."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from schemas.rejects import Reject
from schemas.splits import Slice
from transforms.sources.fields import Refused, blank_rows, decoded, reject, reject_long
from transforms.sources.lines import Lines, LongLine, line_offsets, read_line_blocks, split_lines, with_sizes
from transforms.sources.rows import NO_OFFSETS, BlankLine, ReadOptions, Row, Rows


def read_text(piece: Slice, options: ReadOptions) -> Iterator[Rows]:
    """Every line that begins in the piece, without `\\n` or `\\r\\n`; a `\\r` elsewhere belongs to the text."""
    for block in read_line_blocks(piece, options.max_record_bytes):
        if isinstance(block, LongLine):
            rejected = reject_long(piece, block.offset, block, options.max_record_bytes)
            yield Rows.of_strings(NO_OFFSETS, [], others=[rejected])
            continue
        try:
            block.data.decode()  # each line is valid where all are: a newline is no part of another character
        except UnicodeDecodeError:
            yield with_sizes(Rows.of(_line_by_line(piece, block), options), block)
            continue
        offsets = line_offsets(block)
        yield with_sizes(_without_blank_lines(offsets, _as_strings(block, offsets)), block)


def _as_strings(block: Lines, offsets: np.ndarray) -> pa.StringArray:
    """The lines as an Arrow array: the bytes without the line ends, and where each line begins in them."""
    data = block.data
    if b"\r\n" in data:
        block = Lines(0, data.replace(b"\r\n", b"\n"))
        data, offsets = block.data, line_offsets(block)
    content = data.replace(b"\n", b"")
    bounds = np.append(offsets - block.offset - np.arange(len(offsets)), len(content)).astype(np.int32)
    return pa.StringArray.from_buffers(len(offsets), pa.py_buffer(bounds), pa.py_buffer(content))


def _without_blank_lines(offsets: np.ndarray, texts: pa.StringArray) -> Rows:
    blank = blank_rows(texts)
    good = np.ones(len(texts), bool)
    good[blank] = False
    others = [BlankLine(offset) for offset in offsets[blank].tolist()]
    return Rows(offsets, texts, others=others).where(good)


def _line_by_line(piece: Slice, block: Lines) -> Iterator[Row | Reject | BlankLine]:
    offset = block.offset
    for line in split_lines(block.data):
        try:
            text = decoded(line.removesuffix(b"\r"))  # a newline follows, or there is no such line but this bad one
            yield Row(offset, text, None, ()) if text and not text.isspace() else BlankLine(offset)
        except Refused as refused:
            yield reject(piece, offset, refused, line)
        offset += len(line) + 1
