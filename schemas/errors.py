"""The two ways a job ends badly. Anything else that escapes is a bug and keeps its traceback."""


class InputError(Exception):
    """The command line or the input is wrong, found before any work: exit status 2, one line, no traceback."""


class RunFailed(Exception):
    """The run cannot publish: exit status 1. The message names the file, what was expected and what to do."""


class DeviceGone(RunFailed):
    """The device that encodes computes nothing more in this process, which has to end: another one may go on."""
