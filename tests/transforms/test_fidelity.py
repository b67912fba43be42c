"""What is measured against float32, and what does not pass."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import RunFailed
from transforms.encoder_job import batches
from transforms.fidelity import ROWS, check, fidelity, sample

VECTORS = st.lists(st.floats(-100, 100, width=32), min_size=3, max_size=3).filter(lambda v: max(map(abs, v)) > 0.01)


@given(VECTORS, VECTORS)
def test_of_vectors_of_one_length_it_is_the_cosine(one: list[float], other: list[float]) -> None:
    a, b = (np.array(v) / np.linalg.norm(v) for v in (one, other))
    assert fidelity(a, b) == pytest.approx(a @ b, abs=1e-12)
    assert fidelity(a, a) == pytest.approx(1, abs=1e-15)


@given(VECTORS, st.floats(0.01, 100))
def test_another_length_costs_whichever_is_longer(vector: list[float], scale: float) -> None:
    a = np.array(vector)
    assert fidelity(a, a * scale) == pytest.approx(2 - (scale + 1 / scale) / 2, rel=1e-6, abs=1e-6)
    assert fidelity(a, a * scale) == pytest.approx(fidelity(a * scale, a), rel=1e-9, abs=1e-9)
    assert fidelity(a, a * 1.05) == pytest.approx(0.99881, abs=1e-5)  # five percent do not pass the default


@pytest.mark.parametrize("bad", [[np.nan, 1], [np.inf, 1], [0, 0]])
def test_what_is_not_comparable_does_not_pass(bad: list[float]) -> None:
    found = fidelity(np.array([1.0, 2.0]), np.array(bad))
    assert not np.isfinite(found)
    with pytest.raises(RunFailed, match=r"--dtype bfloat16 --backend torch: .* is (nan|-inf), below --min_fidelity -1"):
        check((1.0, found), -1, "bfloat16", "torch")


def test_the_least_itself_passes() -> None:
    check((0.999, 1.0), 0.999, "bfloat16", "torch")
    check((), 0.999, "float32", "torch")
    with pytest.raises(RunFailed, match=r"is 0\.99899, below --min_fidelity 0\.999; use --dtype float32"):
        check((1.0, 0.99899), 0.999, "bfloat16", "torch")


@given(st.lists(st.integers(1, 300), min_size=1, max_size=80), st.integers(1, 600))
def test_every_kind_of_length_and_the_most_padded_row_are_measured(lengths: list[int], budget: int) -> None:
    array = np.array(lengths)
    texts = [f"text {n}" for n in range(len(lengths))]
    cut = list(batches(array, np.arange(len(array)), budget))
    rows = sample(texts, array, cut)
    assert len(set(rows)) == len(rows) >= min(ROWS, len(lengths))
    assert {n.bit_length() for n in array[rows].tolist()} == {n.bit_length() for n in lengths}
    padding = {row: int(array[batch].max() - array[row]) for batch in cut for row in batch.tolist()}
    assert max(padding[row] for row in rows) == max(padding.values())
    assert rows == sample(texts, array, cut)


def test_of_texts_that_may_be_taken_those_are_that_hash_smallest_whatever_their_order() -> None:
    texts = [f"text {n}" for n in range(200)]
    lengths = np.full(200, 7)
    chosen = {texts[row] for row in sample(texts, lengths, [np.arange(200)])}
    turned = texts[::-1]
    assert chosen == {turned[row] for row in sample(turned, lengths, [np.arange(200)])}
    assert len(chosen) == ROWS
    assert sample([], np.zeros(0, np.int64), []) == []
