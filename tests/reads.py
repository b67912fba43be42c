"""Counts the bytes that are read of files on a disk, as a store would be asked for them."""

import contextlib
import io
import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

from schemas.local_disk import LocalDisk
from schemas.range_file import RangeFile
from schemas.splits import FileInfo


@contextlib.contextmanager
def bytes_read() -> Iterator[Counter[str]]:
    """Bytes by path."""
    read: Counter[str] = Counter()

    class CountedFile(io.FileIO):
        def readinto(self, buffer: Any) -> int:
            size = super().readinto(buffer)
            read[str(self.name)] += size or 0
            return size

    def open_counted(self: LocalDisk, file: FileInfo, start: int, stop: int | None, ahead: bool) -> Any:
        path = self.path(file.uri)

        def fetch(begin: int, end: int) -> bytes:
            with open(path, "rb", buffering=0) as raw:
                read[path] += end - begin
                return os.pread(raw.fileno(), end - begin, begin)

        if not ahead:
            return RangeFile(fetch, os.path.getsize(path), start)
        raw = io.BufferedReader(CountedFile(path))
        raw.seek(start)
        return raw

    real = LocalDisk.open
    LocalDisk.open = open_counted  # type: ignore[method-assign]
    try:
        yield read
    finally:
        LocalDisk.open = real  # type: ignore[method-assign]
