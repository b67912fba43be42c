"""What computes: device, threads, precision."""

import os
import platform
from pathlib import Path

from schemas.errors import InputError

DEFAULT_BATCH_TOKENS = {"cpu": 1024, "cuda": 65536, "mps": 16384}
"""Padded tokens a batch. On a CPU larger ones fall out of a core's cache (8,192 is a third slower)."""


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


def has_fast_bfloat16(device: str) -> bool:
    """Whether the device multiplies bfloat16 faster than float32, by instructions of its own."""
    if device == "cuda":
        import torch

        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device != "cpu" or platform.system() != "Linux":
        return False
    flags = set()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith(("flags", "Features")):
            flags = set(line.split(":", 1)[1].split())
            break
    return bool(flags & {"avx512_bf16", "amx_bf16", "bf16"})


def cpu_threads() -> int:
    """Cores that this process may use: its affinity, or fewer where a container's quota says so."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(cores, round(int(quota) / int(period))))
    except (OSError, ValueError):  # no cgroup v2, or "max": no quota
        return cores
