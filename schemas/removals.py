"""What clean-ups may be deleting, and the names that nobody uses meanwhile.

Parts are named by their content, so a name that was deleted may be wanted again, and a clean-up that stalled may delete
it again: no store can tell it to delete only the file of before (S3's tags are made of the content, disks have none).
So a name is never used while some process may still delete it. Before a clean-up deletes anything it puts a record of
the names, `_manifest/<version>-<token>.removing`. It alone takes the record away, once all its deletes have returned;
or another process does, which knows for certain that the first is over. Of a clean-up that was killed on another
machine the record stays for ever: its names are never used again. Whoever needs one of them takes `part-<digest>-1`.

What is assumed of stores: they list what was put before, and a request that they did not answer in time, and that was
made again and answered, has no effect later.
"""

import functools
import hashlib
import itertools
import json
import re
import secrets
from collections.abc import Collection, Iterator
from typing import NamedTuple

from schemas import storage
from schemas.errors import RunFailed
from schemas.manifest import FOLDER
from schemas.processes import Process, is_over, process_of, this_process
from schemas.splits import FileInfo

ENDING = ".removing"
_STEM = r"(?P<stem>(_[a-z]+/)?part-[0-9a-f]{32})"
_NAME, _ANY_NAME = re.compile(rf"{_STEM}\.parquet"), re.compile(rf"{_STEM}(-[1-9][0-9]*)?\.parquet")


class Removal(NamedTuple):
    """A clean-up's record: the files that it may be deleting, by their names below the output folder."""

    uri: str
    names: frozenset[str]
    by: Process | None

    @property
    def is_over(self) -> bool:
        """Whether for certain nothing will be deleted by it any more."""
        return is_over(self.by)


def announce(output: str, version: int, names: Collection[str]) -> Removal:
    """Puts the record of what is about to be deleted. After this, and only then, the clean-up looks who may need it."""
    by = this_process()
    removal = Removal(_record_uri(output, version), frozenset(names), by)
    storage.replace(removal.uri, json.dumps({"by": by, "names": sorted(names)}).encode())
    return removal


def _record_uri(output: str, version: int) -> str:
    """Each attempt has its own, as one must never take away another's."""
    return storage.join(output, FOLDER, f"{version:08d}-{secrets.token_hex(8)}{ENDING}")


def removals(output: str) -> list[Removal]:
    """The records that are there. Raises RunFailed for one that says nothing."""
    folder = storage.join(output, FOLDER)
    uris = [storage.join(folder, name) for name in storage.names(folder) if name.endswith(ENDING)]
    return [found for found in map(_read, uris) if found]


def _read(uri: str) -> Removal | None:
    try:
        said = json.loads(storage.read_bytes(uri))
        names, by = (said["names"], process_of(said["by"])) if isinstance(said, dict) else (said, None)
        if strange := [name for name in names if not _ANY_NAME.fullmatch(name)]:
            raise ValueError(f"lists {strange[0]!r}, which is no part")
    except FileNotFoundError:  # its clean-up is done
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise RunFailed(
            f"{uri}: is no record of a clean-up ({error}); if no job is running, remove it and run again"
        ) from None
    return Removal(uri, frozenset(names), by)


@functools.lru_cache(maxsize=4)
def removed_names(output: str, run: str) -> frozenset[str]:
    """Names that a clean-up may be deleting and a run must not use.

    Read once a process and run, since the run's lease was there first: a clean-up that announces itself later meets the
    lease. See `transforms.leases`.
    """
    return frozenset().union(*(removal.names for removal in removals(output)))


def forget_removed_names() -> None:
    """Reads them anew from now on."""
    removed_names.cache_clear()


def usable_names(output: str, run: str, name: str) -> Iterator[str]:
    """The names that content may have, in the order in which everybody tries them: `part-<digest>.parquet`, unless a
    clean-up may be deleting it or what is there is not good, then `part-<digest>-1.parquet`, and so on."""
    removed = removed_names(output, run)
    return (other for other in _names(name) if other not in removed)


def _names(name: str) -> Iterator[str]:
    match = _NAME.fullmatch(name)
    if match is None:
        raise ValueError(f"{name}: no name of a part")
    return itertools.chain([name], (f"{match['stem']}-{n}.parquet" for n in itertools.count(1)))


def put_content(output: str, run: str, name: str, data: bytes) -> str:
    """Puts a file that is named by its content; returns the name under which exactly this is there now. Never writes
    over anything: a version may list it."""
    for usable in usable_names(output, run, name):
        uri = storage.join(output, usable)
        if storage.create(uri, data) or ((info := storage.stat(uri)) and holds(info, data)):
            return usable
    raise AssertionError("names do not end")


def holds(file: FileInfo, data: bytes) -> bool:
    """Whether the file is this, byte for byte. It is not fetched where its store's tag says so, as S3's mostly does."""
    if file.size != len(data):
        return False
    if file.etag == hashlib.md5(data, usedforsecurity=False).hexdigest():
        return True
    try:
        return storage.read_bytes(file.uri) == data
    except FileNotFoundError:
        return False


def close(removal: Removal) -> None:
    """Says that nothing will be deleted by it any more: its names can be used again."""
    storage.remove([removal.uri])
