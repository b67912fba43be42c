"""How many tokens of a text a loaded model sees. No Beam."""

import contextlib
from collections.abc import Iterator
from typing import Any

from transforms.model_folder import NO_LIMIT


def window(model: Any) -> int:
    """The most tokens of a text: what its `preprocess` cuts to, or what its table of positions has room for."""
    return min(stated_window(model), _positions(model))


def stated_window(model: Any) -> int:
    """The tokens that `preprocess` cuts a text to."""
    kwargs = _text_kwargs(model)
    if kwargs.get("truncation", True) in (False, "do_not_truncate"):
        return NO_LIMIT
    return min(kwargs.get("max_length") or getattr(model, "max_seq_length", None) or NO_LIMIT, NO_LIMIT)


def set_window(model: Any, tokens: int) -> None:
    """Has `preprocess` cut texts to so many tokens."""
    model.max_seq_length = tokens
    for kwargs in _stated_kwargs(model):
        if "max_length" in kwargs:
            kwargs["max_length"] = tokens


@contextlib.contextmanager
def another_window(model: Any, tokens: int) -> Iterator[None]:
    """Has `preprocess` cut texts to so many tokens meanwhile."""
    stated, kwargs = model.max_seq_length, [dict(kwargs) for kwargs in _stated_kwargs(model)]
    set_window(model, tokens)
    try:
        yield
    finally:
        model.max_seq_length = stated
        for changed, before in zip(_stated_kwargs(model), kwargs, strict=True):
            changed.update(before)


def _text_kwargs(model: Any) -> dict[str, Any]:
    """What the model's folder has its tokenizer called with (`processing_kwargs`)."""
    return {name: value for kwargs in _stated_kwargs(model) for name, value in kwargs.items()}


def _stated_kwargs(model: Any) -> list[dict[str, Any]]:
    """Of texts, then of all modalities, which win."""
    stated = getattr(model[0], "processing_kwargs", None) or {}
    return [stated[kind] for kind in ("text", "common") if stated.get(kind)]


def _positions(model: Any) -> int:
    """The longest text whose positions are all in the table, where they begin behind the padding's, as RoBERTa's do.
    transformers counts the whole table."""
    import torch  # takes seconds: whoever tokenizes alone does without

    found = [
        table.num_embeddings - padding - 1
        for module in model[0].modules()
        if isinstance(padding := getattr(module, "padding_idx", None), int)
        and isinstance(table := getattr(module, "position_embeddings", None), torch.nn.Embedding)
    ]
    return min(found, default=NO_LIMIT)
