"""A DoFn that has some elements of a bundle under way at a time, so that slow steps overlap."""

from collections import deque
from collections.abc import Iterator
from typing import Any, Generic, Protocol, TypeVar

import apache_beam as beam
from apache_beam.transforms.window import BoundedWindow
from apache_beam.utils.timestamp import Timestamp
from apache_beam.utils.windowed_value import WindowedValue


class Cancellable(Protocol):
    """Work under way, as a Future is."""

    def cancel(self) -> object:
        """Drops what is not done yet."""


T = TypeVar("T")
Flight = TypeVar("Flight", bound=Cancellable)


class FlightsDoFn(beam.DoFn, Generic[T, Flight]):
    """Begins an element when it comes, and ends it when `most_flights` are under way or the bundle ends: in order, and
    before the bundle counts as done. A bundle that fails is run again as a whole: what was under way is lost with it,
    and nothing else.
    """

    most_flights = 2

    def begin(self, element: T) -> Flight:
        """Has the work done by other threads. Returns at once."""
        raise NotImplementedError

    def end(self, flight: Flight) -> Iterator[Any]:
        """Waits for the work; what the element becomes."""
        raise NotImplementedError

    def setup(self) -> None:
        self._flights: deque[tuple[Flight, Timestamp, BoundedWindow]] = deque()

    def process(
        self, element: T, timestamp: Any = beam.DoFn.TimestampParam, window: Any = beam.DoFn.WindowParam
    ) -> Iterator[Any]:
        self._flights.append((self.begin(element), timestamp, window))
        if len(self._flights) >= self.most_flights:
            yield from self._land()

    def finish_bundle(self) -> Iterator[Any]:
        while self._flights:
            yield from self._land()

    def teardown(self) -> None:
        """Beam ends what has failed by this; else nothing is under way any more."""
        for flight, *_ in self._flights:
            flight.cancel()

    def _land(self) -> Iterator[Any]:
        """What the element that is longest under way becomes, in its own window."""
        flight, timestamp, window = self._flights.popleft()
        for found in self.end(flight):
            if isinstance(found, beam.pvalue.TaggedOutput):
                yield beam.pvalue.TaggedOutput(found.tag, WindowedValue(found.value, timestamp, (window,)))
            else:
                yield WindowedValue(found, timestamp, (window,))
