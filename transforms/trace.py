"""Where the time goes: what each thread of this process did when, as a Chrome trace (`--profile`).

Open the file at chrome://tracing or in Perfetto. The format is Google's "Trace Event Format", complete events.
"""

import contextlib
import json
import os
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")


class Span(NamedTuple):
    """What a thread did from one moment to another, in seconds since the recording began."""

    name: str
    start: float
    stop: float
    thread: str
    about: dict[str, Any]


class Trace:
    """Records nothing until it is started: a span then costs a microsecond, and else a tenth of that."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self._began: float | None = None

    def start(self) -> None:
        self.spans, self._began = [], time.perf_counter()

    @property
    def is_on(self) -> bool:
        return self._began is not None

    @contextlib.contextmanager
    def span(self, name: str, **about: Any) -> Iterator[None]:
        """Records the block as done by this thread, also where it raises."""
        if self._began is None:
            yield
            return
        start = time.perf_counter() - self._began
        try:
            yield
        finally:
            stop = time.perf_counter() - self._began
            self.spans.append(Span(name, start, stop, threading.current_thread().name, about))  # atomic

    def each(self, name: str, items: Iterable[T]) -> Iterator[T]:
        """The items, making each of which is a span; not what the consumer does between them."""
        iterator = iter(items)
        while True:
            with self.span(name):
                item = next(iterator, self)
            if item is self:
                return
            yield item  # type: ignore[misc]

    def shares(self) -> dict[str, float]:
        """Of the time from the first span's start to the last one's end, in which share some thread was at each."""
        names, whole = dict.fromkeys(span.name for span in self.spans), max(self.seconds(), 1e-9)
        return {name: _covered(s for s in self.spans if s.name == name) / whole for name in names}

    def seconds(self) -> float:
        """From the first span's start to the last one's end."""
        return max((s.stop for s in self.spans), default=0.0) - min((s.start for s in self.spans), default=0.0)

    def to_json(self) -> bytes:
        """The trace, microseconds as the format has them."""
        threads = {name: number for number, name in enumerate(dict.fromkeys(span.thread for span in self.spans))}
        pid = os.getpid()
        named: list[dict[str, Any]] = [
            {"ph": "M", "name": "thread_name", "pid": pid, "tid": number, "args": {"name": name}}
            for name, number in threads.items()
        ]
        events = [
            {
                "ph": "X",
                "name": span.name,
                "pid": pid,
                "tid": threads[span.thread],
                "ts": round(span.start * 1e6, 1),
                "dur": round((span.stop - span.start) * 1e6, 1),
                "args": span.about,
            }
            for span in self.spans
        ]
        return json.dumps({"traceEvents": named + events, "displayTimeUnit": "ms"}).encode()


def _covered(spans: Iterable[Span]) -> float:
    """Seconds in which at least one of them is running."""
    total, end = 0.0, float("-inf")
    for span in sorted(spans, key=lambda s: s.start):
        total += max(0.0, span.stop - max(span.start, end))
        end = max(end, span.stop)
    return total


TRACE = Trace()
