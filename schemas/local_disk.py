"""The local disk as a store: what is written is there whole or not at all, and for sure."""

import contextlib
import io
import os
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from fsspec.implementations.local import LocalFileSystem

from schemas.errors import RunFailed
from schemas.splits import FileInfo
from schemas.store_faults import Action
from schemas.stores import Store

READ_BUFFER_BYTES = 1 << 20
TEMPORARY = ".tmp-"

T = TypeVar("T")


class _StrictLocal(LocalFileSystem):
    """fsspec leaves out folders that it may not list, and those that a symbolic link leads to, and says nothing."""

    def info(self, path: Any, **options: Any) -> Any:
        if isinstance(path, os.DirEntry) and path.is_symlink():
            with contextlib.suppress(FileNotFoundError):  # a link to nothing is told as the link itself
                return super().info(path.path, **options)
        return super().info(path, **options)

    def walk(self, path: str, *args: Any, **options: Any) -> Any:
        return super().walk(path, *args, **options | {"on_error": "raise"})


class LocalDisk(Store):
    def connect(self) -> Any:
        return _StrictLocal()

    def path(self, uri: str) -> str:
        return os.path.normpath(super().path(uri))

    def uri(self, path: str) -> str:
        return path

    def attempt(self, action: Action, uri: str, call: Callable[[], T]) -> T:
        return call()  # a disk does not get better by asking again

    def open(self, file: FileInfo, start: int, stop: int | None, ahead: bool) -> io.BufferedReader:
        raw: io.BufferedReader = io.BufferedReader(io.FileIO(self.path(file.uri)), READ_BUFFER_BYTES)
        if start:
            raw.seek(start)
        return raw

    def expect(self, file: FileInfo, start: int, stop: int | None) -> None:
        """The system reads ahead itself."""

    def create(self, path: str, data: bytes) -> None:
        try:
            with _temporary(Path(path), data) as temporary:
                _link(temporary, Path(path))
        except FileExistsError:
            raise
        except OSError as error:
            raise _not_written(path, error) from error

    def replace(self, path: str, data: bytes) -> None:
        try:
            with _temporary(Path(path), data) as temporary:
                temporary.replace(path)
            _sync_folder(Path(path).parent)
        except OSError as error:
            raise _not_written(path, error) from error

    def check_folder(self, path: str) -> str:
        """The folder, or where there is none yet the one above that is there. Raises RunFailed for a file."""
        folder = next(str(p) for p in (Path(path), *Path(path).parents) if os.path.exists(p))
        if not os.path.isdir(folder):
            raise RunFailed(f"{folder} is a file, no folder")
        return folder

    def remove_folder(self, path: str) -> None:
        with contextlib.suppress(OSError):
            self.fs.rm(path, recursive=True)

    def remove_stale_temporaries(self, path: str, older_than_seconds: float) -> None:
        """Removes what killed runs left half written in a folder; a younger one may belong to a run that is alive."""
        for temporary in Path(path).glob(f".*{TEMPORARY}*"):
            with contextlib.suppress(FileNotFoundError):
                if temporary.stat().st_mtime < time.time() - older_than_seconds:
                    temporary.unlink()


def _not_written(path: str, error: OSError) -> RunFailed:
    """Disk full, read-only, no permission: nothing is there that was not whole before."""
    return RunFailed(f"{path}: cannot be written: {error.strerror or error}; make room or mend it and run again")


@contextlib.contextmanager
def _temporary(final: Path, data: bytes) -> Iterator[Path]:
    """A file beside `final` that holds `data`, on disk for sure; gone afterwards unless it was moved."""
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.parent / f".{final.name}{TEMPORARY}{os.getpid()}-{secrets.token_hex(4)}"
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _link(temporary: Path, final: Path) -> None:
    """Gives the file its final name, or raises FileExistsError. A hard link is the one atomic create-if-absent that
    POSIX has for a file with content; where the file system has none, the name is claimed first."""
    try:
        os.link(temporary, final)
    except FileExistsError:
        raise
    except OSError:
        if final.exists():
            raise FileExistsError(final) from None
        temporary.rename(final)
    _sync_folder(final.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
