"""Pairs of an earlier version of the same dataset: what need not be compared again. No Beam.

A row of a part that the earlier run has read is old. A part's name says what is in it, but for rows that the encoder
refused once: made again, it may have more of them, so its checksum counts, too. Pairs of two old rows are known; what
remains is new rows against all.
"""

import functools
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.dataset import Dataset
from schemas.manifest import PartEntry
from schemas.pairs import DUPLICATES_FOLDER
from transforms.pair_files import FoundPairs, write_pairs
from transforms.row_blocks import Rows, Source, rows_of
from transforms.sorted_files import PairFile, settle, settled


class Previous(NamedTuple):
    """An earlier run's pairs, and which parts of the input it has seen."""

    pairs: Source
    old_parts: bytes  # a flag for each part of the input

    @classmethod
    def of(cls, pairs: Dataset, parts: Sequence[PartEntry]) -> "Previous":
        details = pairs.manifest.details
        checksums = details.get("input_checksums")  # an earlier version had none
        names = details["input_parts"]
        seen = Counter(zip(names, checksums or [""] * len(names), strict=True))
        flags = []
        for part in parts:
            key = (part.name, part.checksum if checksums else "")
            flags.append(seen[key] > 0)
            seen[key] -= 1
        return cls(Source.of(pairs), bytes(flags))

    def is_old(self, rows: Rows, numbers: np.ndarray) -> np.ndarray:
        """Whether each row, by number, was there before."""
        flags = np.frombuffer(self.old_parts, dtype=bool)
        return flags[np.searchsorted(rows.ends, numbers, side="right")]


@functools.lru_cache(maxsize=1)
def old_rows(source: Source, previous: Previous) -> tuple[pa.Array, np.ndarray]:
    """Ids and numbers of all old rows; in memory once a process."""
    rows = rows_of(source)
    numbers = np.arange(len(rows))
    numbers = numbers[previous.is_old(rows, numbers)]
    return rows.take(numbers, ["id"]).column("id").combine_chunks(), numbers


def once_collapsed(source: Source, previous: Previous) -> np.ndarray:
    """Old rows that a representative stood for, so that the earlier run has no pairs of theirs: sorted numbers."""
    pairs = rows_of(previous.pairs).dataset
    tables = [pairs.read_part(e) for e in pairs.manifest.extras if e.name.startswith(DUPLICATES_FOLDER)]
    collapsed = [t.filter(pc.not_equal(t["id"], t["representative"])).column("id") for t in tables]
    if not sum(map(len, collapsed)):
        return np.empty(0, np.int64)
    ids, numbers = old_rows(source, previous)
    known = pa.chunked_array([chunk for column in collapsed for chunk in column.chunks], pa.string())
    known = known.cast(ids.type)
    return numbers[np.asarray(pc.is_in(ids, value_set=known))]


def carry_over(
    number: int, source: Source, previous: Previous, work: str, min_score: float, with_text: bool, block_rows: int
) -> list[PairFile]:
    """Pairs of the earlier run's part `number` whose rows are both still there, as a pair file."""
    name = f"carried-{number}"
    done = settled(work, name)
    if done is not None:
        return done
    dataset = rows_of(previous.pairs).dataset
    table = dataset.read_part(dataset.manifest.parts[number], ["id_a", "id_b", "score"])
    table = table.cast(pa.schema([("id_a", pa.large_string()), ("id_b", pa.large_string()), ("score", pa.float32())]))
    table = table.filter(pa.array(table.column("score").to_numpy() >= np.float32(min_score)))
    ids, numbers = old_rows(source, previous)
    places = [pc.index_in(table.column(side), value_set=ids) for side in ("id_a", "id_b")]
    there = pc.and_(*(pc.is_valid(place) for place in places))
    table = table.filter(there)
    row_a, row_b = (numbers[place.filter(there).to_numpy()] for place in places)
    pairs = _found(table, row_a, row_b, source, with_text).in_order()
    return settle(work, name, write_pairs(work, name, pairs, block_rows))


def _found(table: pa.Table, row_a: np.ndarray, row_b: np.ndarray, source: Source, with_text: bool) -> FoundPairs:
    n = table.num_rows
    used, places = np.unique(np.concatenate([row_a, row_b]), return_inverse=True)
    texts = rows_of(source).take(used, ["text"]).column("text").combine_chunks() if with_text else None
    ids = pa.concat_arrays([table.column(side).combine_chunks() for side in ("id_a", "id_b")])
    scores = table.column("score").to_numpy()
    return FoundPairs(row_a, row_b, scores, np.arange(n), n + np.arange(n), places[:n], places[n:], ids, texts)
