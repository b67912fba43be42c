"""Which process does something, so that a later one on the same machine can tell that it is over for certain."""

import os
import socket
from pathlib import Path
from typing import Any, NamedTuple


class Process(NamedTuple):
    """A process of one boot of one Linux machine. Process ids are used again, so the time of its start tells it too."""

    host: str  # machines that were restored from one snapshot say that they are of one boot
    boot: str
    pid_space: str  # containers number their processes for themselves
    pid: int
    started: str  # clock ticks since the boot


def this_process() -> Process | None:
    """None where the system does not say what it takes to tell later whether this process is over."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        space = os.readlink("/proc/self/ns/pid")
        return Process(socket.gethostname(), boot, space, os.getpid(), _stat(os.getpid())[1])
    except (OSError, IndexError):
        return None


def process_of(said: Any) -> Process | None:
    """What `this_process` returned, back from JSON."""
    return Process(*said) if isinstance(said, list) and len(said) == len(Process._fields) else None


def is_here(process: Process | None) -> bool:
    """Whether this process can tell of that one whether it is over: both are of one boot and see the same numbers."""
    here = this_process()
    return process is not None and here is not None and process[:3] == here[:3]


def is_over(process: Process | None) -> bool:
    """True only where it is certain: whatever the process had begun, such as removing a file, is done or never will be.
    A stalled process is not over."""
    if process is None or not is_here(process):
        return False
    try:
        os.kill(process.pid, 0)
    except ProcessLookupError:
        return True
    except OSError:  # it is there, and another user's
        pass
    try:
        state, started = _stat(process.pid)
        # The last of a killed process's threads may be in a system call while its first one counts as dead already.
        threads = len(os.listdir(f"/proc/{process.pid}/task"))
    except (OSError, IndexError):  # some systems hide other users' processes there
        return False
    return started != process.started or (state == "Z" and threads <= 1)


def _stat(pid: int) -> tuple[str, str]:
    """State and start of a process. Its name, in parentheses, may hold anything, parentheses too."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return fields[0], fields[19]
