"""A process is over only where that is certain."""

import json
import signal
import subprocess
import sys
import time

import pytest

from schemas.processes import Process, is_here, is_over, process_of, this_process

PROGRAM = """
import json, sys
from schemas.processes import this_process
print(json.dumps(this_process()), flush=True)
sys.stdin.read()
"""


def test_a_process_is_over_when_it_has_ended_and_not_while_it_is_stopped() -> None:
    child = subprocess.Popen([sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    process = process_of(json.loads(child.stdout.readline()))
    assert process is not None and process.pid == child.pid and is_here(process)
    assert not is_over(process)
    child.send_signal(signal.SIGSTOP)
    assert not is_over(process)
    child.kill()
    deadline = time.monotonic() + 10
    while not is_over(process) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert is_over(process)  # before anybody has asked how it ended
    child.wait()
    assert is_over(process)


@pytest.mark.parametrize("field", ["host", "boot", "pid_space"])
def test_of_processes_elsewhere_nothing_is_certain(field: str) -> None:
    here = this_process()
    assert here is not None
    elsewhere = here._replace(**{field: "another"}, pid=1 << 30)
    assert (is_here(elsewhere), is_over(elsewhere)) == (False, False)
    assert is_over(here._replace(pid=1 << 30))


def test_a_number_that_is_another_process_by_now_is_told_by_its_start() -> None:
    here = this_process()
    assert here is not None
    assert not is_over(here) and is_over(here._replace(started="1"))


@pytest.mark.parametrize("said", [None, [], {}, "x", [1, 2, 3]])
def test_what_says_nothing_is_no_process(said: object) -> None:
    assert process_of(said) is None and not is_over(None)
    assert isinstance(process_of(json.loads(json.dumps(this_process()))), Process)
