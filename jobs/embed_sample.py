"""The first rows of what is to be done: whether the input is what was meant."""

import csv
import dataclasses
import io
import itertools
from collections import Counter

from jobs.embed_missing import check_missing
from schemas.errors import InputError, RunFailed
from schemas.rejects import BLANK_REASONS, Reason, Reject
from schemas.splits import Slice
from transforms.inputs import LINE_FORMATS
from transforms.plan import Plan
from transforms.read import BlockOptions
from transforms.sources import BadFile, Row, Rows, beginnings, columns_of, parquet_row_groups, read_batches, read_head

SAMPLE_ROWS = 1000
HEAD_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True)
class Sample:
    """The first rows of what is to be done."""

    texts: tuple[str, ...]
    input_bytes: int  # of the files that they came from, as far as they were read: an estimate


def sample_rows(plan: Plan, options: BlockOptions) -> Sample:
    """The first rows of what is to be done, looked at before the run starts.

    Raises:
        InputError: there is no such field.
        RunFailed: more than half of them are broken, or a file cannot be read.
    """
    texts: list[str] = []
    rejects: list[Reject] = []
    filled: set[str] = set()  # kept columns that some row has
    input_bytes = 0
    first: Slice | None = None
    for piece, start in itertools.chain.from_iterable(beginnings(split.slices) for split in plan.todo):
        first = first or piece
        before, last = len(texts) + len(rejects), 0
        try:
            for rows in read_batches(start, options.read):
                filled |= _filled(rows)
                for item in dataclasses.replace(rows, kept=None).items():
                    last = item.offset
                    if isinstance(item, Row):
                        texts.append(item.text)
                    elif isinstance(item, Reject):
                        rejects.append(item)
                    if len(texts) + len(rejects) >= SAMPLE_ROWS:
                        break
                if len(texts) + len(rejects) >= SAMPLE_ROWS:
                    break
        except BadFile as error:
            if not options.skip_bad_files:
                raise error.as_failure() from None
        taken = len(texts) + len(rejects)
        if taken >= SAMPLE_ROWS:
            input_bytes += bytes_of(piece, taken - before, last)
            break
        input_bytes += piece.size
    if first and first.format == "jsonl":
        _check_fields(bool(texts), rejects, options, first)
    if texts:
        check_missing(plan, options, filled)
    _check_broken(len(texts), rejects)
    return Sample(tuple(texts), max(1, input_bytes))


def _filled(rows: Rows) -> set[str]:
    """Kept columns with a value in one of the rows."""
    columns = [] if rows.kept is None else zip(rows.kept.schema.names, rows.kept.columns, strict=True)
    return {name for name, column in columns if column.null_count < len(column)}


def bytes_of(piece: Slice, rows: int, last: int) -> int:
    """Bytes of the file that its first `rows` rows stand for, `last` being the offset of the last of them."""
    if piece.format == "parquet":
        groups = parquet_row_groups(piece.file)[piece.start : None if piece.whole else piece.stop]
        return round(piece.size * rows / max(1, sum(n for n, _ in groups)))
    if piece.format in LINE_FORMATS and not piece.codec:
        return min(piece.size, last - piece.start)
    stored, content = read_head(piece, HEAD_BYTES)
    if piece.format in LINE_FORMATS:
        size = last
    else:
        size = round(len(content) * rows / max(1, _records(content, piece.format)))
    return min(piece.size, round(size * stored / max(1, len(content))))


def _records(content: bytes, format_: str) -> int:
    """About how many rows of CSV this is: quoted fields may hold newlines."""
    lines = io.StringIO(content.decode(errors="replace"), newline="")
    try:
        return sum(1 for _ in csv.reader(lines, delimiter="," if format_ == "csv" else "\t"))
    except csv.Error:
        return content.count(b"\n")


def _check_fields(good: bool, rejects: list[Reject], options: BlockOptions, piece: Slice) -> None:
    """Raises InputError for the text or id field, if no row has it."""
    reasons, read = {r.reason for r in rejects}, options.read
    absent = [
        *([("--text_column", read.text_column)] if not good and reasons == {Reason.MISSING_FIELD} else []),
        *([("--id_column", read.id_column)] if not good and Reason.MISSING_ID in reasons else []),
    ]
    if absent:
        there = columns_of(piece, read) or []
        for flag, name in absent:
            if name not in there:  # else it is null in all these rows
                raise InputError(f"{flag} {name}: no row of {piece.file.uri} has it; there are {', '.join(there)}")


def _check_broken(good: int, rejects: list[Reject]) -> None:
    """Raises RunFailed where more than half of the rows are broken."""
    broken = [r for r in rejects if r.reason not in BLANK_REASONS]
    if not broken or len(broken) * 2 <= good + len(rejects):
        return
    examples = {r.reason: f"{r.source}#{r.offset}: {r.error}" for r in reversed(broken)}
    frequent = Counter(r.reason for r in broken).most_common(3)
    listed = "; ".join(f"{n} x {reason} (as {examples[reason]})" for reason, n in frequent)
    raise RunFailed(
        f"{len(broken)} of the first {good + len(rejects)} rows are broken: {listed}. Is --format or a column's "
        "name wrong?"
    )
