"""Whether a text's vector stays the same when its batch is padded. No Beam.

It does where a model hides padding from attention, positions and pooling. Some do not: absolute positions behind
padding on the left, convolutions without a mask, attention to a local window that holds nothing but padding. Then only
texts of one length may share a batch.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from schemas.errors import InputError
from transforms.device_faults import is_of_device, is_out_of_memory

PADDING = 32
"""Tokens, and as many more as attention looks ahead where it does not look at all of a text."""
WINDOWS = ("local_attention", "sliding_window", "attention_window")
"""Fields of transformers' configs: tokens that attention looks at."""
MOST_PADDING = 512
CLOSE = {"float32": 2e-5, "bfloat16": 0.05, "float16": 0.01}
"""The difference that rounding makes, as a share of the largest value: ten times what was seen."""


def probe_texts(config: Any, words: Sequence[str], boundaries: Sequence[int] = ()) -> list[str]:
    """Texts of which the last is as long as need be to see whether padding changes the others: one of a word, as the
    window may be short, and one of three, as a tokenizer may drop the first.

    words: that the tokenizer knows
    boundaries: numbers of tokens that a batch may not be on both sides of
    """
    looked_at = [value for name in WINDOWS if isinstance(value := _widest(getattr(config, name, 0)), int)]
    longer = min(MOST_PADDING, PADDING + max(looked_at, default=0), *(boundary // 4 for boundary in boundaries))
    return [words[0], " ".join(words[:3]), " ".join(words[n % len(words)] for n in range(longer))]


def changes_vectors(compute: Callable[[Any, np.ndarray], np.ndarray], tokens: Any, dtype: str) -> bool:
    """Whether the tokens' texts have other vectors in one batch than each alone.

    compute: (tokens, rows) -> (len(rows), dim) float32

    Raises:
        InputError: the model computes no text of these lengths.
    """
    rows = np.arange(len(tokens.lengths))
    alone: list[np.ndarray] = []
    try:
        alone = [compute(tokens, rows[row : row + 1])[0].copy() for row in rows]
        together = compute(tokens, rows)
    except IndexError:  # the tokenizer knows more than the model: nothing to compare
        return False
    except Exception as error:
        if is_of_device(error) or is_out_of_memory(error):
            raise
        if not alone:
            raise InputError(f"--model: cannot encode a text, {type(error).__name__}: {error}") from error
        return True  # cannot be padded at all
    return any(not is_close(one, other, dtype) for one, other in zip(alone, together, strict=True))


def is_close(wanted: np.ndarray, found: np.ndarray, dtype: str) -> bool:
    """Whether the two differ by rounding alone. What is not finite anyway is not compared."""
    if not np.isfinite(wanted).all():
        return True
    return bool(np.abs(found - wanted).max(initial=0) <= CLOSE[dtype] * max(1e-3, np.abs(wanted).max(initial=0)))


def _widest(value: Any) -> Any:
    return max(value, default=0) if isinstance(value, list | tuple) else value
