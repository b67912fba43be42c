"""The unit of work: at most `rows_per_part` rows of one split, in input order."""

import hashlib
from typing import NamedTuple

import apache_beam as beam
import numpy as np
import pyarrow as pa

from schemas.rejects import Reject

SOURCE, OFFSET = "_source", "_offset"
"""Columns of a block that say where a row came from. Rejects need them; parts do not carry them."""


class Block(NamedTuple):
    """Rows to encode. Its part's name follows from the rows alone, so whoever meets them again finds the part.

    `table` has the columns id, text (both string, no nulls), the kept ones, `_source` (string) and `_offset` (int64).
    """

    split_id: str
    number: int  # 0, 1, … within the split
    name: str  # part-<digest>.parquet
    table: pa.Table
    input_bytes: int  # of the split that these rows stand for; progress adds them up


class SplitRead(NamedTuple):
    """A split was read to its end."""

    split_id: str
    blocks: int
    rows_in: int  # records met, blank lines of text files apart
    blank_lines: int
    bad_files: tuple[tuple[str, str], ...]  # (uri, reason), with --skip_bad_files


class RejectChunk(NamedTuple):
    """Rejected rows of one split, few enough to hold."""

    split_id: str
    rejects: tuple[Reject, ...]


def block_name(table: pa.Table, fingerprint_digest: str) -> str:
    """The name of the part that a block becomes: a digest of its ids, texts and kept columns and of the fingerprint."""
    seen = hashlib.blake2b(fingerprint_digest.encode(), digest_size=16)
    for name, column in zip(table.column_names, table.columns, strict=True):
        if name in (SOURCE, OFFSET):
            continue
        seen.update(f"{name}:{column.type}:{len(column)};".encode())
        values = column.combine_chunks()
        if pa.types.is_string(column.type) and not values.null_count:
            _update_strings(seen, values)
        else:
            seen.update(_ipc(pa.table({name: values})))
    return f"part-{seen.hexdigest()}.parquet"


def _update_strings(seen: "hashlib.blake2b", values: pa.Array) -> None:
    """Lengths and bytes: what the strings are, whatever buffer they are slices of."""
    offsets = np.frombuffer(values.buffers()[1], dtype=np.int32)[values.offset : values.offset + len(values) + 1]
    seen.update(np.diff(offsets).tobytes())
    if len(values) and values.buffers()[2] is not None:
        seen.update(memoryview(values.buffers()[2])[offsets[0] : offsets[-1]])


def _ipc(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


class BlockCoder(beam.coders.Coder):
    """Arrow IPC through shuffles: pickling a slice would carry its whole parent along."""

    def __init__(self) -> None:
        self._head = beam.coders.FastPrimitivesCoder()

    def encode(self, value: Block) -> bytes:
        head = (value.split_id, value.number, value.name, value.input_bytes, _ipc(value.table.combine_chunks()))
        return self._head.encode(head)

    def decode(self, encoded: bytes) -> Block:
        split_id, number, name, input_bytes, ipc = self._head.decode(encoded)
        return Block(split_id, number, name, pa.ipc.open_stream(ipc).read_all(), input_bytes)

    def is_deterministic(self) -> bool:
        return True

    def to_type_hint(self) -> type:
        return Block


beam.coders.registry.register_coder(Block, BlockCoder)
