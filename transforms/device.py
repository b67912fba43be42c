"""What computes: device, threads, precision."""

import functools
import os
import platform
from pathlib import Path
from typing import Any

from schemas.errors import InputError

DEFAULT_BATCH_TOKENS = {"cpu": 1024, "cuda": 65536, "mps": 16384}
"""Padded tokens a batch. On a CPU larger ones fall out of a core's cache (8,192 is a third slower). On cuda this is for
models whose config does not say how much memory a token takes; see `cuda_batch_tokens`."""
MOST_BATCH_TOKENS = 1 << 18
"""Enough to fill any GPU; more would only make the first and the last batch of a run longer."""
FREE_SHARE = 0.8
"""Of a GPU's free memory that batches may take: its allocator needs some, and the estimate may be low."""


def choose_device(asked: str) -> str:
    """cpu, cuda or mps; `auto` is the first of cuda, mps and cpu that is here.

    Raises:
        InputError: `asked` is not here.
    """
    if asked == "cpu":
        return "cpu"
    import torch

    here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if asked == "auto":
        return next(name for name, there in here.items() if there)
    if not here[asked]:
        raise InputError(f"--device {asked}: torch {torch.__version__} sees none here; use --device auto or cpu")
    return asked


def device_names(device: str) -> list[str]:
    """Every one of its kind that this process may use: all visible GPUs, else `device` alone."""
    if device != "cuda":
        return [device]
    import torch

    return [f"cuda:{number}" for number in range(torch.cuda.device_count())]


def activation_bytes(config: Any, max_seq_length: int, item_bytes: int) -> int | None:
    """What a token of a batch takes in a GPU's memory at most, from a transformer's config; None where it does not say.

    At the widest place of a layer there are its input, queries, keys, values, what attention makes of them, and the two
    sides of the activation between the feed-forward matrices; eager attention adds its scores before and after the
    softmax. Pooling, in float32, comes when these are gone.
    """
    try:
        hidden, heads = int(config.hidden_size), int(config.num_attention_heads)
        wide = int(getattr(config, "intermediate_size", None) or 4 * hidden)
    except (AttributeError, TypeError):
        return None
    scores = 2 * heads * max_seq_length if getattr(config, "_attn_implementation", "eager") == "eager" else 0
    return max(item_bytes * (6 * hidden + 2 * wide + scores), 8 * hidden)


def cuda_batch_tokens(free_bytes: int, token_bytes: int, workers: int) -> int:
    """Padded tokens a batch, where each of some workers has one in the memory that is free."""
    return max(1, min(MOST_BATCH_TOKENS, int(FREE_SHARE * free_bytes) // (workers * token_bytes)))


def has_fast_bfloat16(device: str) -> bool:
    """Whether the device multiplies bfloat16 faster than float32, by instructions of its own."""
    if device == "cuda":
        import torch

        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device == "cpu" and bool(cpu_flags() & {"avx512_bf16", "amx_bf16", "bf16"})


@functools.lru_cache
def cpu_flags() -> frozenset[str]:
    """What the processor can do, as Linux names it; nothing elsewhere."""
    if platform.system() != "Linux":
        return frozenset()
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return frozenset(next((line.split() for line in lines if line.startswith(("flags", "Features"))), ()))


def cpu_threads() -> int:
    """Cores that this process may use: its affinity, or fewer where a container's quota says so."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(cores, round(int(quota) / int(period))))
    except (OSError, ValueError):  # no cgroup v2, or "max": no quota
        return cores
