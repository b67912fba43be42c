"""Texts -> features by the model's own `preprocess`, for tokenizers that `transforms.tokenize` does not know."""

import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from transforms.model_folder import NO_LIMIT
from transforms.tokenize import halves

CHARACTERS_A_TOKEN = 4


class Texts(NamedTuple):
    """Texts that `preprocess` will tokenize, batch by batch."""

    texts: list[str]
    lengths: np.ndarray  # (n,) int64, tokens the model computes; an estimate where the tokenizer does not count
    counts: np.ndarray  # (n,) int32, before truncation where the tokenizer counts


class SlowTokenizer:
    """Any input module of sentence-transformers: slow tokenizers, whole words, static embeddings."""

    def __init__(self, model: Any, prompt: str) -> None:
        self._model, self._prompt = model, prompt
        self._lock = threading.Lock()  # transformers' tokenizers raise "Already borrowed" when two threads use one
        self.limit = min(getattr(model, "max_seq_length", None) or NO_LIMIT, NO_LIMIT)

    def __call__(self, texts: Sequence[str]) -> Texts:
        counts = np.array([self._count(text) for text in texts], np.int32)
        return Texts(list(texts), np.minimum(counts, self.limit).astype(np.int64), counts)

    def features(self, tokens: Texts, rows: np.ndarray, width: int) -> dict[str, Any]:
        """`preprocess` pads to the longest; `width` is for those who can choose."""
        with self._lock:
            return dict(self._model.preprocess([tokens.texts[row] for row in rows], prompt=self._prompt))

    def windows(self, texts: Sequence[str]) -> list[list[str]]:
        """Pieces of whole words that fit, found by halving."""
        found = []
        for text in texts:
            pieces = [text]
            while any(len(p) > 1 and self._count(p) > self.limit for p in pieces):
                pieces = [h for p in pieces for h in (halves(p) if self._count(p) > self.limit else [p])]
            found.append(pieces)
        return found

    def _count(self, text: str) -> int:
        tokenizer = self._model.tokenizer
        text = self._prompt + text
        with self._lock:  # other texts' features are made meanwhile
            if callable(tokenizer):  # transformers' own
                return len(tokenizer(text, truncation=False, verbose=False)["input_ids"])
            if hasattr(tokenizer, "encode_batch"):  # the Rust one by itself
                return len(tokenizer.encode(text, add_special_tokens=False))
        return len(text) // CHARACTERS_A_TOKEN + 1
