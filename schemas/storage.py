"""The few verbs on files that everything else uses, on a disk and on every store: list, stat, read, create if absent,
replace, remove.

A file appears whole at its final name or not at all, on every store: what is written is held in memory and put in one
call. Never through `with fs.open(..., "wb")`: s3fs, gcsfs and adlfs publish the partial object when the block raises.

The modules behind: `stores` (what a store is), `object_store`, `cloud_stores`, `hub_store`, `http_store`,
`local_disk`, `range_file` (reading by ranges), `store_faults` (what is tried again, and errors in words), `blanking`
(no secrets in any of it).
"""

import functools
import io
import os
import re
import secrets
from collections.abc import Iterable, Iterator
from typing import BinaryIO, cast

from schemas.blanking import blanked, refuse_credentials
from schemas.cloud_stores import S3, Azure, Gcs
from schemas.errors import InputError, RunFailed
from schemas.http_store import ANY_HTTP, NO_HTTP, PUBLIC_HTTP, Http, permit_http, permitted_http
from schemas.hub_store import Hub
from schemas.local_disk import READ_BUFFER_BYTES, TEMPORARY, LocalDisk
from schemas.splits import FileInfo
from schemas.store_faults import LIST, READ, WRITE
from schemas.stores import Entry, Store, changed_at, is_file

__all__ = [
    "ANY_HTTP",
    "NO_HTTP",
    "PUBLIC_HTTP",
    "READ_BUFFER_BYTES",
    "TEMPORARY",
    "blanked",
    "permit_http",
    "permitted_http",
]

STORES: dict[str, type[Store]] = {
    "file": LocalDisk,
    "gs": Gcs,
    "s3": S3,
    "az": Azure,
    "abfs": Azure,
    "hf": Hub,
    "memory": Store,
    "http": Http,
    "https": Http,
}
DAY_SECONDS = 86_400
_IPV6 = re.compile(r"//\[[0-9a-fA-F:.]+\]")
_VERSION = re.compile(r"\?version_?id=|\?snapshot=|\?generation=", re.IGNORECASE)
_AZURE_PLACE = re.compile(r"(?P<scheme>az|abfs)://(?P<container>[^@/]+)@(?P<host>[^/]+)")


@functools.lru_cache(maxsize=64)
def _store(scheme: str, authority: str, process: int) -> Store:
    """One a process: connections and event loops do not survive a fork."""
    return STORES[scheme](scheme, authority)


def forget_stores() -> None:
    """Connects anew from now on, as the environment says by then."""
    _store.cache_clear()


def resolve(uri: str) -> tuple[Store, str]:
    """`(store, path on it)` of a URI or local path. Raises InputError for what is not allowed: other schemes, chains,
    credentials in the URI, http(s) that was not asked for."""
    if "://" in uri and "::" in _IPV6.sub("//host", uri):  # a path on this machine is never a chain
        raise InputError(f"{blanked(uri)}: chained URLs ('::') are not read; name the file itself")
    scheme, separator, _ = uri.partition("://")
    if not separator:
        scheme = "file"
    if scheme not in STORES:
        raise InputError(f"{blanked(uri)}: scheme '{scheme}' is not one of {', '.join(STORES)}")
    refuse_credentials(uri)
    if STORES[scheme] is Http and permitted_http() == NO_HTTP:
        raise InputError(f"{blanked(uri)}: scheme '{scheme}' is read only with --allow_http")
    place = _AZURE_PLACE.match(uri)
    store = _store(scheme, place["host"] if place else "", os.getpid())
    return store, store.path(uri)


def is_local(uri: str) -> bool:
    return isinstance(resolve(uri)[0], LocalDisk)


def join(folder: str, *names: str) -> str:
    return "/".join([folder.rstrip("/"), *names])


def stat(uri: str) -> FileInfo | None:
    """The file at `uri`, or None where there is none."""
    store, path = resolve(uri)
    if store.means_folder(uri):
        return None
    try:
        entry = store.attempt(READ, uri, lambda: store.file(path))
    except (FileNotFoundError, NotADirectoryError):
        return None
    return store.info(entry) if is_file(entry) else None


def is_unchanged(file: FileInfo) -> bool:
    """Whether the file is still the one that was listed. Where every read has made sure of that, nothing is asked."""
    store = resolve(file.uri)[0]
    return store.checks_reads or store.is_same(file, stat(file.uri))


def _entries(folder: str) -> tuple[Store, list[Entry]]:
    store, path = resolve(folder)
    try:
        return store, store.attempt(LIST, folder, lambda: store.entries(path))
    except (FileNotFoundError, NotADirectoryError):
        return store, []


def _name(entry: Entry) -> str:
    return entry["name"].rstrip("/").rsplit("/", 1)[-1]


def listing(folder: str) -> dict[str, FileInfo]:
    """Files directly in `folder` by their name; empty where there is no such folder."""
    store, entries = _entries(folder)
    return {_name(entry): store.info(entry) for entry in entries if is_file(entry)}


def moments(folder: str) -> dict[str, float]:
    """When the files directly in `folder` last changed, by name, in seconds by the store's own clock. Compare them with
    each other only: this machine's clock may be another. Some stores tell whole seconds."""
    return {_name(entry): changed_at(entry) for entry in _entries(folder)[1] if is_file(entry)}


def names(folder: str) -> list[str]:
    """Names of all that is directly in `folder`, folders too; empty where there is no such folder."""
    return sorted({_name(entry) for entry in _entries(folder)[1]})


def folder_uri(folder: str) -> str:
    """A folder as the URIs of the files in it begin, with the closing '/': `out` never counts `out-2` in."""
    store, path = resolve(folder)
    return store.uri(path.rstrip("/")) + "/"


def real_folder_uri(folder: str) -> str:
    """The same of where a folder of a disk really lies, whatever links lead there."""
    store, path = resolve(folder)
    return store.uri(store.real_folder(path).rstrip("/")) + "/"


def in_real_folders(files: Iterable[FileInfo]) -> Iterator[FileInfo]:
    """The files as they are called in the folders that links lead to."""
    real: dict[str, str] = {}
    for file in files:
        folder, _, name = file.uri.rpartition("/")
        if folder not in real:
            real[folder] = real_folder_uri(folder) if is_local(file.uri) else f"{folder}/"
        yield file._replace(uri=real[folder] + name)


def probe_write(folder: str) -> bool:
    """Whether the store creates a file only where none is (else two runs at once do not see each other).

    Leaves nothing behind: where there is no such folder on a disk, the one above it is tried.

    Raises:
        RunFailed: files cannot be put in `folder`.
    """
    store, path = resolve(folder)
    if isinstance(store, LocalDisk):
        folder = store.check_folder(path)
    uri = join(folder, f".probe{TEMPORARY}{os.getpid()}-{secrets.token_hex(4)}")
    try:
        create(uri, b"")
        return not create(uri, b"")
    finally:
        remove([uri])


def find(pattern: str) -> list[FileInfo]:
    """Files that a path, folder (with all below it) or glob names, by URI. Names starting with '.' or '_' below the
    pattern's fixed part are no data, as everywhere in this field, unless the pattern itself says so, as `_c.txt` does.

    Raises InputError for a folder that cannot be listed, and for a symbolic link to nothing.
    """
    store, path = resolve(pattern)
    try:
        entries = store.attempt(LIST, pattern, lambda: _found(store, path, store.means_folder(pattern)))
    except (FileNotFoundError, NotADirectoryError):
        entries = []
    except RunFailed as error:
        raise InputError(str(error)) from None
    if not entries and _VERSION.search(pattern):
        raise InputError(f"{pattern}: names a version of an object; only the one that is there now is read")
    fixed = len(fixed_folder(pattern))
    hidden = {"_", "."} - {part[:1] for part in store.uri(path)[fixed:].split("/")}
    data = [e for e in entries if not any(p[:1] in hidden for p in store.uri(e["name"])[fixed:].split("/"))]
    if broken := next((e["name"] for e in data if e.get("islink") and e["type"] == "other"), None):
        raise InputError(f"{pattern}: {broken} is a link to nothing that is there; mend or remove it")
    return sorted(store.info(entry) for entry in data if is_file(entry))


def _found(store: Store, path: str, folder: bool) -> list[Entry]:
    """folder: it can be nothing else, whatever object or file has the same name."""
    if store.has_wildcard(path):
        return list(store.matching(f"{path}/**" if folder else path))
    entry = store.entry(path)
    if entry["type"] == "file" and not folder:
        return [entry]
    return [entry for entry in store.below(path) if entry["name"] != path]


def fixed_folder(pattern: str) -> str:
    """The deepest folder that a pattern names without a wildcard, as a URI ending in '/'. Ids are relative to it."""
    store, path = resolve(pattern)
    head = path
    for wildcard in "*?[" if store.has_wildcard(path) else "":
        head = head.split(wildcard, 1)[0]
    if head != path or not (store.means_folder(pattern) or _is_folder(store, path)):
        head = head.rsplit("/", 1)[0] if "/" in head else ""
    return store.uri(head.rstrip("/")) + "/"


def _is_folder(store: Store, path: str) -> bool:
    try:
        return store.attempt(LIST, store.uri(path), lambda: store.entry(path))["type"] == "directory"
    except (FileNotFoundError, NotADirectoryError):
        return False


def _listed(file: str | FileInfo) -> FileInfo:
    found = file if isinstance(file, FileInfo) else stat(file)
    if found is None:
        raise FileNotFoundError(file)
    return found


def open_read(file: str | FileInfo, start: int = 0, stop: int | None = None) -> io.BufferedReader:
    """A buffered reader from byte `start` on, that reads ahead: as far as about `stop`, where a range ends there.

    Of a file that was listed, the reads say which version is meant: RunFailed where it is another by now.
    """
    if isinstance(file, str) and is_local(file):
        file = FileInfo(file, 0, "")
    file = _listed(file)
    raw = resolve(file.uri)[0].open(file, start, stop, ahead=True)
    return raw if isinstance(raw, io.BufferedReader) else io.BufferedReader(raw, READ_BUFFER_BYTES)


def expect(file: FileInfo, start: int = 0, stop: int | None = None) -> None:
    """Begins to fetch, in the background, what an `open_read` of just that will read first."""
    resolve(file.uri)[0].expect(file, start, stop)


def expect_no_more(file: FileInfo, start: int = 0, stop: int | None = None) -> None:
    """It is not opened after all, or has been."""
    resolve(file.uri)[0].expect_no_more(file, start, stop)


def open_random(file: str | FileInfo) -> BinaryIO:
    """A reader for formats that know their places, as Parquet does: each read is a request for just that."""
    if isinstance(file, str) and is_local(file):
        file = FileInfo(file, 0, "")
    file = _listed(file)
    return cast(BinaryIO, resolve(file.uri)[0].open(file, 0, None, ahead=False))


def read_bytes(uri: str) -> bytes:
    store, path = resolve(uri)
    return store.attempt(READ, uri, lambda: store.read(path))


def create(uri: str, data: bytes) -> bool:
    """Puts a whole file at `uri` if nothing is there; says whether this call did.

    Of two that create at once, one wins. False also where an earlier put of ours won but its answer was lost.
    """
    store, path = resolve(uri)
    try:
        store.attempt(WRITE, uri, lambda: store.create(path, data))
    except FileExistsError:
        return False
    except FileNotFoundError:
        if stat(uri) is None:
            raise RunFailed(f"{blanked(uri)}: cannot be written: there is no such bucket or container") from None
        return False  # the last request of a large put went through, its answer was lost, and it is over at a retry
    return True


def replace(uri: str, data: bytes) -> None:
    """Puts a whole file at `uri`, in place of what is there."""
    store, path = resolve(uri)
    try:
        store.attempt(WRITE, uri, lambda: store.replace(path, data))
    except FileNotFoundError:
        raise RunFailed(f"{blanked(uri)}: cannot be written: there is no such bucket or container") from None


def remove(uris: Iterable[str]) -> None:
    """Removes files of one store; one that is gone already is no error."""
    asked = list(uris)
    if asked:
        store = resolve(asked[0])[0]
        store.remove([store.path(uri) for uri in asked])


def remove_folder(folder: str) -> None:
    """Removes a folder and all below it. One that is gone already is no error, nor what is written there meanwhile."""
    store, path = resolve(folder)
    if isinstance(store, LocalDisk):
        store.remove_folder(path)
    else:
        remove(store.uri(entry["name"]) for entry in _below(store, path, folder))


def _below(store: Store, path: str, folder: str) -> list[Entry]:
    try:
        return store.attempt(LIST, folder, lambda: list(store.below(path)))
    except FileNotFoundError:
        return []


def remove_stale_temporaries(folder: str, older_than_seconds: float = DAY_SECONDS) -> None:
    """Removes what killed runs left half written in a folder of a disk; stores have no such files."""
    store, path = resolve(folder)
    if isinstance(store, LocalDisk):
        store.remove_stale_temporaries(path, older_than_seconds)
