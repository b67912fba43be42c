"""A process that hangs is ended; one that was only stopped meanwhile is not."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from transforms import watchdog
from transforms.watchdog import Watchdog

ROOT = Path(__file__).parents[2]


class Ended(BaseException):
    pass


class Clock:
    """An event whose waits pass at once, and are counted."""

    def __init__(self, ticks: int) -> None:
        self.left, self.seconds = ticks, 0.0

    def wait(self, seconds: float) -> bool:
        self.left -= 1
        self.seconds += seconds
        return self.left < 0


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    messages: list[str] = []

    def end(message: str) -> None:
        messages.append(message)
        raise Ended

    monkeypatch.setattr(watchdog, "end_process", end)
    return messages


def test_what_gives_no_sign_of_life_is_ended_and_told(told: list[str]) -> None:
    clock = Clock(1000)
    with pytest.raises(Ended):
        Watchdog(60)._wait("part-1", clock, loading=False)  # type: ignore[arg-type]
    assert 60 < clock.seconds <= 66
    assert "part-1: no batch was encoded for 60 s (--encode_timeout_seconds)" in told[0]


def test_signs_of_life_begin_the_time_anew(told: list[str]) -> None:
    dog = Watchdog(60)

    class Lively(Clock):
        def wait(self, seconds: float) -> bool:
            if self.left % 10 == 0:
                dog.alive()
            return super().wait(seconds)

    dog._wait("part-1", Lively(500), loading=False)  # type: ignore[arg-type]
    assert told == []


def test_a_model_that_does_not_load_is_ended_too_but_later(told: list[str]) -> None:
    clock = Clock(10_000)
    with pytest.raises(Ended):
        Watchdog(60)._wait("part-1", clock, loading=True)  # type: ignore[arg-type]
    assert 3600 < clock.seconds <= 3610
    assert "part-1: the model was not loaded within 3600 s" in told[0]


STOPPED = """
import sys, time
from transforms.watchdog import Watchdog
with Watchdog(1.2).watch("part-1"):
    print("begun", flush=True)
    for _ in range(30):  # after it was woken too
        time.sleep(0.02)
print("ended well", flush=True)
"""


def test_a_process_that_was_stopped_for_longer_than_the_time_out_goes_on() -> None:
    process = subprocess.Popen([sys.executable, "-c", STOPPED], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "begun\n"
    os.kill(process.pid, signal.SIGSTOP)
    time.sleep(2)
    os.kill(process.pid, signal.SIGCONT)
    assert (process.communicate(timeout=60)[0], process.returncode) == ("ended well\n", 0)
