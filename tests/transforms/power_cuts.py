"""A file system that records what is written, linked, removed and synced, and what a power cut may leave of it.

A file's bytes are safe once the file was synced, a name in a folder once the folder was. Until then each folder may or
may not have what was done in it, and a file that has a name may be empty.
"""

import contextlib
import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest


class Change(NamedTuple):
    """A name in a folder gets a file, whose bytes are safe or not, or loses it (None)."""

    path: str
    data: bytes | None


class Synced(NamedTuple):
    folder: str


class Recorder:
    """What was done below `root`, in order."""

    def __init__(self, root: Path) -> None:
        self.root = str(root)
        self.events: list[Change | Synced] = []
        self._safe: dict[int, bytes] = {}  # by inode: bytes that were synced

    def synced(self, descriptor: int) -> None:
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        if os.path.isdir(path):
            self._add(Synced(path))
        else:
            self._safe[os.fstat(descriptor).st_ino] = Path(path).read_bytes()

    def named(self, path: Any) -> None:
        """After a file got this name."""
        self._add(Change(str(path), self._safe.get(os.stat(path).st_ino, b"")))

    def unnamed(self, path: Any) -> None:
        self._add(Change(str(path), None))

    def _add(self, event: Change | Synced) -> None:
        place = event.folder if isinstance(event, Synced) else event.path
        if f"{place}/".startswith(f"{self.root}/") and ".tmp-" not in place:
            self.events.append(event)

    def states(self, before: dict[str, bytes]) -> Iterator[tuple[int, dict[str, bytes]]]:
        """What may be there after a power cut: (events that were before it, files). `before`: files at the start."""
        folders = sorted({os.path.dirname(e.path) for e in self.events if isinstance(e, Change)})
        for number in range(len(self.events) + 1):
            for kept in itertools.product([False, True], repeat=len(folders)):
                yield number, self._after(number, before, {f for f, k in zip(folders, kept, strict=True) if k})

    def _after(self, number: int, before: dict[str, bytes], kept: set[str]) -> dict[str, bytes]:
        files, waiting = dict(before), list[Change]()
        for event in self.events[:number]:
            if isinstance(event, Change):
                waiting.append(event)
                continue
            _apply(files, [c for c in waiting if os.path.dirname(c.path) == event.folder])
            waiting = [c for c in waiting if os.path.dirname(c.path) != event.folder]
        _apply(files, [c for c in waiting if os.path.dirname(c.path) in kept])
        return files


def _apply(files: dict[str, bytes], changes: list[Change]) -> None:
    for change in changes:
        if change.data is None:
            files.pop(change.path, None)
        else:
            files[change.path] = change.data


def files_below(root: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def lay_out(files: dict[str, bytes], root: Path, place: Path) -> Path:
    """The files of `root` as they may be after a power cut, in a folder of their own."""
    shutil.rmtree(place, ignore_errors=True)
    for path, data in files.items():
        there = place / Path(path).relative_to(root)
        there.parent.mkdir(parents=True, exist_ok=True)
        there.write_bytes(data)
    return place


@contextlib.contextmanager
def recorded(root: Path) -> Iterator[Recorder]:
    """Records what is done below `root` by way of `os`."""
    recorder = Recorder(root)

    def then(verb: str, *notes: Callable[..., None]) -> Callable[..., Any]:
        real = getattr(os, verb)

        def call(*args: Any, **options: Any) -> Any:
            result = real(*args, **options)
            for note in notes:
                note(*args)
            return result

        return call

    moved = (lambda source, _: recorder.unnamed(source), lambda _, target: recorder.named(target))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", then("fsync", recorder.synced))
        patch.setattr(os, "link", then("link", lambda _, target: recorder.named(target)))
        for verb in ("rename", "replace"):
            patch.setattr(os, verb, then(verb, *moved))
        for verb in ("unlink", "remove"):
            patch.setattr(os, verb, then(verb, recorder.unnamed))
        yield recorder
