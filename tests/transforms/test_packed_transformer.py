"""The packed layers are the transformer's own, whatever the texts' lengths; on a CPU by another attention."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.transforms.test_fused_transformer import make_features, make_transformer, scale_scores, states
from transforms.fused_transformer import LIKE_BERT
from transforms.packed_transformer import PackedTransformer, can_be_packed


def attend(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, starts: torch.Tensor, longest: int
) -> torch.Tensor:
    """What FlashAttention's interface for texts of many lengths says of itself, text by text."""
    found = torch.full_like(queries, torch.nan)
    for start, stop in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        assert stop - start <= longest
        q, k, v = (t[start:stop].transpose(0, 1) for t in (queries, keys, values))
        weights = (q @ k.transpose(1, 2) / q.shape[-1] ** 0.5).softmax(-1)
        found[start:stop] = (weights @ v).transpose(0, 1)
    return found


def packed(transformer: torch.nn.Module) -> PackedTransformer:
    return PackedTransformer(transformer, torch.float32, attend)


@pytest.mark.parametrize("kind", LIKE_BERT)
@pytest.mark.parametrize("lengths", [[7], [3, 20, 9, 20], [33] * 5, [1]])
def test_in_float32_the_states_are_the_transformers_own(kind: str, lengths: list[int]) -> None:
    transformer, features = make_transformer(kind), make_features(lengths)
    torch.testing.assert_close(
        states(packed(transformer), features), states(transformer, features), atol=2e-5, rtol=2e-5
    )


@settings(deadline=None, max_examples=40)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=9),
    heads=st.integers(1, 4),
    head=st.sampled_from([8, 16, 40]),
    factor=st.sampled_from([0.1, 1.0, 8.0]),
)
def test_whatever_the_shapes_and_the_scores(lengths: list[int], heads: int, head: int, factor: float) -> None:
    transformer = make_transformer(heads=heads, head=head)
    scale_scores(transformer, factor)
    features = make_features(lengths)
    torch.testing.assert_close(
        states(packed(transformer), features), states(transformer, features), atol=1e-3, rtol=1e-3
    )


def test_padding_on_the_left_and_types_of_tokens_are_the_transformers_affair() -> None:
    transformer, features = make_transformer(), make_features([5, 12, 9])
    flipped = {name: value.flip(1) for name, value in features.items()}
    flipped["token_type_ids"] = torch.ones_like(flipped["input_ids"])
    torch.testing.assert_close(states(packed(transformer), flipped), states(transformer, flipped), atol=2e-5, rtol=2e-5)


def test_padding_comes_out_as_zeros() -> None:
    features = make_features([2, 9])
    found = packed(make_transformer())(**features)["last_hidden_state"]
    assert found.shape == (2, 9, 48)
    assert (found[0, 2:] == 0).all()
    assert (found[0, :2] != 0).any(dim=1).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_on_a_cpu_nothing_is_packed(dtype: torch.dtype) -> None:
    assert not can_be_packed(make_transformer(), dtype)
