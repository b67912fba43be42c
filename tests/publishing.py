"""Small parts, rejects and reads, and runs that publish them without a pipeline."""

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from schemas.blocks import RejectChunk, SplitRead
from schemas.embeddings import Part, PartStats, embeddings_schema
from schemas.manifest import Manifest
from schemas.model import ModelFingerprint
from schemas.rejects import Reason, Reject
from schemas.splits import digest
from transforms.leases import leased
from transforms.plan import Plan
from transforms.publish import publish
from transforms.write import EncodedBlock, RejectPart, write_part, write_rejects

MODEL = ModelFingerprint(
    name="m", weights_sha256="0", max_seq_length=8, pooling="mean", normalized=True, prompt="", dim=2, dtype="float32",
    backend="torch", similarity="cosine", long_texts="truncate",
)  # fmt: skip


def plan(folder: Path | str, **changes: Any) -> Plan:
    known: dict[str, Any] = {
        "output": str(folder), "run": "this", "started": time.time() - 1, "base_version": 0, "order": ("s1", "s2"),
        "todo": (), "inputs": (), "fingerprint": MODEL, "kept": pa.schema([]), "options": {}, "input_bytes": 0,
        "max_error_rate": 0.5,
    }  # fmt: skip
    return Plan(**known | changes)


def encoded(split: str, number: int, ids: Sequence[str], vector: float = 1.0, **stats: Any) -> EncodedBlock:
    """A block of rows with these ids, whose part is named by them alone."""
    schema = embeddings_schema(MODEL)
    vectors = pa.FixedSizeListArray.from_arrays(
        pa.array(np.full(2 * len(ids), vector, np.float32)), type=schema.field("embedding").type
    )
    columns = [list(ids), list(ids), pa.array([3] * len(ids), pa.int32()), [False] * len(ids), vectors]
    table = pa.Table.from_arrays(columns, schema=schema)
    known = {"rows_in": len(ids), "rows_out": len(ids), "tokens": 3 * len(ids), "truncated": 0}
    name = f"part-{digest(list(ids))}.parquet"
    return EncodedBlock(split, number, name, table, PartStats(**known | stats), 0)


def part(folder: Path | str, split: str, number: int, ids: Sequence[str], run: str = "this", **stats: Any) -> Part:
    return write_part(str(folder), run, encoded(split, number, ids, **stats), MODEL)


def reject(folder: Path | str, split: str, *reasons: Reason, run: str = "this") -> RejectPart:
    chunk = RejectChunk(split, tuple(Reject("a", n, "read", r, f"error {n}", b"") for n, r in enumerate(reasons)))
    return write_rejects(str(folder), run, chunk)


def read(split: str, blocks: int, rows_in: int) -> SplitRead:
    return SplitRead(split, blocks, rows_in, 0, ())


def publish_ids(folder: Path | str, run: str, base: int, *ids: str, **changes: Any) -> Manifest:
    """Writes a part for each id, as the only split, and publishes them."""
    parts = [part(folder, f"s-{'-'.join(ids)}", number, [i], run) for number, i in enumerate(ids)]
    wanted = plan(folder, run=run, base_version=base, order=(f"s-{'-'.join(ids)}",), **changes)
    return publish(wanted, [read(wanted.order[0], len(ids), len(ids))], parts, [])


@contextlib.contextmanager
def alive(folder: Path | str, run: str, base: int = 0) -> Iterator[None]:
    """A run that says that it is alive."""
    with leased(str(folder), run, base, here=True):
        yield
