"""An encoder for tests of everything but vectors: deterministic, and fast enough for millions of rows."""

import concurrent.futures
import time
import zlib
from collections.abc import Callable, Sequence

import numpy as np

from transforms.encoder_job import Encoded
from transforms.model import EncodeOptions, ResolvedModel

PALETTE = 997


class FakeEncoder:
    """Same text, same unit vector. A text's tokens are its words."""

    calls = 2

    def __init__(self, model: ResolvedModel, options: EncodeOptions) -> None:
        self.limit = options.max_seq_length or model.fingerprint.max_seq_length
        self._pool = concurrent.futures.ThreadPoolExecutor(1)
        vectors = np.random.default_rng(0).standard_normal((PALETTE, model.fingerprint.dim), np.float32)
        self.palette = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def submit(
        self, texts: Sequence[str], on_batch: Callable[[int, int], None] | None = None
    ) -> concurrent.futures.Future[Encoded]:
        """In a thread, as the real one does. What tests override is `encode`."""
        return self._pool.submit(self._timed, texts, on_batch)

    def _timed(self, texts: Sequence[str], on_batch: Callable[[int, int], None] | None) -> Encoded:
        started = time.monotonic()
        return self.encode(texts, on_batch)._replace(seconds=time.monotonic() - started)

    def encode(self, texts: Sequence[str], on_batch: Callable[[int, int], None] | None = None) -> Encoded:
        counts = np.array([text.count(" ") + 3 for text in texts], np.int32)
        rows = np.array([zlib.crc32(text.encode()) % PALETTE for text in texts], np.int64)
        if on_batch:
            on_batch(len(texts), int(counts.sum()))
        return Encoded(self.palette[rows], counts, counts > self.limit, (), ())

    def chunk(self, texts: Sequence[str]) -> list[list[str]]:
        return [[text] for text in texts]
