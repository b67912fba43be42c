"""What S3, Google Cloud Storage and Azure have in common: objects by their keys, folders that are only how keys begin,
and listings that come page by page.

Each page is a request of its own, with its own limit of time and attempts, so a listing takes as long as its pages do.
Reads say which version is meant, and what comes must say that it is of that version: a proxy that loses the condition
on the way would give bytes of another.
"""

import functools
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from fsspec.utils import glob_translate

from schemas.errors import RunFailed
from schemas.splits import FileInfo
from schemas.store_faults import LIST, Changed, is_absent
from schemas.stores import Entry, Store, check_range, plain_tag

PAGE_KEYS = 1000
"""Keys to a page: the most that S3 gives."""
_ONE_LEVEL = re.compile(r"[*?[]")


class Page(NamedTuple):
    """A page of a listing."""

    objects: list[Entry]
    folders: list[str]  # beginnings of keys up to the delimiter, where there is one
    after: Any  # where the next page begins; None after the last


class Answer(NamedTuple):
    """What was stored, as it was stored: no `Content-Encoding` is undone."""

    data: bytes
    tag: str  # of the version that it is of
    content_range: str | None


class ObjectStore(Store):
    """A store of objects. Paths are `bucket/key`; a key may hold anything, '?', '#' and '//' too."""

    checks_reads = True

    async def get(self, bucket: str, key: str, etag: str, start: int, stop: int) -> Answer:
        """Bytes `start` to `stop` - 1 of an object; the whole where `stop` is 0. May raise Changed where its tag is not
        `etag`, if that is given."""
        raise NotImplementedError

    async def head(self, bucket: str, key: str) -> Entry:
        """What there is to say of an object. Raises what `is_absent` knows."""
        raise NotImplementedError

    async def page(self, bucket: str, prefix: str, delimiter: str, after: Any, most: int) -> Page:
        """Keys that begin with `prefix`; up to the delimiter, where there is one."""
        raise NotImplementedError

    def path(self, uri: str) -> str:
        return uri.partition("://")[2].strip("/")

    def split(self, path: str) -> tuple[str, str]:
        """Bucket and key. The libraries would take `?versionId=...` for the version of another key."""
        bucket, _, key = path.partition("/")
        return bucket, key

    def fetch(self, path: str, file: FileInfo, start: int, stop: int) -> bytes:
        answer = self.run(self.get, *self.split(path), file.etag, start, stop, moves=stop - start)
        if file.etag and not answer.tag:
            raise RunFailed(f"{file.uri}: the store does not say which version of it was sent; is a proxy in between?")
        if file.etag and answer.tag != file.etag:
            raise Changed
        check_range(answer.content_range, start, stop)
        return answer.data

    def read(self, path: str) -> bytes:
        return self.run(self.get, *self.split(path), "", 0, 0, moves=1 << 24).data

    def entry(self, path: str) -> Entry:
        bucket, key = self.split(path)
        found = self._object(bucket, key)
        if found and found["size"]:
            return found
        if any(page.objects or page.folders for page in self._pages(path, "/", 1)) or not key:
            return {"name": path, "size": 0, "type": "directory"}  # which an empty object of its name stands for
        if found:
            return found
        raise FileNotFoundError(path)

    def file(self, path: str) -> Entry:
        found = self._object(*self.split(path))
        if found is None:
            raise FileNotFoundError(path)
        return found if found["size"] else self.entry(path)

    def _object(self, bucket: str, key: str) -> Entry | None:
        try:
            return self.run(self.head, bucket, key) if key else None
        except Exception as error:
            if is_absent(error):
                return None
            raise

    def list_folder(self, path: str) -> list[Entry]:
        bucket, _ = self.split(path)
        found: dict[tuple[str, str], Entry] = {}
        for page in self._pages(path, "/"):
            folders = [{"name": f"{bucket}/{key[:-1]}", "size": 0, "type": "directory"} for key in page.folders]
            found |= {(entry["name"], entry["type"]): entry for entry in (*page.objects, *folders)}
        return list(found.values())

    def below(self, path: str) -> Iterable[Entry]:
        return [entry for page in self._pages(path, "") for entry in page.objects]

    def matching(self, pattern: str) -> Iterable[Entry]:
        fixed = _ONE_LEVEL.split(pattern, maxsplit=1)[0].rpartition("/")[0]
        return self._matching(fixed, pattern.removeprefix(fixed).strip("/").split("/"))

    def _matching(self, folder: str, levels: list[str]) -> Iterator[Entry]:
        """Files below a folder whose path goes on as the levels of a pattern do. Only folders that match are listed."""
        if "**" in levels[0]:
            wanted = re.compile(glob_translate("/".join([re.sub(r"([*?[])", r"[\1]", folder), *levels])))
            yield from (entry for entry in self.below(folder) if wanted.match(entry["name"]))
            return
        wanted = re.compile(glob_translate(levels[0]))
        for entry in self.entries(folder):
            if wanted.match(entry["name"].rsplit("/", 1)[-1]):
                if len(levels) == 1 and entry["type"] == "file":
                    yield entry
                elif len(levels) > 1 and entry["type"] == "directory":
                    yield from self._matching(entry["name"], levels[1:])

    def _pages(self, path: str, delimiter: str, most: int = 0) -> Iterator[Page]:
        bucket, key = self.split(path)
        prefix, after = f"{key}/" if key else "", None
        while True:
            ask = functools.partial(self.run, self.page, bucket, prefix, delimiter, after, most or PAGE_KEYS)
            page = self.attempt(LIST, self.uri(path), ask)
            yield page
            after = page.after
            if after is None:
                return


def answer_of(data: bytes, headers: Mapping[str, Any], tag: str = "ETag") -> Answer:
    return Answer(data, plain_tag(headers.get(tag) or ""), headers.get("Content-Range"))


def range_header(start: int, stop: int) -> dict[str, str]:
    return {"Range": f"bytes={start}-{stop - 1}"} if stop else {}
