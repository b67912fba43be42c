"""Blocks of rows in memory, ready to be compared, and the work items that use each of them several times. No Beam."""

import itertools
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa

from schemas.errors import RunFailed
from transforms.bounds import Filter, PreparedBlock, prepare
from transforms.device import choose_device
from transforms.row_blocks import RowBlock, Source, bad_ids, rows_of

SQUARE = 4
"""Blocks a side of the largest work item: 16 comparisons that load 8 blocks."""
HELD_BLOCKS = SQUARE + 1
SHARED_BLOCKS = 8
"""Blocks at least, where several workers share the work."""
MOST_BLOCK_ROWS, LEAST_BLOCK_ROWS = 65_536, 1024
BYTES_PER_ROW = 300
"""Of a prepared row beside its vector: id, text, numbers."""

T = TypeVar("T")


def comparing_device(asked: str) -> str:
    """As `choose_device`, but never mps: scores and lengths are float64, which it has not."""
    device = choose_device(asked)
    return "cpu" if device == "mps" else device


class LoadedBlock(NamedTuple):
    """Rows of a block that are to be compared, ready for it."""

    numbers: np.ndarray  # (n,) int64, of the dataset
    prepared: PreparedBlock
    ids: pa.Array
    texts: pa.Array | None


def load_rows(
    source: Source,
    block: RowBlock,
    filter: Filter,
    device: str,
    threads: int,
    with_text: bool,
    kept: np.ndarray | None = None,
) -> LoadedBlock:
    """The block's rows, or those of them whose flag in `kept` is set.

    Raises RunFailed naming ids whose vectors have no cosine.
    """
    rows, numbers = rows_of(source), np.arange(block.start, block.stop)
    table = rows.read(block.start, block.stop, ["id", "text"] if with_text else ["id"])
    vectors = rows.vectors(block.start, block.stop)
    if kept is not None and not kept.all():
        numbers, table, vectors = numbers[kept], table.filter(pa.array(kept)), vectors[kept]
    try:
        prepared = prepare(vectors, filter, device, threads)
    except ValueError as error:
        raise RunFailed(bad_ids(vectors, table.column("id")) or str(error)) from None
    texts = table.column("text").combine_chunks() if with_text else None
    return LoadedBlock(numbers, prepared, table.column("id").combine_chunks(), texts)


class LastUsed(Generic[T]):
    """The few things that were used last, in the order of use."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.held: OrderedDict[Hashable, T] = OrderedDict()

    def get(self, key: Hashable, load: Callable[[], T]) -> T:
        if key not in self.held:
            while len(self.held) >= self.most:  # before it is loaded: both need room
                self.held.popitem(last=False)
            self.held[key] = load()
        self.held.move_to_end(key)
        return self.held[key]


def row_bytes(dim: int) -> int:
    """Memory of a row that is ready to be compared, and about what preparing it takes."""
    return 6 * dim + BYTES_PER_ROW


def block_rows(memory_mb: int, bytes_per_row: int, n_rows: int, workers: int, more_bytes: int = 0) -> int:
    """Rows of a block: as many as memory holds, with one more being prepared, and enough blocks to share out.

    bytes_per_row: of vector, codes and id; for these alone no block is of fewer than `LEAST_BLOCK_ROWS`
    more_bytes: of a row's text and of its matches, which may be any number: for these blocks get as small as need be
    """
    memory = (memory_mb << 20) // (HELD_BLOCKS + 1)
    held = min(memory // (bytes_per_row + more_bytes), MOST_BLOCK_ROWS)
    if workers != 1:
        held = min(held, -(-n_rows // SHARED_BLOCKS))
    held = max(held, LEAST_BLOCK_ROWS)
    return min(held, max(memory // more_bytes, 1)) if more_bytes else held


def runs(blocks: Sequence[RowBlock], alone: bool) -> Iterator[tuple[RowBlock, ...]]:
    """A side of the work items: runs of blocks, long to use each often, but short enough for several workers."""
    side = SQUARE if alone else min(max(len(blocks) // 8, 1), SQUARE)
    return (tuple(blocks[i : i + side]) for i in range(0, len(blocks), side))


class Rectangle(NamedTuple):
    """A work item: each of these blocks against each of those, once where they are the same."""

    rows: tuple[RowBlock, ...]
    cols: tuple[RowBlock, ...]


def squares(blocks: list[RowBlock], alone: bool) -> Iterator[Rectangle]:
    """Work items that cover each pair of blocks of one dataset once."""
    return itertools.starmap(Rectangle, itertools.combinations_with_replacement(list(runs(blocks, alone)), 2))
