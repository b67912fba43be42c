"""JSON Lines: an object on each line."""

import json
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import orjson

from schemas.rejects import Reason, Reject
from schemas.splits import Slice
from transforms.sources.fields import Refused, decoded, good_id, good_text, in_words, reject, reject_long
from transforms.sources.lines import Lines, LongLine, line_offsets, read_line_blocks, read_lines, split_lines
from transforms.sources.rows import BlankLine, Item, ReadOptions, Row, Rows, in_batches

_LONG_NUMBER = re.compile(rb"\d{19}")
_MOST_DIGITS = 4000  # Python turns no more than 4,300 into an int
_LINES_TO_LOOK_AT = 1000
_compact = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def read_jsonl(piece: Slice, options: ReadOptions) -> Iterator[Rows]:
    """Every line that begins in the piece. A kept column is a string: strings as they are, null or missing None, all
    else its compact JSON."""
    if options.id_column or options.keep_columns:
        yield from in_batches(_items(piece, options))
        return
    for block in read_line_blocks(piece, options.max_record_bytes):
        if isinstance(block, LongLine):
            yield Rows.of([reject_long(piece, block.offset, block, options.max_record_bytes)])
        else:
            yield _texts_alone(piece, block, options)


def _texts_alone(piece: Slice, block: Lines, options: ReadOptions) -> Rows:
    """Where no other columns are asked for: the text of a good line is looked up, and no more is done about it."""
    column, offsets = options.text_column, line_offsets(block)
    texts: list[str] = []
    others: list[Reject | BlankLine] = []
    odd: list[int] = []
    for number, line in enumerate(split_lines(block.data)):
        try:
            text = orjson.loads(line)[column]
            good = type(text) is str and text and not text.isspace()
        except (orjson.JSONDecodeError, KeyError, TypeError):
            good = False
        if good:
            texts.append(text)
        elif isinstance(item := _item(piece, int(offsets[number]), line, options), Row):
            texts.append(item.text)
        else:
            others.append(item)
            odd.append(number)
    return Rows(np.delete(offsets, odd), texts, others=others)


def _items(piece: Slice, options: ReadOptions) -> Iterator[Item]:
    for item in read_lines(piece, options.max_record_bytes):
        if isinstance(item, LongLine):
            yield reject_long(piece, item.offset, item, options.max_record_bytes)
        else:
            yield _item(piece, *item, options)


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
    asked = [record.get(c) for c in (options.id_column, *options.keep_columns) if c]
    if any(type(v) in (float, dict, list) for v in asked) and _LONG_NUMBER.search(line):
        record = _lenient(line)  # orjson makes a float of an integer above 64 bits
    text = _encodable(good_text(record[options.text_column], options.text_column), options.text_column)
    id_ = None
    if options.id_column:
        id_ = _encodable(good_id(record.get(options.id_column), options.id_column), options.id_column)
    return Row(offset, text, id_, tuple([_kept(record.get(c), c) for c in options.keep_columns]))


def _kept(value: Any, column: str) -> str | None:
    if value is None:
        return None
    if type(value) is not str:
        try:
            value = _compact(value)
        except RecursionError:
            raise Refused(Reason.BROKEN_JSON, f"field '{column}' is nested too deeply") from None
    return _encodable(value, column)


def _encodable(value: str, column: str) -> str:
    """Raises Refused for a lone surrogate, which JSON can spell but no UTF-8 can hold."""
    try:
        if not value.isascii():
            value.encode()
    except UnicodeEncodeError as error:
        raise Refused(Reason.LONE_SURROGATE, f"field '{column}' has a lone surrogate at {error.start}") from None
    return value
