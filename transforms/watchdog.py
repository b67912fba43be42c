"""Ends a process whose encoder hangs, so that its runner starts the bundle again, or the person the job."""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator


class Watchdog:
    """Told of every batch that is done in this process; where none is for `seconds`, it ends the process.

    A thread that hangs in a kernel or a driver cannot be ended alone, and what it holds would hang the next bundle too.
    Nothing is lost: files are there whole or not at all.
    """

    last = 0.0  # of all: a block that waits behind those of another thread is alive as long as they are

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def alive(self) -> None:
        Watchdog.last = time.monotonic()

    @contextlib.contextmanager
    def watch(self, what: str) -> Iterator[None]:
        """While this thread waits for the encoder."""
        finished = threading.Event()
        self.alive()
        threading.Thread(target=self._wait, args=(what, finished), daemon=True).start()
        try:
            yield
        finally:
            finished.set()

    def _wait(self, what: str, finished: threading.Event) -> None:
        while not finished.wait(min(self.seconds / 4, 5)):
            if time.monotonic() - Watchdog.last > self.seconds:
                sys.stderr.write(
                    f"failed: {what}: no batch was encoded for {self.seconds:g} s (--encode_timeout_seconds); nothing "
                    "is published, what is finished is kept; run again to go on\n"
                )
                sys.stderr.flush()
                os._exit(1)
