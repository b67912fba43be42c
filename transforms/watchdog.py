"""Ends a process whose encoder hangs or whose device is gone, so that its runner starts the bundle again, or the person
the job."""

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from typing import NoReturn

LOADING_SECONDS = 3600.0
"""Loading a model may take as long, or the time-out where that is longer: another process may be fetching it."""
MOST_TICK_SECONDS = 5.0


class Watchdog:
    """Told of every batch that is done in this process; where none is for `seconds`, it ends the process.

    A thread that hangs in a kernel or a driver cannot be ended alone, and what it holds would hang the next bundle too.
    Nothing is lost: files are there whole or not at all.

    Time is counted in ticks of this process. One that was stopped, or whose machine slept, has not waited meanwhile.
    """

    signs = 0  # of life, of all: a block that waits behind those of another thread is alive as long as they are

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def alive(self) -> None:
        Watchdog.signs += 1

    @contextlib.contextmanager
    def watch(self, what: str, loading: bool = False) -> Iterator[None]:
        """While this thread waits for the encoder, or for the model to be loaded."""
        finished = threading.Event()
        self.alive()
        threading.Thread(target=self._wait, args=(what, finished, loading), daemon=True).start()
        try:
            yield
        finally:
            finished.set()

    def _wait(self, what: str, finished: threading.Event, loading: bool) -> None:
        seconds = max(self.seconds, LOADING_SECONDS) if loading else self.seconds
        tick = min(self.seconds / 4, MOST_TICK_SECONDS)
        seen, waited = Watchdog.signs, 0.0
        while not finished.wait(tick):
            seen, waited = (seen, waited + tick) if Watchdog.signs == seen else (Watchdog.signs, 0.0)
            if waited > seconds:
                slow = "the model was not loaded within" if loading else "no batch was encoded for"
                end_process(
                    f"{what}: {slow} {seconds:g} s (--encode_timeout_seconds); nothing is published, what is finished "
                    "is kept; run again to go on"
                )


def end_process(message: str) -> NoReturn:
    """Ends it at once, with exit status 1: no thread of it can be waited for, nor what a driver would do at its end."""
    sys.stderr.write(f"failed: {message}\n")
    sys.stderr.flush()
    os._exit(1)
