"""Bounds on cosines that a product of short codes can compute: what lets an exact search skip exact work.

A block of vectors becomes codes of 8 or 16 bits whose products, plus a proven margin, are never below the score. The
codes only choose which pairs to look at: every pair is decided by its score (`transforms.similarity`), so neither the
filter nor the machine it was tuned on can change a result. Vectors x here are of unit length and on the grid
(`transforms.units`).

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

**Coordinates as codes.** Where the machine multiplies bfloat16 fast and all of a vector is coded, z = x, scale = 1 and
q is x rounded to bfloat16, at a fifth of the cost. Their products are added up in float32, off by d 2^-24 |qx| |qy| at
most in any order; twice that, for units that round otherwise than to nearest, is shared out to ex and ey.

**From below.** Without a basis there is no rest, and z is x rotated: the product is near x.y from both sides, so that a
score is at least scale_x scale_y qx.qy less the same margin. A product that was rounded to bfloat16, with its 8 bits,
is off by half of the last one's place at most. So the k-th best of a query has a bound before any score is computed.
"""

import dataclasses
import functools
import hashlib
import warnings
from typing import Any, NamedTuple

import numpy as np
import torch

from transforms.products import LARGEST, code_dtype
from transforms.threads import in_threads, on_one_thread
from transforms.units import checked, chunks, normalize, normalize_chunk, refuse_norms

# Vectors come as Arrow holds them, which nobody may write to. Nobody does.
warnings.filterwarnings("ignore", "The given NumPy array is not writable")

UNIT = 2.0**-24
"""Half the distance from 1 to the next float32."""
MOST_DIMS = 10_000
"""For which LONGEST holds."""
LONGEST = 1 + 1e-6
SLACK = 3e-6
CODE_SLACK = 3e-7
ROW_MULTIPLE, WIDTH_MULTIPLE = 32, 8
"""What int8 products on CUDA ask for; zero rows and columns of codes change no product."""


class Rotation(NamedTuple):
    """A random rotation, by what it is made from. A cosine transform behind random signs (Ailon and Chazelle, The fast
    Johnson-Lindenstrauss transform, 2009): it spreads a vector as well as any, and there is nothing to factorise."""

    dims: int
    seed: int = 0

    def matrix(self) -> np.ndarray:
        """`(dims, dims)` float64, orthonormal."""
        places, rows = np.arange(self.dims), np.empty((self.dims, self.dims))
        for some in chunks(self.dims):
            turns = (2 * places + 1) * places[some, None] % (4 * self.dims)  # a cosine of many turns would be off
            rows[some] = np.cos(np.pi / (2 * self.dims) * turns) * np.sqrt(2 / self.dims)
        rows[0] /= np.sqrt(2)
        rows *= np.random.default_rng(self.seed).choice([-1.0, 1.0], self.dims)
        return rows


@dataclasses.dataclass(frozen=True, eq=False)
class Filter:
    """How vectors become codes. Picklable, and small then: ships to workers as a side input, so that all blocks of a
    process meet one filter. It is built once a process.

    basis: (dims - 1, d) float64 orthonormal rows; None takes all of a vector and no rest
    rotation: (dims, dims) float64 orthonormal, or what it is made from; spreads a vector evenly over its codes;
        coordinates as codes do without
    why: a sentence for the user
    """

    basis: np.ndarray | None
    rotation: np.ndarray | Rotation
    why: str = ""

    def __post_init__(self) -> None:
        for rows in (self.basis, self.rotation):
            if isinstance(rows, np.ndarray):
                _check_orthonormal(rows)

    def __reduce__(self) -> Any:
        """Of a basis, axes in half precision: a worker makes them orthonormal again, and any orthonormal rows will do
        that all blocks of its process meet."""
        if not isinstance(self.rotation, Rotation):
            return Filter, (self.basis, self.rotation, self.why)
        packed = None if self.basis is None else self.basis.astype(np.float16).tobytes()
        return _unpacked, (packed, len(self.basis) if self.basis is not None else 0, self.rotation, self.why)

    @property
    def dims(self) -> int:
        """Of z."""
        return self.rotation.dims if isinstance(self.rotation, Rotation) else len(self.rotation)

    def matrix(self) -> np.ndarray:
        """The rotation, `(dims, dims)` float64. Not checked where it is made: a test has checked how it is made."""
        return self.rotation.matrix() if isinstance(self.rotation, Rotation) else self.rotation

    @functools.cached_property
    def projection(self) -> tuple[torch.Tensor, np.ndarray]:
        """`(dims, d)` float32, a vector's part of z, and `(dims,)`, where the length of its rest goes."""
        turn = self.matrix()
        whole = turn if self.basis is None else turn[:, :-1] @ self.basis
        return torch.from_numpy(whole.astype(np.float32)), turn[:, -1].astype(np.float32)

    @property
    def moved(self) -> float:
        """Of z, by computing it in float32, at most."""
        dims, d = self.projection[0].shape
        return float(np.sqrt(dims)) * (d + 4) * UNIT * 1.001

    @property
    def longer(self) -> float:
        """Of |z|^2, without the rest, as computed: by so much it is off at most."""
        return 2.1 * self.moved + self.dims * 2 * UNIT

    @property
    def name(self) -> str:
        return f"{'whole' if self.basis is None else 'prefix'}-{self.dims}"

    @functools.cached_property
    def digest(self) -> str:
        """Blocks compare only under one filter."""
        made = isinstance(self.rotation, Rotation)
        turn = repr(tuple(self.rotation)).encode() if made else self.rotation.tobytes()  # type: ignore[union-attr]
        basis = b"-" if self.basis is None else self.basis.tobytes()
        return hashlib.blake2b(b"|".join([basis, turn]), digest_size=16).hexdigest()


@functools.lru_cache(maxsize=2)
def _unpacked(packed: bytes | None, rows: int, rotation: Rotation, why: str) -> Filter:
    """What was pickled; one and the same in a process."""
    if packed is None:
        return Filter(None, rotation, why)
    axes = np.frombuffer(packed, np.float16).reshape(rows, -1).astype(np.float64)
    return Filter(on_one_thread(lambda: _orthonormal(axes)), rotation, why)


def _orthonormal(axes: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(torch.linalg.qr(torch.from_numpy(axes).t())[0].t().numpy())


def _check_orthonormal(rows: np.ndarray) -> None:
    if on_one_thread(functools.partial(_off_orthonormal, torch.from_numpy(rows))) > 1e-12:
        raise ValueError("a filter's rows must be orthonormal, or its bound does not hold")


def _off_orthonormal(rows: torch.Tensor) -> float:
    return float(torch.linalg.norm(rows @ rows.t() - torch.eye(len(rows), dtype=rows.dtype)))


def whole_filter(dims: int, seed: int = 0) -> Filter:
    """Codes of all dimensions."""
    return Filter(None, Rotation(dims, seed))


def prefix_filter(axes: np.ndarray, dims: int, seed: int = 0) -> Filter:
    """Codes of the first `dims - 1` of `principal_axes`, and of the length of the rest; 1 < dims <= d."""
    return Filter(np.ascontiguousarray(axes[: dims - 1]), Rotation(dims, seed))


def principal_axes(sample: np.ndarray) -> np.ndarray:
    """`(d, d)` float64, orthonormal rows: the directions of a unit sample `(m, d)`, the longest first, about 0."""
    wide = torch.from_numpy(sample).double()
    _, axes = torch.linalg.eigh(wide.t() @ wide)
    return np.ascontiguousarray(axes.numpy()[:, ::-1].T)


@dataclasses.dataclass(frozen=True, eq=False)
class PreparedBlock:
    """Rows ready to be compared. About d (4 + 2) bytes a row, or less with a prefix.

    units: (n, d) float32 that `on_grid` makes unit vectors, on the block's device; the vectors themselves where it can
    norms: (n,) float64, the exact lengths of the unit vectors, within 1e-6 of 1
    codes: (n rounded up, dims rounded up) whole numbers up to 127, int8 or bfloat16 (`transforms.products`), or
        coordinates in bfloat16
    scale: what a code of 1 counts for
    error: by how much a row's codes may be off, at most
    whole: nothing of a row is left out of its codes, so products bound scores from below, too
    """

    units: torch.Tensor
    norms: torch.Tensor
    codes: torch.Tensor
    scale: float
    error: float
    filter_digest: str
    whole: bool

    def __len__(self) -> int:
        return len(self.units)


def prepare(vectors: np.ndarray, filter: Filter, device: str = "cpu", threads: int = 1) -> PreparedBlock:
    """`(n, d)` vectors of any length -> block. Raises ValueError naming zero and non-finite rows (as `normalize`)."""
    vectors, dims = checked(vectors), filter.dims
    norms, near = np.empty(len(vectors)), np.empty(len(vectors), dtype=bool)
    dtype, whole = code_dtype(device, dims), filter.basis is None
    coordinates = whole and dtype == torch.bfloat16
    codes = _no_codes((len(vectors), dims), dtype)
    z = np.empty((0 if coordinates else len(vectors), dims), dtype=np.float32)

    def code(rows: slice) -> float:
        """What is needed of all rows: the largest error of coordinates, or the largest number of z."""
        units = np.empty_like(vectors[rows])
        norms[rows], near[rows] = normalize_chunk(vectors[rows], units)
        if coordinates:
            return _round(units, codes[rows, :dims])
        z[rows] = _bound_vectors(units, norms[rows], filter)
        return float(np.abs(z[rows]).max())

    largest = max(in_threads(code, chunks(len(vectors)), threads), default=1.0)
    refuse_norms(norms)
    if coordinates:
        scale, error = 1.0, largest + 1.1 * dims * UNIT
    else:
        scale, error = _to_integers(z, largest, filter, codes[:, :dims], threads)
    units = vectors if near.all() else normalize(vectors, threads)
    on_device = [tensor.to(device) for tensor in (torch.from_numpy(units), torch.from_numpy(norms), codes)]
    return PreparedBlock(on_device[0], on_device[1], on_device[2], scale, error, filter.digest, whole)


def _round(units: np.ndarray, codes: torch.Tensor) -> float:
    """Coordinates into bfloat16; the most that a row is moved by that."""
    exact = torch.from_numpy(units)
    codes.copy_(exact)
    return _longest((exact - codes.float()).numpy())


def _to_integers(
    z: np.ndarray, largest: float, filter: Filter, codes: torch.Tensor, threads: int
) -> tuple[float, float]:
    """z as whole numbers, into `codes`; their scale, and by how much a row's may be off."""
    scale = float(np.float32(largest / LARGEST))

    def quantize(rows: slice) -> float:
        whole, error = _quantize(z[rows], scale)
        codes[rows] = torch.from_numpy(whole)
        return error

    error = max(in_threads(quantize, chunks(len(z)), threads), default=0.0)
    return scale, (error + filter.moved) * (1 + 2 * filter.longer)


def _no_codes(shape: tuple[int, int], dtype: torch.dtype) -> torch.Tensor:
    """Room for codes; zeros beyond them."""
    padded = [-(-n // m) * m for n, m in zip(shape, (ROW_MULTIPLE, WIDTH_MULTIPLE), strict=True)]
    codes = torch.empty(padded, dtype=dtype)
    codes[shape[0] :] = 0
    codes[:, shape[1] :] = 0
    return codes


def threshold(a: PreparedBlock, b: PreparedBlock, min_score: np.ndarray | float) -> np.ndarray:
    """The least product of codes that a pair with `min_score` can have (the proof is in the module's docstring)."""
    return (np.asarray(min_score, dtype=np.float64) - _margin(a, b)) / (a.scale * b.scale)


def score_bounds(a: PreparedBlock, b: PreparedBlock, products: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The least and the most that pairs with such products can score, float32, of the products' shape."""
    if not (a.whole and b.whole):
        raise ValueError("codes of a part of the vectors bound scores from above alone; use whole_filter")
    wide = products.double().cpu().numpy()
    half = 2.0**-9 if products.dtype == torch.bfloat16 else 0.0  # of its last place
    rounded = np.ldexp(half, np.frexp(wide)[1])
    scale, margin = a.scale * b.scale, _margin(a, b)
    least, most = (wide - rounded) * scale - margin, (wide + rounded) * scale + margin
    return least.astype(np.float32), most.astype(np.float32)


def _margin(a: PreparedBlock, b: PreparedBlock) -> float:
    if a.filter_digest != b.filter_digest:
        raise ValueError("blocks prepared by different filters cannot be compared")
    return (a.error + b.error) * LONGEST + a.error * b.error + SLACK


@np.errstate(invalid="ignore")
def _bound_vectors(units: np.ndarray, norms: np.ndarray, filter: Filter) -> np.ndarray:
    """z of the bound, `(n, dims)` float32. The product goes by torch, which keeps to the thread it is called on."""
    projection, rest_axis = filter.projection
    z = _multiply(torch.from_numpy(units), projection).numpy()
    if filter.basis is not None:
        rest = np.sqrt(np.maximum(np.square(norms) - np.einsum("ij,ij->i", z, z), 0) + filter.longer)
        z += rest.astype(np.float32)[:, None] * rest_axis
    return z


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
    return codes, _longest(z - codes * np.float32(scale))


def _longest(rest: np.ndarray) -> float:
    """Length of the longest row, no less than it is."""
    squares = float(np.einsum("ij,ij->i", rest, rest).max())
    return float(np.sqrt(squares * (1 + rest.shape[1] * 2**-24))) + CODE_SLACK
