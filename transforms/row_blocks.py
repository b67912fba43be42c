"""Rows of a dataset by their number, 0 to n - 1 through the manifest's parts in order. No Beam."""

import dataclasses
import functools
from collections.abc import Sequence
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
        """These rows, in any order and as often as they are asked for. Reads each part that has some once."""
        wanted, places = np.unique(rows, return_inverse=True)
        tables = []
        for part, first in self._parts_of(0, len(self)):
            of_part = wanted[slice(*np.searchsorted(wanted, [first, first + part.rows]))] - first
            if len(of_part):
                low = int(of_part[0])
                tables.append(self._read_part(part, low, int(of_part[-1]) + 1, columns).take(pa.array(of_part - low)))
        return pa.concat_tables(tables).take(pa.array(places)) if tables else self._empty(columns)

    def vectors(self, start: int, stop: int) -> np.ndarray:
        """`(stop - start, dim)` float32, as stored."""
        return _matrix(self.read(start, stop, ["embedding"]))

    def sample(self, rows: int, seed: int = 0) -> pa.Table:
        """Up to so many random rows, each once: `text` and `embedding`, and `id`."""
        random, parts = np.random.default_rng(seed), np.arange(len(self.ends))
        if len(parts) > SAMPLED_PARTS:
            parts = np.sort(random.choice(parts, SAMPLED_PARTS, replace=False))
        starts = self.ends - np.diff(self.ends, prepend=0)
        known = np.concatenate([np.arange(starts[p], self.ends[p]) for p in parts] or [np.empty(0, np.int64)])
        chosen = random.choice(known, min(rows, len(known)), replace=False)
        return self.take(np.sort(chosen), ["id", "text", "embedding"])

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

    def _read_part(self, part: PartEntry, low: int, high: int, columns: Sequence[str]) -> pa.Table:
        uri = self.dataset.part_uri(part)
        try:
            with self.dataset.open_part(part) as file:
                parquet = pq.ParquetFile(file, page_checksum_verification=True)
                sizes = [parquet.metadata.row_group(g).num_rows for g in range(parquet.metadata.num_row_groups)]
                ends = np.cumsum(sizes)
                groups = [g for g, end in enumerate(ends) if end > low and end - sizes[g] < high]
                first = int(ends[groups[0]] - sizes[groups[0]]) if groups else 0
                return parquet.read_row_groups(groups, list(columns)).slice(low - first, high - low)
        except (pa.ArrowInvalid, OSError) as error:
            raise RunFailed(f"{uri}: cannot be read: {error}; make the dataset again: jobs.embed --fresh") from None

    def _empty(self, columns: Sequence[str]) -> pa.Table:
        dim = self.dataset.manifest.fingerprint.dim
        types = {"id": pa.string(), "text": pa.string(), "embedding": pa.list_(pa.float32(), dim)}
        return pa.table({name: pa.array([], types[name]) for name in columns})


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
