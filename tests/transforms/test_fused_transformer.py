"""BERT's layers computed in fewer passes are BERT's."""

from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.benchmarks import corpus
from tests.transforms.test_encoder import TEXTS, expected, make_encoder, make_model
from transforms import fused_transformer
from transforms.device import DEFAULT_BATCH_TOKENS, cpu_flags
from transforms.fused_transformer import BATCH_TOKENS, LIKE_BERT, LONGEST, PROCESSORS, FusedTransformer, can_be_fused

CONFIGS = {
    "BertModel": transformers.BertConfig,
    "CamembertModel": transformers.CamembertConfig,
    "RobertaModel": transformers.RobertaConfig,
    "XLMRobertaModel": transformers.XLMRobertaConfig,
}
PAD, WORDS = 1, 50
HAS_BFLOAT16 = bool(cpu_flags() & PROCESSORS)


def make_transformer(kind: str = "BertModel", heads: int = 3, head: int = 16, **options: Any) -> Any:
    """With random weights, biases and norms, of which none is what it is before training."""
    config = CONFIGS[kind](
        vocab_size=WORDS, hidden_size=heads * head, num_attention_heads=heads, num_hidden_layers=2,
        intermediate_size=4 * heads * head, max_position_embeddings=64, pad_token_id=PAD, **options,
    )  # fmt: skip
    torch.manual_seed(0)
    transformer = getattr(transformers, kind)(config).eval().requires_grad_(False)
    for weight in transformer.parameters():
        weight.copy_(torch.randn(weight.shape) * (0.2 if weight.dim() > 1 else 0.5))
    return transformer


def make_features(lengths: list[int]) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    ids = torch.randint(PAD + 1, WORDS, mask.shape) * mask + PAD * (1 - mask)
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}


def states(transformer: Any, features: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.inference_mode():
        return transformer(**features)["last_hidden_state"][features["attention_mask"] == 1]


def scale_scores(transformer: Any, factor: float) -> None:
    for layer in transformer.encoder.layer:
        layer.attention.self.query.weight.mul_(factor)


@pytest.mark.parametrize("kind", LIKE_BERT)
@pytest.mark.parametrize("lengths", [[7], [3, 20, 9, 20], [33] * 5])
def test_in_float32_the_states_are_the_transformers_own(kind: str, lengths: list[int]) -> None:
    transformer = make_transformer(kind)
    features = make_features(lengths)
    found = states(FusedTransformer(transformer, torch.float32), features)
    torch.testing.assert_close(found, states(transformer, features), atol=2e-5, rtol=2e-5)


@settings(deadline=None, max_examples=60)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=9),
    heads=st.integers(1, 4),
    head=st.sampled_from([8, 16, 32, 40]),
    factor=st.sampled_from([0.1, 1.0, 8.0, 40.0]),
    cached=st.sampled_from([1, 3000, 1 << 19]),
)
def test_whatever_the_shapes_the_scores_and_the_pieces(
    lengths: list[int], heads: int, head: int, factor: float, cached: int
) -> None:
    transformer = make_transformer(heads=heads, head=head)
    scale_scores(transformer, factor)
    features = make_features(lengths)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fused_transformer, "CACHED_SCORES", cached)
        found = states(FusedTransformer(transformer, torch.float32), features)
    torch.testing.assert_close(found, states(transformer, features), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("dtype, least", [(torch.float32, 1 - 1e-5), *[(torch.bfloat16, 0.995)] * HAS_BFLOAT16])
@pytest.mark.parametrize("shift", [-120.0, 120.0], ids=["too small", "too large"])
def test_scores_whose_exponentials_leave_the_range(shift: float, dtype: torch.dtype, least: float) -> None:
    """Every query has the same score more or less with every key, which a softmax does not see."""
    transformer = make_transformer(head=32)
    for layer in transformer.encoder.layer:
        attention = layer.attention.self
        attention.query.weight.mul_(0.2)
        attention.query.bias.view(3, 32)[:, 0] = shift * 32**0.5 / 64
        attention.key.weight.view(3, 32, -1)[:, 0] = 0
        attention.key.bias.view(3, 32)[:, 0] = 64
    features = make_features([12, 30, 30])
    found, own = states(FusedTransformer(transformer, dtype), features), states(transformer, features)
    assert torch.cosine_similarity(found, own).min() > least


@pytest.mark.model
def test_the_encoder_uses_it_in_bfloat16_on_texts_of_any_length(bundled_model: str) -> None:
    encoder = make_encoder(bundled_model, dtype="bfloat16")
    assert encoder.batch_tokens == (BATCH_TOKENS if HAS_BFLOAT16 else DEFAULT_BATCH_TOKENS["cpu"])
    texts = TEXTS + corpus.mixed_lengths(60)  # of those with 256 tokens, most have scores beyond 88
    cosines = (encoder.encode(texts).vectors * expected(bundled_model, texts)).sum(axis=1)
    assert 0.9997 < cosines.min() < 1 - 1e-7
    vectors = make_encoder(bundled_model, dtype="bfloat16").encode(texts).vectors
    assert np.array_equal(vectors, encoder.encode(texts).vectors)


@pytest.mark.model
def test_a_transformer_of_another_kind_computes_by_its_own_code(bundled_model: str, tmp_path: Any) -> None:
    folder = make_model(bundled_model, tmp_path / "model", config={"hidden_act": "gelu_new"})
    encoder = make_encoder(folder, dtype="bfloat16")
    assert encoder.batch_tokens == DEFAULT_BATCH_TOKENS["cpu"]
    assert ((encoder.encode(TEXTS).vectors * expected(folder, TEXTS)).sum(axis=1) > 0.999).all()


def test_what_can_be_fused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused_transformer, "cpu_flags", lambda: frozenset({"avx512_bf16"}))
    assert can_be_fused(make_transformer(), LONGEST)
    assert not can_be_fused(make_transformer(), LONGEST + 1)
    assert not can_be_fused(make_transformer(hidden_act="relu"), 64)
    assert not can_be_fused(make_transformer(is_decoder=True), 64)
    assert not can_be_fused(transformers.MPNetModel(transformers.MPNetConfig(num_hidden_layers=1)), 64)
    monkeypatch.setattr(fused_transformer, "cpu_flags", lambda: frozenset({"avx2"}))
    assert not can_be_fused(make_transformer(), 64)
