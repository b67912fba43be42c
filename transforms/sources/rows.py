"""What every source yields, and what it is told."""

import dataclasses
from typing import Any, NamedTuple

from schemas.errors import RunFailed


class Row(NamedTuple):
    """One good record. `offset` is its byte offset in a line file (decompressed), else its row number, from 0."""

    offset: int
    text: str
    id: str | None  # the id column's value; None where no id column was asked for
    kept: tuple[Any, ...]  # the kept columns' values, in the order of `keep_columns`


class BlankLine(NamedTuple):
    """A blank line of a text file: no record, counted."""

    offset: int


class BadFile(Exception):
    """A whole file cannot be read (on): truncated, corrupt, not what its name says, without the column."""

    def __init__(self, uri: str, reason: str) -> None:
        super().__init__(uri, reason)
        self.uri, self.reason = uri, reason

    def __str__(self) -> str:
        return f"{self.uri}: {self.reason}"

    def as_failure(self) -> RunFailed:
        """Of a run that does not skip bad files."""
        return RunFailed(f"{self}; mend or remove the file, or go on without it: --skip_bad_files")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """How records become rows. Part of every split's identity."""

    text_column: str = "text"
    id_column: str | None = None
    keep_columns: tuple[str, ...] = ()
    max_record_bytes: int = 16 << 20
