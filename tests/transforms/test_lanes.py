"""The way to an accelerator and back, driven on CPU tensors: buffers, streams and several devices change no vector."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.benchmarks import corpus
from tests.transforms.test_encoder import TEXTS, assert_same, expected, fail_on, make_encoder, make_model
from transforms.device import MOST_BATCH_TOKENS, activation_bytes, cuda_batch_tokens
from transforms.encoder import TOKENIZERS, WORKERS_A_GPU, Encoder
from transforms.encoder_job import batches
from transforms.lanes import LANES, MOST_PADDING, DirectLane, StagedLane

pytestmark = pytest.mark.model
MIXED = TEXTS + corpus.mixed_lengths(60) + corpus.sentences(60)


class LateLane(StagedLane):
    """A device whose queue does nothing until it is waited for: what is read or written too early shows."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self._queue: list[Callable[[], Any]] = []
        self.waits = 0

    def to_device(self, features: dict[str, Any]) -> dict[str, Any]:
        assert not self._queue, "the last batch is not done, and its buffers are used again"
        return super().to_device(features)

    def to_host(self, vectors: torch.Tensor) -> np.ndarray:
        found = super().to_host(vectors)
        assert not self._queue, "the vectors are read before they are there"
        return found

    def _copy(self, to: torch.Tensor, tensor: torch.Tensor) -> None:
        if to.is_floating_point():  # vectors, back to the host
            self._queue.append(lambda: to.copy_(tensor))
        else:  # the forward that follows would be in the queue too
            to.copy_(tensor)

    def _wait(self) -> None:
        self.waits += 1
        while self._queue:
            self._queue.pop(0)()


@pytest.fixture(scope="module")
def small(bundled_model: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_model(bundled_model, tmp_path_factory.mktemp("small") / "model", layers=1)


@pytest.fixture(params=[StagedLane, LateLane])
def staged(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LANES, "cpu", request.param)


def devices(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr("transforms.encoder.device_names", lambda device: [device] * number)


def test_vectors_are_those_of_encode_by_way_of_buffers_and_buckets(small: str, staged: None) -> None:
    encoder = make_encoder(small, batch_tokens=2048)
    found = encoder.encode(MIXED)
    assert_same(found.vectors, expected(small, MIXED))
    assert not found.failures
    again = [encoder.submit(MIXED[::-1]), encoder.submit(MIXED), encoder.submit(MIXED[:3])]
    assert_same(again[0].result().vectors[::-1].copy(), found.vectors)
    assert np.array_equal(again[1].result().vectors, found.vectors)
    assert_same(again[2].result().vectors, found.vectors[:3])


def test_calls_that_are_tokenized_side_by_side_keep_their_rows(
    small: str, staged: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TOKENIZERS, "cpu", 2)
    devices(monkeypatch, 2)
    encoder = make_encoder(small, batch_tokens=2048)
    wanted = expected(small, MIXED)
    calls = [(start, encoder.submit(MIXED[start : start + 40])) for start in range(0, len(MIXED), 20)]
    for start, call in calls:
        assert_same(call.result().vectors, wanted[start : start + 40])


def test_a_low_precision_and_its_measure_go_the_same_way(small: str, staged: None) -> None:
    found = make_encoder(small, dtype="bfloat16").encode(MIXED)
    exact = expected(small, MIXED)
    cosines = (found.vectors * exact).sum(axis=1)
    assert cosines.min() > 0.999
    assert all(np.abs(cosines - cosine).min() < 1e-5 for cosine in found.cosines)
    assert len(found.cosines) == 9  # one of each of eight kinds of length, and the one that is padded most


def test_batches_have_few_widths_and_fit_the_models_window(small: str, staged: None, monkeypatch: Any) -> None:
    encoder = make_encoder(small, batch_tokens=4096, max_seq_length=250)
    shapes = fail_on(encoder, monkeypatch, lambda ids: None)
    encoder.encode(MIXED)
    assert {width for _, width in shapes} <= {*range(8, 65, 8), *range(96, 250, 32), 250}
    assert 250 in {width for _, width in shapes}
    assert all(rows * width <= 4096 for rows, width in shapes)


def test_a_batch_ends_where_its_padding_would_cost_more_than_another_one() -> None:
    lengths = np.array([250] * 10 + [10] * 4000)
    widths = StagedLane.widths(lengths, 256)
    cut = [rows.tolist() for rows in batches(widths, np.arange(len(lengths)), 1 << 18, MOST_PADDING)]
    assert sorted(row for rows in cut for row in rows) == list(range(len(lengths)))
    padding = [int((widths[rows[0]] - widths[rows]).sum()) for rows in cut]
    assert [len(rows) for rows in cut] == [10 + MOST_PADDING // 240, 4000 - MOST_PADDING // 240]
    assert max(padding) <= MOST_PADDING


@given(st.lists(st.integers(1, 512), min_size=1), st.integers(1, 512))
def test_widths_hold_the_rows_and_keep_their_order(lengths: list[int], most: int) -> None:
    array = np.minimum(np.array(lengths), most)
    widths = StagedLane.widths(array, most)
    assert ((array <= widths) & (widths <= most) & (widths < array + 32)).all()
    assert (np.diff(widths[np.argsort(array, kind="stable")]) >= 0).all()
    assert DirectLane.widths(array, most) is array


@pytest.mark.parametrize("number", [2, 3])
def test_devices_of_different_speed_share_the_batches_and_the_rows_keep_their_order(
    small: str, staged: None, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    devices(monkeypatch, number)
    encoder = make_encoder(small, batch_tokens=256)
    computed: list[int] = [0] * number
    for place, model in enumerate(encoder._models):
        slow_down(model, computed, place, seconds=0.2 * place)
    assert_same(encoder.encode(MIXED).vectors, expected(small, MIXED))
    assert sum(computed) == len(set(MIXED))
    assert computed[0] > computed[-1] > 0


def slow_down(model: Any, computed: list[int], place: int, seconds: float) -> None:
    inner = model._vectors

    def vectors(which: Any, tokens: Any, rows: np.ndarray) -> np.ndarray:
        time.sleep(seconds)
        computed[place] += len(rows)
        return inner(which, tokens, rows)

    model._vectors = vectors


def test_the_device_that_lacks_memory_keeps_to_small_batches_and_the_other_does_not(
    small: str, staged: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices(monkeypatch, 2)
    encoder = make_encoder(small, threads=1, batch_tokens=1024)
    tight, roomy = encoder._models
    texts = [f"sentence number {n}" for n in range(3000)]
    refuse_above(tight, 300)
    assert_same(encoder.encode(texts).vectors, expected(small, texts))
    assert (150 <= tight.batch_tokens <= 300, roomy.batch_tokens) == (True, 1024)
    asked: list[int] = []
    refuse_above(tight, 300, asked)
    assert not encoder.encode(texts).failures
    assert asked  # it takes part, and is not asked for more than it has again
    assert max(asked) <= 300


def refuse_above(model: Any, most: int, asked: list[int] | None = None) -> None:
    """The model's device has memory for so many tokens."""
    inner = type(model)._vectors.__get__(model)

    def vectors(which: Any, tokens: Any, rows: np.ndarray) -> np.ndarray:
        size = len(rows) * int(model.widths(tokens.lengths[rows]).max())
        if asked is not None:
            asked.append(size)
        if size > most:
            raise torch.OutOfMemoryError("full")
        return inner(which, tokens, rows)

    model._vectors = vectors


def test_memory_for_not_even_one_row_has_the_cpu_compute_it_which_refuses_what_does_not_fit_either(
    small: str, staged: None
) -> None:
    encoder = make_encoder(small, threads=1, batch_tokens=1024)
    (model,) = encoder._models
    refuse_above(model, 100)
    texts = [*TEXTS[:5], "word " * 200]
    found = encoder.encode(texts)
    assert not found.failures
    assert_same(found.vectors, expected(small, texts))
    refuse_above(model._cpu_model, 100)
    found = encoder.encode(texts)
    assert [(f.row, f.message) for f in found.failures] == [(5, "OutOfMemoryError: full")]
    assert not found.vectors[5].any()
    assert_same(found.vectors[:5], expected(small, texts[:5]))


def test_one_device_that_fails_a_row_fails_it_as_the_other_would(
    small: str, staged: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices(monkeypatch, 2)
    encoder = make_encoder(small, batch_tokens=128)
    for model in encoder._models:
        refuse_zebras(model)
    texts = [*TEXTS, "a zebra", *corpus.sentences(100), "another zebra"]
    found = encoder.encode(texts)
    assert [(f.row, f.message) for f in found.failures] == [
        (len(TEXTS), "RuntimeError: striped"),
        (len(texts) - 1, "RuntimeError: striped"),
    ]
    good = [row for row in range(len(texts)) if row not in (len(TEXTS), len(texts) - 1)]
    assert_same(found.vectors[good], expected(small, [texts[row] for row in good]))


def refuse_zebras(model: Any) -> None:
    inner = model._vectors

    def vectors(which: Any, tokens: Any, rows: np.ndarray) -> np.ndarray:
        if any((tokens.ids[tokens.starts[row] : tokens.starts[row + 1]] == 29145).any() for row in rows):
            raise RuntimeError("striped")
        return inner(which, tokens, rows)

    model._vectors = vectors


def test_every_visible_gpu_gets_a_model_and_two_workers(small: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    made: list[tuple[str, int]] = []

    class Model:
        dim, tokenizer = 4, None

        def __init__(self, resolved: Any, options: Any, device: str, workers: int) -> None:
            made.append((device, workers))

    monkeypatch.setattr("transforms.loaded_model.LoadedModel", Model)
    encoder: Encoder = make_encoder(small, device="cuda")
    assert made == [(f"cuda:{number}", WORKERS_A_GPU) for number in range(3)]
    assert encoder._workers._max_workers == 3 * WORKERS_A_GPU
    assert (encoder._tokenizer._max_workers, encoder.calls) == (4, 10)


class Config:
    hidden_size, intermediate_size, num_attention_heads, _attn_implementation = 384, 1536, 12, "sdpa"


def test_a_gpus_batches_are_sized_from_its_free_memory_and_the_models_config() -> None:
    token = activation_bytes(Config(), 256, 2)
    assert token == 2 * (6 * 384 + 2 * 1536)
    assert cuda_batch_tokens(1 << 30, token, 2) == int(0.8 * (1 << 30)) // (2 * token) < MOST_BATCH_TOKENS
    assert cuda_batch_tokens(80 << 30, token, 2) == MOST_BATCH_TOKENS
    assert cuda_batch_tokens(0, token, 2) == 1
    eager = Config()
    eager._attn_implementation = "eager"
    assert activation_bytes(eager, 256, 2) == token + 2 * 2 * 12 * 256
    assert activation_bytes(object(), 256, 2) is None


def test_a_bucket_of_the_buffers_is_used_again(small: str, staged: None, tmp_path: Path) -> None:
    lane = StagedLane(torch.device("cpu"))
    wide = lane.to_device({"input_ids": torch.ones(4, 8, dtype=torch.int64), "modality": "text"})
    kept = lane._buffers["input_ids"].data_ptr()
    assert wide["modality"] == "text"
    narrow = lane.to_device({"input_ids": torch.full((2, 3), 7)})
    assert narrow["input_ids"].tolist() == [[7, 7, 7], [7, 7, 7]]
    assert lane._buffers["input_ids"].data_ptr() == kept
    lane.to_device({"input_ids": torch.zeros(9, 9, dtype=torch.int64)})
    assert lane._buffers["input_ids"].numel() == 81
