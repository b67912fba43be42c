"""CSV and TSV: a header row, then a record a row, which quotes may spread over several lines.

`csv.reader` pulls the lines that a record needs from `_LineFeed`, which remembers them until the record is known to be
well-formed. A stray quote swallows the lines after it; so a record of several lines must be well-formed to the letter.
Where it is not, its first line alone is refused and the others are read again. A well-formed record that is refused,
for its width or its size, is passed over whole: its lines are no rows.

Reading again stays linear. From inside quotes, every line either goes on inside quotes, or ends the record, or shows
that its quotes are wrong; which of these depends on that line alone. So a record that fails at some line tells that
each record that begins before that line and does not end on its own first line fails there too.
"""

import collections
import csv
from collections.abc import Iterator

from schemas.rejects import RAW_BYTES, Reason, Reject
from schemas.splits import Slice
from transforms.sources.fields import Refused, good_id, good_text, in_words, reject
from transforms.sources.lines import BOM, LongLine, read_lines
from transforms.sources.record_ends import CLOSED_WRONGLY, FILE_END, NEVER_CLOSED, RecordEnds
from transforms.sources.rows import BadFile, BlankLine, ReadOptions, Row

_DELIMITERS = {"csv": ",", "tsv": "\t"}
_MOST_LINES = 100_000
"""Lines that a record may have: bounds what very short lines make the feed hold."""


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
    """The file's lines as `csv.reader` pulls them: of one record, `max_record_bytes` and `_MOST_LINES` at most."""

    def __init__(self, lines: Iterator[tuple[int, bytes] | LongLine], max_record_bytes: int) -> None:
        self._lines, self._max_record_bytes = lines, max_record_bytes
        self._ahead: collections.deque[tuple[int, bytes] | LongLine] = collections.deque()  # to be read (again)
        self._broken_until, self._error = -1, ""
        self.begin()

    def begin(self) -> None:
        self.taken: list[tuple[int, bytes] | LongLine] = []
        self.taken_bytes = 0
        self.invalid_utf8 = False
        self.stopped = ""  # why there was no further line: end, size, or what is wrong with the record's quotes

    def __iter__(self) -> "_LineFeed":
        return self

    def __next__(self) -> str:
        item = self._ahead.popleft() if self._ahead else next(self._lines, None)
        if item is None:
            self.stopped = "end"
            raise StopIteration
        line = item[1]
        if self.taken:
            if self.is_broken():
                self.stopped = self._error
            elif self.taken_bytes + len(line) > self._max_record_bytes or len(self.taken) == _MOST_LINES:
                self.stopped = "size"
        if type(item) is LongLine:
            self.stopped = self.stopped or "size"
        if self.stopped:
            self._ahead.appendleft(item)
            raise StopIteration
        self.taken.append(item)
        self.taken_bytes += len(line) + 1
        try:
            return line.decode() + "\n"
        except UnicodeDecodeError:
            self.invalid_utf8 = True
            return line.decode(errors="replace") + "\n"

    def is_broken(self) -> bool:
        """Whether the record, which was begun, is known to end on its first line or never as it should."""
        return self.taken[0][0] < self._broken_until

    def peek(self) -> tuple[int, bytes] | LongLine | None:
        """The next line, which stays where it is."""
        if not self._ahead and (line := next(self._lines, None)) is not None:
            self._ahead.append(line)
        return self._ahead[0] if self._ahead else None

    def take_long_line(self) -> LongLine:
        """The next line, which stopped the feed at a record's beginning."""
        self.taken = [self._ahead.popleft()]
        return self.taken[0]  # type: ignore[return-value]

    def skip_to(self, offset: int) -> None:
        """Passes over all lines before `offset`."""
        while (line := self.peek()) is not None and line[0] < offset:
            self._ahead.popleft()

    def put_back(self, broken_until: int, error: str) -> None:
        """All lines but the first are to be read again.

        broken_until: where the line begins that showed that the record's quotes are wrong
        """
        self._broken_until, self._error = max(self._broken_until, broken_until), error
        self._ahead.extendleft(reversed(self.taken[1:]))
        del self.taken[1:]


class _Records:
    def __init__(self, piece: Slice, options: ReadOptions) -> None:
        # The process's own limit, 128 KiB by default, would refuse longer fields.
        csv.field_size_limit(max(csv.field_size_limit(), options.max_record_bytes))
        self._uri, self._max_record_bytes = piece.file.uri, options.max_record_bytes
        self._delimiter = _DELIMITERS[piece.format]
        self._feed = _LineFeed(read_lines(piece, options.max_record_bytes), options.max_record_bytes)
        self._reader = csv.reader(self._feed, delimiter=self._delimiter, strict=True)
        self._ends = RecordEnds(piece, self._delimiter)

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

        Raises Refused. The record is passed over then: all of it, or its first line where its quotes are wrong.
        """
        feed = self._feed
        feed.begin()
        try:
            fields = next(self._reader)
        except StopIteration:
            if feed.stopped == "size":
                raise self._long_line_refused() from None
            return None
        except csv.Error as error:
            fields = self._mend(error)
        if fields and width is not None and len(fields) != width:
            raise Refused(Reason.WRONG_WIDTH, f"{len(fields)} fields, the header has {width}")
        if feed.invalid_utf8:
            raise Refused(Reason.INVALID_UTF8, "the row is no UTF-8")
        return fields

    def _mend(self, error: csv.Error) -> list[str]:
        """A record of one line need not be strict: text may follow a closing quote. Raises Refused."""
        feed = self._feed
        if feed.stopped == "size":
            raise self._large_record_refused()
        if feed.stopped == "end":
            raise self._first_line_refused(FILE_END, NEVER_CLOSED)
        if feed.stopped:
            raise self._first_line_refused(-1, feed.stopped)
        if len(feed.taken) > 1:
            raise self._first_line_refused(feed.taken[-1][0], f"{CLOSED_WRONGLY}: {error}")
        lines = iter([feed.taken[0][1].decode(errors="replace"), ""])
        try:
            fields = next(csv.reader(lines, delimiter=self._delimiter))
        except csv.Error as still:
            raise Refused(Reason.BROKEN_CSV, str(still).split(" - ")[0]) from None
        if next(lines, None) is None:  # it asked for a second line
            raise Refused(Reason.BROKEN_CSV, NEVER_CLOSED)
        return fields

    def _long_line_refused(self) -> Refused:
        """Of a record whose first line is above the limit."""
        feed = self._feed
        offset, head = feed.take_long_line()
        error = f"a line of more than {self._max_record_bytes} bytes (--max_record_bytes)"
        if feed.is_broken():
            return Refused(Reason.TOO_LARGE, error)
        end = self._ends.find(offset + len(BOM) * (offset == 0 and head.startswith(BOM)), quoted=False)
        following = feed.peek()
        if end.error and following and end.offset >= following[0]:
            return self._first_line_refused(end.offset, end.error, Reason.TOO_LARGE, f"{error}; ")
        if not end.error:
            feed.skip_to(end.offset)
        return Refused(Reason.TOO_LARGE, error)

    def _large_record_refused(self) -> Refused:
        """Of a record whose first lines are all that may be held of it."""
        following = self._feed.peek()
        end = self._ends.find(following[0] if following else FILE_END, quoted=True)
        if end.error:
            return self._first_line_refused(end.offset, end.error)
        self._feed.skip_to(end.offset)
        error = f"a record of more than {self._max_record_bytes} bytes (--max_record_bytes) or {_MOST_LINES:,} lines"
        return Refused(Reason.TOO_LARGE, error)

    def _first_line_refused(
        self, broken_until: int, error: str, reason: Reason = Reason.BROKEN_CSV, prefix: str = ""
    ) -> Refused:
        """broken_until: as in `_LineFeed.put_back`"""
        self._feed.put_back(broken_until, error)
        again = "; the lines after the row's first are read again" if self._feed.peek() else ""
        return Refused(reason, prefix + error + again)
