"""Unit vectors whose dot products float64 sums exactly, so that a score is a function of two vectors alone.

**The score.** `normalize` puts unit vectors on the grid of multiples of 2^-26. Products of two coordinates are
multiples of 2^-52, and any partial sum of a dot product is at most |x||y| < 2 (Cauchy-Schwarz): a whole number of them
below 2^53, which float64 holds. So float64 sums are *exact*, in any order, with or without FMA, in BLAS, numpy or on a
GPU. The score is x.y / (|x| |y|) in float64, rounded to float32: a function of the two vectors alone, symmetric, and 1
for equal ones. The grid moves a coordinate by 2^-27 (above 0.25 by float32's own rounding, 2^-25), hence a score by
1e-8 typically and by `SCORE_ERROR` at worst.

The score divides by the lengths, so a vector that comes with a length within 2^-20 of 1, as most do, only has its
coordinates rounded. That length is taken on the grid, where it is exact, so all machines decide alike.
"""

from collections.abc import Iterator

import numpy as np

from transforms.threads import in_threads

GRID = 2.0**26
NEAR_ONE = 2.0**-20
SCORE_ERROR = 1e-6
"""Largest |score - cosine|, for up to 1,024 dimensions; 1e-8 is typical."""
SCORE_VERSION = 2
"""Of how scores are computed: results of different ones do not mix."""
CHUNK_ROWS = 512


def normalize(vectors: np.ndarray, threads: int = 1) -> np.ndarray:
    """`(n, d)` vectors -> `(n, d)` float32 of norm 1 within 1e-6, on the grid.

    Done twice it is as done once, and a row's result depends on that row alone.

    Raises ValueError naming the rows that are zero or not finite: they have no cosine.
    """
    vectors = checked(vectors)
    units, norms = np.empty_like(vectors), np.empty(len(vectors))

    def normalize_rows(rows: slice) -> None:
        norms[rows], _ = normalize_chunk(vectors[rows], units[rows])

    list(in_threads(normalize_rows, chunks(len(vectors)), threads))
    refuse_norms(norms)
    return units


def checked(vectors: np.ndarray) -> np.ndarray:
    """As `(n, d)` float32. Raises ValueError where they are not two-dimensional."""
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    if vectors.ndim != 2:
        raise ValueError(f"expected (n, d) vectors, got shape {vectors.shape}")
    return vectors


def refuse_norms(norms: np.ndarray) -> None:
    """Raises ValueError naming rows whose length is not a number: they were zero or not finite."""
    bad = np.flatnonzero(~np.isfinite(norms))
    if len(bad):
        named = ", ".join(map(str, bad[:10])) + (f" and {len(bad) - 10} more" if len(bad) > 10 else "")
        raise ValueError(f"vectors that are zero or not finite have no cosine: rows {named}")


def chunks(n: int) -> Iterator[slice]:
    """Rows that a cache holds while they are worked on."""
    return (slice(start, min(start + CHUNK_ROWS, n)) for start in range(0, n, CHUNK_ROWS))


@np.errstate(invalid="ignore", divide="ignore", over="ignore")
def normalize_chunk(vectors: np.ndarray, units: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Puts unit vectors on the grid into `units`. Their exact lengths, `(n,)` float64, NaN of rows that have none; and
    of which rows rounding alone made them, `(n,)` bool."""
    np.multiply(vectors, np.float32(GRID), out=units)
    np.rint(units, out=units)
    units *= np.float32(1 / GRID)
    norms = _lengths(units)
    near = np.abs(norms - 1) <= NEAR_ONE
    if not near.all():
        wide = vectors[~near].astype(np.float64)
        wide /= np.sqrt(np.square(wide).sum(axis=1))[:, None]  # in one order; einsum's and BLAS's are the CPU's
        units[~near] = np.rint(wide * GRID) / GRID
        norms[~near] = _lengths(units[~near])
    return norms, near


def on_grid(units: np.ndarray) -> np.ndarray:
    """Coordinates as float64 whole numbers of 1 / GRID; of such as are near unit length before."""
    whole = units * np.float32(GRID)  # float32 holds what rounds to them, and what is beyond 2^24 is whole
    return np.rint(whole, out=whole).astype(np.float64)


def _lengths(units: np.ndarray) -> np.ndarray:
    wide = units.astype(np.float64)
    return np.sqrt(np.einsum("ij,ij->i", wide, wide))
