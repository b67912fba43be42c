"""Upper bounds on cosines that an int8 matrix product can compute: what lets an exact search skip exact work.

A block of vectors becomes small integer codes whose products, plus a proven margin, are never below the score. The
codes only choose which pairs to look at: every pair is decided by its score (`transforms.similarity`), so neither the
filter nor the machine it was tuned on can change a result.

**The score.** `normalize` puts unit vectors on the grid of multiples of 2^-26. Products of two coordinates are
multiples of 2^-52, and any partial sum of a dot product is at most |x||y| < 2 (Cauchy-Schwarz): a whole number of them
below 2^53, which float64 holds. So float64 sums are *exact*, in any order, with or without FMA, in BLAS, numpy or on a
GPU. The score is x.y / (|x| |y|) in float64, rounded to float32: a function of the two vectors alone, symmetric, and 1
for equal ones. The grid moves a coordinate by 2^-27 (above 0.25 by float32's own rounding, 2^-25), hence a score by
1e-8 typically and by `SCORE_ERROR` at worst.

**The bound.** Let Q be k orthonormal rows and t = sqrt(|x|^2 - |Qx|^2) the length of the rest. With z = (Qx, t),
x.y = Qx.Qy + rest.rest <= zx.zy by Cauchy-Schwarz; any rotation of z keeps it, and a longer t only raises it. With the
rotation's columns as (P, w), z = PQ x + t w, and |PQ x| = |Qx|: one product gives it.

That product is computed in float32. A coordinate is a dot product with a row of length 1, off by (d + 4) 2^-24 |x| at
most in any order of its sum (Higham, Accuracy and Stability, 3.1; 4 for rounding PQ and what follows), all of z by
`moved` = sqrt(dims) times that. So |z|^2 without the rest is off by less than 2.1 moved + dims 2^-23 = `longer`, its
own sum included. That much is added under t's root: t is never too short, and |z| <= 1 + longer.

The codes are q = round(z / scale), and d = max |z - scale q| over the block's rows is measured, not assumed. With the
true z and e = (d + moved) (1 + 2 longer), which is `error`,
    zx.zy <= scale_x scale_y qx.qy + ex |y| + ey |x| + ex ey.
qx.qy is computed exactly. So a pair whose float32 score reaches s has
    scale_x scale_y qx.qy  >=  s - SLACK - (ex + ey) LONGEST - ex ey.
LONGEST bounds |x|: a unit vector moved by the grid is off 1 by sqrt(d) 2^-27 + 2^-23 < 1e-6 at most, for d <= 10,000.
SLACK covers what is left, together below 2.2e-6: |x| |y| >= 1 - 2e-6, the rounding of the score to float32 (6.1e-8),
rows that are orthonormal to 1e-12 (checked) and the float64 arithmetic of the threshold. z - scale q is computed in
float32, which moves it by 2^-24 (|z| + scale |q| + |z - scale q|) < 2e-7: CODE_SLACK in d. A float32 sum of n squares
is off by a share of n 2^-24 at most.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Iterator

import numpy as np
import torch

from transforms.products import code_dtype
from transforms.threads import in_threads

GRID = 2.0**26
UNIT = 2.0**-24
"""Half the distance from 1 to the next float32."""
SCORE_ERROR = 1e-6
"""Largest |score - cosine|, for up to 1,024 dimensions; 1e-8 is typical."""
LONGEST = 1 + 1e-6
SLACK = 3e-6
CODE_SLACK = 3e-7
CHUNK_ROWS = 512
ROW_MULTIPLE, WIDTH_MULTIPLE = 32, 8
"""What int8 products on CUDA ask for; zero rows and columns of codes change no product."""


def normalize(vectors: np.ndarray) -> np.ndarray:
    """`(n, d)` vectors -> `(n, d)` float32 of norm 1 within 1e-6, on the grid.

    Done twice it is as done once, and a row's result depends on that row alone.

    Raises ValueError naming the rows that are zero or not finite: they have no cosine.
    """
    vectors = _checked(vectors)
    units, norms = np.empty_like(vectors), np.empty(len(vectors))
    for rows in _chunks(len(vectors)):
        units[rows], norms[rows] = _normalize_chunk(vectors[rows])
    _refuse_norms(norms)
    return units


def _checked(vectors: np.ndarray) -> np.ndarray:
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    if vectors.ndim != 2:
        raise ValueError(f"expected (n, d) vectors, got shape {vectors.shape}")
    return vectors


def _refuse_norms(norms: np.ndarray) -> None:
    bad = np.flatnonzero(~np.isfinite(norms) | (norms == 0))
    if len(bad):
        named = ", ".join(map(str, bad[:10])) + (f" and {len(bad) - 10} more" if len(bad) > 10 else "")
        raise ValueError(f"vectors that are zero or not finite have no cosine: rows {named}")


@np.errstate(invalid="ignore", divide="ignore")
def _normalize_chunk(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Units, and the norms that they had. `sum(axis=1)` has one order; BLAS and einsum follow the CPU's width."""
    wide = vectors.astype(np.float64)
    norms = np.sqrt(np.square(wide).sum(axis=1))
    done = np.abs(norms - 1) <= np.sqrt(vectors.shape[1]) / GRID / 2 + 2**-23
    for some in (slice(0, 8), slice(8, None)):  # most that are not on the grid show it at once
        if done.any():
            on_grid = vectors[:, some] * np.float32(GRID)
            done &= (np.rint(on_grid) == on_grid).all(axis=1)
    wide /= np.where(done, 1.0, norms)[:, None] / GRID
    np.rint(wide, out=wide)
    return wide.astype(np.float32) * np.float32(1 / GRID), norms


@dataclasses.dataclass(frozen=True, eq=False)
class Filter:
    """How vectors become codes. Picklable; ships to workers as a side input, so that all blocks meet one filter.

    basis: (dims - 1, d) float64 orthonormal rows; None takes all of a vector and no rest
    rotation: (dims, dims) float64 orthonormal, spreads a vector evenly over its codes
    why: a sentence for the user
    """

    basis: np.ndarray | None
    rotation: np.ndarray
    why: str = ""

    def __post_init__(self) -> None:
        for rows in (self.basis, self.rotation):
            if rows is not None and np.linalg.norm(rows @ rows.T - np.eye(len(rows))) > 1e-12:
                raise ValueError("a filter's rows must be orthonormal, or its bound does not hold")

    @functools.cached_property
    def projection(self) -> tuple[torch.Tensor, np.ndarray]:
        """`(dims, d)` float32, a vector's part of z, and `(dims,)`, where the length of its rest goes."""
        whole = self.rotation if self.basis is None else self.rotation[:, :-1] @ self.basis
        return torch.from_numpy(whole.astype(np.float32)), self.rotation[:, -1].astype(np.float32)

    @property
    def moved(self) -> float:
        """Of z, by computing it in float32, at most."""
        dims, d = self.projection[0].shape
        return float(np.sqrt(dims)) * (d + 4) * UNIT * 1.001

    @property
    def longer(self) -> float:
        """Of |z|^2, without the rest, as computed: by so much it is off at most."""
        return 2.1 * self.moved + len(self.rotation) * 2 * UNIT

    @property
    def name(self) -> str:
        return f"int8-{len(self.rotation)}" if self.basis is None else f"prefix-{len(self.rotation)}"

    @property
    def digest(self) -> str:
        """Blocks compare only under one filter."""
        arrays = [b"-" if rows is None else rows.tobytes() for rows in (self.basis, self.rotation)]
        return hashlib.blake2b(b"|".join(arrays), digest_size=16).hexdigest()


def int8_filter(dims: int, seed: int = 0) -> Filter:
    """int8 codes of all dimensions."""
    return Filter(None, _random_rotation(dims, seed))


def prefix_filter(axes: np.ndarray, dims: int, seed: int = 0) -> Filter:
    """int8 codes of the first `dims - 1` of `principal_axes`, and of the length of the rest; 1 < dims <= d."""
    return Filter(np.ascontiguousarray(axes[: dims - 1]), _random_rotation(dims, seed))


def principal_axes(sample: np.ndarray) -> np.ndarray:
    """`(d, d)` float64, orthonormal rows: the directions of a unit sample `(m, d)`, the longest first, about 0."""
    wide = torch.from_numpy(sample).double()
    _, axes = torch.linalg.eigh(wide.t() @ wide)
    return np.ascontiguousarray(axes.numpy()[:, ::-1].T)


def _random_rotation(dims: int, seed: int) -> np.ndarray:
    rotation, _ = torch.linalg.qr(torch.from_numpy(np.random.default_rng(seed).standard_normal((dims, dims))))
    return rotation.contiguous().numpy()


@dataclasses.dataclass(frozen=True, eq=False)
class PreparedBlock:
    """Rows ready to be compared. About d (4 + 2) bytes a row, or less with a prefix.

    units: (n, d) float32 on the grid, on the block's device
    norms: (n,) float64, their exact lengths, within 1e-6 of 1
    codes: (n rounded up, dims rounded up) whole numbers up to 127, int8 or bfloat16 (`transforms.products`)
    scale: what an int8 code counts for
    error: by how much a row's codes may be off, at most
    """

    units: torch.Tensor
    norms: torch.Tensor
    codes: torch.Tensor
    scale: float
    error: float
    filter_digest: str

    def __len__(self) -> int:
        return len(self.units)


def prepare(vectors: np.ndarray, filter: Filter, device: str = "cpu", threads: int = 1) -> PreparedBlock:
    """`(n, d)` vectors of any length -> block. Raises ValueError naming zero and non-finite rows (as `normalize`)."""
    vectors = _checked(vectors)
    units, before, norms = np.empty_like(vectors), np.empty(len(vectors)), np.empty(len(vectors))
    z = np.empty((len(vectors), len(filter.rotation)), dtype=np.float32)
    codes = np.zeros([-(-n // m) * m for n, m in zip(z.shape, (ROW_MULTIPLE, WIDTH_MULTIPLE), strict=True)], np.int8)

    def bound(rows: slice) -> float:
        units[rows], before[rows] = _normalize_chunk(vectors[rows])
        z[rows], norms[rows] = _bound_vectors(units[rows], filter)
        return float(np.abs(z[rows]).max())

    def quantize(rows: slice) -> float:
        codes[rows, : z.shape[1]], error = _quantize(z[rows], scale)
        return error

    scale = float(np.float32(max(in_threads(bound, _chunks(len(units)), threads), default=1.0) / 127))
    _refuse_norms(before)
    error = max(in_threads(quantize, _chunks(len(units)), threads), default=0.0)
    error = (error + filter.moved) * (1 + 2 * filter.longer)
    on_device = [torch.from_numpy(array).to(device) for array in (units, norms, codes)]
    kept = on_device[2].to(code_dtype(device, codes.shape[1]))
    return PreparedBlock(on_device[0], on_device[1], kept, scale, error, filter.digest)


def threshold(a: PreparedBlock, b: PreparedBlock, min_score: np.ndarray | float) -> np.ndarray:
    """The least product of codes that a pair with `min_score` can have (the proof is in the module's docstring)."""
    if a.filter_digest != b.filter_digest:
        raise ValueError("blocks prepared by different filters cannot be compared")
    margin = (a.error + b.error) * LONGEST + a.error * b.error
    least = (np.asarray(min_score, dtype=np.float64) - SLACK - margin) / (a.scale * b.scale)
    return np.floor(np.maximum(least, -(2.0**31))).astype(np.int32)


@np.errstate(invalid="ignore")
def _bound_vectors(units: np.ndarray, filter: Filter) -> tuple[np.ndarray, np.ndarray]:
    """z of the bound, `(n, dims)` float32, and |x|. The product goes by torch, which keeps to the thread that it is
    called on."""
    wide = units.astype(np.float64)
    squares = np.einsum("ij,ij->i", wide, wide)
    projection, rest_axis = filter.projection
    z = _multiply(torch.from_numpy(units), projection).numpy()
    if filter.basis is not None:
        rest = np.sqrt(np.maximum(squares - np.einsum("ij,ij->i", z, z), 0) + filter.longer)
        z += rest.astype(np.float32)[:, None] * rest_axis
    return z, np.sqrt(squares)


def _multiply(units: torch.Tensor, projection: torch.Tensor) -> torch.Tensor:
    if _float32_is_kept():
        return units @ projection.t()
    return (units.double() @ projection.double().t()).float()


@functools.lru_cache
def _float32_is_kept() -> bool:
    """Whether torch multiplies float32 as such: it can be told to do it in bfloat16, by its settings and oneDNN's."""
    ones = torch.full((64, 384), 1 + 2.0**-12)
    return bool((ones @ ones.t() - 384 * (1 + 2.0**-12) ** 2).abs().max() < 384 * 388 * UNIT)


def _quantize(z: np.ndarray, scale: float) -> tuple[np.ndarray, float]:
    """int8 codes and e. With a block's largest coordinate as code 127, none is clipped."""
    codes = np.rint(z / np.float32(scale))
    rest = z - codes * np.float32(scale)
    longest = float(np.einsum("ij,ij->i", rest, rest).max())
    return codes, float(np.sqrt(longest * (1 + z.shape[1] * 2**-24))) + CODE_SLACK


def _chunks(n: int) -> Iterator[slice]:
    return (slice(start, min(start + CHUNK_ROWS, n)) for start in range(0, n, CHUNK_ROWS))
