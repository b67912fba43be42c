"""CSV and TSV: a header row, then a record a row, which quotes may spread over several lines.

`csv.reader` pulls the lines that a record needs from `_LineFeed`, which remembers them until the record is known to be
good. A stray quote swallows the lines after it; so a record of several lines must be well-formed to the letter, and
where it is not, its first line alone is refused and the others are read again.
"""

import collections
import csv
from collections.abc import Iterator

from schemas.rejects import RAW_BYTES, Reason, Reject
from schemas.splits import Slice
from transforms.sources.fields import Refused, good_id, good_text, in_words, reject
from transforms.sources.lines import LongLine, read_lines
from transforms.sources.rows import BadFile, BlankLine, ReadOptions, Row

_DELIMITERS = {"csv": ",", "tsv": "\t"}
_MOST_LINES = 100_000
"""Lines that a record may have: bounds what a stray quote before very short lines makes the feed hold."""
_LEAST_LOOK_AHEAD_BYTES = 4096


def read_delimited(piece: Slice, options: ReadOptions) -> Iterator[Row | Reject | BlankLine]:
    """Every record of the file. Offsets count its rows from 0, refused ones too; empty lines are no rows and carry the
    number of the row after them. A file without a byte has no rows.

    Raises:
        BadFile: no header row, or one without a column that was asked for, or with two of it.
    """
    records = _Records(piece, options)
    header = records.header()
    if not header:
        return
    text_at = _position(piece, header, options.text_column)
    may_lack = options.missing_columns == "null"
    kept_at = [None if may_lack and c not in header else _position(piece, header, c) for c in options.keep_columns]
    id_at = _position(piece, header, options.id_column) if options.id_column else None
    number, width = 0, len(header)
    while True:
        try:
            fields = records.take(width)
            if fields is None:
                return
            if not fields:
                yield BlankLine(number)
                continue
            text = good_text(fields[text_at], options.text_column)
            id_ = None if id_at is None else good_id(fields[id_at], header[id_at])
            yield Row(number, text, id_, tuple([None if i is None else fields[i] for i in kept_at]))
        except Refused as refused:
            yield reject(piece, number, refused, records.raw())
        number += 1


def delimited_columns(piece: Slice, options: ReadOptions) -> list[str]:
    """The header row; no columns where the file has not a byte."""
    return _Records(piece, options).header()


def _position(piece: Slice, header: list[str], column: str) -> int:
    if header.count(column) != 1:
        found = "two columns" if column in header else "no column"
        raise BadFile(piece.file.uri, f"{found} '{column}' in the header row; there are {in_words(header)}")
    return header.index(column)


class _LineFeed:
    """The file's lines as `csv.reader` pulls them: at most `look_ahead` bytes of them for one record."""

    def __init__(self, lines: Iterator[tuple[int, bytes] | LongLine], max_record_bytes: int) -> None:
        self._lines, self._max_record_bytes = lines, max_record_bytes
        self._ahead: collections.deque[tuple[int, bytes] | LongLine] = collections.deque()  # to be read (again)
        self._suspect_until = 0
        self.look_ahead = max_record_bytes
        self.begin()

    def begin(self) -> None:
        self.taken: list[tuple[int, bytes]] = []
        self.taken_bytes = 0
        self.invalid_utf8 = False
        self.stopped = ""  # why there was no further line: end, size

    def __iter__(self) -> "_LineFeed":
        return self

    def __next__(self) -> str:
        item = self._ahead.popleft() if self._ahead else next(self._lines, None)
        if item is None:
            self.stopped = "end"
            raise StopIteration
        offset, line = item
        if not self.taken and offset >= self._suspect_until:
            self.look_ahead = self._max_record_bytes
        too_much = self.taken and (self.taken_bytes + len(line) > self.look_ahead or len(self.taken) == _MOST_LINES)
        if too_much or type(item) is LongLine:
            self._ahead.appendleft(item)
            self.stopped = "size"
            raise StopIteration
        self.taken.append(item)
        self.taken_bytes += len(line) + 1
        try:
            return line.decode() + "\n"
        except UnicodeDecodeError:
            self.invalid_utf8 = True
            return line.decode(errors="replace") + "\n"

    def take_long_line(self) -> LongLine | None:
        """The next line, if it is above the limit: it cannot be part of any record."""
        if self._ahead and isinstance(self._ahead[0], LongLine):
            self.taken = [self._ahead[0]]
            return self._ahead.popleft()  # type: ignore[return-value]
        return None

    def put_back(self) -> None:
        """All lines but the first are to be read again.

        Where such failures overlap, each may look ahead half as far as the one before, so that a file full of stray
        quotes is not read again from each of them to its end.
        """
        offset, line = self.taken[-1]
        self._suspect_until = max(self._suspect_until, offset + len(line) + 1)
        self.look_ahead = max(self.look_ahead // 2, min(_LEAST_LOOK_AHEAD_BYTES, self._max_record_bytes))
        self._ahead.extendleft(reversed(self.taken[1:]))


class _Records:
    def __init__(self, piece: Slice, options: ReadOptions) -> None:
        # The process's own limit, 128 KiB by default, would refuse longer fields.
        csv.field_size_limit(max(csv.field_size_limit(), options.max_record_bytes))
        self._uri, self._max_record_bytes = piece.file.uri, options.max_record_bytes
        self._delimiter = _DELIMITERS[piece.format]
        self._feed = _LineFeed(read_lines(piece, options.max_record_bytes), options.max_record_bytes)
        self._reader = csv.reader(self._feed, delimiter=self._delimiter, strict=True)

    def raw(self) -> bytes:
        """What was taken last, up to what a reject keeps."""
        return b"\n".join(line for _, line in self._feed.taken[:RAW_BYTES])[:RAW_BYTES]

    def header(self) -> list[str]:
        """The first row that is not empty. Raises BadFile."""
        blank_lines = 0
        try:
            while (fields := self.take(None)) == []:
                blank_lines += 1
        except Refused as refused:
            raise BadFile(self._uri, f"expected a header row: {refused.error}") from None
        if fields is None and blank_lines:
            raise BadFile(self._uri, "expected a header row, found only empty lines")
        return fields or []

    def take(self, width: int | None) -> list[str] | None:
        """Fields of the next record, none for an empty line; None at the file's end.

        Raises Refused; the record (its first line, where it had several and they do not fit) is passed over then.
        """
        feed = self._feed
        feed.begin()
        try:
            fields = next(self._reader)
        except StopIteration:
            if feed.take_long_line():
                error = f"a line of more than {self._max_record_bytes} bytes (--max_record_bytes)"
                raise Refused(Reason.TOO_LARGE, error) from None
            return None
        except csv.Error as error:
            fields = self._mend(error)
        if fields and width is not None and len(fields) != width:
            raise self._first_line_refused(Reason.WRONG_WIDTH, f"{len(fields)} fields, the header has {width}")
        if feed.invalid_utf8:
            raise Refused(Reason.INVALID_UTF8, "the row is no UTF-8")
        return fields

    def _mend(self, error: csv.Error) -> list[str]:
        """A record of one line need not be strict: text may follow a closing quote. Raises Refused."""
        feed = self._feed
        if feed.stopped == "size" and feed.look_ahead == self._max_record_bytes:
            raise self._first_line_refused(
                Reason.TOO_LARGE, f"its quote is not closed within {self._max_record_bytes} bytes (--max_record_bytes)"
            )
        if feed.stopped:
            raise self._first_line_refused(Reason.BROKEN_CSV, "its quote is never closed")
        if len(feed.taken) > 1:
            raise self._first_line_refused(Reason.BROKEN_CSV, f"its quote is closed where no field ends: {error}")
        lines = iter([feed.taken[0][1].decode(errors="replace"), ""])
        try:
            fields = next(csv.reader(lines, delimiter=self._delimiter))
        except csv.Error as still:
            raise Refused(Reason.BROKEN_CSV, str(still).split(" - ")[0]) from None
        if next(lines, None) is None:  # it asked for a second line
            raise Refused(Reason.BROKEN_CSV, "its quote is never closed")
        return fields

    def _first_line_refused(self, reason: Reason, error: str) -> Refused:
        if len(self._feed.taken) > 1:
            self._feed.put_back()
            del self._feed.taken[1:]
            error += "; the lines after the row's first are read again"
        return Refused(reason, error)
