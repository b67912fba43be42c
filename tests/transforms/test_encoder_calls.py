"""Several calls of one encoder are under way at once: each gets its own vectors, and none hinders another."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.benchmarks import corpus
from tests.transforms.test_encoder import TEXTS, make_encoder, make_model
from transforms.encoder import BusyClock, Encoder
from transforms.encoder_job import Encoded

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def encoder(bundled_model: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Encoder]:
    shape: dict[str, Any] = {"sentence_bert_config": {"max_seq_length": 16}}
    yield make_encoder(make_model(bundled_model, tmp_path_factory.mktemp("m") / "model", layers=1, **shape))


def assert_equal(found: Encoded, wanted: Encoded) -> None:
    for one, other in zip(found[:3], wanted[:3], strict=True):
        assert one.tobytes() == other.tobytes()
    assert found[3:5] == wanted[3:5]


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(st.sampled_from([*TEXTS, *corpus.sentences(30)]), max_size=40), max_size=6), st.randoms())
def test_calls_that_overlap_give_what_each_gives_alone(encoder: Encoder, calls: list[list[str]], draw: Any) -> None:
    alone = [encoder.encode(texts) for texts in calls]
    submitted = list(enumerate([encoder.submit(texts) for texts in calls]))
    draw.shuffle(submitted)  # results may be asked for in any order
    for number, call in submitted:
        assert_equal(call.result(), alone[number])


def test_the_next_call_is_tokenized_and_its_batches_wait_while_the_first_is_computed(
    encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold, computed = threading.Event(), []
    model = encoder._models[0]
    inner = type(model).__call__

    def slow(self: Any, tokens: Any, rows: np.ndarray) -> np.ndarray:
        hold.wait(60)
        computed.append(len(rows))
        return inner(self, tokens, rows)

    monkeypatch.setattr(type(model), "__call__", slow)
    first, second = encoder.submit(["a", "b"]), encoder.submit(["c", "d", "e"])
    job = second._begun.result(60)  # there are its batches, though the first call's is not done
    assert (computed, len(job._tasks)) == ([], 1)
    hold.set()
    assert (len(first.result().vectors), len(second.result().vectors)) == (2, 3)


def test_what_no_row_is_to_blame_for_is_raised_drops_the_rest_and_leaves_other_calls_alone(encoder: Encoder) -> None:
    told = []

    def broken(rows: int, tokens: int) -> None:
        told.append(rows)
        raise ArithmeticError("cannot count")

    texts = corpus.sentences(4000)
    failing, other = encoder.submit(texts, broken), encoder.submit(TEXTS)
    with pytest.raises(ArithmeticError, match="cannot count"):
        failing.result()
    assert sum(told) < 2000
    assert_equal(other.result(), encoder.encode(TEXTS))
    assert encoder._clock._calls == 0


def test_a_cancelled_call_is_not_computed_and_leaves_no_trace(encoder: Encoder) -> None:
    told: list[int] = []
    texts = corpus.sentences(4000)
    calls = [encoder.submit(texts, lambda rows, tokens: told.append(rows)) for _ in range(5)]
    for call in calls:
        call.cancel()
    assert_equal(encoder.encode(TEXTS), encoder.encode(TEXTS))
    assert sum(told) < 4000
    assert encoder._clock._calls == 0


def test_a_tokenizer_that_fails_is_an_error_of_its_call_alone(encoder: Encoder) -> None:
    with pytest.raises(TypeError):
        encoder.encode([None])  # type: ignore[list-item]
    assert encoder._clock._calls == 0
    assert len(encoder.encode(["a"]).vectors) == 1


def test_nothing_keeps_an_encoder_and_its_threads_alive(bundled_model: str, tmp_path: Path) -> None:
    before = set(threading.enumerate())
    own = make_encoder(make_model(bundled_model, tmp_path / "model", layers=1))
    own.encode(TEXTS)
    threads = set(threading.enumerate()) - before
    assert len(threads) >= 2
    del own
    for thread in threads:
        thread.join(10)
    assert not any(thread.is_alive() for thread in threads)


def test_seconds_of_calls_that_overlap_add_up_to_the_time_in_which_one_was_under_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = iter([1.0, 4.0, 6.0, 10.0, 10.5])  # begins, ends: 1 to 6 twice over, idle, 10 to 10.5
    monkeypatch.setattr("transforms.encoder.time.monotonic", lambda: next(now))
    clock = BusyClock()
    clock.begin()
    clock.begin()
    assert (clock.end(), clock.end()) == (3.0, 2.0)
    clock.begin()
    assert clock.end() == 0.5


def test_a_calls_seconds_are_those_of_its_work(encoder: Encoder) -> None:
    assert 0 < encoder.encode(TEXTS).seconds < 60
    assert 0 <= encoder.encode([]).seconds < 60
