"""Plain text: a line is a record."""

from collections.abc import Iterator

from schemas.rejects import Reject
from schemas.splits import Slice
from transforms.sources.fields import Refused, decoded, reject, reject_long
from transforms.sources.lines import Lines, LongLine, read_line_blocks, split_lines
from transforms.sources.rows import BlankLine, ReadOptions, Row


def read_text(piece: Slice, options: ReadOptions) -> Iterator[Row | Reject | BlankLine]:
    """Every line that begins in the piece, without `\\n` or `\\r\\n`; a `\\r` elsewhere belongs to the text."""
    for block in read_line_blocks(piece, options.max_record_bytes):
        if isinstance(block, LongLine):
            yield reject_long(piece, block.offset, block, options.max_record_bytes)
            continue
        try:
            texts = block.data.decode().replace("\r\n", "\n").split("\n")  # once for all lines: twice as fast as each
        except UnicodeDecodeError:
            yield from _line_by_line(piece, block)
            continue
        offset = block.offset
        for line, text in zip(split_lines(block.data), texts, strict=False):  # texts may end in the "" after a newline
            yield Row(offset, text, None, ()) if text and not text.isspace() else BlankLine(offset)
            offset += len(line) + 1


def _line_by_line(piece: Slice, block: Lines) -> Iterator[Row | Reject | BlankLine]:
    offset = block.offset
    for line in split_lines(block.data):
        try:
            text = decoded(line.removesuffix(b"\r"))  # a newline follows, or there is no such line but this bad one
            yield Row(offset, text, None, ()) if text and not text.isspace() else BlankLine(offset)
        except Refused as refused:
            yield reject(piece, offset, refused, line)
        offset += len(line) + 1
