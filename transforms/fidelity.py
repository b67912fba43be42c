"""How near vectors of a low precision or another backend are to torch's in float32, and on which rows that is measured.
No Beam."""

import zlib
from collections.abc import Iterable, Sequence

import numpy as np

from schemas.errors import RunFailed

ROWS = 8
"""Of a call, that are measured; more where its texts are of more kinds of length."""


def fidelity(exact: np.ndarray, found: np.ndarray) -> float:
    """The cosine, less what a difference in length costs: `1 - |a - b|^2 / (2 |a| |b|)`. For vectors of equal length
    that is the cosine itself. NaN or minus infinity where one of them is zero or not finite."""
    a, b = exact.astype(np.float64), found.astype(np.float64)
    with np.errstate(all="ignore"):
        return float(1 - (a - b) @ (a - b) / (2 * np.sqrt(a @ a) * np.sqrt(b @ b)))


def check(fidelities: Iterable[float], least: float, dtype: str, backend: str) -> None:
    """Raises RunFailed where one of them does not reach the least, as NaN does not."""
    for value in fidelities:
        if not value >= least:
            raise RunFailed(
                f"--dtype {dtype} --backend {backend}: a vector's cosine to float32 is {value:.5f}, below "
                f"--min_fidelity {least}; use --dtype float32"
            )


def sample(texts: Sequence[str], lengths: np.ndarray, batches: Sequence[np.ndarray]) -> list[int]:
    """Rows to measure: one of each kind of length (1 token, 2 to 3, 4 to 7, …), the row that is padded most, and others
    up to `ROWS`. Texts whose hashes are smallest are taken: the same wherever these texts are met.

    lengths: tokens of each text
    batches: the rows that are computed, batch by batch
    """
    if not batches:
        return []
    rows = np.sort(np.concatenate(batches))
    order = sorted(rows.tolist(), key=lambda row: (zlib.crc32(texts[row].encode("utf-8", "replace")), texts[row]))
    kinds = np.frexp(lengths)[1]
    first_of_kind = {int(kinds[row]): row for row in reversed(order)}
    chosen = {*first_of_kind.values(), *_most_padded(lengths, batches)}
    chosen |= set([row for row in order if row not in chosen][: max(0, ROWS - len(chosen))])
    return [row for row in order if row in chosen]


def _most_padded(lengths: np.ndarray, batches: Sequence[np.ndarray]) -> list[int]:
    """The row that is padded most, if one is; of several the first."""
    worst = max(batches, key=lambda rows: int(np.ptp(lengths[rows])))
    return [int(worst[np.argmin(lengths[worst])])] if np.ptp(lengths[worst]) else []
