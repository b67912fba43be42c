"""Plain text: a line is a record."""

import itertools
from collections.abc import Iterator

import numpy as np

from schemas.rejects import Reject
from schemas.splits import Slice
from transforms.sources.fields import Refused, decoded, reject, reject_long
from transforms.sources.lines import Lines, LongLine, line_offsets, read_line_blocks, split_lines
from transforms.sources.rows import BlankLine, ReadOptions, Row, Rows


def read_text(piece: Slice, options: ReadOptions) -> Iterator[Rows]:
    """Every line that begins in the piece, without `\\n` or `\\r\\n`; a `\\r` elsewhere belongs to the text."""
    for block in read_line_blocks(piece, options.max_record_bytes):
        if isinstance(block, LongLine):
            yield Rows.of([reject_long(piece, block.offset, block, options.max_record_bytes)])
            continue
        try:
            texts = (block.data.replace(b"\r\n", b"\n") if b"\r" in block.data else block.data).decode().split("\n")
        except UnicodeDecodeError:
            yield Rows.of(_line_by_line(piece, block))
            continue
        yield _without_blank_lines(line_offsets(block), texts)


def _without_blank_lines(offsets: np.ndarray, texts: list[str]) -> Rows:
    del texts[len(offsets) :]  # the "" after the last newline
    blank = [i for i, text in enumerate(texts) if not text or text.isspace()]
    if not blank:
        return Rows(offsets, texts)
    good = np.ones(len(texts), bool)
    good[blank] = False
    others = [BlankLine(offset) for offset in offsets[blank].tolist()]
    return Rows(offsets[good], list(itertools.compress(texts, good.tolist())), others=others)


def _line_by_line(piece: Slice, block: Lines) -> Iterator[Row | Reject | BlankLine]:
    offset = block.offset
    for line in split_lines(block.data):
        try:
            text = decoded(line.removesuffix(b"\r"))  # a newline follows, or there is no such line but this bad one
            yield Row(offset, text, None, ()) if text and not text.isspace() else BlankLine(offset)
        except Refused as refused:
            yield reject(piece, offset, refused, line)
        offset += len(line) + 1
