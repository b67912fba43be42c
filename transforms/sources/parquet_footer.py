"""Footers of Parquet files: each is read once, whoever asks and for however many of the file's row groups."""

import contextlib
import functools
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from schemas import storage
from schemas.splits import FileInfo
from transforms.sources.chunks import reading
from transforms.sources.rows import BadFile

FIRST_BUFFER_BYTES = 256 << 10
READERS = 16
"""Footers on their way at once, when many are wanted: from a store, each is a wait of some 50 ms."""
_HELD_BYTES = 32 << 20
"""Footers, as they are in the file, that are held parsed for the next split of theirs."""


class Footer(NamedTuple):
    """What planning needs of a footer."""

    schema: pa.Schema
    groups: tuple[tuple[int, int], ...]  # (rows, bytes) of each row group; bytes of all columns, before compression


@functools.lru_cache(maxsize=1 << 16)
def parquet_footer(file: FileInfo) -> Footer:
    """Raises BadFile."""
    with opened(file) as parquet:
        groups = map(parquet.metadata.row_group, range(parquet.metadata.num_row_groups))
        return Footer(parquet.schema_arrow, tuple((g.num_rows, g.total_byte_size) for g in groups))


def read_footers(files: Iterable[FileInfo]) -> None:
    """Reads the footers of files that will be asked for, many at a time. What is wrong with one is told then."""

    def read(file: FileInfo) -> None:
        with contextlib.suppress(BadFile):
            parquet_footer(file)

    with ThreadPoolExecutor(READERS, thread_name_prefix="footer") as pool:
        list(pool.map(read, files))


@contextlib.contextmanager
def opened(file: FileInfo, buffer_bytes: int = FIRST_BUFFER_BYTES, **options: Any) -> Iterator[pq.ParquetFile]:
    """The file, with a footer that this process has parsed before where it has. Raises BadFile for whatever pyarrow
    finds wrong while it is open; a lost connection passes."""
    with reading(file.uri), storage.open_random(file) as stored:
        try:
            parquet = parquet_file(stored, file, buffer_bytes, **options)
            _PARSED.put(file, parquet.metadata)
            yield parquet
        except (ConnectionError, TimeoutError):
            raise
        except (pa.ArrowException, OSError) as error:
            raise BadFile(file.uri, f"no readable Parquet file: {str(error).strip()}") from None


def parquet_file(stored: Any, file: FileInfo, buffer_bytes: int, **options: Any) -> pq.ParquetFile:
    """A reader of an open file."""
    return pq.ParquetFile(
        stored,
        metadata=_PARSED.get(file),
        buffer_size=buffer_bytes,
        pre_buffer=False,
        page_checksum_verification=True,
        **options,
    )


class _Parsed:
    """Parsed footers, the latest used, up to `_HELD_BYTES` of them. A split's reader would parse its file's anew."""

    def __init__(self) -> None:
        self._held: OrderedDict[FileInfo, pq.FileMetaData] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, file: FileInfo) -> pq.FileMetaData | None:
        with self._lock:
            if file in self._held:
                self._held.move_to_end(file)
            return self._held.get(file)

    def put(self, file: FileInfo, metadata: pq.FileMetaData) -> None:
        with self._lock:
            if file not in self._held:
                self._held[file] = metadata
                self._bytes += metadata.serialized_size
            while self._bytes > _HELD_BYTES and len(self._held) > 1:
                self._bytes -= self._held.popitem(last=False)[1].serialized_size


_PARSED = _Parsed()
