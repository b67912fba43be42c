"""How a worker's batches get to its device, and the vectors back. Each worker has a lane of its own."""

from typing import Any

import numpy as np
import torch

NARROW, STEP, WIDE_STEP = 64, 8, 32
"""Batches are padded to multiples of 8 tokens, of 32 beyond 64."""
MOST_PADDING = 1 << 14
"""Tokens of padding that cost a batch as much as another batch would: launching that takes Python some milliseconds, in
which a GPU computes about as many. An estimate, not a measurement."""


class DirectLane:
    """The CPU computes where the features are. Nothing is padded beyond need."""

    most_padding: int | None = None  # in a batch; None is any, as batches are small

    def __init__(self, device: torch.device) -> None:
        torch.set_num_threads(1)  # of this worker: it is one core

    @staticmethod
    def widths(lengths: np.ndarray, most: int) -> np.ndarray:
        return lengths

    def to_device(self, features: dict[str, Any]) -> dict[str, Any]:
        return features

    def to_host(self, vectors: torch.Tensor) -> np.ndarray:
        return vectors.numpy()


class StagedLane:
    """Through buffers that are used again and again. On CUDA they are pinned, and the lane is a stream: copies do not
    hold up the thread, and go on while the kernels of another worker's stream run.

    Batch after batch has one of a few widths, so that kernels which are chosen by shape, and memory, are used again.
    """

    most_padding: int | None = MOST_PADDING

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._buffers: dict[str, torch.Tensor] = {}
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            torch.cuda.synchronize(device)  # the weights came by another stream
            self._stream = torch.cuda.Stream(device)
            torch.cuda.set_stream(self._stream)  # of this thread; also makes its device the current one

    @staticmethod
    def widths(lengths: np.ndarray, most: int) -> np.ndarray:
        """Of each row, the width of a batch in which it is the longest."""
        step = np.where(lengths <= NARROW, STEP, WIDE_STEP)
        return np.minimum(-(-lengths // step) * step, most)

    def to_device(self, features: dict[str, Any]) -> dict[str, Any]:
        """Does not wait for the copies: what computes with them is behind them in the stream."""
        return {name: self._send(name, value) if torch.is_tensor(value) else value for name, value in features.items()}

    def to_host(self, vectors: torch.Tensor) -> np.ndarray:
        """Waits, without the GIL, for all that the batch has in the stream. Valid until the lane's next batch."""
        staged = self._buffer("vectors", vectors)
        self._copy(staged, vectors)
        self._wait()
        return staged.numpy()

    def _send(self, name: str, value: torch.Tensor) -> torch.Tensor:
        staged = self._buffer(name, value)
        staged.copy_(value)
        there = torch.empty(value.shape, dtype=value.dtype, device=self._device)
        self._copy(there, staged)
        return there

    def _buffer(self, name: str, like: torch.Tensor) -> torch.Tensor:
        """Host memory of that shape. The last batch is done with it, as `to_host` has waited."""
        buffer = self._buffers.get(name)
        if buffer is None or buffer.numel() < like.numel():
            pinned = self._device.type == "cuda"
            buffer = self._buffers[name] = torch.empty(like.numel(), dtype=like.dtype, pin_memory=pinned)
        return buffer[: like.numel()].view(like.shape)

    def _copy(self, to: torch.Tensor, tensor: torch.Tensor) -> None:
        to.copy_(tensor, non_blocking=self._stream is not None)

    def _wait(self) -> None:
        if self._stream is not None:
            self._stream.synchronize()


LANES: dict[str, type[DirectLane] | type[StagedLane]] = {"cpu": DirectLane, "cuda": StagedLane, "mps": StagedLane}
