"""What is read: slices of input files, and the splits that a worker reads in one go."""

import hashlib
import json
from typing import NamedTuple

SCHEMA_VERSION = 1
"""Version of all that a part's content depends on but its rows. Raise it when the same rows would make other bytes."""

READ_VERSION = 2
"""Version of what a split's rows are: of the readers, and of where ranges and blocks begin. Raise it when the same
split would give other rows or blocks. Then a run reads all of its input once more; it does not encode again what is
encoded already. Splits read by two versions must never stand side by side: their ranges need not share out a file."""


class FileInfo(NamedTuple):
    """One file as its store lists it. `etag` changes whenever the content does."""

    uri: str
    size: int
    etag: str


class Slice(NamedTuple):
    """A contiguous piece of one input file.

    `start` and `stop` are bytes for a line file, row groups for Parquet; a file that is read whole has 0 and -1.
    `name` is what ids are made of: the file's path below the folder that the input patterns have in common.
    """

    file: FileInfo
    name: str
    format: str  # text, jsonl, csv, tsv, parquet
    codec: str  # "", gz, bz2, zst
    start: int = 0
    stop: int = -1
    size: int = 0  # bytes of the file that this stands for: for packing, for progress, and to request them at once

    @property
    def whole(self) -> bool:
        return self.stop < 0


class Split(NamedTuple):
    """A planned slice of the input, read by one worker in one go: one slice, or a pack of small files.

    `id` is a digest of the slices, the reader's options and the encoder's (see `split_id`), never of a host, a time or
    an attempt: the same input under the same options has the same splits.
    """

    id: str
    slices: tuple[Slice, ...]

    @property
    def input_bytes(self) -> int:
        return sum(piece.size for piece in self.slices)


def digest(*parts: object) -> str:
    """128 bits over JSON-able parts, as 32 hex digits. Order matters; what can be told apart hashes apart."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def split_id(slices: tuple[Slice, ...], options_digest: str) -> str:
    return digest(SCHEMA_VERSION, READ_VERSION, slices, options_digest)
