"""Ends a process whose encoder hangs, so that its runner starts the bundle again, or the person the job."""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator


class Watchdog:
    """Told of every batch that is done; where none is for `seconds`, it ends the process.

    A thread that hangs in a kernel or a driver cannot be ended alone, and what it holds would hang the next bundle too.
    Nothing is lost: files are there whole or not at all.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.last = time.monotonic()

    def alive(self) -> None:
        self.last = time.monotonic()

    @contextlib.contextmanager
    def watch(self, what: str) -> Iterator[None]:
        """While the block runs. Blocks of other threads that wait for the encoder are alive as long as it is."""
        finished = threading.Event()
        self.alive()
        threading.Thread(target=self._wait, args=(what, finished), daemon=True).start()
        try:
            yield
        finally:
            finished.set()

    def _wait(self, what: str, finished: threading.Event) -> None:
        while not finished.wait(min(self.seconds / 4, 5)):
            if time.monotonic() - self.last > self.seconds:
                sys.stderr.write(
                    f"failed: {what}: no batch was encoded for {self.seconds:g} s (--encode_timeout_seconds); nothing "
                    "is published, what is finished is kept; run again to go on\n"
                )
                sys.stderr.flush()
                os._exit(1)
