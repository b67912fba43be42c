"""Published datasets of given vectors, made in no time."""

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from schemas import storage
from schemas.embeddings import PartStats, embeddings_schema, part_bytes
from schemas.manifest import Counts, Manifest, PartEntry, manifest_uri, versions
from schemas.model import ModelFingerprint

FINGERPRINT = ModelFingerprint(
    name="made-up",
    weights_sha256="0" * 64,
    max_seq_length=256,
    pooling="mean",
    normalized=True,
    prompt="",
    dim=1,
    dtype="float32",
    backend="torch",
    similarity="cosine",
    long_texts="truncate",
)


def write_dataset(
    folder: Path,
    vectors: np.ndarray,
    ids: Sequence[str] | None = None,
    texts: Sequence[str] | None = None,
    part_rows: int = 500,
    fingerprint: ModelFingerprint = FINGERPRINT,
    kind: str = "embeddings",
    options: dict[str, Any] | None = None,
) -> Path:
    """The next version of the dataset in `folder`: rows of these vectors, by default each with a text of its own."""
    fingerprint = dataclasses.replace(fingerprint, dim=vectors.shape[1])
    ids = [f"row-{i:05d}" for i in range(len(vectors))] if ids is None else ids
    texts = [f"text of {i}" for i in ids] if texts is None else texts
    entries = []
    for start in range(0, max(len(vectors), 1), part_rows):
        some = slice(start, start + part_rows)
        entries.append(_write_part(folder, ids[some], texts[some], vectors[some], fingerprint))
    version = len(versions(str(folder))) + 1
    manifest = Manifest(
        version=version,
        parent=version - 1,
        run=f"run-{version}",
        kind=kind,
        created="2026-01-01T00:00:00+00:00",
        fingerprint=fingerprint,
        options=options or {},
        parts=tuple(entries),
        rejects=(),
        splits=(),
        inputs=(),
        counts=Counts(rows_in=len(vectors), rows_out=len(vectors)),
        fidelity=None,
        timings={},
        reused={},
    )
    storage.create(manifest_uri(str(folder), version), manifest.to_json())
    return folder


def _write_part(
    folder: Path, ids: Sequence[str], texts: Sequence[str], vectors: np.ndarray, fingerprint: ModelFingerprint
) -> PartEntry:
    schema = embeddings_schema(fingerprint)
    flat = pa.array(np.ascontiguousarray(vectors, dtype=np.float32).reshape(-1))
    columns = [
        pa.array(ids, pa.string()),
        pa.array(texts, pa.string()),
        pa.array(np.full(len(ids), 3, np.int32)),
        pa.array(np.zeros(len(ids), bool)),
        pa.FixedSizeListArray.from_arrays(flat, type=schema.field("embedding").type),
    ]
    stats = PartStats(rows_in=len(ids), rows_out=len(ids), tokens=3 * len(ids), truncated=0)
    data = part_bytes(pa.Table.from_arrays(columns, schema=schema), stats)
    sha = hashlib.sha256(data).hexdigest()
    name = f"part-{sha[:32]}.parquet"
    storage.create(storage.join(str(folder), name), data)
    return PartEntry(name, len(ids), len(data), f"sha256:{sha}")


def clustered(rows: int, dims: int = 32, seed: int = 0, noise: float = 0.4) -> np.ndarray:
    """`(rows, dims)` float32, of any length: clusters of about ten, cosines of about 0.85 within them."""
    random = np.random.default_rng(seed)
    centres = random.standard_normal((max(rows // 10, 1), dims))
    vectors = centres[random.integers(0, len(centres), rows)] + noise * random.standard_normal((rows, dims))
    return vectors.astype(np.float32)
