"""Texts -> token ids, a whole block at once, as `SentenceTransformer.preprocess` makes them a batch at a time.

The Rust tokenizer without its transformers wrapper makes twice the tokens a second. Truncating here rather than there
tells how long a text really is. That both make the same features is checked on probes when the model is loaded.
"""

import copy
import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from schemas.errors import InputError
from transforms.window import another_window, window

FIRST_CUT_CHARACTERS = 1 << 16
WORD = re.compile(r"\S+")
WHITESPACE = re.compile(r"\s")
PROBES = ["", "a", "A b, c.", "Der schnelle Fuß", "Эх, чужак!", "你好 world", "\N{WAVING HAND SIGN} \u200b e\u0301"]
PROBES += ["long and longer " * 400]  # than most models' windows
SHORT_WINDOW = 16
"""Tokens. Models of windows that no probe fills are verified with this one too."""
OWN_WORDS = 40


class Tokens(NamedTuple):
    """Token ids of n texts, as the model sees them: prompt and special tokens included, cut to the model's window."""

    ids: np.ndarray  # (total,) int32, text after text
    starts: np.ndarray  # (n + 1,) int64 into `ids`
    counts: np.ndarray  # (n,) int32, before truncation; of a text beyond 64 Ki characters, at least

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.starts)


class FastTokenizer:
    """A model's own tokenizer without its wrapper.

    exact: whether it counts the very tokens that the model computes

    Raises:
        ValueError: it would not make what the model's `preprocess` makes. The model is then to be fed by that.
    """

    exact = True

    def __init__(self, model: Any, prompt: str) -> None:
        wrapper = model.tokenizer
        backend = getattr(wrapper, "backend_tokenizer", None)
        if backend is None or model.modalities != ["text"] or wrapper.pad_token_id is None:
            raise ValueError("no fast text tokenizer")
        self._tokenizer = copy.deepcopy(backend)
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = wrapper.split_special_tokens  # which a copy forgets
        self._prompt = prompt
        self._from_left = wrapper.truncation_side == "left"
        self._pad_left = wrapper.padding_side == "left"
        self._pad_id = wrapper.pad_token_id
        self._names = list(wrapper.model_input_names)
        self.limit = window(model)
        self.own_words = own_words(wrapper)
        self._head, self._tail = self._special_tokens()
        self._constants: dict[str, Any] = {"modality": "text"}
        self._verify_at_both_windows(model, [*PROBES, " ".join(self.own_words), _special_text(wrapper)])

    def __call__(self, texts: Sequence[str]) -> Tokens:
        encodings = self._encode_cut(texts)
        counts = np.fromiter(map(len, encodings), np.int32, len(encodings))
        starts = np.zeros(len(encodings) + 1, np.int64)
        np.cumsum(np.minimum(counts, self.limit), out=starts[1:])
        # One pass over the lists: what is done here holds the GIL, which the Rust tokenizer does not.
        flat = itertools.chain.from_iterable(self._within(encoding.ids) for encoding in encodings)
        return Tokens(np.fromiter(flat, np.int32, int(starts[-1])), starts, counts)

    def features(self, tokens: Tokens, rows: np.ndarray, width: int) -> dict[str, Any]:
        """What the model's forward takes, for `rows` of the tokens: (len(rows), width) tensors."""
        import torch

        starts = tokens.starts[rows]
        lengths = tokens.starts[rows + 1] - starts
        place = np.arange(width)
        pads = (width - lengths)[:, None]
        mask = (place >= pads) if self._pad_left else (place < lengths[:, None])
        ids = np.full((len(rows), width), self._pad_id, np.int64)
        ids[mask] = tokens.ids[(starts[:, None] + (place - pads if self._pad_left else place))[mask]]
        made = {"input_ids": ids, "attention_mask": mask.astype(np.int64), "token_type_ids": np.zeros_like(ids)}
        return {name: torch.from_numpy(made[name]) for name in self._names} | self._constants

    def windows(self, texts: Sequence[str]) -> list[list[str]]:
        """Each text in pieces that fit the model's window: see `Encoder.chunk`."""
        fits = self._fit(texts)
        return [[text] if fit else self._pieces(text) for text, fit in zip(texts, fits, strict=True)]

    @property
    def room(self) -> int:
        """The tokens of the window that prompt and special tokens leave to a text."""
        return self.limit - len(self._tokenizer.encode(self._prompt))

    def _special_tokens(self) -> tuple[int, int]:
        """How many special tokens go before and after a text."""
        for text in [*PROBES, *self.own_words]:
            bare = self._tokenizer.encode(text, add_special_tokens=False).ids
            if not bare:  # of such a text nobody can say what is before and what after it
                continue
            whole = self._tokenizer.encode(text).ids
            for head in range(len(whole) - len(bare) + 1):
                if whole[head : head + len(bare)] == bare:
                    return head, len(whole) - len(bare) - head
            break
        raise ValueError("special tokens change a text's own tokens")

    def _within(self, ids: list[int]) -> list[int]:
        """The ids that the model's window has room for."""
        if len(ids) <= self.limit:
            return ids
        if self._from_left:
            return ids[: self._head] + ids[len(ids) - self.limit + self._head :]
        return ids[: self.limit - self._tail] + ids[len(ids) - self._tail :]

    def _verify_at_both_windows(self, model: Any, probes: list[str]) -> None:
        """At the model's window, and where no probe fills that at a short one, so that cutting is compared too."""
        self._verify(model, probes)
        if self.limit < len(self._tokenizer.encode(PROBES[-1])):
            return
        own_window, self.limit = self.limit, SHORT_WINDOW + self._head + self._tail
        with another_window(model, self.limit):
            self._verify(model, probes)
        self.limit = own_window

    def _verify(self, model: Any, probes: list[str]) -> None:
        """Compares with `preprocess` on the probes, and takes from it what is the same for every batch."""
        import torch

        expected = dict(model.preprocess(list(probes), prompt=self._prompt))
        if "prompt_length" in expected:
            self._constants["prompt_length"] = expected["prompt_length"]
        if not set(self._names) <= {"input_ids", "attention_mask", "token_type_ids"}:
            raise ValueError(f"unknown model inputs {self._names}")
        tokens = self(probes)
        made = self.features(tokens, np.arange(len(probes)), int(tokens.lengths.max()))
        if made.keys() != expected.keys():
            raise ValueError(f"features {sorted(made)} are not {sorted(expected)}")
        for name, value in made.items():
            same = torch.equal(value, expected[name]) if torch.is_tensor(value) else value == expected[name]
            if not same:
                raise ValueError(f"{name} is not what preprocess makes")

    def _encode_cut(self, texts: Sequence[str]) -> list[Any]:
        """An encoding a text. A very long text is cut first: what is beyond the window costs minutes and is dropped."""
        cuts = [FIRST_CUT_CHARACTERS] * len(texts)
        encodings = self._tokenizer.encode_batch_fast([self._cut(t, c) for t, c in zip(texts, cuts, strict=True)])
        short = [i for i, t in enumerate(texts) if len(t) > FIRST_CUT_CHARACTERS and len(encodings[i]) <= self.limit]
        while short:  # of words so long that the cut text does not fill the window
            for i in short:
                cuts[i] *= 2
            for i, encoding in zip(
                short, self._tokenizer.encode_batch_fast([self._cut(texts[i], cuts[i]) for i in short]), strict=True
            ):
                encodings[i] = encoding
            short = [i for i in short if len(texts[i]) > cuts[i] and len(encodings[i]) <= self.limit]
        return encodings

    def _cut(self, text: str, characters: int) -> str:
        """Prompt and text, cut at a whitespace: tokens do not reach across one, so those before it are the text's."""
        if len(text) > characters and not self._from_left:
            text = text[: _cut_position(text, characters)]
        return self._prompt + text

    def _fit(self, texts: Sequence[str]) -> np.ndarray:
        return np.array([len(e) for e in self._encode_cut(texts)], np.int64) <= self.limit

    def _pieces(self, text: str) -> list[str]:
        """Greedy pieces of one text, halved where one does not fit after all (a prompt or a cut word can change how
        its neighbours are tokenized)."""
        pieces = list(self._greedy(text))
        while True:
            fits = self._fit(pieces)
            if fits.all() or all(len(p) == 1 for p, fit in zip(pieces, fits, strict=True) if not fit):
                return pieces
            pieces = [half for p, fit in zip(pieces, fits, strict=True) for half in ([p] if fit else halves(p))]

    def _greedy(self, text: str) -> Iterator[str]:
        """Cuts `text` segment by segment, so that a book is not tokenized in one go; each segment's last piece is
        taken up again with the next."""
        room = max(1, self.room)
        start, size = 0, FIRST_CUT_CHARACTERS
        while start < len(text):
            stop = _cut_position(text, start + size, start) if len(text) - start > size else len(text)
            spans = self._spans(text[start:stop], room)
            if stop < len(text) and len(spans) == 1:
                size *= 2
                continue
            for begin, end in spans if stop == len(text) else spans[:-1]:
                yield text[start + begin : start + end]
            start, size = (stop if stop == len(text) else start + spans[-1][0]), FIRST_CUT_CHARACTERS

    def _spans(self, text: str, room: int) -> list[tuple[int, int]]:
        """Greedy `(start, stop)` of at most `room` tokens each. Whitespace at the text's two ends stays in."""
        offsets = self._tokenizer.encode(text, add_special_tokens=False).offsets
        begins = np.array([begin for begin, _ in offsets], np.int64)
        words = [match.span() for match in WORD.finditer(text)]
        if not words:
            return [(0, len(text))]
        first = np.searchsorted(begins, [begin for begin, _ in words])
        sizes = np.diff(np.append(first, len(begins)))
        spans: list[tuple[int, int]] = []
        start, stop, used = 0, 0, 0
        for (begin, end), size, at in zip(words, sizes.tolist(), first.tolist(), strict=True):
            if used and used + size > room:
                spans.append((start, stop))
                start, used = begin, 0
            for cut in begins[at + room : at + size : room].tolist() if size > room else []:
                if cut > start:
                    spans.append((start, cut))
                    start = cut
            stop, used = end, (used + size if size <= room else (size - 1) % room + 1)
        return [*spans, (start, len(text))]


def own_words(wrapper: Any) -> list[str]:
    """Words of the tokenizer's own vocabulary, whatever language that is of."""
    size = len(wrapper)
    ids = range(0, size, max(1, size // OWN_WORDS))
    words = (wrapper.decode([i], skip_special_tokens=True).strip() for i in ids)
    return [word for word in words if word] or ["a"]


def _special_text(wrapper: Any) -> str:
    """A text in which someone wrote out the special tokens."""
    return "a ".join([*wrapper.all_special_tokens, "b"])


def check_room(room: int, limit: int) -> None:
    """Raises InputError where every text would be cut to nothing."""
    if room < 1:
        raise InputError(
            f"--prompt, --max_seq_length: prompt and special tokens take all of the {limit} tokens that the model "
            "sees, and leave none to a text"
        )


def _cut_position(text: str, characters: int, start: int = 0) -> int:
    """The last whitespace after `start` up to `characters`, else the next one, else the text's end."""
    for i in range(characters, start, -1):
        if text[i].isspace():
            return i
    match = WHITESPACE.search(text, characters)
    return match.start() if match else len(text)


def halves(text: str) -> list[str]:
    """Cut at the word boundary nearest the middle, or in the middle of a single word."""
    starts = [match.start() for match in WORD.finditer(text)][1:]
    if not starts:
        return [text[: len(text) // 2], text[len(text) // 2 :]] if len(text) > 1 else [text]
    cut = min(starts, key=lambda start: abs(start - len(text) // 2))
    return [text[:cut].rstrip() if text[:cut].strip() else text[:cut], text[cut:]]
