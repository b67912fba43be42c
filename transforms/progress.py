"""How far the run in this process is, for the person watching. Steps add to it; `jobs.cli` shows it.

Only what runs in the driver's own process is seen here; other engines show Beam's counters on screens of their own.
"""

import dataclasses
import threading


@dataclasses.dataclass
class Progress:
    """Sums since the start. `input_bytes` counts input that is encoded and written, or was found done."""

    input_bytes: int = 0
    rows: int = 0
    tokens: int = 0
    adopted_rows: int = 0
    parts: int = 0
    pairs: int = 0  # compared, by mining

    def __post_init__(self) -> None:
        self._lock = threading.Lock()

    def add(self, **amounts: int) -> None:
        with self._lock:
            for name, amount in amounts.items():
                setattr(self, name, getattr(self, name) + amount)

    def since(self, before: "Progress") -> "Progress":
        """What was added after a `copy`."""
        fields = dataclasses.fields(self)
        return Progress(**{f.name: getattr(self, f.name) - getattr(before, f.name) for f in fields})

    def copy(self) -> "Progress":
        return dataclasses.replace(self)


PROGRESS = Progress()
