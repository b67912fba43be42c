"""What an error says of the device that it came from: gone, out of memory, or neither. No Beam.

After some errors every later call on the device fails too, whatever it is asked for. Rows that meet such an error are
not to blame: the process has to end, and a new one, perhaps elsewhere, computes them.
"""

import re
from collections.abc import Callable

import torch

from schemas.errors import DeviceGone

OUT_OF_MEMORY = re.compile(
    r"not enough memory|can't allocate memory|out of memory|(CUBLAS|CUDNN)_STATUS_ALLOC_FAILED", re.IGNORECASE
)
GONE = re.compile(
    r"(CUDA|HIP) (error|driver)|cudaError|CUBLAS_STATUS_|CUDNN_STATUS_|CUSOLVER_STATUS_|device-side assert"
    r"|unspecified launch failure|illegal (memory access|instruction)|misaligned address|uncorrectable|\bECC\b|\bNVML"
    r"|fallen off the bus|MPS.*(command buffer|internal error|failed assertion)|Metal.*(error|failed)",
    re.IGNORECASE | re.DOTALL,
)
"""What torch, the CUDA libraries and the drivers of NVIDIA, AMD and Apple say when a device does not go on."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a smaller batch may pass."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and OUT_OF_MEMORY.search(str(error)) is not None


def is_of_device(error: BaseException) -> bool:
    """Whether it says itself that the device is to blame."""
    from_torch = isinstance(error, RuntimeError) or type(error).__module__.startswith("torch")
    return isinstance(error, torch.AcceleratorError) or (from_torch and GONE.search(str(error)) is not None)


def raise_if_gone(error: BaseException, device: object, probe: Callable[[], object] = lambda: None) -> None:
    """Raises DeviceGone where an error means that the device is gone.

    probe: computes something small on the device and waits for it. A device that cannot do that is gone whatever the
        error said; one that merely lacks memory is not
    """
    if is_out_of_memory(error):
        return
    if is_of_device(error) or not _answers(probe):
        first = (str(error).strip().splitlines() or [""])[0]
        raise DeviceGone(
            f"device {device} is gone ({type(error).__name__}: {first}); nothing is published, what is finished is "
            "kept; run again to go on"
        ) from error


def _answers(probe: Callable[[], object]) -> bool:
    try:
        probe()
    except Exception as error:
        return is_out_of_memory(error)
    return True
