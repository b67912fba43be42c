"""Many records -> one list of them, beside the plan."""

from collections.abc import Iterable
from typing import Any

import apache_beam as beam


class Gather(beam.PTransform):
    """(plan: PCollection[P], records: PCollection[T]) -> PCollection[(plan, [T, …])], one element even where there are
    no records."""

    def expand(self, inputs: Any) -> beam.PCollection:
        keyed = [pcoll | f"Key{n}" >> beam.Map(keyed_by, n) for n, pcoll in enumerate(inputs)]
        return keyed | beam.Flatten() | beam.GroupByKey() | beam.MapTuple(_sorted_out)


def keyed_by(record: Any, kind: Any) -> tuple[None, tuple[Any, Any]]:
    """A record of one of the kinds that are gathered. No lambda: its pickle would name this file by its path."""
    return None, (kind, record)


def _sorted_out(_: None, records: Iterable[tuple[int, Any]]) -> tuple[Any, list[Any]]:
    held = list(records)
    (plan,) = [record for n, record in held if n == 0]
    return plan, [record for n, record in held if n == 1]
