"""A file of a store, read by ranges: each a request, none larger than it has to be."""

import concurrent.futures
import functools
import io
import os
from collections.abc import Callable
from typing import Any

FIRST_BYTES, AHEAD_BYTES, MOST_BYTES = 256 << 10, 4 << 20, 10 << 20
"""Where nobody says how far a reader goes, requests begin small, since it may want one line, and double, since one that
comes back wants more; from `AHEAD_BYTES` on they are made before the reader asks. What is known to be wanted comes in
requests of up to `MOST_BYTES`, which a split of the default size is one of. At most two are in memory."""
SLACK_BYTES = 32 << 10
"""A range is fetched with this much more of it, where its last line is likely to end."""

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
    """Reads on from where it begins, ahead of who reads it. A read may return less than was asked for, as raw files do.

    stop: where reading is known to go to, and hardly further; None where that is not known
    """

    def __init__(self, fetch: Fetch, size: int, start: int = 0, stop: int | None = None) -> None:
        super().__init__(fetch, size, start)
        self._wanted = start if stop is None else min(stop + SLACK_BYTES, size)
        self._grows = stop is None
        self._window, self._begin, self._step = b"", start, FIRST_BYTES
        self._next: tuple[int, concurrent.futures.Future[bytes] | None] = (start, None)  # and what comes from there

    def readall(self) -> bytes:
        return b"".join(iter(lambda: self.read(MOST_BYTES), b""))

    def _bytes(self, start: int, stop: int) -> bytes:
        if not self._begin <= start < self._begin + len(self._window):
            self._load(start)
        at = start - self._begin
        return self._window[at : at + stop - start]

    def _load(self, start: int) -> None:
        expected, coming = self._next
        if start != expected:  # a seek
            self._step, coming = FIRST_BYTES, None
        self._window, self._begin = coming.result() if coming else self._fetch(start, self._end(start)), start
        if self._grows:
            self._step = min(2 * self._step, MOST_BYTES)
        following = start + len(self._window)
        self._next = (following, None)
        if following < self._wanted or (self._step >= AHEAD_BYTES and following < self._size):
            self.fetch_ahead()

    def fetch_ahead(self) -> None:
        """Begins to fetch what is likely to be read next."""
        start, _ = self._next
        if start < self._size:
            self._next = (start, _background(os.getpid()).submit(self._fetch, start, self._end(start)))

    def _end(self, start: int) -> int:
        """Where a request from `start` ends."""
        wanted = self._wanted - start
        if wanted > 0:
            return start + -(-wanted // -(-wanted // MOST_BYTES))  # as few as can be, of one size
        return min(start + self._step, self._size)

    def close(self) -> None:
        _, coming = self._next
        if coming:
            coming.cancel()
        self._window, self._next = b"", (self._size, None)
        super().close()
