"""`jobs.embed` with an encoder that costs nothing, for what all else takes: python -m tests.benchmarks.free_job FLAGS

With `--tokenize` in front it is the real encoder, tokenizer and batches, and only the model's products are left out.
"""

import concurrent.futures
import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import transforms.encode
from jobs import embed
from transforms.encoder_job import Encoded
from transforms.model import EncodeOptions, ResolvedModel

TOKENIZE = "--tokenize"
MOST_ROWS = 16_384
"""Of a part, as `--rows_per_part` has it by default."""


class FreeEncoder:
    """Unit vectors that were there before. No two rows of a block have the same, or they would compress too well."""

    calls = 2

    def __init__(self, model: ResolvedModel, options: EncodeOptions) -> None:
        self._vectors = unit_vectors(model.fingerprint.dim)

    def submit(
        self, texts: Sequence[str], on_batch: Callable[[int, int], None] | None = None
    ) -> concurrent.futures.Future[Encoded]:
        counts = np.full(len(texts), 1, np.int32)
        done: concurrent.futures.Future[Encoded] = concurrent.futures.Future()
        done.set_result(Encoded(self._vectors[: len(texts)], counts, counts > 1))
        return done


@functools.cache
def unit_vectors(dim: int) -> np.ndarray:
    """(MOST_ROWS, dim) float32"""
    vectors = np.random.default_rng(0).standard_normal((MOST_ROWS, dim), np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def leave_out_the_model() -> None:
    from transforms.loaded_model import LoadedModel

    def vectors(self: LoadedModel, model: Any, tokens: Any, rows: np.ndarray) -> np.ndarray:
        self.tokenizer.features(tokens, rows, int(self.widths(tokens.lengths[rows]).max()))
        return unit_vectors(self.dim)[rows]

    LoadedModel._vectors = vectors  # type: ignore[method-assign]


def main(argv: list[str]) -> int:
    if TOKENIZE in argv:
        leave_out_the_model()
    else:
        transforms.encode.Encoder = FreeEncoder  # type: ignore[misc, assignment]
    return embed.main([flag for flag in argv if flag != TOKENIZE])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
