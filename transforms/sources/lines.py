"""Bytes -> lines, with their offsets: what a byte range of a line file is made of.

A line belongs to the range in which it begins. So the reader of a range looks at the byte before its start: a line
begins at `start` only if a newline stands there. Ranges that share out a file share out its lines.
"""

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from schemas.rejects import RAW_BYTES
from schemas.splits import Slice
from transforms.sources.chunks import read_chunks
from transforms.sources.rows import Rows

BOM = b"\xef\xbb\xbf"
NEWLINE = ord("\n")


class Lines(NamedTuple):
    """Whole lines as they stand in the file, each with its newline; a file's last line, if it has none, comes alone."""

    offset: int
    data: bytes


class LongLine(NamedTuple):
    """A line above the limit, known by its first `RAW_BYTES`. The rest was never held."""

    offset: int
    head: bytes


def read_lines(piece: Slice, max_line_bytes: int) -> Iterator[tuple[int, bytes] | LongLine]:
    """`(offset, line without its newline)` of every line that begins in the piece. A `\\r` before the newline stays."""
    for block in read_line_blocks(piece, max_line_bytes):
        if isinstance(block, LongLine):
            yield block
            continue
        offset = block.offset
        for line in split_lines(block.data):
            yield offset, line
            offset += len(line) + 1


def split_lines(data: bytes) -> list[bytes]:
    """Lines without their newlines: `data` cut at `\\n` and nowhere else."""
    lines = data.split(b"\n")
    if not lines[-1]:
        lines.pop()
    return lines


def line_offsets(block: Lines) -> np.ndarray:
    """(lines,) int64: where each begins in the file."""
    newlines = np.flatnonzero(np.frombuffer(block.data, np.uint8) == NEWLINE)
    begins = np.concatenate([[0], newlines + 1])
    return block.offset + begins[begins < len(block.data)]


def with_sizes(rows: Rows, block: Lines) -> Rows:
    """The rows of these lines, with the bytes of the line of each."""
    begins = line_offsets(block)
    sizes = np.diff(begins, append=block.offset + len(block.data))
    return dataclasses.replace(rows, sizes=sizes[np.searchsorted(begins, rows.offsets)])


def read_line_blocks(piece: Slice, max_line_bytes: int) -> Iterator[Lines | LongLine]:
    """The lines that begin in the piece, many at a time, without a UTF-8 BOM at the file's start (offsets count it).

    A line counts as long when its bytes but for the newline (with a `\\r`, with a BOM) are more than `max_line_bytes`.
    Memory: that limit and a chunk or two. Raises BadFile as `read_chunks` does; a line cut off by the damage is not
    yielded.
    """
    return line_blocks(read_chunks(piece), piece.start, piece.stop, max_line_bytes)


def line_blocks(chunks: Iterator[bytes], start: int, stop: int, max_line_bytes: int) -> Iterator[Lines | LongLine]:
    """As `read_line_blocks`, from chunks that begin at byte `max(start - 1, 0)`; `stop` below 0 means their end."""
    if 0 <= stop <= start:
        return
    for block in _whole_lines(chunks, max(start - 1, 0), start > 0, stop, max_line_bytes):
        if isinstance(block, LongLine):
            yield block
        elif len(block.data) <= max_line_bytes:
            yield from _without_bom(block)
        else:
            for part in _within_limit(block, max_line_bytes):
                yield from (part,) if isinstance(part, LongLine) else _without_bom(part)


def _whole_lines(
    chunks: Iterator[bytes], offset: int, skipping: bool, stop: int, max_line_bytes: int
) -> Iterator[Lines | LongLine]:
    """`skipping`: `offset` lies in a line that is not ours or was given up; the next line is the first to look at."""
    held: list[bytes] = []  # the line that has begun at `offset` and not ended; kept in pieces, joined once
    size = 0
    for chunk in chunks:
        if skipping:
            newline = chunk.find(b"\n")
            offset += len(chunk) if newline < 0 else newline + 1
            if 0 <= stop <= offset:
                return
            if newline < 0:
                continue
            chunk, skipping = chunk[newline + 1 :], False
        end = chunk.rfind(b"\n") + 1
        if end:
            data = b"".join([*held, chunk[:end]]) if held else chunk[:end]
            # the line that holds byte stop - 1 is the last to begin before stop
            last = data.find(b"\n", max(stop - 1 - offset, 0)) + 1 if stop >= 0 else 0
            yield Lines(offset, data[:last] if last else data)
            offset += len(data)
            if last:
                return
            held, size = [], 0
        if end < len(chunk):
            held.append(chunk[end:])
            size += len(chunk) - end
        if size > max(max_line_bytes, RAW_BYTES):  # what a reject quotes must not depend on how the chunks fell
            yield LongLine(offset, b"".join(held)[:RAW_BYTES])
            offset += size
            held, size, skipping = [], 0, True
            if 0 <= stop <= offset:
                return
    if held:
        yield Lines(offset, b"".join(held))


def _within_limit(block: Lines, max_line_bytes: int) -> Iterator[Lines | LongLine]:
    """The same lines, but for those above the limit still many at a time."""
    begins = line_offsets(block) - block.offset
    ends = np.append(begins[1:], len(block.data))
    newlines = np.ones(len(begins), np.int64)
    newlines[-1] = block.data.endswith(b"\n")  # a file's last line may have none
    begin = 0
    for long in np.flatnonzero(ends - begins - newlines > max_line_bytes).tolist():
        first, after = int(begins[long]), int(ends[long])
        if begin < first:
            yield Lines(block.offset + begin, block.data[begin:first])
        yield LongLine(block.offset + first, block.data[first : after - int(newlines[long])][:RAW_BYTES])
        begin = after
    if begin < len(block.data):
        yield Lines(block.offset + begin, block.data[begin:])


def _without_bom(block: Lines) -> Iterator[Lines]:
    """The file's first line by itself, since its offset and its bytes differ by the BOM."""
    if block.offset or not block.data.startswith(BOM):
        yield block
        return
    end = block.data.find(b"\n") + 1 or len(block.data)
    if end > len(BOM):
        yield Lines(0, block.data[len(BOM) : end])
    if end < len(block.data):
        yield Lines(end, block.data[end:])
