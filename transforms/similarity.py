"""Exact cosine similarity of blocks of rows: tiles of products of codes find candidates, float64 scores decide them.

A work item is two blocks. Its tiles (1,024 x 2,048 pairs) are multiplied as codes into a buffer that is used
again, candidates are the products above a proven threshold (`transforms.bounds`), and each is scored exactly. What
comes out depends on the vectors alone: not on tile, block, filter, thread or machine.
"""

import itertools
import threading
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch

from transforms.bounds import ROW_MULTIPLE, PreparedBlock, threshold
from transforms.products import PRODUCT_OF, comparable, multiply, whole_bounds
from transforms.threads import in_threads
from transforms.units import GRID, on_grid

TILE, TALL_TILE = (1024, 2048), (4096, 1024)
"""Rows of the one block, rows of the other: 8 MiB of products, which the second-level cache nearly holds."""
DEVICE_TILE = (8192, 16384)
SCORE_ROWS, DEVICE_SCORE_BYTES = 256, 1 << 30
"""Pairs scored at a time on a CPU, 1.5 MiB of float64 at 384 dimensions; on a device as many as take so much there."""
CROWDED = 0.02
"""From this share of a mask's words on, looking at each of its bytes costs less."""
DENSE = 0.06
"""From this share of a tile on, the float64 product of all of it costs less than its candidates one by one
(28 ns a pair against 450)."""


class Pairs(NamedTuple):
    """Pairs of rows by their number in their block, and their scores: (n,) int64, int64, float32."""

    rows_a: np.ndarray
    rows_b: np.ndarray
    scores: np.ndarray


class Tile(NamedTuple):
    rows: slice  # of block a
    cols: slice  # of block b


def pairs_in_blocks(
    a: PreparedBlock,
    b: PreparedBlock,
    min_score: float | Callable[[], float],
    *,
    same: bool = False,
    tile: tuple[int, int] | None = None,
    threads: int = 1,
) -> Iterator[Pairs]:
    """Every pair of a row of `a` and a row of `b` whose score is at least `min_score`, in chunks of one tile at most.

    min_score: rounded to float32, as scores are; a function is asked again for each tile
    same: `a` and `b` are one block; pairs have row_a < row_b, and tiles wholly below the diagonal are skipped
    threads: tiles at a time, one core each; beside the blocks 15 MB a thread, 150 where most of a tile passes
    """
    least = min_score if callable(min_score) else lambda: min_score
    buffers = Buffers(a, tile)

    def find(tile: Tile) -> Pairs:
        floor = np.float32(least())
        rows, cols = find_at_least(products_of(a, b, tile, buffers), threshold(a, b, float(floor)), buffers)
        rows, cols = rows + tile.rows.start, cols + tile.cols.start
        if same:
            above = rows < cols
            rows, cols = rows[above], cols[above]
        scores = tile_scores_of(a, rows, b, cols, tile)
        keep = scores >= floor
        return Pairs(rows[keep], cols[keep], scores[keep])

    todo = (t for t in tiles(len(a), len(b), buffers.tile) if not same or t.cols.stop - 1 > t.rows.start)
    return (found for found in in_threads(find, todo, threads) if len(found.scores))


def tiles(n_rows: int, n_cols: int, tile: tuple[int, int]) -> Iterator[Tile]:
    """Tiles row by row."""
    for top, left in itertools.product(range(0, n_rows, tile[0]), range(0, n_cols, tile[1])):
        yield Tile(slice(top, min(top + tile[0], n_rows)), slice(left, min(left + tile[1], n_cols)))


def tile_of(block: PreparedBlock, wide: tuple[int, int] = TILE, tall: tuple[int, int] = TALL_TILE) -> tuple[int, int]:
    """What suits the block's device and its codes: of bfloat16, the right-hand ones are repacked for each tile."""
    if block.codes.device.type != "cpu":
        return DEVICE_TILE
    return tall if block.codes.dtype == torch.bfloat16 else wide


class Buffers(threading.local):
    """A thread's own products and mask, used again for all of its tiles; freed with the work item."""

    def __init__(self, block: PreparedBlock, tile: tuple[int, int] | None = None) -> None:
        device = block.codes.device
        self.tile = tile or tile_of(block)
        if any(side % ROW_MULTIPLE or side <= 0 for side in self.tile):
            raise ValueError(f"a tile's sides must be multiples of {ROW_MULTIPLE}, got {self.tile}")
        size = self.tile[0] * self.tile[1]
        self.products = torch.empty(size, dtype=PRODUCT_OF[block.codes.dtype], device=device)
        self.mask = np.empty(size if device.type == "cpu" else 0, dtype=bool)


def products_of(a: PreparedBlock, b: PreparedBlock, tile: Tile, buffers: Buffers) -> torch.Tensor:
    """`(rows, cols)` products of a tile's codes, in the thread's buffer."""
    left, right = (
        block.codes[side.start : -(-side.stop // ROW_MULTIPLE) * ROW_MULTIPLE]
        for block, side in ((a, tile.rows), (b, tile.cols))
    )
    out = buffers.products[: len(left) * len(right)].view(len(left), len(right))
    multiply(left, right, out)
    return out[: tile.rows.stop - tile.rows.start, : tile.cols.stop - tile.cols.start]


def find_at_least(products: torch.Tensor, least: np.ndarray, buffers: Buffers) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the products at or above `least`, one bound for all or `(rows, 1)`, row by row.

    On a CPU by a flat scan of a mask: 0.05 ns a product, where `torch.nonzero` and 2-D `np.nonzero` take 1 to 2.
    """
    if products.device.type != "cpu":
        return _find_on_device(products, least)
    mask = buffers.mask[: products.numel()]
    np.greater_equal(*comparable(products, least), out=mask.reshape(products.shape))
    hits = _flatnonzero(mask)
    rows = hits // products.shape[1]
    return rows, hits - rows * products.shape[1]


def _flatnonzero(mask: np.ndarray) -> np.ndarray:
    """As `np.flatnonzero`, of a mask that holds few: eight at a time, in 0.4 of its time."""
    whole = len(mask) // 8 * 8
    words = mask[:whole].view(np.uint64) != 0
    if whole < len(mask) or np.count_nonzero(words) > CROWDED * len(words):
        return np.flatnonzero(mask)
    places = np.flatnonzero(words)
    within = np.flatnonzero(mask.reshape(-1, 8)[places])
    return places[within >> 3] * 8 + (within & 7)


def scores_of(a: PreparedBlock, rows: np.ndarray, b: PreparedBlock, cols: np.ndarray) -> np.ndarray:
    """Float32 scores of row pairs, each a function of its two vectors alone: exact sums, rounded once."""
    if a.units.device.type != "cpu":
        return _scores_on_device(a, rows, b, cols)
    left, right, norms_a, norms_b = (t.numpy() for t in (a.units, b.units, a.norms, b.norms))
    scores = np.empty(len(rows), dtype=np.float32)
    for start in range(0, len(rows), SCORE_ROWS):
        some = slice(start, start + SCORE_ROWS)
        dots = np.einsum("ij,ij->i", on_grid(left[rows[some]]), on_grid(right[cols[some]]))
        scores[some] = dots / (norms_a[rows[some]] * norms_b[cols[some]] * GRID**2)
    return scores


def _find_on_device(products: torch.Tensor, least: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    exact = products.dtype == torch.int32
    bound = torch.as_tensor(whole_bounds(least) if exact else least, dtype=products.dtype, device=products.device)
    found = torch.nonzero(products >= bound).cpu().numpy()
    return found[:, 0], found[:, 1]


def _scores_on_device(a: PreparedBlock, rows: np.ndarray, b: PreparedBlock, cols: np.ndarray) -> np.ndarray:
    """float64 sums are exact there too: the same bits."""
    scores = [np.empty(0, dtype=np.float32)]
    some = max(DEVICE_SCORE_BYTES // (24 * a.units.shape[1]), 1)  # both sides, as float32 and as float64
    for start in range(0, len(rows), some):
        i, j = rows[start : start + some], cols[start : start + some]
        dots = torch.linalg.vecdot(_on_grid(a.units[i]), _on_grid(b.units[j]))
        scores.append((dots / (a.norms[i] * b.norms[j] * GRID**2)).float().cpu().numpy())
    return np.concatenate(scores)


def tile_scores_of(a: PreparedBlock, rows: np.ndarray, b: PreparedBlock, cols: np.ndarray, tile: Tile) -> np.ndarray:
    """As `scores_of`, of pairs of one tile: where most of it passes, a product of the whole is cheaper. Same bits."""
    if len(rows) < DENSE * (tile.rows.stop - tile.rows.start) * (tile.cols.stop - tile.cols.start):
        return scores_of(a, rows, b, cols)
    whole = _on_grid(a.units[tile.rows]) @ _on_grid(b.units[tile.cols]).t()
    whole /= a.norms[tile.rows, None] * b.norms[tile.cols] * GRID**2
    return whole.float().cpu().numpy()[rows - tile.rows.start, cols - tile.cols.start]


def _on_grid(units: torch.Tensor) -> torch.Tensor:
    return units.double().mul_(GRID).round_()
