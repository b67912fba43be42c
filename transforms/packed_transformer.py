"""BERT's layers on a GPU in half precision, over the tokens of all texts one after the other: no padding. No Beam.

Attention over texts of many lengths in one sequence is FlashAttention's own interface, `torch.nn.attention.varlen`.
What comes before the layers and after them, embeddings and pooling, stays the model's own and is padded.
"""

from collections.abc import Callable
from typing import Any

import torch

from transforms.fused_transformer import LIKE_BERT, is_like_bert, joined_projections, norm_of

MOST_HEAD, HEAD_STEP = 256, 8
"""Dimensions of a head that FlashAttention takes: multiples of 8, up to 256."""
LEAST_CAPABILITY = (8, 0)
"""Of the GPU: Ampere, from which on FlashAttention runs."""
MOST_PADDING = 1 << 17
"""Tokens of padding in a batch. They are embedded and pooled, and nothing else."""
Attention = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, int], torch.Tensor]
"""`(queries, keys, values, starts, longest) -> attended`: (tokens, heads, head) each; starts (texts + 1,) int32."""


class PackedTransformer(torch.nn.Module):
    """Stands where the transformer did: token ids and mask in, `last_hidden_state` `(n, tokens, dim)` float32 out, zero
    where there is padding.

    dtype: of products and what is between them: float16 or bfloat16, as FlashAttention has it
    attention: another way to attend, for devices without FlashAttention
    """

    def __init__(self, transformer: Any, dtype: torch.dtype, attention: Attention | None = None) -> None:
        super().__init__()
        self.config = transformer.config
        self._embeddings = transformer.embeddings.to(dtype)
        self._layers = [_Layer(layer, dtype) for layer in transformer.encoder.layer]
        self._heads = transformer.config.num_attention_heads
        self._attention = attention or flash_attention

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **others: Any) -> dict[str, torch.Tensor]:
        embedded = self._embeddings(input_ids=input_ids, token_type_ids=others.get("token_type_ids"))
        n, width, dim = embedded.shape
        places = attention_mask.flatten().nonzero().squeeze(1)
        starts = torch.nn.functional.pad(attention_mask.sum(1).cumsum(0), (1, 0)).to(torch.int32)
        hidden = embedded.view(-1, dim)[places]
        for layer in self._layers:
            hidden = layer(hidden, self._heads, lambda q, k, v: self._attention(q, k, v, starts, width))
        found = torch.zeros(n * width, dim, dtype=torch.float32, device=hidden.device)
        found[places] = hidden.float()
        return {"last_hidden_state": found.view(n, width, dim)}


def can_be_packed(transformer: Any, dtype: torch.dtype) -> bool:
    """Whether `PackedTransformer` computes what this one does, and can do so on its device."""
    config = transformer.config
    if transformer.device.type != "cuda" or dtype not in (torch.float16, torch.bfloat16) or not is_like_bert(config):
        return False
    head = config.hidden_size // config.num_attention_heads
    fits = type(transformer).__name__ in LIKE_BERT and head <= MOST_HEAD and head % HEAD_STEP == 0
    return fits and torch.cuda.get_device_capability(transformer.device) >= LEAST_CAPABILITY and _has_varlen()


def flash_attention(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, starts: torch.Tensor, longest: int
) -> torch.Tensor:
    """softmax(Q K' / sqrt(head)) V of each text, by FlashAttention (Dao, 2023, arXiv:2307.08691)."""
    from torch.nn.attention.varlen import varlen_attn

    found = varlen_attn(queries, keys, values, starts, starts, longest, longest)
    assert isinstance(found, torch.Tensor)  # and not with what was not asked for
    return found


def _has_varlen() -> bool:
    try:
        import torch.nn.attention.varlen  # noqa: F401  since torch 2.10
    except ImportError:
        return False
    return True


class _Layer:
    def __init__(self, layer: Any, dtype: torch.dtype) -> None:
        after = layer.attention.output
        self._project = [tensor.to(dtype) for tensor in joined_projections(layer.attention.self)]
        self._attended, self._widen, self._narrow = (
            (dense.weight.to(dtype), dense.bias.to(dtype))
            for dense in (after.dense, layer.intermediate.dense, layer.output.dense)
        )
        self._norms = [norm_of(after.LayerNorm, dtype), norm_of(layer.output.LayerNorm, dtype)]

    def __call__(self, hidden: torch.Tensor, heads: int, attend: Callable[..., torch.Tensor]) -> torch.Tensor:
        """(tokens, dim): those of all texts one after the other"""
        linear, norm = torch.nn.functional.linear, torch.nn.functional.layer_norm
        queries, keys, values = (
            linear(hidden, *self._project).view(len(hidden), 3, heads, hidden.shape[1] // heads).unbind(1)
        )
        found = attend(queries, keys, values).flatten(1)
        hidden = norm(linear(found, *self._attended).add_(hidden), *self._norms[0])
        wide = torch.nn.functional.gelu(linear(hidden, *self._widen))
        return norm(linear(wide, *self._narrow).add_(hidden), *self._norms[1])
