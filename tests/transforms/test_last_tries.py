"""A row is rejected only when torch, in float32 and alone, cannot make a vector of it."""

import concurrent.futures
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from schemas.errors import InputError, RunFailed
from schemas.rejects import Reason
from tests import zoo
from tests.transforms.test_encoder import assert_same, make_encoder
from transforms.encoder import Encoder
from transforms.model import EncodeOptions, resolve_model
from transforms.stateful_layers import ThreadsOwn

How = Callable[[bool, np.ndarray, np.ndarray], None]
TEXTS = [*zoo.WORDS[:30], "one two three", "two three four one"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return zoo.build("BERT", tmp_path_factory.mktemp("zoo") / "model")


def change(
    monkeypatch: pytest.MonkeyPatch, encoder: Encoder, how: Callable[[bool, np.ndarray, np.ndarray], None]
) -> None:
    """Calls `how(whether by the reference, rows, vectors)` on what the model computes."""
    (model,) = encoder._models
    inner = type(model)._vectors.__get__(model)

    def vectors(which: Any, tokens: Any, rows: np.ndarray) -> np.ndarray:
        found = inner(which, tokens, rows).copy()
        how(which is model._exact, rows, found)
        return found

    monkeypatch.setattr(model, "_vectors", vectors)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_row_that_is_bad_in_a_batch_is_computed_alone(
    folder: str, monkeypatch: pytest.MonkeyPatch, bad: float, dtype: str
) -> None:
    wanted = make_encoder(folder).encode(TEXTS).vectors
    encoder = make_encoder(folder, dtype=dtype)

    def spoil(exact: bool, rows: np.ndarray, vectors: np.ndarray) -> None:
        if len(rows) > 1:
            vectors[np.isin(rows, [3, 20])] = bad

    change(monkeypatch, encoder, spoil)
    found = encoder.encode(TEXTS)
    assert not found.failures
    np.testing.assert_allclose(found.vectors[[3, 20]], wanted[[3, 20]], atol=1e-6)
    assert min(found.cosines, default=1) > 0.999


def test_a_row_that_only_the_low_precision_cannot_compute_is_float32s(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = make_encoder(folder).encode(TEXTS).vectors
    encoder = make_encoder(folder, dtype="float16")

    def overflow(exact: bool, rows: np.ndarray, vectors: np.ndarray) -> None:
        if not exact and 5 in rows:
            raise RuntimeError("value cannot be converted without overflow")

    change(monkeypatch, encoder, overflow)
    found = encoder.encode(TEXTS)
    assert not found.failures
    np.testing.assert_allclose(found.vectors[5], wanted[5], atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("row", range(0, 32, 3))
def test_a_bad_row_is_rejected_in_every_precision_also_where_it_is_measured(
    folder: str, monkeypatch: pytest.MonkeyPatch, dtype: str, row: int
) -> None:
    encoder = make_encoder(folder, dtype=dtype)

    def fail(exact: bool, rows: np.ndarray, vectors: np.ndarray) -> None:
        if row in rows:
            raise RuntimeError("bad row")

    change(monkeypatch, encoder, fail)
    found = encoder.encode(TEXTS)
    assert [(f.row, f.reason, f.message) for f in found.failures] == [
        (row, Reason.ENCODE_ERROR, "RuntimeError: bad row")
    ]
    assert not found.vectors[row].any()
    good = [n for n in range(len(TEXTS)) if n != row]
    assert found.vectors[good].any(axis=1).all()


def test_what_float32_makes_no_vector_of_is_rejected_though_a_low_precision_does(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = make_encoder(folder, dtype="bfloat16")

    def nothing(exact: bool, rows: np.ndarray, vectors: np.ndarray) -> None:
        if exact:
            vectors[:] = np.nan

    change(monkeypatch, encoder, nothing)
    found = encoder.encode(TEXTS)
    assert len(found.failures) >= 8  # those that were measured
    assert {f.reason for f in found.failures} == {Reason.NON_FINITE}
    assert found.cosines == ()


def test_a_folder_that_was_swapped_after_the_plan_is_refused_by_the_worker(tmp_path: Path) -> None:
    place = tmp_path / "model"
    zoo.build("BERT", place)
    options = EncodeOptions(model=str(place), device="cpu")
    planned = resolve_model(options)
    Encoder(planned, options, 1)
    zoo.build("MPNet", tmp_path / "other")
    weights = (tmp_path / "other/model.safetensors").read_bytes()
    (place / "model.safetensors").write_bytes(weights)
    with pytest.raises(RunFailed, match=r"holds another model than this run was planned with \(sha256"):
        Encoder(planned, options, 1)


def test_a_folder_that_changes_while_it_is_loaded_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transforms import loaded_model

    place = tmp_path / "model"
    zoo.build("BERT", place)
    options = EncodeOptions(model=str(place), device="cpu")
    planned = resolve_model(options)
    real = loaded_model.load_sentence_transformer

    def load(folder: str, device: str) -> Any:
        (place / "config_sentence_transformers.json").write_text("{}")
        return real(folder, device)

    monkeypatch.setattr(loaded_model, "load_sentence_transformer", load)
    with pytest.raises(RunFailed, match="holds another model"):
        Encoder(planned, options, 1)


@pytest.mark.parametrize("long_texts", ["chunk", "truncate"])
def test_a_prompt_that_leaves_no_room_is_refused(folder: str, long_texts: str) -> None:
    """It gave a chunk a character, and one and the same vector for every text."""
    with pytest.raises(InputError, match="prompt and special tokens take all of the 48 tokens"):
        make_encoder(folder, prompt="one two " * 30, long_texts=long_texts)
    encoder = make_encoder(folder, prompt="one " * 45, long_texts=long_texts)  # and [CLS], [SEP]: room for one
    assert encoder.chunk(["two three four"]) == [["two", "three", "four"]]


def test_a_slow_tokenizer_counts_what_the_model_computes(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> None:
        raise ValueError("unusual")

    texts = ["one two three " * 20, "one two", ""]
    fast = make_encoder(folder, prompt="query : ", max_seq_length=20).encode(texts)
    monkeypatch.setattr("transforms.tokenize.FastTokenizer._verify", refuse)
    encoder = make_encoder(folder, prompt="query : ", max_seq_length=20, long_texts="chunk")
    slow = encoder.encode(texts)
    assert type(encoder._models[0].tokenizer).__name__ == "SlowTokenizer"
    assert slow.token_counts.tolist() == fast.token_counts.tolist() == [64, 6, 4]
    assert slow.truncated.tolist() == fast.truncated.tolist() == [True, False, False]
    assert_same(slow.vectors, fast.vectors)
    with pytest.raises(InputError, match="prompt and special tokens take all of the 48 tokens"):
        make_encoder(folder, prompt="one two " * 30)


BARRIER = threading.Barrier(2)


class Swapping(torch.nn.Module):
    """Keeps what it was called with last, as rotary frequencies are kept."""

    def forward(self, value: int) -> int:
        self.kept = value
        BARRIER.wait(60)
        return self.kept


def test_threads_do_not_share_what_a_layer_changes_in_itself(tmp_path: Path) -> None:
    own = ThreadsOwn(Swapping())
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        assert list(pool.map(own, [1, 2])) == [1, 2]
    encoder = make_encoder(zoo.build("Phi3, longrope", tmp_path / "model"))
    assert any(isinstance(module, ThreadsOwn) for module in encoder._models[0]._exact.modules())
