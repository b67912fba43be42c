"""Spans say what a thread did, from when to when; shares count time once however many threads are at it."""

import json
import threading

import pytest

from transforms.trace import Span, Trace


def test_nothing_is_recorded_before_the_start_and_all_of_it_after() -> None:
    trace = Trace()
    with trace.span("before"):
        pass
    assert list(trace.each("before", [1])) == [1]
    assert (trace.spans, trace.shares(), trace.is_on) == ([], {}, False)
    trace.start()
    with trace.span("outer", rows=3), trace.span("inner"):
        pass
    inner, outer = trace.spans
    assert (inner.name, outer.name, outer.about) == ("inner", "outer", {"rows": 3})
    assert 0 <= outer.start <= inner.start <= inner.stop <= outer.stop


def test_a_span_that_raises_is_recorded_and_raises() -> None:
    trace = Trace()
    trace.start()
    with pytest.raises(ValueError, match="broken"), trace.span("compute"):
        raise ValueError("broken")
    assert [span.name for span in trace.spans] == ["compute"]


def test_each_counts_the_making_of_items_and_not_their_use(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(100))
    monkeypatch.setattr("transforms.trace.time.perf_counter", lambda: float(next(clock)))
    trace = Trace()
    trace.start()
    for _ in trace.each("read", ["a", "b"]):
        next(clock), next(clock), next(clock)
    assert [(s.start, s.stop) for s in trace.spans] == [(1, 2), (6, 7), (11, 12)]
    assert trace.shares() == {"read": 3 / 11}


def test_shares_count_a_moment_once_however_many_threads_compute_in_it() -> None:
    trace = Trace()
    trace.spans = [
        Span("compute", 0.0, 6.0, "one", {}),
        Span("compute", 1.0, 2.0, "two", {}),
        Span("compute", 5.0, 8.0, "two", {}),
        Span("write", 8.0, 10.0, "one", {}),
    ]
    assert trace.shares() == {"compute": 0.8, "write": 0.2}


def test_the_file_is_a_chrome_trace_with_a_row_a_thread() -> None:
    trace = Trace()
    trace.start()
    with trace.span("here"):
        pass
    trace.spans.append(Span("there", 0.25, 0.5, "other", {"texts": 7}))
    events = json.loads(trace.to_json())["traceEvents"]
    names = {e["tid"]: e["args"]["name"] for e in events if e["ph"] == "M"}
    spans = {e["name"]: e for e in events if e["ph"] == "X"}
    assert names[spans["there"]["tid"]] == "other"
    assert names[spans["here"]["tid"]] == threading.current_thread().name
    assert (spans["there"]["ts"], spans["there"]["dur"], spans["there"]["args"]) == (250000, 250000, {"texts": 7})
