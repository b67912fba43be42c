"""Bytes -> rows: one module for each format, and no Beam. `read_batches` is all that the pipeline needs."""

from collections.abc import Iterator

from schemas.rejects import Reject
from schemas.splits import Slice
from transforms.sources.chunks import beginning, beginnings, read_ahead, read_head
from transforms.sources.delimited import delimited_columns, read_delimited
from transforms.sources.jsonl import has_field, jsonl_columns, read_jsonl
from transforms.sources.kept_cast import can_cast, cast_kept
from transforms.sources.names import FORMATS, detect
from transforms.sources.parquet import kept_type, parquet_row_groups, parquet_schema, read_parquet
from transforms.sources.parquet_footer import read_footers
from transforms.sources.rows import BadFile, BlankLine, ReadOptions, Row, Rows, in_batches
from transforms.sources.text import read_text

__all__ = [
    "FORMATS",
    "BadFile",
    "BlankLine",
    "ReadOptions",
    "Row",
    "Rows",
    "beginning",
    "beginnings",
    "can_cast",
    "columns_of",
    "detect",
    "has_field",
    "kept_type",
    "parquet_row_groups",
    "read_ahead",
    "read_batches",
    "read_footers",
    "read_head",
    "read_rows",
]

_BATCH_READERS = {"text": read_text, "jsonl": read_jsonl, "parquet": read_parquet}
_ROW_READERS = {"csv": read_delimited, "tsv": read_delimited}


def read_batches(piece: Slice, options: ReadOptions) -> Iterator[Rows]:
    """What is in the piece, in order, lazily, some thousand rows at a time: good rows, and apart from them refused ones
    and lines that are none.

    A line file that is not compressed has exactly the records whose line begins at a byte in `[start, stop)`; Parquet
    has those of row groups `start` to `stop`; any other file is read whole. `stop` below 0 is the file's end.

    Raises:
        BadFile: the file cannot be read (on); what came before the damage has been yielded.
    """
    if piece.format in _BATCH_READERS:
        batches = _BATCH_READERS[piece.format](piece, options)
    else:
        batches = in_batches(_ROW_READERS[piece.format](piece, options), options)
    for rows in batches:
        yield cast_kept(piece, rows, options.kept) if options.kept is not None and len(options.kept) else rows


def read_rows(piece: Slice, options: ReadOptions) -> Iterator[Row | Reject | BlankLine]:
    """The same one by one, for those who want few of them."""
    for rows in read_batches(piece, options):
        yield from rows.items()


def columns_of(piece: Slice, options: ReadOptions) -> list[str] | None:
    """The columns that the file has: its header, its schema, or the keys of its first object. None for text.

    Raises:
        BadFile: it cannot be read that far.
    """
    if piece.format == "parquet":
        return parquet_schema(piece.file).names
    if piece.format == "text":
        return None
    read = jsonl_columns if piece.format == "jsonl" else delimited_columns
    return read(beginning(piece), options)
