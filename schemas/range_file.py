"""A file of a store, read by ranges: each a request, none larger than it has to be."""

import concurrent.futures
import functools
import io
import os
from collections.abc import Callable
from typing import Any

FIRST_BYTES, AHEAD_BYTES, MOST_BYTES = 256 << 10, 4 << 20, 8 << 20
"""Requests begin small, since a reader may want one line, and double, since a reader that comes back wants all. From
`AHEAD_BYTES` on they are made before the reader asks. At most two are in memory."""
SLACK_BYTES = 64 << 10
"""Beyond a range's end: the line that begins in it ends there."""

Fetch = Callable[[int, int], bytes]


@functools.lru_cache(maxsize=1)
def _background(process: int) -> concurrent.futures.ThreadPoolExecutor:
    """Threads do not survive a fork, so each process has its own."""
    return concurrent.futures.ThreadPoolExecutor(max_workers=8, thread_name_prefix="read-ahead")


class RangeFile(io.RawIOBase):
    """Reads exactly what it is asked for, where it is asked: for formats that know their places.

    fetch: returns bytes `start` to `stop` - 1, all of them
    """

    def __init__(self, fetch: Fetch, size: int, start: int = 0) -> None:
        self._fetch, self._size, self._position = fetch, size, start

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        stop = self._size if size is None or size < 0 else min(self._position + size, self._size)
        if stop <= self._position:
            return b""
        data = self._bytes(self._position, stop)
        self._position += len(data)
        return data

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def readall(self) -> bytes:
        return self.read()

    def _bytes(self, start: int, stop: int) -> bytes:
        return self._fetch(start, stop)


class ReadAheadFile(RangeFile):
    """Reads on from where it begins, ahead of who reads it. `stop` is where a range ends: little is read past it.
    A read may return less than was asked for, as raw files do."""

    def __init__(self, fetch: Fetch, size: int, start: int = 0, stop: int | None = None) -> None:
        super().__init__(fetch, size, start)
        self._stop = size if stop is None else min(stop + SLACK_BYTES, size)
        self._window, self._begin, self._step = b"", start, FIRST_BYTES
        self._coming: concurrent.futures.Future[bytes] | None = None

    def readall(self) -> bytes:
        return b"".join(iter(lambda: self.read(MOST_BYTES), b""))

    def _bytes(self, start: int, stop: int) -> bytes:
        if not self._begin <= start < self._begin + len(self._window):
            self._load(start)
        at = start - self._begin
        return self._window[at : at + stop - start]

    def _load(self, start: int) -> None:
        end = self._begin + len(self._window)
        reads_on = bool(self._window) and start == end
        if not reads_on:
            self._step, self._coming = FIRST_BYTES, None
        data = self._coming.result() if self._coming else self._fetch(start, self._end(start))
        self._window, self._begin, self._coming = data, start, None
        self._step = min(2 * self._step, MOST_BYTES)
        following = start + len(data)
        if self._step >= AHEAD_BYTES and following < self._stop:
            self._coming = _background(os.getpid()).submit(self._fetch, following, self._end(following))

    def _end(self, start: int) -> int:
        """Where a request from `start` ends: at the range's end, and beyond it bit by bit."""
        if start < self._stop:
            return min(start + self._step, self._stop)
        return min(start + FIRST_BYTES, self._size)

    def close(self) -> None:
        if self._coming:
            self._coming.cancel()
        self._window, self._coming = b"", None
        super().close()
