"""What every source yields, and what it is told."""

import dataclasses
import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from schemas.errors import RunFailed
from schemas.rejects import Reject

T = TypeVar("T")
BATCH_ROWS, BATCH_CHARACTERS = 4096, 1 << 20
NO_END = np.iinfo(np.int64).max


class Row(NamedTuple):
    """One good record. `offset` is its byte offset in a line file (decompressed), else its row number, from 0."""

    offset: int
    text: str
    id: str | None  # the id column's value; None where no id column was asked for
    kept: tuple[Any, ...]  # the kept columns' values, in the order of `keep_columns`


class BlankLine(NamedTuple):
    """A blank line of a text file: no record, counted."""

    offset: int


Item = Row | Reject | BlankLine


@dataclasses.dataclass(frozen=True, eq=False)
class Rows:
    """Records that stand one after the other in a file, as columns: a Python step for each row costs as much as all
    else that is done with it. What stands between the good ones is kept apart."""

    offsets: np.ndarray  # (n,) int64, ascending
    texts: Sequence[str]
    ids: Sequence[str | None] = ()  # as in `Row`; () where no id column was asked for
    kept: Sequence[tuple[Any, ...]] = ()  # as in `Row`; () where no columns were asked for
    others: Sequence[Reject | BlankLine] = ()  # in order of their offsets

    @classmethod
    def of(cls, items: Iterable[Item]) -> "Rows":
        good: list[Row] = []
        others: list[Reject | BlankLine] = []
        for item in items:
            (good if isinstance(item, Row) else others).append(item)  # type: ignore[arg-type]
        offsets = np.array([row.offset for row in good], np.int64)
        return cls(offsets, [r.text for r in good], [r.id for r in good], [r.kept for r in good], others)

    def items(self) -> Iterator[Item]:
        """One by one, in the file's order."""
        blank = (None,) * len(self.texts)
        rows = map(Row, self.offsets.tolist(), self.texts, self.ids or blank, self.kept or ((),) * len(self.texts))
        return heapq.merge(self.others, rows, key=lambda item: item.offset)

    def __getitem__(self, rows: slice) -> "Rows":
        """These rows, and nothing of what stands between them."""
        return Rows(self.offsets[rows], self.texts[rows], self.ids[rows], self.kept[rows])

    def between(self, start: int, stop: int | None) -> "Rows":
        """What has its offset in `[start, stop)`; None is no end."""
        first, last = np.searchsorted(self.offsets, [start, NO_END if stop is None else stop]).tolist()
        others = [other for other in self.others if start <= other.offset and (stop is None or other.offset < stop)]
        return dataclasses.replace(self[first:last], others=others)


def in_batches(items: Iterator[Item]) -> Iterator[Rows]:
    """The items of a source that makes them one by one."""
    return map(Rows.of, gathered(items, _characters, BATCH_CHARACTERS))


def _characters(item: Item) -> int:
    """That an item counts for: of short ones, so many that a batch has BATCH_ROWS at most."""
    return max(len(item.text) if isinstance(item, Row) else 0, BATCH_CHARACTERS // BATCH_ROWS)


def gathered(items: Iterator[T], size_of: Callable[[T], int], enough: int) -> Iterator[list[T]]:
    """The items, as many at a time as make `enough`. Those before a BadFile come before it."""
    held: list[T] = []
    size = 0
    try:
        for item in items:
            held.append(item)
            size += size_of(item)
            if size >= enough:
                yield held
                held, size = [], 0
    except BadFile:
        if held:
            yield held
        raise
    if held:
        yield held


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
