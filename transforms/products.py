"""Products of short codes, by what this machine multiplies fastest.

int8 codes give int32 products, exactly. bfloat16 holds the same whole numbers, and its products are the exact ones
rounded to bfloat16: sums below 2^24 are exact in the float32 that adds them up. Rounding is monotone, so a product at
or above a bound is still at or above it when both are rounded, and nothing is lost; a few more pairs are looked at.
Matrix units (AMX) make it twice as fast as torch's int8 product, and it writes half the bytes.
"""

import functools
import time
from collections.abc import Callable

import numpy as np
import torch

from transforms.device import cpu_flags, has_fast_bfloat16
from transforms.threads import on_one_thread

LARGEST = 127
MOST_DIMS = 2**24 // LARGEST**2
"""Whose products of whole numbers float32 adds up exactly."""
PRODUCT_OF = {torch.int8: torch.int32, torch.bfloat16: torch.bfloat16}


def code_dtype(device: str, dims: int) -> torch.dtype:
    """What codes of `dims` dimensions are kept in: int8, or bfloat16 where that multiplies faster, and rightly."""
    return torch.bfloat16 if device == "cpu" and dims <= MOST_DIMS and _bfloat16_pays() else torch.int8


def multiply(left: torch.Tensor, right: torch.Tensor, out: torch.Tensor) -> None:
    """`out = left @ right.T` of codes; int8 ones as floats where int8 products are missing, wrong or slow."""
    if left.dtype == torch.bfloat16:
        torch.mm(left, right.t(), out=out)
    elif _int8_pays(left.device.type):
        torch._int_mm(left, right.t(), out=out)
    else:
        exact = torch.float32 if left.shape[1] * LARGEST**2 < 2**24 else torch.float64
        out.copy_(left.to(exact) @ right.to(exact).t())


def comparable(products: torch.Tensor, least: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Products on a CPU, and the bounds on them, as integers whose order is theirs.

    The bits of positive bfloat16 numbers are in order, and all negative ones are below them, as int16. A bound of 0 or
    less lets everything pass.
    """
    least = np.atleast_1d(least)
    if products.dtype != torch.bfloat16:
        return products.numpy(), whole_bounds(least)
    rounded = torch.from_numpy(least.astype(np.float32)).bfloat16().view(torch.int16).numpy()
    bounds = np.where(least > 0, rounded, np.iinfo(np.int16).min)
    return products.view(torch.int16).numpy(), bounds.astype(np.int16)


def whole_bounds(least: np.ndarray) -> np.ndarray:
    """The same bounds for whole numbers, int32."""
    return np.floor(np.maximum(least, -(2.0**31))).astype(np.int32)


def seconds(function: Callable[[], object], runs: int = 5) -> float:
    """The shortest of some runs: what else runs on the machine only ever adds."""
    taken = []
    for _ in range(runs):
        start = time.perf_counter()
        function()
        taken.append(time.perf_counter() - start)
    return min(taken)


@functools.lru_cache
def _int8_pays(device: str) -> bool:
    """Whether `torch._int_mm` is there (it is private), right (some CPUs saturate at int16 on the way) and faster."""
    codes = torch.full((256, 384), LARGEST, dtype=torch.int8, device=device)
    codes[::2, ::3] = -LARGEST
    wide = codes.float()
    try:
        if not torch.equal(torch._int_mm(codes, codes.t()).double(), wide.double() @ wide.double().t()):
            return False
    except (AttributeError, RuntimeError):
        return False
    on_cpu = device == "cpu"  # elsewhere calls return before they are done, and int8 is faster for sure
    return not on_cpu or seconds(lambda: torch._int_mm(codes, codes.t())) < seconds(lambda: wide @ wide.t())


@functools.lru_cache
def _bfloat16_pays() -> bool:
    """Whether bfloat16 products are those of whole numbers, rounded once to the nearest, and faster than int8 ones."""
    return has_fast_bfloat16("cpu") and on_one_thread(_bfloat16_is_right_and_faster)


def _bfloat16_is_right_and_faster() -> bool:
    codes = torch.randint(-LARGEST, LARGEST + 1, (256, MOST_DIMS), generator=torch.Generator().manual_seed(0))
    if not torch.equal(codes.bfloat16() @ codes.bfloat16().t(), (codes.float() @ codes.float().t()).bfloat16()):
        return False
    if "amx_bf16" in cpu_flags():  # torch's int8 product took twice as long there
        return True
    codes = codes.repeat(4, 1)[:, :128]  # small products would not show it
    small, low = codes.to(torch.int8), codes.bfloat16()
    products = {dtype: torch.empty(1024, 1024, dtype=dtype) for dtype in PRODUCT_OF.values()}
    taken = [seconds(functools.partial(multiply, c, c, products[PRODUCT_OF[c.dtype]]), 3) for c in (low, small)]
    return taken[0] < taken[1]
