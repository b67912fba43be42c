"""A store: what the verbs of `storage` ask of a disk, of memory, of a cloud. fsspec's implementations do the work.

No listing is ever cached: what another process has put or removed must be seen.
"""

import asyncio
import contextlib
import dataclasses
import datetime
import functools
import io
import re
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import fsspec
from fsspec.asyn import AsyncFileSystem, sync

from schemas.blanking import blanked
from schemas.errors import InputError, RunFailed
from schemas.range_file import Fetch, RangeFile, ReadAheadFile
from schemas.splits import FileInfo
from schemas.store_faults import READ, REMOVE, Action, Truncated, patiently, seconds_for

EXTRAS = {"gs": "gcp", "s3": "aws", "az": "azure", "abfs": "azure", "http": "http", "https": "http"}
_TAGS = ("generation", "ETag", "etag", "md5Hash", "sha256", "blob_id", "Last-Modified")
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/")
_TIMES = ("mtime", "LastModified", "last_modified", "updated", "created")

T = TypeVar("T")
Entry = dict[str, Any]
"""What fsspec says of a file or folder: name, size, type, and what else the store tells."""


@dataclasses.dataclass
class Store:
    """A store by its fsspec filesystem. Paths are fsspec's own: `bucket/key`."""

    scheme: str
    authority: str = ""  # of an Azure URI that names its account: the account's host
    checks_reads = False
    """Whether every read makes sure that the file is still the one that was listed."""
    writable = True
    removed_at_once = 32

    def __post_init__(self) -> None:
        self._fs: Any = None
        self._expected: dict[tuple[FileInfo, int, int | None], ReadAheadFile] = {}

    @property
    def fs(self) -> Any:
        """Made at its first use, in whichever process that is. Raises InputError where its package is not installed."""
        if self._fs is None:
            try:
                self._fs = self.connect()
            except ImportError as error:
                extra = EXTRAS.get(self.scheme)
                advice = f"pip install 'embedding-jobs[{extra}]'" if extra else str(error)
                raise InputError(f"{self.scheme}://: its package is not installed: {advice}") from None
            except ValueError as error:  # adlfs without an account
                raise InputError(
                    f"{self.scheme}://: {blanked(str(error))}: is the account in the environment?"
                ) from None
        return self._fs

    def connect(self) -> Any:
        return fsspec.filesystem(self.scheme, skip_instance_cache=True, use_listings_cache=False)

    def path(self, uri: str) -> str:
        return self.fs._strip_protocol(uri)

    def uri(self, path: str) -> str:
        return f"{self.scheme}://{path}"

    def attempt(self, action: Action, uri: str, call: Callable[[], T]) -> T:
        return patiently(action, uri, call)

    def call(self, verb: str, *args: Any, moves: int = 0, **options: Any) -> Any:
        """A method of the filesystem, with an end to how long it may take. moves: bytes."""
        if isinstance(self.fs, AsyncFileSystem):
            options["timeout"] = seconds_for(moves)
        return getattr(self.fs, verb)(*args, **options)

    def run(self, coroutine: Callable[..., Any], *args: Any, moves: int = 0) -> Any:
        """A coroutine on the filesystem's own event loop, with an end to how long it may take."""
        return sync(self.fs.loop, coroutine, *args, timeout=seconds_for(moves))

    def entry(self, path: str) -> Entry:
        """The file or folder at `path`. Raises FileNotFoundError."""
        return self.call("info", path)

    def file(self, path: str) -> Entry:
        """The same, of what is expected to be a file."""
        return self.entry(path)

    def entries(self, path: str) -> list[Entry]:
        """All that is directly in a folder. Raises FileNotFoundError."""
        return [e for e in self.list_folder(path) if e["name"].rstrip("/") != path.rstrip("/")]

    def list_folder(self, path: str) -> list[Entry]:
        """The same, perhaps with a marker of the folder itself."""
        return self.call("ls", path, detail=True)

    def below(self, path: str) -> Iterable[Entry]:
        """All files below a folder."""
        return _files(self.call("find", path, detail=True))

    def matching(self, pattern: str) -> Iterable[Entry]:
        return _files(self.call("glob", pattern, detail=True))

    def means_folder(self, uri: str) -> bool:
        """Whether the URI can be nothing but a folder: it ends in a slash."""
        return uri.endswith("/")

    def has_wildcard(self, path: str) -> bool:
        """A file may really be called `a[1].txt`, and a shell that expands a glob hands over such names."""
        return any(c in path for c in "*?[") and not self._is_there(path)

    def _is_there(self, path: str) -> bool:
        try:
            self.entry(path)
        except FileNotFoundError:
            return False
        return True

    def open(self, file: FileInfo, start: int, stop: int | None, ahead: bool) -> io.RawIOBase | io.BufferedReader:
        """A raw reader. ahead: it will be read on and on, from `start` to about `stop`."""
        if ahead:
            return self._expected.pop((file, start, stop), None) or self._ahead(file, start, stop)
        return RangeFile(self._fetcher(file), file.size, start)

    def expect(self, file: FileInfo, start: int, stop: int | None) -> None:
        """Begins to fetch what is about to be opened so, in the background."""
        self._expected[file, start, stop] = raw = self._ahead(file, start, stop)
        raw.fetch_ahead()

    def expect_no_more(self, file: FileInfo, start: int, stop: int | None) -> None:
        if raw := self._expected.pop((file, start, stop), None):
            raw.close()

    def _ahead(self, file: FileInfo, start: int, stop: int | None) -> ReadAheadFile:
        return ReadAheadFile(self._fetcher(file), file.size, start, stop)

    def _fetcher(self, file: FileInfo) -> Fetch:
        path = self.path(file.uri)
        _ = self.fs  # connects here, once, and not in each of the threads that fetch

        def fetch(begin: int, end: int) -> bytes:
            return self.attempt(READ, file.uri, lambda: self._whole(path, file, begin, end))

        return fetch

    def _whole(self, path: str, file: FileInfo, start: int, stop: int) -> bytes:
        data = self.fetch(path, file, start, stop)
        if len(data) != stop - start:
            raise Truncated(f"{len(data)} bytes came where bytes {start} to {stop - 1} were asked for")
        return data

    def fetch(self, path: str, file: FileInfo, start: int, stop: int) -> bytes:
        """Bytes `start` to `stop` - 1. Raises Changed, where the store can tell."""
        return self.call("cat_file", path, start=start, end=stop, moves=stop - start)

    def read(self, path: str) -> bytes:
        return self.call("cat_file", path, moves=1 << 24)

    def create(self, path: str, data: bytes) -> None:
        """Raises FileExistsError."""
        self.call("pipe_file", path, data, mode="create", moves=len(data))

    def replace(self, path: str, data: bytes) -> None:
        self.call("pipe_file", path, data, mode="overwrite", moves=len(data))

    def remove(self, paths: list[str]) -> None:
        """Removes files, some at a time; one that is gone already is no error."""
        for start in range(0, len(paths), self.removed_at_once):
            some = paths[start : start + self.removed_at_once]
            self.attempt(REMOVE, self.uri(some[0]), functools.partial(self.remove_some, some))

    def remove_some(self, paths: list[str]) -> None:
        if isinstance(self.fs, AsyncFileSystem):
            self.run(_remove, self.fs, paths)
            return
        for path in paths:
            with contextlib.suppress(FileNotFoundError):
                self.fs.rm_file(path)

    def info(self, entry: Entry) -> FileInfo:
        """What identifies a file's content: the store's own tag, else its time of change."""
        etag = next((plain_tag(str(entry[key])) for key in _TAGS if entry.get(key)), None) or repr(changed_at(entry))
        return FileInfo(self.uri(entry["name"]), int(entry["size"] or 0), etag)

    def is_same(self, listed: FileInfo, now: FileInfo | None) -> bool:
        """Whether a file is still what was listed."""
        return listed == now

    def real_folder(self, path: str) -> str:
        """The folder that a path leads to, whatever links lie on the way."""
        return path


class ReadOnly(Store):
    """A store that is read, never written to."""

    writable = False

    def create(self, path: str, data: bytes) -> None:
        raise RunFailed(f"{self.uri(path)}: {self.scheme}:// is only read; write to another store")

    def replace(self, path: str, data: bytes) -> None:
        self.create(path, data)

    def remove(self, paths: list[str]) -> None:
        raise RunFailed(f"{self.scheme}:// is only read")


async def _remove(fs: AsyncFileSystem, paths: list[str]) -> None:
    results = await asyncio.gather(*(fs._rm_file(path) for path in paths), return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, FileNotFoundError):
            raise result


def _files(found: Any) -> list[Entry]:
    """fsspec's answers to find and glob: by name, or a list where there is nothing."""
    return list(found.values()) if isinstance(found, dict) else []


def is_file(entry: Entry) -> bool:
    """Not a folder, nor what consoles and Hadoop put in its place: empty objects `folder/` and `folder_$folder$`."""
    marker = entry["name"].endswith(("/", "_$folder$")) and not entry["size"]
    return entry["type"] == "file" and not marker


def plain_tag(tag: str) -> str:
    """An entity tag without its quotes. A weak one, `W/"x"`, is what some servers make of "x" on its way."""
    return tag.removeprefix("W/").strip('"')


def check_range(said: str | None, start: int, stop: int) -> None:
    """Raises Truncated where a Content-Range, `bytes 0-9/100`, tells of other bytes than `start` to `stop` - 1."""
    found = _CONTENT_RANGE.match(said or "")
    if found and (int(found[1]), int(found[2]) + 1) != (start, stop):
        raise Truncated(f"bytes {found[1]} to {found[2]} came where bytes {start} to {stop - 1} were asked for")


def changed_at(entry: Entry) -> float:
    """When a store says that a file changed, in seconds since the epoch; 0 where it does not say."""
    moment = next((entry[key] for key in _TIMES if entry.get(key)), 0)
    if isinstance(moment, str):
        moment = datetime.datetime.fromisoformat(moment)
    return moment.timestamp() if isinstance(moment, datetime.datetime) else float(moment)
