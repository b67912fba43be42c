"""Pair files -> pair files with the best partners of each row alone.

A pair stays if it is among the `top_k` best of either row, equal scores by the partner's id and then by its row. First,
of the rows of each block, what the k-th best partner is; then each file is read again with the bounds of its rows.
"""

import dataclasses
import io
import itertools
from collections.abc import Iterable, Iterator, Sequence

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from schemas import storage
from transforms.pair_files import ROW_GROUP_PAIRS, ROW_GROUP_TEXT_BYTES, score_bins
from transforms.sorted_files import PairFile, open_work, parts_of, put_tables, settle, settled

BOUND_COLUMNS = ["row", "score", "partner", "partner_row"]


MOST_PARTNERS = 1 << 20
"""Best partners of a block's rows that are held at a time."""


def best_of_rows(table: pa.Table, top_k: int) -> pa.Table:
    """The best `top_k` partners of each row, of `BOUND_COLUMNS`; by row, best first."""
    by = [("row", "ascending"), ("score", "descending"), ("partner", "ascending"), ("partner_row", "ascending")]
    table = table.sort_by(by)
    rows = table.column("row").to_numpy()
    place = np.arange(len(rows)) - np.searchsorted(rows, rows)
    return table.filter(pa.array(place < top_k))


def bounds_of_block(block: int, files: Iterable[tuple[str, int]], work: str, block_rows: int, top_k: int) -> str:
    """Writes the k-th best partner of every row of the block that has at least k. Returns the file's name.

    files: names, and how many pairs each has. Where partners would be too many to hold, the files are read once for
    each of several ranges of the block's rows.
    """
    name = f"bounds-{block}.parquet"
    if storage.stat(storage.join(work, name)) is not None:
        return name
    files = sorted(files)
    partners = min(block_rows * top_k, 2 * sum(pairs for _, pairs in files))
    edges = np.linspace(0, block_rows, -(-partners // MOST_PARTNERS) + 1).astype(np.int64) + block * block_rows
    names = [file for file, _ in files]
    bounds = [_bounds_of_rows(low, high, names, work, top_k) for low, high in itertools.pairwise(edges.tolist())]
    sink = io.BytesIO()
    pq.write_table(pa.concat_tables(bounds), sink)
    storage.create(storage.join(work, name), sink.getvalue())
    return name


def _bounds_of_rows(low: int, high: int, files: Sequence[str], work: str, top_k: int) -> pa.Table:
    """The k-th best partners of rows `low` to `high` - 1, of `BOUND_COLUMNS`."""
    best: pa.Table | None = None
    for file in files:
        with open_work(storage.join(work, file)) as opened:
            pairs = pq.read_table(opened, columns=["id_a", "id_b", "score", "row_a", "row_b"])
        sides = [_side(pairs, "a", "b", low, high), _side(pairs, "b", "a", low, high)]
        best = best_of_rows(pa.concat_tables([*([best] if best is not None else []), *sides]), top_k)
    assert best is not None
    rows = best.column("row").to_numpy()
    place = np.arange(len(rows)) - np.searchsorted(rows, rows)
    return best.filter(pa.array(place == top_k - 1))


def _side(pairs: pa.Table, own: str, other: str, low: int, high: int) -> pa.Table:
    rows = pairs.column(f"row_{own}").to_numpy()
    here = pairs.filter(pa.array((rows >= low) & (rows < high)))
    return here.select([f"row_{own}", "score", f"id_{other}", f"row_{other}"]).rename_columns(BOUND_COLUMNS)


def keep_best(file: PairFile, work: str) -> list[PairFile]:
    """The file's pairs that are among the best of either row, in a file of their own."""
    name = f"kept-{file.name.removesuffix('.parquet')}"
    done = settled(work, name)
    if done is not None:
        return done
    bounds = pa.concat_tables(_read(work, f"bounds-{block}.parquet") for block in file.blocks).sort_by("row")
    pairs = _read(work, file.name)
    kept = pairs.filter(pc.or_(_within(pairs, "a", "b", bounds), _within(pairs, "b", "a", bounds)))
    files = [put_tables(work, name, _in_row_groups(kept), file.blocks, score_bins)] if kept.num_rows else []
    return settle(work, name, files)


def _in_row_groups(table: pa.Table) -> Iterator[pa.Table]:
    return parts_of([table], ROW_GROUP_PAIRS, ROW_GROUP_TEXT_BYTES)


def _within(pairs: pa.Table, own: str, other: str, bounds: pa.Table) -> pa.ChunkedArray:
    """Whether each pair is at or above the bound of its row, if that has one."""
    if not bounds.num_rows:
        return pa.chunked_array([pa.array(np.ones(pairs.num_rows, dtype=bool))])
    rows = pairs.column(f"row_{own}").to_numpy()
    bounded = bounds.column("row").to_numpy()
    place = np.minimum(np.searchsorted(bounded, rows), len(bounded) - 1)
    free = bounded[place] != rows
    scores, least = pairs.column("score").to_numpy(), bounds.column("score").to_numpy()[place]
    ids, last = pairs.column(f"id_{other}"), bounds.column("partner").take(pa.array(place))
    by_row = pairs.column(f"row_{other}").to_numpy() <= bounds.column("partner_row").to_numpy()[place]
    by_id = pc.less(ids, last).to_numpy() | (pc.equal(ids, last).to_numpy() & by_row)
    return pa.chunked_array([pa.array(free | (scores > least) | ((scores == least) & by_id))])


def _read(work: str, name: str) -> pa.Table:
    with open_work(storage.join(work, name)) as file:
        return pq.read_table(file)


@dataclasses.dataclass
class KeepBestPartners(beam.PTransform):
    """PCollection[PairFile] -> PCollection[PairFile]"""

    work: str
    block_rows: int
    top_k: int

    def expand(self, files: beam.PCollection) -> beam.PCollection:
        by_block = files | "FilesOfBlocks" >> beam.FlatMap(_names_by_block) | "ByBlock" >> beam.GroupByKey()
        bounds = by_block | "BoundsOfBlock" >> beam.Map(_bounds, self.work, self.block_rows, self.top_k)
        ready = beam.pvalue.AsList(bounds)  # each file's rows may be of any block
        return files | "KeepBest" >> beam.FlatMap(_keep_when_ready, ready, self.work)


def _names_by_block(file: PairFile) -> list[tuple[int, tuple[str, int]]]:
    return [(block, (file.name, file.pairs)) for block in file.blocks]


def _bounds(keyed: tuple[int, Iterable[tuple[str, int]]], work: str, block_rows: int, top_k: int) -> str:
    return bounds_of_block(*keyed, work, block_rows, top_k)


def _keep_when_ready(file: PairFile, _: list[str], work: str) -> list[PairFile]:
    return keep_best(file, work)
