"""JSON Lines: an object on each line."""

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from json.decoder import scanstring  # type: ignore[attr-defined]
from typing import Any

import numpy as np
import orjson

from schemas.rejects import Reason, Reject
from schemas.splits import Slice
from transforms.sources.fields import Refused, decoded, good_id, good_text, in_words, reject, reject_long
from transforms.sources.lines import (
    Lines,
    LongLine,
    line_offsets,
    read_line_blocks,
    read_lines,
    split_lines,
    with_sizes,
)
from transforms.sources.rows import NO_OFFSETS, BlankLine, Item, ReadOptions, Row, Rows

_LONG_NUMBER = re.compile(rb"\d{19}")
_MOST_DIGITS = 4000  # Python turns no more than 4,300 into an int
_LINES_TO_LOOK_AT = 1000
_STRING_OR_NONE = (str, type(None))
_WHITE_SPACE = re.compile(r"[ \t\r\n]*")
_COLON = re.compile(rb"[ \t\r]*:[ \t\r]*")
_NUMBER = re.compile(rb"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_PLAIN_NAME = re.compile(r"[\w .-]+")
_BACKSLASH = ord("\\")
_SCANNER = json.JSONDecoder(parse_int=len, parse_float=len)  # tells where values end; what they are is not looked at


def read_jsonl(piece: Slice, options: ReadOptions) -> Iterator[Rows]:
    """Every line that begins in the piece. A kept column is a string: strings as they are, null or missing None, all
    else the JSON text that stands in the file."""
    for block in read_line_blocks(piece, options.max_record_bytes):
        if isinstance(block, LongLine):
            rejected = reject_long(piece, block.offset, block, options.max_record_bytes)
            yield Rows.of_strings(NO_OFFSETS, [], others=[rejected])
        else:
            yield with_sizes(_rows(piece, block, options), block)


def _rows(piece: Slice, block: Lines, options: ReadOptions) -> Rows:
    """Of a line where nothing is odd the values are looked up, and no more is done about it."""
    offsets = line_offsets(block)
    column, names, has_id = options.text_column, options.keep_columns, bool(options.id_column)
    asked = ([options.id_column] if options.id_column else []) + list(names)
    texts: list[str] = []
    values: list[Sequence[str | None]] = []  # of each row, in the order of `asked`
    others: list[Reject | BlankLine] = []
    odd: list[int] = []
    for number, line in enumerate(split_lines(block.data)):
        found: Sequence[str | None] | None = None
        try:
            record = orjson.loads(line)
            text = record[column]
            if type(text) is str and text and not text.isspace():
                found = _values(record, line, asked, has_id) if asked else ()
        except (orjson.JSONDecodeError, KeyError, TypeError):
            pass
        if found is None:
            item = _item(piece, int(offsets[number]), line, options)
            if not isinstance(item, Row):
                others.append(item)
                odd.append(number)
                continue
            text, found = item.text, [item.id, *item.kept] if has_id else item.kept
        texts.append(text)
        if asked:
            values.append(found)
    columns = list(zip(*values, strict=True)) or [()] * len(asked)
    ids = columns.pop(0) if has_id else None
    kept = dict(zip(names, columns, strict=True))
    return Rows.of_strings(np.delete(offsets, odd), texts, ids, kept, others)


def _values(record: dict[str, Any], line: bytes, asked: list[str], has_id: bool) -> list[str | None] | None:
    """What a line says of the id and the kept columns; None where somebody has to look closer."""
    values = [record.get(name) for name in asked]
    if has_id and type(id_ := values[0]) is not int and (type(id_) is not str or not id_ or id_.isspace()):
        return None
    for i, value in enumerate(values):
        kind = type(value)
        if kind is str or value is None:
            continue
        if kind is int and (value or b"-0" not in line or (has_id and i == 0)):
            values[i] = str(value)
        elif kind is bool:
            values[i] = "true" if value else "false"
        else:
            values[i] = _spelling(line, asked[i])
            if values[i] is None:
                return None
    return values


def _spelling(line: bytes, name: str) -> str | None:
    """The text of a field's number, list or object, if it can be told where it stands: where the name stands once on
    the line, in quotes and as a key, and no escapes can spell it in another way. None where it cannot."""
    key = b'"%s"' % name.encode()
    if line.count(key) != 1 or b"\\u" in line or not _PLAIN_NAME.fullmatch(name):
        return None
    at = line.find(key)
    found = _COLON.match(line, at + len(key))
    if found is None or line[at - 1] == _BACKSLASH:
        return None
    if number := _NUMBER.match(line, found.end()):
        return number[0].decode()
    rest = line[found.end() :].decode()
    try:
        return rest[: _SCANNER.raw_decode(rest)[1]]
    except RecursionError:
        return None


def _item(piece: Slice, offset: int, line: bytes, options: ReadOptions) -> Item:
    try:
        try:
            record = orjson.loads(line)
        except orjson.JSONDecodeError:
            if not line.strip():
                return BlankLine(offset)
            record = _lenient(line)
        return _row(offset, record, line, options)
    except Refused as refused:
        return reject(piece, offset, refused, line)


def jsonl_columns(piece: Slice, options: ReadOptions) -> list[str]:
    """Keys of the file's first object; none where its first thousand lines hold none."""
    for _, item in zip(range(_LINES_TO_LOOK_AT), read_lines(piece, options.max_record_bytes), strict=False):
        try:
            record = None if isinstance(item, LongLine) else _lenient(item[1])
        except Refused:
            continue
        if isinstance(record, dict):
            return list(record)
    return []


def has_field(piece: Slice, name: str, options: ReadOptions) -> bool:
    """Whether an object on one of the piece's lines has the field. Raises BadFile."""
    spellings = {json.dumps(name).encode(), json.dumps(name, ensure_ascii=False).encode()}
    for block in read_line_blocks(piece, options.max_record_bytes):
        if isinstance(block, LongLine):
            continue
        if not any(spelling in block.data for spelling in spellings) and b"\\" not in block.data:
            continue  # with escapes, a name has more spellings than one
        for line in split_lines(block.data):
            if (b"\\" in line or any(spelling in line for spelling in spellings)) and name in _names(line):
                return True
    return False


def _names(line: bytes) -> Collection[str]:
    try:
        record = _lenient(line)
    except Refused:
        return ()
    return record if isinstance(record, dict) else ()


def _lenient(line: bytes) -> Any:
    """What the standard library reads: also NaN, integers of any length, and lone surrogates, which may be in a field
    that nobody asked for. Raises Refused where it reads nothing either."""
    text = decoded(line)
    try:
        return json.loads(text, parse_int=_integer)
    except RecursionError:
        raise Refused(Reason.BROKEN_JSON, "nested too deeply") from None
    except ValueError as error:
        raise Refused(Reason.BROKEN_JSON, str(error)) from None


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= _MOST_DIGITS else float(digits)


def _row(offset: int, record: Any, line: bytes, options: ReadOptions) -> Row:
    if type(record) is not dict:
        raise Refused(Reason.BROKEN_JSON, f"expected an object on the line, got {type(record).__name__}")
    if options.text_column not in record:
        error = f"no field '{options.text_column}'; there are {in_words(record)}"
        raise Refused(Reason.MISSING_FIELD, error)
    text = _encodable(good_text(record[options.text_column], options.text_column), options.text_column)
    id_ = None
    if options.id_column:
        value = record.get(options.id_column)
        if type(value) is float and _LONG_NUMBER.search(line):
            value = _lenient(line)[options.id_column]  # orjson makes a float of an integer above 64 bits
        id_ = _encodable(good_id(value, options.id_column), options.id_column)
    return Row(offset, text, id_, _kept(record, line, options.keep_columns))


def _kept(record: dict[str, Any], line: bytes, columns: Sequence[str]) -> tuple[str | None, ...]:
    """Strings as they are, all else as it is spelt in the line: `1.10` and `1e400` have no other spelling that keeps
    them what they are."""
    values = tuple([record.get(name) for name in columns])
    if all(type(value) in _STRING_OR_NONE for value in values):
        spelt: Mapping[str, str] = {}
    else:
        spelt = _spellings(line)
    return tuple(
        None if value is None else _encodable(value, name) if type(value) is str else spelt[name]
        for name, value in zip(columns, values, strict=True)
    )


def _spellings(line: bytes) -> dict[str, str]:
    """The text of each value of the object on the line; of a name that is there twice, the last one's. The line is
    known to be good.

    Raises Refused where a value is nested too deeply.
    """
    text = line.decode()
    found: dict[str, str] = {}
    at = _next(text, _next(text, 0) + 1)  # after the brace
    while text[at] != "}":
        name, at = scanstring(text, at + 1)
        begin = _next(text, _next(text, at) + 1)  # after the colon
        try:
            _, at = _SCANNER.raw_decode(text, begin)
        except RecursionError:
            raise Refused(Reason.BROKEN_JSON, f"field '{name}' is nested too deeply") from None
        found[name] = text[begin:at]
        at = _next(text, at)
        if text[at] == ",":
            at = _next(text, at + 1)
    return found


def _next(text: str, at: int) -> int:
    """The first place from `at` on that holds no white space."""
    return _WHITE_SPACE.match(text, at).end()  # type: ignore[union-attr]


def _encodable(value: str, column: str) -> str:
    """Raises Refused for a lone surrogate, which JSON can spell but no UTF-8 can hold."""
    try:
        if not value.isascii():
            value.encode()
    except UnicodeEncodeError as error:
        raise Refused(Reason.LONE_SURROGATE, f"field '{column}' has a lone surrogate at {error.start}") from None
    return value
