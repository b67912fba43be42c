"""What every source yields, and what it is told."""

import dataclasses
import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa

from schemas.errors import RunFailed
from schemas.rejects import Reject

T = TypeVar("T")
BATCH_ROWS, BATCH_CHARACTERS = 4096, 1 << 20
_LEAST_CHARACTERS = BATCH_CHARACTERS // BATCH_ROWS
NO_END = np.iinfo(np.int64).max
NO_OFFSETS = np.zeros(0, np.int64)


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
    """Records that stand one after the other in a file, as Arrow columns. What stands between the good ones is apart.

    A reader that has Arrow arrays passes them as they are, so that no value becomes a Python object on its way. A
    reader that has Python strings calls `of_strings` with a list a column, or yields `Row`s through `in_batches`.
    """

    offsets: np.ndarray  # (n,) int64, ascending
    texts: pa.StringArray  # (n,), no nulls, valid UTF-8
    ids: pa.StringArray | None = None  # (n,), no nulls; None where no id column was asked for
    kept: pa.RecordBatch | None = None  # (n rows), the kept columns in the file's types; None where there are none
    others: Sequence[Reject | BlankLine] = ()  # in order of their offsets
    sizes: np.ndarray | None = None  # (n,) int64, bytes of each in a line file; None where the format has no lines

    @classmethod
    def of_strings(
        cls,
        offsets: np.ndarray,
        texts: Sequence[str],
        ids: Sequence[str] | None = None,
        kept: Mapping[str, Sequence[str | None]] | None = None,
        others: Sequence[Reject | BlankLine] = (),
    ) -> "Rows":
        """`ids` is None where no id column was asked for; `kept` has a list for each kept column."""
        kept_columns = {name: pa.array(values, pa.string()) for name, values in (kept or {}).items()}
        return cls(
            offsets,
            pa.array(texts, pa.string()),
            None if ids is None else pa.array(ids, pa.string()),
            pa.record_batch(kept_columns) if kept_columns else None,
            others,
        )

    @classmethod
    def of(cls, items: Iterable[Item], options: "ReadOptions") -> "Rows":
        """Of a reader that makes one row at a time. Kept values are strings or None."""
        good: list[Row] = []
        others: list[Reject | BlankLine] = []
        for item in items:
            (good if isinstance(item, Row) else others).append(item)  # type: ignore[arg-type]
        return cls.of_strings(
            np.array([row.offset for row in good], np.int64),
            [row.text for row in good],
            [row.id or "" for row in good] if options.id_column else None,
            {name: [row.kept[i] for row in good] for i, name in enumerate(options.keep_columns)},
            others,
        )

    def __len__(self) -> int:
        return len(self.offsets)

    def items(self) -> Iterator[Item]:
        """One by one, in the file's order, as Python objects: for those who look at few rows."""
        blank: Iterable[Any] = (None,) * len(self)
        ids = blank if self.ids is None else self.ids.to_pylist()
        columns = [] if self.kept is None else [column.to_pylist() for column in self.kept.columns]
        kept = zip(*columns, strict=True) if columns else ((),) * len(self)
        rows = map(Row, self.offsets.tolist(), self.texts.to_pylist(), ids, kept)
        return heapq.merge(self.others, rows, key=lambda item: item.offset)

    def __getitem__(self, rows: slice) -> "Rows":
        """These rows, and nothing of what stands between them. Copies nothing."""
        ids = None if self.ids is None else self.ids[rows]
        kept = None if self.kept is None else self.kept[rows]
        sizes = None if self.sizes is None else self.sizes[rows]
        return Rows(self.offsets[rows], self.texts[rows], ids, kept, sizes=sizes)

    def where(self, mask: np.ndarray) -> "Rows":
        """The rows for which `mask`, (n,) bool, is true, and all that stands between them."""
        if mask.all():
            return self
        chosen = pa.array(mask)
        ids = None if self.ids is None else self.ids.filter(chosen)
        kept = None if self.kept is None else self.kept.filter(chosen)
        sizes = None if self.sizes is None else self.sizes[mask]
        return Rows(self.offsets[mask], self.texts.filter(chosen), ids, kept, self.others, sizes)

    def with_others(self, others: Iterable[Reject | BlankLine]) -> "Rows":
        """The same rows with more between them."""
        return dataclasses.replace(self, others=sorted([*self.others, *others], key=lambda item: item.offset))

    def between(self, start: int, stop: int | None) -> "Rows":
        """What has its offset in `[start, stop)`; None is no end."""
        first, last = np.searchsorted(self.offsets, [start, NO_END if stop is None else stop]).tolist()
        others = [other for other in self.others if start <= other.offset and (stop is None or other.offset < stop)]
        return dataclasses.replace(self[first:last], others=others)


def in_batches(items: Iterator[Item], options: "ReadOptions") -> Iterator[Rows]:
    """The items of a reader that makes them one by one."""
    return (Rows.of(some, options) for some in gathered(items, _characters, BATCH_CHARACTERS))


def _characters(item: Item) -> int:
    """That an item counts for: of short ones, so many that a batch has BATCH_ROWS at most."""
    if not isinstance(item, Row):
        return _LEAST_CHARACTERS
    held = len(item.text) + len(item.id or "")
    for value in item.kept:
        held += len(value or "")
    return max(held, _LEAST_CHARACTERS)


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
    """How records become rows. Part of every split's identity, but for `kept`, whose types are, and `missing_columns`,
    which decides whether a run begins and not what its rows are."""

    text_column: str = "text"
    id_column: str | None = None
    keep_columns: tuple[str, ...] = ()
    max_record_bytes: int = 16 << 20
    kept: pa.Schema | None = None  # what kept columns become, as planned; None: as the file has them
    missing_columns: str = "error"  # error or null: what a kept column is that a file does not have
