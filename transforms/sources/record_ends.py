"""Where a delimited record of any size ends: found by reading ahead, and without holding what was read.

The grammar is that of `csv.reader` with `strict`: a quote opens a field where a field begins; inside quotes, a quote is
followed by another one, by a delimiter, or by the end of the record.
"""

import re
from collections.abc import Iterator
from enum import Enum, auto
from typing import NamedTuple

from schemas.splits import Slice
from transforms.sources.chunks import beginning, read_chunks

NEVER_CLOSED = "its quote is never closed"
CLOSED_WRONGLY = "its quote is closed where no field ends"
FILE_END = 1 << 63


class RecordEnd(NamedTuple):
    """Where a record ends. Of one whose quotes are not closed as they should be: the beginning of the line that shows
    it, or `FILE_END`."""

    offset: int
    error: str  # "" where the record is well-formed


class _State(Enum):
    FIELD_START = auto()
    PLAIN = auto()  # inside a field without quotes
    QUOTED = auto()
    QUOTE = auto()  # behind a quote that stood inside quotes
    CARRIAGE_RETURN = auto()
    ENDED = auto()
    BROKEN = auto()


class RecordEnds:
    """Finds the ends of a file's records, one after the other, each from where the last was found on: a second reader
    of the file, which goes forward."""

    def __init__(self, piece: Slice, delimiter: str) -> None:
        self._piece, byte = beginning(piece), delimiter.encode()
        self._field_end = re.compile(b"[\r\n" + re.escape(byte) + b"]")
        ends = {byte: _State.FIELD_START, b"\r": _State.CARRIAGE_RETURN, b"\n": _State.ENDED}
        self._next = {
            _State.FIELD_START: {b'"': _State.QUOTED, **ends},
            _State.PLAIN: ends,
            _State.QUOTE: {b'"': _State.QUOTED, **ends},
            _State.CARRIAGE_RETURN: {b"\r": _State.CARRIAGE_RETURN, b"\n": _State.ENDED},
        }
        self._chunks: Iterator[bytes] | None = None
        self._chunk: bytes | None = b""
        self._begin = 0  # of the chunk in the file

    def find(self, offset: int, quoted: bool) -> RecordEnd:
        """The end of the record that begins at `offset`, or of the one that goes on there inside quotes.

        offset: where a line begins; not before the last end that was found, so that all searches read the file once
        """
        state, line = _State.QUOTED if quoted else _State.FIELD_START, offset
        for begin, chunk in self._chunks_from(offset):
            state, size = self._scan(chunk, state)
            if state is _State.ENDED:
                return RecordEnd(begin + size, "")
            newline = chunk.rfind(b"\n", 0, size)
            line = begin + newline + 1 if newline >= 0 else line
            if state is _State.BROKEN:
                return RecordEnd(line, CLOSED_WRONGLY)
        return RecordEnd(FILE_END, NEVER_CLOSED if state is _State.QUOTED else "")

    def _scan(self, chunk: bytes, state: _State) -> tuple[_State, int]:
        """`(state, bytes taken)`: all of the chunk, unless the record ends or breaks in it."""
        at = 0
        while at < len(chunk):
            if state is _State.QUOTED:
                quote = chunk.find(b'"', at)
                if quote < 0:
                    break
                state, at = _State.QUOTE, quote + 1
                continue
            if state is _State.PLAIN:
                end = self._field_end.search(chunk, at)
                if not end:
                    break
                at = end.start()
            otherwise = _State.PLAIN if state is _State.FIELD_START else _State.BROKEN
            state = self._next[state].get(chunk[at : at + 1], otherwise)
            at += 1
            if state in (_State.ENDED, _State.BROKEN):
                return state, at
        return state, len(chunk)

    def _chunks_from(self, offset: int) -> Iterator[tuple[int, bytes]]:
        if self._chunks is None or not self._piece.codec or offset < self._begin:
            # What is compressed is decompressed once, unless the line that broke a record is itself above the limit.
            self._begin = 0 if self._piece.codec else offset
            self._chunk, self._chunks = b"", read_chunks(self._piece._replace(start=self._begin + 1))
        while self._chunk is not None:
            skipped = max(offset - self._begin, 0)
            if skipped < len(self._chunk):
                yield self._begin + skipped, self._chunk[skipped:]
            self._begin += len(self._chunk)
            self._chunk = next(self._chunks, None)
