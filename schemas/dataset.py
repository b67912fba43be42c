"""The one way in which jobs read a dataset: by its manifest, never by a glob."""

import dataclasses
from collections.abc import Iterator, Sequence

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

    def part_file(self, part: PartEntry) -> FileInfo:
        """For reading it without asking the store for its size."""
        return FileInfo(self.part_uri(part), part.size, "")

    def read_part(self, part: PartEntry, columns: Sequence[str] | None = None) -> pa.Table:
        """Rows of one part. Raises RunFailed where a later publish has removed it."""
        try:
            with storage.open_random(self.part_file(part)) as file:
                return pq.read_table(file, columns=columns, page_checksum_verification=True)
        except FileNotFoundError:
            raise RunFailed(
                f"{self.part_uri(part)}: gone, because a newer version than {self.manifest.version} was published "
                "while this one was read; read again, or publish with --keep_versions 2"
            ) from None

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """Its rows in input order, a part at a time."""
        return (self.read_part(part, columns) for part in self.manifest.parts)

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """All its rows, in memory."""
        return pa.concat_tables(self.batches(columns))


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
