"""The few verbs on fsspec that everything else uses: list, stat, read, create if absent, replace, remove.

A file appears whole at its final name or not at all, on every store: what is written is held in memory and put in one
call. Never through `with fs.open(..., "wb")`: s3fs, gcsfs and adlfs publish the partial object when the block raises.
"""

import contextlib
import datetime
import functools
import io
import os
import secrets
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import fsspec
from fsspec.implementations.local import LocalFileSystem

from schemas.errors import InputError, RunFailed
from schemas.splits import FileInfo

SCHEMES = ("file", "gs", "s3", "az", "abfs", "hf", "memory")
READ_BUFFER_BYTES = 1 << 20
TEMPORARY = ".tmp-"
DAY_SECONDS = 86_400


class _StrictLocal(LocalFileSystem):
    """fsspec leaves out folders that it may not list, and says nothing."""

    def walk(self, path: str, *args: Any, **options: Any) -> Any:
        return super().walk(path, *args, **options | {"on_error": "raise"})


@functools.lru_cache(maxsize=64)
def _filesystem(scheme: str) -> Any:
    return _StrictLocal() if scheme == "file" else fsspec.filesystem(scheme)


def resolve(uri: str) -> tuple[Any, str]:
    """`(filesystem, path on it)` of a URI or local path. Raises InputError for a scheme that is not allowed."""
    if "::" in uri:
        raise InputError(f"{uri}: chained URLs ('::') are not read; name the file itself")
    scheme, separator, _ = uri.partition("://")
    if not separator:
        scheme = "file"
    if scheme not in SCHEMES:
        raise InputError(f"{uri}: scheme '{scheme}' is not one of {', '.join(SCHEMES)}")
    fs = _filesystem(scheme)
    path = fs._strip_protocol(uri)
    return fs, os.path.normpath(path) if isinstance(fs, LocalFileSystem) else path


def is_local(uri: str) -> bool:
    return isinstance(resolve(uri)[0], LocalFileSystem)


def join(folder: str, *names: str) -> str:
    return "/".join([folder.rstrip("/"), *names])


def _info(fs: Any, entry: dict[str, Any]) -> FileInfo:
    """What identifies a file's content: the store's own tag, else its time of change."""
    tags = (entry.get(key) for key in ("ETag", "etag", "generation", "md5Hash", "sha256"))
    etag = next((str(tag).strip('"') for tag in tags if tag), None) or repr(_changed_at(entry))
    return FileInfo(_uri(fs, entry["name"]), int(entry["size"] or 0), etag)


def _uri(fs: Any, path: str) -> str:
    return path if isinstance(fs, LocalFileSystem) else fs.unstrip_protocol(path)


def stat(uri: str) -> FileInfo | None:
    """The file at `uri`, or None where there is none."""
    fs, path = resolve(uri)
    try:
        entry = fs.info(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return _info(fs, entry) if entry["type"] == "file" else None


def listing(folder: str) -> dict[str, FileInfo]:
    """Files directly in `folder` by their name; empty where there is no such folder."""
    fs, path = resolve(folder)
    with contextlib.suppress(AttributeError):
        fs.invalidate_cache(path)
    found = {}
    try:
        entries = fs.ls(path, detail=True)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    for entry in entries:
        if entry["type"] == "file" and entry["name"].rstrip("/") != path.rstrip("/"):
            with contextlib.suppress(FileNotFoundError):  # removed between the listing and the look
                found[entry["name"].rsplit("/", 1)[1]] = _info(fs, entry)
    return found


def names_before(folder: str, moment: float) -> list[str]:
    """Names of the files directly in `folder` that last changed before `moment` (seconds since the epoch)."""
    fs, path = resolve(folder)
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        files = [e for e in fs.ls(path, detail=True) if e["type"] == "file"]
        return sorted(e["name"].rsplit("/", 1)[-1] for e in files if _changed_at(e) < moment)
    return []


def _changed_at(entry: dict[str, Any]) -> float:
    """When a store says that a file changed, in seconds since the epoch; 0 where it does not say."""
    known = (entry.get(k) for k in ("mtime", "LastModified", "last_modified", "updated", "created"))
    moment = next((v for v in known if v), 0)
    if isinstance(moment, str):
        moment = datetime.datetime.fromisoformat(moment)
    return moment.timestamp() if isinstance(moment, datetime.datetime) else float(moment)


def names(folder: str) -> list[str]:
    """Names of all that is directly in `folder`, folders too; empty where there is no such folder."""
    fs, path = resolve(folder)
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return sorted(
            n.rstrip("/").rsplit("/", 1)[-1] for n in fs.ls(path, detail=False) if n.rstrip("/") != path.rstrip("/")
        )
    return []


def folder_uri(folder: str) -> str:
    """A folder as the URIs of the files in it begin, with the closing '/': `out` never counts `out-2` in."""
    fs, path = resolve(folder)
    return _uri(fs, path.rstrip("/")) + "/"


def probe_write(folder: str) -> None:
    """Raises RunFailed unless files can be put in `folder`. Leaves nothing behind: where there is no such folder on a
    disk, the one above it is tried."""
    fs, path = resolve(folder)
    if isinstance(fs, LocalFileSystem):
        folder = next(str(p) for p in (Path(path), *Path(path).parents) if os.path.exists(p))
        if not os.path.isdir(folder):
            raise RunFailed(f"{folder} is a file, no folder")
    uri = join(folder, f".probe{TEMPORARY}{os.getpid()}")
    replace(uri, b"")
    remove([uri])


def find(pattern: str) -> list[FileInfo]:
    """Files that a path, folder (with all below it) or glob names, by URI. Names starting with '.' or '_' below the
    pattern's fixed part are no data, as everywhere in this field.

    Raises InputError for a folder that cannot be listed.
    """
    fs, path = resolve(pattern)
    try:
        if _has_wildcard(fs, path):
            entries = fs.glob(path, detail=True)
        elif fs.isdir(path):
            entries = fs.find(path, detail=True)
        else:
            entries = {path: fs.info(path)} if fs.exists(path) else {}
    except FileNotFoundError:
        entries = {}
    except OSError as error:
        raise InputError(f"--input {pattern}: {error.filename or path} cannot be listed: {error.strerror}") from None
    fixed = len(fixed_folder(pattern))
    found = [_info(fs, e) for e in map(functools.partial(_followed, fs), entries.values()) if e["type"] == "file"]
    return sorted(f for f in found if not any(p[:1] in ("_", ".") for p in f.uri[fixed:].split("/")))


def _has_wildcard(fs: Any, path: str) -> bool:
    """A file may really be called `a[1].txt`, and a shell that expands a glob hands over such names."""
    return any(c in path for c in "*?[") and not fs.exists(path)


def _followed(fs: Any, entry: dict[str, Any]) -> dict[str, Any]:
    """Of a symbolic link, what it points to; a listing tells of the link itself."""
    if entry.get("islink"):
        with contextlib.suppress(OSError):
            return fs.info(entry["name"])
    return entry


def fixed_folder(pattern: str) -> str:
    """The deepest folder that a pattern names without a wildcard, as a URI ending in '/'. Ids are relative to it."""
    fs, path = resolve(pattern)
    head = path
    for wildcard in "*?[" if _has_wildcard(fs, path) else "":
        head = head.split(wildcard, 1)[0]
    if head != path or not fs.isdir(path):
        head = head.rsplit("/", 1)[0] if "/" in head else ""
    return _uri(fs, head.rstrip("/")) + "/"


def open_read(uri: str, start: int = 0) -> BinaryIO:
    """A buffered binary reader at byte `start`. Buffered, since bare s3fs files read lines at 40 a second."""
    fs, path = resolve(uri)
    if isinstance(fs, LocalFileSystem):
        raw: BinaryIO = open(path, "rb", buffering=READ_BUFFER_BYTES)  # noqa: SIM115
    else:
        raw = io.BufferedReader(fs.open(path, "rb"), READ_BUFFER_BYTES)
    if start:
        raw.seek(start)
    return raw


def read_bytes(uri: str) -> bytes:
    fs, path = resolve(uri)
    return fs.cat_file(path)


def create(uri: str, data: bytes) -> bool:
    """Puts a whole file at `uri` if nothing is there; says whether this call did.

    Of two that create at once, one wins. False also where an earlier put of ours won but its answer was lost.
    """
    fs, path = resolve(uri)
    try:
        if isinstance(fs, LocalFileSystem):
            with _temporary(Path(path), data) as temporary:
                _link(temporary, Path(path))
        else:
            fs.pipe_file(path, data, mode="create")
    except FileExistsError:
        return False
    except OSError as error:
        raise _not_written(uri, error) from error
    return True


def replace(uri: str, data: bytes) -> None:
    """Puts a whole file at `uri`, in place of what is there."""
    fs, path = resolve(uri)
    try:
        if isinstance(fs, LocalFileSystem):
            with _temporary(Path(path), data) as temporary:
                temporary.replace(path)
            _sync_folder(Path(path).parent)
        else:
            fs.pipe_file(path, data, mode="overwrite")
    except OSError as error:
        raise _not_written(uri, error) from error


def _not_written(uri: str, error: OSError) -> RunFailed:
    """Disk full, read-only, no permission: nothing is there that was not whole before."""
    return RunFailed(f"{uri}: cannot be written: {error.strerror or error}; make room or mend it and run again")


def remove(uris: Iterable[str]) -> None:
    """Removes files; one that is gone already is no error."""
    for uri in uris:
        fs, path = resolve(uri)
        with contextlib.suppress(FileNotFoundError):
            fs.rm_file(path)


def remove_folder(folder: str) -> None:
    """Removes a folder and all below it. One that is gone already is no error, nor what is written there meanwhile."""
    fs, path = resolve(folder)
    with contextlib.suppress(OSError):
        fs.rm(path, recursive=True)


def remove_stale_temporaries(folder: str, older_than_seconds: float = DAY_SECONDS) -> None:
    """Removes what killed runs left half written in `folder`; a younger one may belong to a run that is alive."""
    if not is_local(folder) or not Path(resolve(folder)[1]).is_dir():
        return
    for path in Path(resolve(folder)[1]).glob(f".*{TEMPORARY}*"):
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_mtime < time.time() - older_than_seconds:
                path.unlink()


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
