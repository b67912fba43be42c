"""Rows of a dataset by their number, 0 to n - 1 through the manifest's parts in order. No Beam."""

import contextlib
import dataclasses
import functools
import hashlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from schemas import storage
from schemas.dataset import Dataset, open_dataset
from schemas.errors import InputError, RunFailed
from schemas.manifest import PartEntry
from transforms.units import normalize

SAMPLED_PARTS = 128
"""Parts that a sample reads at most: of more, random ones stand for all."""
NAMED_IDS = 5
BATCH_ROWS = 1024
"""Rows of which texts are held at a time, where they are looked at one after the other."""


class RowBlock(NamedTuple):
    """Rows `start` to `stop` - 1: what a worker holds at a time."""

    number: int
    start: int
    stop: int

    @property
    def rows(self) -> int:
        return self.stop - self.start


class Source(NamedTuple):
    """One version of a dataset, small enough to ship to workers."""

    uri: str
    version: int
    run: str  # token of the run that published it: of two datasets at one place, which
    http: str = storage.NO_HTTP  # what workers may read by http

    @classmethod
    def of(cls, dataset: Dataset) -> "Source":
        return cls(dataset.uri, dataset.manifest.version, dataset.manifest.run, storage.permitted_http())


def plan_blocks(n_rows: int, block_rows: int) -> list[RowBlock]:
    starts = range(0, n_rows, block_rows)
    return [RowBlock(i, start, min(start + block_rows, n_rows)) for i, start in enumerate(starts)]


@dataclasses.dataclass(frozen=True)
class Rows:
    """A dataset's rows by number."""

    dataset: Dataset

    @functools.cached_property
    def ends(self) -> np.ndarray:
        """Row number after each part's last."""
        return np.cumsum([part.rows for part in self.dataset.manifest.parts], dtype=np.int64)

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def read(self, start: int, stop: int, columns: Sequence[str]) -> pa.Table:
        """Rows `start` to `stop` - 1. Reads the row groups that hold some, and of them these columns."""
        tables = []
        for part, first in self._parts_of(start, stop):
            low, high = max(start - first, 0), min(stop - first, part.rows)
            tables.append(self._read_part(part, low, high, columns))
        return pa.concat_tables(tables) if tables else self._empty(columns)

    def take(self, rows: np.ndarray, columns: Sequence[str]) -> pa.Table:
        """These rows, in any order and as often as they are asked for. Reads each row group that has some once."""
        wanted, places = np.unique(rows, return_inverse=True)
        tables = list(self.batches(wanted, columns))
        return pa.concat_tables(tables).take(pa.array(places)) if tables else self._empty(columns)

    def text_digests(self, rows: np.ndarray) -> np.ndarray:
        """`(n,)` of 16 bytes, for these rows, sorted and each once: equal where texts are. Few texts are held."""
        batches = (batch.column("text").to_pylist() for batch in self.batches(rows, ["text"]))
        found = [hashlib.blake2b(text.encode(), digest_size=16).digest() for texts in batches for text in texts]
        return np.frombuffer(b"".join(found), dtype="V16")

    def mean_text_bytes(self) -> int:
        """Of a row's text, as footers tell: it is stored without a dictionary."""
        sizes, rows = 0, 0
        for place in self._sampled_parts(np.random.default_rng(0)):
            with self._opened(self.dataset.manifest.parts[place]) as parquet:
                metadata = parquet.metadata
                place = [metadata.schema.column(i).path for i in range(metadata.num_columns)].index("text")
                groups = [metadata.row_group(g) for g in range(metadata.num_row_groups)]
                sizes += sum(group.column(place).total_uncompressed_size for group in groups)
                rows += metadata.num_rows
        return sizes // max(rows, 1)

    def vectors(self, start: int, stop: int) -> np.ndarray:
        """`(stop - start, dim)` float32, as stored."""
        return _matrix(self.read(start, stop, ["embedding"]))

    def sample(self, rows: int, seed: int = 0) -> pa.Table:
        """Up to so many random rows, each once: `id`, `embedding` and `row`, the number. Reads no text."""
        random = np.random.default_rng(seed)
        parts = self._sampled_parts(random)
        starts = self.ends - np.diff(self.ends, prepend=0)
        known = np.concatenate([np.arange(starts[p], self.ends[p]) for p in parts] or [np.empty(0, np.int64)])
        chosen = np.sort(random.choice(known, min(rows, len(known)), replace=False))
        return self.take(chosen, ["id", "embedding"]).append_column("row", pa.array(chosen, pa.int64()))

    def _sampled_parts(self, random: np.random.Generator) -> np.ndarray:
        parts = np.arange(len(self.ends))
        return np.sort(random.choice(parts, SAMPLED_PARTS, replace=False)) if len(parts) > SAMPLED_PARTS else parts

    def _parts_of(self, start: int, stop: int) -> list[tuple[PartEntry, int]]:
        """Parts with a row from `start` to `stop` - 1, and the number of each one's first row."""
        first = int(np.searchsorted(self.ends, start, side="right"))
        found = []
        for place, part in enumerate(self.dataset.manifest.parts[first:], first):
            begins = int(self.ends[place]) - part.rows
            if begins >= stop:
                break
            found.append((part, begins))
        return found

    def batches(self, rows: np.ndarray, columns: Sequence[str]) -> Iterator[pa.Table]:
        """These rows, sorted and each once, few at a time: what is long need not all be held."""
        for part, first in self._parts_of(int(rows[0]), int(rows[-1]) + 1) if len(rows) else []:
            of_part = rows[slice(*np.searchsorted(rows, [first, first + part.rows]))] - first
            if len(of_part):
                yield from self._batches_of_part(part, of_part, columns)

    def _batches_of_part(self, part: PartEntry, rows: np.ndarray, columns: Sequence[str]) -> Iterator[pa.Table]:
        with self._opened(part) as parquet:
            ends = _group_ends(parquet)
            sizes = np.diff(ends, prepend=0)
            in_group = np.searchsorted(ends, rows, side="right")
            groups = np.unique(in_group)
            skipped = ends - np.cumsum(np.where(np.isin(np.arange(len(ends)), groups), sizes, 0))
            places, at = rows - skipped[in_group], 0  # among the rows of the groups that are read
            for batch in parquet.iter_batches(BATCH_ROWS, groups.tolist(), list(columns)):
                some = places[slice(*np.searchsorted(places, [at, at + len(batch)]))] - at
                at += len(batch)
                if len(some):
                    table = _wide(pa.Table.from_batches([batch]))
                    yield table if len(some) == len(batch) else table.take(pa.array(some))

    def _read_part(self, part: PartEntry, low: int, high: int, columns: Sequence[str]) -> pa.Table:
        with self._opened(part) as parquet:
            ends = _group_ends(parquet)
            sizes = np.diff(ends, prepend=0)
            groups = [g for g, end in enumerate(ends) if end > low and end - sizes[g] < high]
            first = int(ends[groups[0]] - sizes[groups[0]]) if groups else 0
            return _wide(parquet.read_row_groups(groups, list(columns)).slice(low - first, high - low))

    @contextlib.contextmanager
    def _opened(self, part: PartEntry) -> Iterator[pq.ParquetFile]:
        """Raises RunFailed where the part is gone, or is not what it was."""
        uri = self.dataset.part_uri(part)
        try:
            with self.dataset.open_part(part) as file:
                yield pq.ParquetFile(file, page_checksum_verification=True)
        except (pa.ArrowInvalid, OSError) as error:
            raise RunFailed(f"{uri}: cannot be read: {error}; make the dataset again: jobs.embed --fresh") from None

    def _empty(self, columns: Sequence[str]) -> pa.Table:
        dim = self.dataset.manifest.fingerprint.dim
        types = {"id": pa.large_string(), "text": pa.large_string(), "embedding": pa.list_(pa.float32(), dim)}
        return pa.table({name: pa.array([], types[name]) for name in columns})


def _group_ends(parquet: pq.ParquetFile) -> np.ndarray:
    """Row number after each row group's last."""
    metadata = parquet.metadata
    return np.cumsum([metadata.row_group(g).num_rows for g in range(metadata.num_row_groups)], dtype=np.int64)


def _wide(table: pa.Table) -> pa.Table:
    """Strings with offsets of 64 bits: texts of many rows together may be longer than 2 GiB, which 32 bits overflow."""
    types = [pa.large_string() if pa.types.is_string(field.type) else field.type for field in table.schema]
    return table.cast(pa.schema([pa.field(f.name, t) for f, t in zip(table.schema, types, strict=True)]))


@functools.lru_cache(maxsize=4)
def rows_of(source: Source) -> Rows:
    """The rows of a source, whose manifest is read once a process.

    Raises:
        RunFailed: it is no longer there.
    """
    storage.permit_http(source.http)
    try:
        rows = Rows(open_dataset(source.uri, source.version))
    except InputError as error:
        raise RunFailed(f"{error} (it was when this run was planned)") from None
    if rows.dataset.manifest.run != source.run:
        raise RunFailed(f"{source.uri}: another dataset than this run was planned for; run again")
    return rows


def _matrix(table: pa.Table) -> np.ndarray:
    column = table.column("embedding").combine_chunks()
    flat = column.flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(len(column), column.type.list_size)


def unit_sample(table: pa.Table) -> np.ndarray:
    """`(n, dim)` unit vectors of sampled rows. Raises InputError naming ids whose vectors have no cosine."""
    vectors = _matrix(table)
    bad = bad_ids(vectors, table.column("id"))
    if bad:
        raise InputError(bad)
    return normalize(vectors)


def bad_ids(vectors: np.ndarray, ids: pa.ChunkedArray) -> str:
    """What is wrong with vectors that have no cosine, and whose they are; empty where nothing is."""
    norms = np.sqrt(np.square(vectors.astype(np.float64)).sum(axis=1))
    bad = np.flatnonzero(~np.isfinite(norms) | (norms == 0))
    if not len(bad):
        return ""
    named = ", ".join(repr(ids[int(i)].as_py()) for i in bad[:NAMED_IDS])
    more = f" and {len(bad) - NAMED_IDS} more" if len(bad) > NAMED_IDS else ""
    return (
        f"vectors that are zero or not finite have no cosine: ids {named}{more}; embed these rows again or leave "
        "them out"
    )
