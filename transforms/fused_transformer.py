"""BERT's layers in bfloat16 on a CPU, with fewer passes over memory than transformers makes. No Beam.

Where products are fast, most of the time goes to what lies between them. Here a product applies bias, GELU or residual
while its result is in registers (oneDNN's post-operations, by the operator that torch.compile uses), queries, keys and
values are one product, and attention is two products and an exponential in a core's cache.
"""

from typing import Any

import torch

from transforms.device import cpu_flags

LIKE_BERT = ("BertModel", "CamembertModel", "RobertaModel", "XLMRobertaModel")
"""Of transformers: the same layers under different embeddings, which stay the model's own."""
PROCESSORS = {"avx512_bf16", "amx_bf16"}
"""Flags of those that it was tried on; where bfloat16 is emulated it is slower."""
BATCH_TOKENS = 2048
"""Padded tokens a batch. Products take fewer microseconds a token than with 1,024; with 4,096 it is no better."""
ROWS = 64
"""Products have multiples of so many rows: oneDNN takes 70 ms, as long as a batch, to prepare for another number."""
LANE = 16
"""Widths that are multiples of it leave products no remainders."""
CACHED_SCORES = 1 << 19
"""Attention scores computed at a time: 1 MiB, half of what a core's second cache holds."""
LONGEST = 512
"""Tokens. In models of larger windows a single text's scores would take hundreds of megabytes."""
LEAST, MOST = 1e-30, 1e30
"""Sums of exponentials within float32's range, with room for what is made of them."""


class FusedTransformer(torch.nn.Module):
    """Stands where the transformer did: token ids and mask in, `last_hidden_state` `(n, tokens, dim)` float32 out.

    dtype: of products and what is between them; bfloat16, or float32 to compare with the transformer
    """

    def __init__(self, transformer: Any, dtype: torch.dtype = torch.bfloat16) -> None:
        super().__init__()
        self.config = transformer.config
        self._dtype = dtype
        self._embeddings = transformer.embeddings
        self._layers = [_Layer(layer, dtype) for layer in transformer.encoder.layer]

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **others: Any) -> dict[str, torch.Tensor]:
        hidden = self._embeddings(input_ids=input_ids, token_type_ids=others.get("token_type_ids"))
        tokens, dim = attention_mask.numel(), hidden.shape[-1]
        found = torch.zeros(-(-tokens // ROWS) * ROWS, dim, dtype=self._dtype)
        found[:tokens] = hidden.view(tokens, dim)
        attention = _Attention(attention_mask, self.config.num_attention_heads, found)
        for layer in self._layers:
            found = layer(found, attention)
        return {"last_hidden_state": found[:tokens].float().view(hidden.shape)}


def can_be_fused(transformer: Any, window: int) -> bool:
    """Whether `FusedTransformer` computes what this one does of texts of `window` tokens, and can do so here."""
    config = transformer.config
    return (
        type(transformer).__name__ in LIKE_BERT
        and is_like_bert(config)
        and window <= LONGEST
        and transformer.device.type == "cpu"
        and torch.backends.mkldnn.is_available()
        and bool(cpu_flags() & PROCESSORS)
    )


def is_like_bert(config: Any) -> bool:
    """Whether layers of a `LIKE_BERT` transformer are those of BERT as it was published."""
    absolute = getattr(config, "position_embedding_type", "absolute") == "absolute"
    return config.hidden_act == "gelu" and absolute and not config.is_decoder


def joined_projections(attention: Any, scale: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights `(3 dim, dim)` and biases of queries, times `scale`, keys and values as one product."""
    weights = torch.cat([attention.query.weight * scale, attention.key.weight, attention.value.weight])
    return weights, torch.cat([attention.query.bias * scale, attention.key.bias, attention.value.bias])


class _Layer:
    def __init__(self, layer: Any, dtype: torch.dtype) -> None:
        own, after = layer.attention.self, layer.attention.output
        self._project = _packed(*joined_projections(own, own.attention_head_size**-0.5), dtype)
        self._attended = _packed(after.dense.weight, after.dense.bias, dtype)
        self._widen = _packed(layer.intermediate.dense.weight, layer.intermediate.dense.bias, dtype)
        self._narrow = _packed(layer.output.dense.weight, layer.output.dense.bias, dtype)
        self._norms = [norm_of(after.LayerNorm, dtype), norm_of(layer.output.LayerNorm, dtype)]

    def __call__(self, hidden: torch.Tensor, attention: "_Attention") -> torch.Tensor:
        """(rows, dim): the tokens of all texts one after the other, padding too, and rows that fill up"""
        linear, norm = torch.ops.mkldnn._linear_pointwise, torch.nn.functional.layer_norm
        found = attention(linear(hidden, *self._project, "none", [], ""))
        hidden = norm(linear.binary(found, hidden, *self._attended, "add"), *self._norms[0])
        wide = linear(hidden, *self._widen, "gelu", [], "none")
        return norm(linear.binary(wide, hidden, *self._narrow, "add"), *self._norms[1])


class _Attention:
    """softmax(Q K') V of a batch, in its layers one after the other, by way of the same buffers.

    exp(Q K') [V, 1] holds the weighted sums and, in the last column, what to divide them by; padding has rows of zeros
    there, so no mask is needed. No maximum is subtracted: where an exponential leaves the range, as with long texts in
    some layers, those texts are computed again by a softmax in float32.
    """

    def __init__(self, mask: torch.Tensor, heads: int, hidden: torch.Tensor) -> None:
        """mask: (n, tokens), 0 where there is padding; hidden: (rows, dim) or more of what is to be computed with"""
        n, self._width = mask.shape
        self._head, dtype = hidden.shape[1] // heads, hidden.dtype
        padded = -(-self._width // LANE) * LANE
        self._step = max(1, min(n, CACHED_SCORES // (heads * padded * padded)))
        self._hidden = torch.nn.functional.pad(mask, (0, padded - self._width))[:, None, None] == 0
        self._seen = mask.to(dtype)[:, None, :, None]
        self._queries_keys = torch.zeros(2, self._step, heads, padded, self._head, dtype=dtype)
        self._values = torch.zeros(self._step, heads, padded, self._head + LANE, dtype=dtype)
        self._scores = torch.empty(self._step, heads, padded, padded, dtype=dtype)
        self._sums = torch.empty_like(self._values)
        self._rows = torch.zeros_like(hidden)
        self._found = self._rows[: mask.numel()].view(n, self._width, heads, self._head).transpose(1, 2)

    def __call__(self, projected: torch.Tensor) -> torch.Tensor:
        """(rows, 3 dim), scaled queries, keys and values side by side -> (rows, dim), until the next call"""
        n, heads, width, head = self._found.shape
        parts = projected[: n * width].view(n, width, 3, heads, head).permute(2, 0, 3, 1, 4)
        for top in range(0, n, self._step):
            texts = slice(top, min(top + self._step, n))
            sums = self._sums_of(parts[:, texts], texts)[:, :, :width]
            torch.div(sums[..., :head], sums[..., head, None], out=self._found[texts])
        return self._rows

    def _sums_of(self, parts: torch.Tensor, texts: slice) -> torch.Tensor:
        n, width, head = parts.shape[1], self._width, self._head
        self._queries_keys[:, :n, :, :width] = parts[:2]
        torch.mul(parts[2], self._seen[texts], out=self._values[:n, :, :width, :head])
        self._values[:n, :, :width, head] = self._seen[texts, ..., 0]
        queries, keys = self._queries_keys[:, :n].flatten(1, 2)
        values, sums = self._values[:n].flatten(0, 1), self._sums[:n].flatten(0, 1)
        scores = self._scores[:n].flatten(0, 1)
        torch.bmm(queries, keys.transpose(1, 2), out=scores)
        torch.bmm(scores.exp_(), values, out=sums)
        least, most = torch.aminmax(sums[:, :width, head])
        if not (least > LEAST and most < MOST):
            exact = torch.bmm(queries.float(), keys.float().transpose(1, 2)).view(self._scores[:n].shape)
            weights = exact.masked_fill_(self._hidden[texts], -torch.inf).softmax(-1)
            torch.bmm(weights.flatten(0, 1).to(values.dtype), values, out=sums)
        return self._sums[:n]


def _packed(weight: torch.Tensor, bias: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """In the order in which oneDNN reads weights."""
    own = weight.detach().to(dtype).contiguous()
    return torch.ops.mkldnn._reorder_linear_weight(own, BATCH_TOKENS), bias.detach().to(dtype)


def norm_of(module: torch.nn.LayerNorm, dtype: torch.dtype) -> tuple[Any, ...]:
    """What `layer_norm` takes after its input."""
    return module.normalized_shape, module.weight.detach().to(dtype), module.bias.detach().to(dtype), module.eps
