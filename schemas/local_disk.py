"""The local disk as a store: what is written is there whole or not at all, and for sure."""

import contextlib
import errno
import io
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from fsspec.implementations.local import LocalFileSystem

from schemas.errors import InputError, RunFailed
from schemas.splits import FileInfo
from schemas.store_faults import Action
from schemas.stores import Entry, Store

READ_BUFFER_BYTES = 1 << 20
TEMPORARY = ".tmp-"
CLAIM_SECONDS = 10.0
"""How long a name may be claimed by another before that one counts as dead: a claim lasts for one rename."""
_DONE = {"read": "read", "list": "listed", "write": "written", "remove": "removed"}
_NO_LINKS = (errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EINVAL, errno.EXDEV)
"""What file systems without hard links say. Only these: of two creates, one that links sees no claim."""
_NO_FOLDER_SYNC = (errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.ENOSYS)

T = TypeVar("T")


class _StrictLocal(LocalFileSystem):
    """fsspec leaves out folders that it may not list, and those that a symbolic link leads to, and says nothing; and it
    tells times as floats, which cannot tell 100 ns apart."""

    def info(self, path: Any, **options: Any) -> Any:
        with contextlib.suppress(FileNotFoundError):  # a link to nothing is told as the link itself
            is_link = isinstance(path, os.DirEntry) and path.is_symlink()
            entry = super().info(path.path if is_link else path, **options)
            found = path.stat() if isinstance(path, os.DirEntry) else os.stat(entry["name"])
            return entry | {"tag": f"{found.st_mtime_ns}:{found.st_ctime_ns}:{found.st_ino}"}
        return super().info(path, **options)

    def walk(self, path: str, *args: Any, **options: Any) -> Any:
        return super().walk(path, *args, **options | {"on_error": "raise"})


class LocalDisk(Store):
    def connect(self) -> Any:
        return _StrictLocal()

    def path(self, uri: str) -> str:
        return _resolved(super().path(_without_host(uri)))

    def uri(self, path: str) -> str:
        return path

    def attempt(self, action: Action, uri: str, call: Callable[[], T]) -> T:
        """A disk does not get better by asking again. Raises RunFailed for what the system refuses."""
        try:
            return call()
        except (FileNotFoundError, NotADirectoryError, FileExistsError):
            raise
        except OSError as error:
            said = error.strerror or error
            raise RunFailed(f"{error.filename or uri} cannot be {_DONE[action.words]}: {said}") from None

    def info(self, entry: Entry) -> FileInfo:
        return super().info({"etag": entry["tag"], **entry} if "tag" in entry else entry)

    def is_same(self, listed: FileInfo, now: FileInfo | None) -> bool:
        """Whatever its inode: some network file systems make up another each time that they are asked."""
        return now is not None and _without_inode(listed) == _without_inode(now)

    def real_folder(self, path: str) -> str:
        return os.path.realpath(path)

    def open(self, file: FileInfo, start: int, stop: int | None, ahead: bool) -> io.BufferedReader:
        raw: io.BufferedReader = io.BufferedReader(io.FileIO(self.path(file.uri)), READ_BUFFER_BYTES)
        if start:
            raw.seek(start)
        return raw

    def expect(self, file: FileInfo, start: int, stop: int | None) -> None:
        """The system reads ahead itself."""

    def create(self, path: str, data: bytes) -> None:
        _make_folder_of(path)
        try:
            with _temporary(Path(path), data) as temporary:
                _link(temporary, Path(path))
        except FileExistsError:
            raise
        except OSError as error:
            raise _not_written(path, error) from error

    def replace(self, path: str, data: bytes) -> None:
        """A link stays, and its target is replaced; what is no regular file is written to, as `cp` does."""
        _make_folder_of(path)
        try:
            if _is_written_through(path):
                _write_through(path, data)
                return
            final = Path(os.path.realpath(path) if os.path.islink(path) else path)
            with _temporary(final, data) as temporary:
                temporary.replace(final)
            _sync_folder(final.parent)
        except OSError as error:
            raise _not_written(path, error) from error

    def check_folder(self, path: str) -> str:
        """The folder, or where there is none yet the one above that is there. Raises RunFailed for a file."""
        folder = next(str(p) for p in (Path(path), *Path(path).parents) if os.path.lexists(p))
        if not os.path.isdir(folder):
            raise RunFailed(f"{folder} {_no_folder(folder)}")
        return folder

    def remove_folder(self, path: str) -> None:
        with contextlib.suppress(OSError):
            self.fs.rm(path, recursive=True)

    def remove_stale_temporaries(self, path: str, older_than_seconds: float) -> None:
        """Removes what killed runs left half written in a folder; a younger one may belong to a run that is alive."""
        for temporary in Path(path).glob(f".*{TEMPORARY}*"):
            with contextlib.suppress(OSError):  # gone, or another's: it harms nobody
                if temporary.stat().st_mtime < time.time() - older_than_seconds:
                    temporary.unlink()


def _without_inode(file: FileInfo) -> FileInfo:
    return file._replace(etag=file.etag.rpartition(":")[0])


def _without_host(uri: str) -> str:
    scheme, _, rest = uri.partition("://")
    if scheme != "file" or not rest:
        return uri
    host, slash, path = rest.partition("/")
    if host not in ("", "localhost"):
        raise InputError(
            f"{uri}: names the machine '{host}'; files of this one are file:///path or /path, those of another are "
            "read where they are mounted"
        )
    return slash + path


def _resolved(path: str) -> str:
    """The path without '.', '..' and doubled slashes. As for the system, '..' leads up from where a link leads."""
    if ".." not in path.split("/"):
        return os.path.normpath(path)
    at = "/"
    for name in path.split("/"):
        if name == "..":
            at = os.path.dirname(os.path.realpath(at) if os.path.islink(at) else at)
        elif name not in ("", "."):
            at = os.path.join(at, name)
    return at


def _no_folder(path: str) -> str:
    return "is a link to nothing that is there" if os.path.islink(path) else "is a file, no folder"


def _make_folder_of(path: str) -> None:
    parent = Path(path).parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:  # a file, or a link to nothing: on no account "the file is there"
        raise RunFailed(f"{path}: cannot be written: {error.filename} {_no_folder(error.filename)}") from None
    except OSError as error:
        raise _not_written(path, error) from error


def _not_written(path: str, error: OSError) -> RunFailed:
    """Disk full, read-only, no permission: nothing is there that was not whole before."""
    return RunFailed(f"{path}: cannot be written: {error.strerror or error}; make room or mend it and run again")


@contextlib.contextmanager
def _temporary(final: Path, data: bytes) -> Iterator[Path]:
    """A file beside `final` that holds `data`, on disk for sure; gone afterwards unless it was moved."""
    temporary = final.parent / f".{final.name[:48]}{TEMPORARY}{os.getpid()}-{secrets.token_hex(4)}"
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
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        _claim_and_rename(temporary, final)
    _sync_folder(final.parent)


def _claim_and_rename(temporary: Path, final: Path) -> None:
    """As FAT and some FUSE need it. Who creates the claim, a file beside, looks whether the name is free and renames to
    it, so that no other does the same meanwhile, on whatever machine. Readers never see a file without its content.

    Raises:
        FileExistsError: the name is taken.
        OSError: it stays claimed: by a run that was killed between the two.
    """
    claim = final.parent / f".{final.name}{TEMPORARY}claim"
    deadline = time.monotonic() + CLAIM_SECONDS
    while True:
        try:
            os.close(os.open(claim, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            break
        except FileExistsError:
            if os.path.lexists(final):
                raise FileExistsError(final) from None
            if time.monotonic() > deadline:
                raise OSError(errno.EBUSY, f"{claim} was left by a run that was killed; remove it") from None
            time.sleep(0.01)
    try:
        if os.path.lexists(final):
            raise FileExistsError(final)
        os.rename(temporary, final)
    finally:
        os.unlink(claim)


def _is_written_through(path: str) -> bool:
    """A device, a pipe, or where this process' output goes: none of them may be put another file in the place of."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return False
    return not stat.S_ISREG(found.st_mode) or any(_is_open_as(number, found) for number in (1, 2))


def _is_open_as(number: int, found: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.fstat(number), found)
    except OSError:
        return False


def _write_through(path: str, data: bytes) -> None:
    if os.path.isdir(path):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
    if data:  # a pipe's reader takes the first that lets go for the last
        with open(path, "wb", buffering=0) as file:
            file.write(data)


def _sync_folder(folder: Path) -> None:
    """Some file systems cannot sync a folder, and one that may be written to but not read cannot be opened for it: the
    file is there all the same."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
    finally:
        os.close(descriptor)
