"""The one way in which jobs read a dataset: by its manifest, never by a glob."""

import contextlib
import dataclasses
import functools
import hashlib
from collections.abc import Iterator, Sequence
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from schemas import storage
from schemas.errors import InputError, RunFailed
from schemas.manifest import Manifest, PartEntry, newest_manifest, read_manifest, versions
from schemas.splits import FileInfo


@dataclasses.dataclass(frozen=True)
class Dataset:
    """One published version: it stays what it is while newer ones are published beside it."""

    uri: str
    manifest: Manifest

    def part_uri(self, part: PartEntry) -> str:
        return storage.join(self.uri, part.name)

    @contextlib.contextmanager
    def open_part(self, part: PartEntry) -> Iterator[BinaryIO]:
        """A part, for reading at random: the file that this version lists, never another at its name.

        Raises:
            RunFailed: it is gone, or another file is there.
        """
        file = part_file(self.uri, part)
        try:
            if not is_the_part(file, part.checksum):
                raise RunFailed(
                    f"{file.uri}: is not the file that version {self.manifest.version} lists, but of other content; "
                    "was it damaged or replaced? Remove it, and run the command that made it again"
                )
            with storage.open_random(file) as opened:
                yield opened
        except FileNotFoundError:
            raise RunFailed(self._why_gone(file.uri)) from None

    def _why_gone(self, uri: str) -> str:
        version = self.manifest.version
        if version in versions(self.uri):  # which goes before its files, where a newer one replaces it
            return f"{uri}: gone, though version {version} lists it; run the command that made it again"
        return (
            f"{uri}: gone, because a newer version than {version} was published while this one was read; read again, "
            "or publish with --keep_versions 2"
        )

    def read_part(self, part: PartEntry, columns: Sequence[str] | None = None) -> pa.Table:
        """Rows of one part. Raises RunFailed as `open_part` does."""
        with self.open_part(part) as file:
            return pq.read_table(file, columns=columns, page_checksum_verification=True)

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """Its rows in input order, a part at a time."""
        return (self.read_part(part, columns) for part in self.manifest.parts)

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """All its rows, in memory."""
        return pa.concat_tables(self.batches(columns))


def part_file(output: str, part: PartEntry) -> FileInfo:
    """A part as its version lists it, for reading without asking its store first. Where the store gave it a tag, each
    read is on the condition that it is still that file."""
    uri = storage.join(output, part.name)
    kind, _, tag = part.checksum.partition(":")
    return FileInfo(uri, part.size, tag if kind == "etag" and not storage.is_local(uri) else "")


def is_the_part(file: FileInfo, checksum: str) -> bool:
    """Whether a file on a disk has the sha256 that its version lists. It is read for that once a process. Of a file on
    a store, reads make sure."""
    if not checksum.startswith("sha256:") or not storage.is_local(file.uri):
        return True
    info = storage.stat(file.uri)
    if info is None:
        raise FileNotFoundError(file.uri)
    return info.size == file.size and _sha256(info) == checksum.removeprefix("sha256:")


@functools.lru_cache(maxsize=1 << 18)
def _sha256(info: FileInfo) -> str:
    with storage.open_read(info) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def open_dataset(uri: str, version: int | None = None) -> Dataset:
    """The dataset published in folder `uri`: its newest version, or an older one that was kept.

    Raises:
        InputError: no manifest there, or not that version.
    """
    newest = newest_manifest(uri)
    if newest is None:
        raise InputError(f"{uri}: no published dataset (no _manifest/*.json); name the --output of a finished run")
    if version is None or version == newest.version:
        return Dataset(uri, newest)
    try:
        return Dataset(uri, read_manifest(uri, version))
    except FileNotFoundError:
        there = ", ".join(map(str, versions(uri)))
        raise InputError(f"{uri}: version {version} is not there; there are {there}") from None
