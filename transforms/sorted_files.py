"""Sorted files of work in progress: written by work items, settled, and merged by ranges of what they are sorted by.
No Beam."""

import bisect
import contextlib
import hashlib
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from schemas import storage
from schemas.errors import RunFailed

Order = Sequence[tuple[str, str]]
"""Columns, and for each "ascending" or "descending" (numbers only)."""


class PairFile(NamedTuple):
    """A file of pairs that is there."""

    name: str
    pairs: int
    bins: tuple[tuple[int, int], ...]  # (bin, pairs), of those that have some: bins of what the file is sorted by
    blocks: tuple[int, ...]  # numbers of the blocks that its rows are of


class Span(NamedTuple):
    """Values from `low` up to but not `high`, of the column that files are sorted by first."""

    column: str
    low: Any
    high: Any


def put_tables(
    folder: str,
    name: str,
    tables: Iterable[pa.Table],
    blocks: tuple[int, ...],
    bins_of_table: Callable[[pa.Table], np.ndarray],
) -> PairFile:
    """Puts tables, in order together, into one file with a row group for each. Its name ends in a digest of it, so that
    attempts which found other pairs, or in other portions, do not meet."""
    sink, counts, pairs = io.BytesIO(), dict[int, int](), 0
    with contextlib.ExitStack() as stack:
        writer = None
        for table in tables:
            if writer is None:
                options = {"compression": "zstd", "compression_level": 1, "write_page_checksum": True}
                writer = stack.enter_context(pq.ParquetWriter(sink, table.schema, **options))
            writer.write_table(table)
            for number, some in zip(*np.unique(bins_of_table(table), return_counts=True), strict=True):
                counts[int(number)] = counts.get(int(number), 0) + int(some)
            pairs += table.num_rows
    data = sink.getvalue()
    name = f"{name}-{hashlib.blake2b(data, digest_size=8).hexdigest()}.parquet"
    storage.create(storage.join(folder, name), data)
    return PairFile(name, pairs, tuple(sorted(counts.items())), blocks)


def settle(folder: str, name: str, files: Sequence[PairFile]) -> list[PairFile]:
    """Says that these files are what `name` came to, unless another attempt was first: then its files are."""
    storage.create(_index(folder, name), json.dumps(files).encode())
    found = settled(folder, name)
    if found is None:
        raise RunFailed(f"{_index(folder, name)}: gone, as a run beside this one published and cleaned up; run again")
    return found


def settled(folder: str, name: str) -> list[PairFile] | None:
    """The files that an earlier attempt, perhaps of a run that was killed, has settled; None where none has."""
    try:
        said = json.loads(storage.read_bytes(_index(folder, name)))
    except FileNotFoundError:
        return None
    return [PairFile(file, n, tuple((b, c) for b, c in bins), tuple(blocks)) for file, n, bins, blocks in said]


def _index(folder: str, name: str) -> str:
    return storage.join(folder, f"{name}.json")


def merge_files(folder: str, names: Sequence[str], span: Span, order: Order) -> Iterator[pa.Table]:
    """The span's rows of these files in one order, in tables of any size.

    Of each file a row group at a time is in memory, so that one value that very many rows have does no harm.
    """
    cursors = [_Cursor(storage.join(folder, name), span, order) for name in names]
    while cursors := [c for c in cursors if c.fill()]:
        limits = [c.key(c.table.num_rows - 1) for c in cursors if c.groups]
        taken = pa.concat_tables([c.take_up_to(min(limits) if limits else None) for c in cursors])
        yield taken.sort_by(list(order))


def parts_of(tables: Iterable[pa.Table], most: int, most_bytes: int = 0) -> Iterator[pa.Table]:
    """The same rows in tables of `most`, the last of fewer: of a size that follows from the rows alone.

    most_bytes: where rows have texts, a table has no more of them, or a single row
    """
    held: list[pa.Table] = []
    rows = size = 0
    for table in tables:
        sizes = text_bytes(table) if most_bytes else None
        while table.num_rows:
            fits = min(most - rows, table.num_rows)
            if sizes is not None:
                fits = min(fits, int(np.searchsorted(np.cumsum(sizes), most_bytes - size, side="right")))
            if fits or not held:
                fits = max(fits, 1)
                held.append(table.slice(0, fits))
                rows, table = rows + fits, table.slice(fits)
                if sizes is not None:
                    size, sizes = size + int(sizes[:fits].sum()), sizes[fits:]
            if rows == most or table.num_rows:
                yield pa.concat_tables(held)
                held, rows, size = [], 0, 0
    if held:
        yield pa.concat_tables(held)


def text_bytes(table: pa.Table) -> np.ndarray | None:
    """Of each row, of all texts that it has; None where it has none."""
    texts = [name for name in table.column_names if name.startswith("text_")]
    sizes = [pc.binary_length(table.column(name)).to_numpy().astype(np.int64) for name in texts]
    return np.sum(sizes, axis=0) if sizes else None


class _Cursor:
    """A sorted file, read forward within a span."""

    def __init__(self, uri: str, span: Span, order: Order) -> None:
        self.uri, self.span, self.order = uri, span, order
        with open_work(uri) as file:
            metadata = pq.read_metadata(file)
        place = metadata.schema.to_arrow_schema().get_field_index(span.column)
        stats = [metadata.row_group(g).column(place).statistics for g in range(metadata.num_row_groups)]
        self.groups = [g for g, s in enumerate(stats) if s and s.max >= span.low and s.min < span.high]
        self.table: pa.Table = pa.table({})

    def fill(self) -> bool:
        """Reads on where nothing is left in memory; whether there is anything."""
        while not self.table.num_rows and self.groups:
            with open_work(self.uri) as file:
                table = pq.ParquetFile(file, page_checksum_verification=True).read_row_group(self.groups.pop(0))
            values = table.column(self.span.column).to_numpy()
            self.table = table.filter(pa.array((values >= self.span.low) & (values < self.span.high)))
        return self.table.num_rows > 0

    def key(self, row: int) -> tuple[Any, ...]:
        values = [(self.table[column][row].as_py(), way) for column, way in self.order]
        return tuple(-value if way == "descending" else value for value, way in values)

    def take_up_to(self, last: tuple[Any, ...] | None) -> pa.Table:
        """What is in memory up to a key, the key included."""
        n = self.table.num_rows
        stop = n if last is None else bisect.bisect_right(range(n), last, key=self.key)
        taken, self.table = self.table.slice(0, stop), self.table.slice(stop)
        return taken


def column_of(folder: str, names: Sequence[str], column: str) -> np.ndarray:
    """All values of a column of numbers of these files."""
    columns = [np.empty(0, np.int64)]
    for name in names:
        with open_work(storage.join(folder, name)) as file:
            columns.append(pq.read_table(file, columns=[column]).column(column).to_numpy())
    return np.concatenate(columns)


def open_work(uri: str) -> BinaryIO:
    """A file of work in progress. Raises RunFailed where a run beside this one has published and cleaned up."""
    try:
        return storage.open_random(uri)
    except FileNotFoundError:
        raise RunFailed(f"{uri}: gone, as a run beside this one published and cleaned up; run again") from None
