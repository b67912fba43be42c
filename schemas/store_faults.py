"""What stores do wrong, in one place: which faults are tried again, and what the rest is called.

The libraries try again first, by their own settings (`cloud_stores`): statuses 429 and 5xx, refused connections. What
they let pass comes here: bodies cut short, connections reset halfway, stalls. Every verb is harmless to repeat: reads
and lists anyway, puts because a name always gets the same content or is created once, removals because gone is gone.
"""

import asyncio
import random
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

from schemas.blanking import blanked
from schemas.errors import InputError, RunFailed

ATTEMPTS = 4
PAUSE_SECONDS, MOST_PAUSE_SECONDS = 0.5, 8.0
PATIENCE_SECONDS = 120.0
"""After so long no further attempt begins."""
CALL_SECONDS = 90.0
"""Most that one call may take, the libraries' own attempts included, so that nothing hangs for ever."""
LEAST_BYTES_PER_SECOND = 1 << 18
"""A call that moves data is given so much longer."""

_BUGS = (TypeError, AttributeError, NameError, AssertionError, MemoryError)
_NO_CREDENTIALS = ("Credential", "Authentication", "TokenRetrieval", "RefreshError")
_TRANSIENT_NAMES = (
    *("Timeout", "Connection", "Disconnected", "PayloadError", "IncompleteRead", "ServiceRe", "Protocol"),
    *("ConnectError", "ReadError"),  # httpx's
)
_TRANSIENT_STATUSES = (408, 409, 425, 429)
_LASTING_STATUSES = (501, 505)
_MOST_WORDS = 300

_SKEWED = "the clock of this machine and the store's differ by too much; set it"
_ARCHIVED = "it is archived; restore it, or leave it out"
_RESTORING = "it is being restored from the archive; run again when it is there"
_PAYER = "its bucket has the requester pay: name the project that pays in GS_USER_PROJECT"
_ADVICE_BY_CODE = {
    "RequestTimeTooSkewed": _SKEWED,
    "InvalidObjectState": _ARCHIVED,
    "BlobArchived": _ARCHIVED,
    "RestoreAlreadyInProgress": _RESTORING,
    "BlobBeingRehydrated": _RESTORING,
    "UserProjectMissing": _PAYER,
}
_ADVICE_BY_WORDS = {
    "request date header too old": _SKEWED,  # Azure's
    "must be a short-lived token": _SKEWED,  # Google's
    "requester pays": _PAYER,
}
"""Refusals and conflicts that no permission and no further attempt helps against."""
_CONDITION = "which is a put only if nothing is there yet (If-None-Match): publishing needs that; use another store"

T = TypeVar("T")


class Action(NamedTuple):
    """What is done to a store, and the permissions that it takes."""

    words: str
    s3: str
    gs: str
    azure: str

    def permission(self, scheme: str) -> str:
        return {"s3": self.s3, "gs": self.gs, "az": self.azure, "abfs": self.azure}.get(scheme, "")


READ = Action("read", "s3:GetObject", "storage.objects.get", "Storage Blob Data Reader")
LIST = Action("list", "s3:ListBucket", "storage.objects.list", "Storage Blob Data Reader")
WRITE = Action("write", "s3:PutObject", "storage.objects.create", "Storage Blob Data Contributor")
REMOVE = Action("remove", "s3:DeleteObject", "storage.objects.delete", "Storage Blob Data Contributor")


class Truncated(ConnectionError):
    """A store sent less than it was asked for."""


class Passing(ConnectionError):
    """A store says itself that asking again may help."""


class Changed(Exception):
    """A file is no longer the one that was listed."""


class NotAllowed(Exception):
    """What the command line did not allow."""


def patiently(action: Action, uri: str, call: Callable[[], T]) -> T:
    """What `call` returns, tried again while that may help.

    Raises:
        FileNotFoundError, FileExistsError: as `call` did; the message is the URI alone.
        RunFailed: one line that says what could not be done, and why.
    """
    started, attempt = time.monotonic(), 0
    while True:
        attempt += 1
        try:
            return call()
        except (*_BUGS, RunFailed, InputError):
            raise
        except Exception as error:
            refusal = next((e for e in _chain(error) if isinstance(e, NotAllowed)), None)
            if refusal:
                raise RunFailed(f"{blanked(uri)}: {blanked(str(refusal))}") from None
            if isinstance(error, Changed):
                raise RunFailed(
                    f"{blanked(uri)}: changed while it was read; run again when nothing writes to it"
                ) from None
            if isinstance(error, FileExistsError) or (action is WRITE and status_of(error) == 412):
                raise FileExistsError(uri) from None
            if is_absent(error):
                raise FileNotFoundError(uri) from None
            waited = time.monotonic() - started
            if not _is_transient(error) or attempt == ATTEMPTS or waited > PATIENCE_SECONDS:
                raise _told(action, uri, error, attempt, waited) from None
        pause = min(PAUSE_SECONDS * 2 ** (attempt - 1), MOST_PAUSE_SECONDS)
        time.sleep(pause * random.uniform(0.5, 1))


def seconds_for(size: int) -> float:
    """How long a call that moves so many bytes may take."""
    return CALL_SECONDS + size / LEAST_BYTES_PER_SECOND


def is_absent(error: BaseException) -> bool:
    return isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError) or status_of(error) == 404


def status_of(error: BaseException) -> int:
    """The HTTP status behind an exception of any of the libraries; 0 where there is none."""
    for link in _chain(error):
        response = getattr(link, "response", None)
        if isinstance(response, dict):
            found = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        else:
            found = getattr(link, "status", None) or getattr(link, "status_code", None) or getattr(link, "code", None)
            found = found or getattr(response, "status_code", None)
        if str(found).isdigit():
            return int(str(found))
    return 0


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The exception, and those that it came from."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = getattr(link, "os_error", None) or link.__cause__


def _advice(error: BaseException) -> str | None:
    for link in _chain(error):
        response = getattr(link, "response", None)
        said = (
            response.get("Error", {}).get("Code") if isinstance(response, dict) else getattr(link, "error_code", None)
        )
        if advice := _ADVICE_BY_CODE.get(str(getattr(said, "value", said))):
            return advice
    words = str(error).lower()
    return next((advice for known, advice in _ADVICE_BY_WORDS.items() if known in words), None)


def _is_transient(error: BaseException) -> bool:
    if _is_refused(error) or _advice(error) or status_of(error) in _LASTING_STATUSES:
        return False
    kinds = (TimeoutError, asyncio.TimeoutError, ConnectionError)
    if any(
        isinstance(link, kinds) or any(name in type(link).__name__ for name in _TRANSIENT_NAMES)
        for link in _chain(error)
    ):
        return True  # before the status: aiohttp gives a body cut short a 400
    status = status_of(error)
    return status in _TRANSIENT_STATUSES or status >= 500 or "SlowDown" in str(error)


def _is_refused(error: BaseException) -> bool:
    if isinstance(error, PermissionError) or status_of(error) in (401, 403):
        return True
    if isinstance(error, OSError) and str(error).startswith("Forbidden"):  # gcsfs
        return True
    return any(any(name in type(link).__name__ for name in _NO_CREDENTIALS) for link in _chain(error))


def _told(action: Action, uri: str, error: BaseException, attempts: int, waited: float) -> RunFailed:
    uri, says, advice = blanked(uri), _words(error), _advice(error)
    if action is WRITE and status_of(error) == 501:
        return RunFailed(
            f"{uri}: cannot {action.words} it: the store does not know what it was asked for, {_CONDITION}"
        )
    if advice:
        return RunFailed(f"{uri}: cannot {action.words} it: {advice} (the store says: {says})")
    if _is_refused(error):
        scheme, _, rest = uri.partition("://")
        permission = action.permission(scheme)
        needs = f" needs {permission} on {scheme}://{rest.split('/')[0]}" if permission else " is not allowed"
        return RunFailed(
            f"{uri}: to {action.words} it{needs}; grant it to the identity that this process runs as (the store says: "
            f"{says})"
        )
    if attempts > 1:
        return RunFailed(
            f"{uri}: cannot {action.words} it after {attempts} attempts in {waited:.0f} s: {says}; run again when the "
            "store answers"
        )
    return RunFailed(f"{uri}: cannot {action.words} it: {says}")


def _words(error: BaseException) -> str:
    """Without secrets: they are blanked before the text is cut, or half of one would be left."""
    says = getattr(error, "strerror", None) or error  # without the "[Errno 5]" that libraries make up
    text = blanked(" ".join(str(says).split())) or type(error).__name__
    return text if len(text) <= _MOST_WORDS else text[: _MOST_WORDS - 1] + "…"
