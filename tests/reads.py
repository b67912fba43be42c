"""Counts the bytes that are read of files on a disk."""

import contextlib
import io
from collections import Counter
from collections.abc import Iterator
from typing import Any

from schemas import local_disk


@contextlib.contextmanager
def bytes_read() -> Iterator[Counter[str]]:
    """Bytes by path, as the system is asked for them: what a buffer reads ahead counts."""
    read: Counter[str] = Counter()

    class CountedFile(io.FileIO):
        def readinto(self, buffer: Any) -> int:
            size = super().readinto(buffer)
            read[str(self.name)] += size or 0
            return size

        def read(self, size: int | None = -1) -> bytes:
            data = super().read(size)
            read[str(self.name)] += len(data or b"")
            return data

    real = local_disk.io.FileIO
    local_disk.io.FileIO = CountedFile  # type: ignore[misc]
    try:
        yield read
    finally:
        local_disk.io.FileIO = real  # type: ignore[misc]
