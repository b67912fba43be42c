"""Texts -> features by the model's own `preprocess`, for tokenizers that `transforms.tokenize` does not know."""

import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from transforms.tokenize import OWN_WORDS, PROBES, halves, own_words
from transforms.window import window

CHARACTERS_A_TOKEN = 4


class Texts(NamedTuple):
    """Texts that `preprocess` will tokenize, batch by batch."""

    texts: list[str]
    lengths: np.ndarray  # (n,) int64, tokens the model computes; an estimate where the tokenizer does not count
    counts: np.ndarray  # (n,) int32, before truncation where the tokenizer counts


class SlowTokenizer:
    """Any input module of sentence-transformers: slow tokenizers, chat templates, whole words, static embeddings.

    exact: whether it counts the very tokens that the model computes
    """

    def __init__(self, model: Any, prompt: str) -> None:
        self._model, self._prompt = model, prompt
        self._lock = threading.Lock()  # transformers' tokenizers raise "Already borrowed" when two threads use one
        self.exact = callable(model.tokenizer) and hasattr(model[0], "processing_kwargs")
        vocabulary = getattr(model.tokenizer, "vocab", None)  # of whole words, where they are not of transformers
        known = [str(word) for word in vocabulary] if isinstance(vocabulary, list | dict) else []
        self.own_words = own_words(model.tokenizer) if self.exact else [*known[1::3][:OWN_WORDS], "a", "word"]
        self.limit = window(model)
        if self.exact:
            self.limit = min(self.limit, self._width_that_is_cut_to() or self.limit)

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

    @property
    def room(self) -> int:
        """The tokens of the window that prompt and special tokens leave to a text."""
        return self.limit - self._count("") if self.exact else 1

    def _count(self, text: str) -> int:
        tokenizer = self._model.tokenizer
        with self._lock:  # other texts' features are made meanwhile
            if self.exact:
                whole = {"truncation": False, "padding": False, "max_length": None}
                return self._preprocessed(text, {"text": whole, "common": whole})
            if callable(tokenizer):  # transformers' own, below another module
                return len(tokenizer(self._prompt + text, truncation=False, verbose=False)["input_ids"])
            if hasattr(tokenizer, "encode_batch"):  # the Rust one by itself
                return len(tokenizer.encode(self._prompt + text, add_special_tokens=False))
        return len(self._prompt + text) // CHARACTERS_A_TOKEN + 1

    def _preprocessed(self, text: str, kwargs: dict[str, Any] | None = None) -> int:
        """Tokens that `preprocess` makes of a text, with its own templates and special tokens."""
        found = self._model.preprocess([text], prompt=self._prompt, processing_kwargs=kwargs)
        return int(found["attention_mask"].sum()) if "attention_mask" in found else found["input_ids"].numel()

    def _width_that_is_cut_to(self) -> int | None:
        """The tokens of a text that is longer than the window; None where no probe is."""
        found, whole = self._preprocessed(PROBES[-1]), self._count(PROBES[-1])
        return found if found < whole else None
