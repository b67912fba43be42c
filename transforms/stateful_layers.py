"""What a transformer changes in itself as it computes. No Beam.

Rotary frequencies may be swapped by the length of a batch (transformers' `dynamic_rope_update`); threads that share the
module would compute with each other's. BigBird gives up its sparse attention for good at the first short batch.
"""

import copy
import threading
from collections.abc import Iterator
from typing import Any

import torch

from schemas.errors import InputError


def check_attention(model: Any, window: int) -> None:
    """Raises InputError where a text's attention depends on the lengths of the texts before it.

    window: the most tokens of a text
    """
    config: Any = getattr(getattr(model[0], "auto_model", None), "config", None)
    if getattr(config, "attention_type", "") == "block_sparse":
        most = (5 + 2 * config.num_random_blocks) * config.block_size
        if window > most:
            raise InputError(
                f"--model: gives up its sparse attention at the first text of {most} tokens or fewer, so that vectors "
                f"depend on the texts before; use --max_seq_length {most}"
            )


class ThreadsOwn(torch.nn.Module):
    """A module of which each thread has a copy: what one changes as it computes, the others do not see."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self._shared = [module]  # in a list: no submodule, whose weights would count twice
        self._of_thread = threading.local()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if not hasattr(self._of_thread, "module"):
            self._of_thread.module = copy.deepcopy(self._shared[0])
        return self._of_thread.module(*args, **kwargs)


def separate_threads(model: Any, window: int) -> tuple[int, ...]:
    """Gives each thread frequencies of its own. Returns the numbers of tokens above which a batch has other
    frequencies: texts below and above one may not share a batch. Empty where all texts have the same frequencies.

    window: the most tokens of a text

    Raises:
        InputError: the frequencies depend on the texts that were computed before.
    """
    limits: set[int] = set()
    for parent, name, module in list(_rotaries(model)):
        swapping = [(kind, limit) for kind, limit in _kinds(module) if window > limit]
        for kind, limit in swapping:
            if kind != "longrope":
                raise InputError(
                    f"--model: its rotary frequencies ({kind}) depend on the texts before, for texts of more than "
                    f"{limit} tokens; use --max_seq_length {limit}"
                )
            limits.add(limit)
        if swapping:
            setattr(parent, name, ThreadsOwn(module))
    return tuple(sorted(limits))


def _rotaries(model: Any) -> Iterator[tuple[Any, str, Any]]:
    """(parent, name, module) of those that may swap their frequencies."""
    for parent in model.modules():
        for name, module in parent.named_children():
            if isinstance(getattr(module, "rope_type", None), str | dict):
                yield parent, name, module


def _kinds(module: Any) -> Iterator[tuple[str, int]]:
    """(kind of swapping, tokens up to which nothing is swapped), for each kind of layer."""
    config, of_layers = module.config, module.rope_type
    for layer, kind in of_layers.items() if isinstance(of_layers, dict) else [("", of_layers)]:
        parameters = getattr(config, "rope_parameters", None) or {}
        parameters = parameters.get(layer, parameters) or {}
        if kind == "longrope" or "dynamic" in kind:
            stated = parameters.get("original_max_position_embeddings") if kind == "longrope" else None
            yield kind, int(stated or getattr(module, "original_max_seq_len", config.max_position_embeddings))
