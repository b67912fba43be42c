"""Finds ids that stand in a dataset more than once, in bounded memory."""

import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from schemas import storage
from schemas.errors import RunFailed
from schemas.manifest import PartEntry
from schemas.splits import FileInfo

BUCKETS = 64
EXAMPLES = 5


def check_ids(output: str, parts: Sequence[PartEntry]) -> None:
    """Raises RunFailed, with examples, where an id is in the dataset twice.

    64-bit hashes of all ids go to `BUCKETS` files on local disk (8 bytes a row) by their first bits, and each file is
    looked through by itself. Hashes that meet are looked up: a meeting by chance is no duplicate.
    """
    with tempfile.TemporaryDirectory() as folder:
        _write_hashes(output, parts, Path(folder))
        suspects = np.concatenate([_repeated(path) for path in Path(folder).iterdir()] or [np.empty(0, np.uint64)])
    if not len(suspects):
        return
    seen: Counter[str] = Counter()
    for ids in _ids(output, parts):
        seen.update(ids[np.isin(_hashes(ids), suspects)])
    double = [(i, n) for i, n in seen.most_common() if n > 1]
    if double:
        examples = ", ".join(f"{i!r} ({n} times)" for i, n in double[:EXAMPLES])
        raise RunFailed(
            f"{len(double)} ids are not unique, among them {examples}; nothing is published. Mend the ids, or publish "
            "them as they are: --duplicate_ids keep"
        )


def _ids(output: str, parts: Iterable[PartEntry]) -> Iterator[np.ndarray]:
    for part in parts:
        with storage.open_random(FileInfo(storage.join(output, part.name), part.size, "")) as file:
            yield pq.read_table(file, columns=["id"]).column("id").to_numpy()


def _hashes(ids: np.ndarray) -> np.ndarray:
    return pd.util.hash_array(ids.astype(object), categorize=False)


def _write_hashes(output: str, parts: Iterable[PartEntry], folder: Path) -> None:
    for ids in _ids(output, parts):
        hashes = np.sort(_hashes(ids))
        edges = np.searchsorted(hashes, np.arange(1, BUCKETS, dtype=np.uint64) * np.uint64(2**64 // BUCKETS))
        for bucket, values in enumerate(np.split(hashes, edges)):
            if len(values):
                with (folder / str(bucket)).open("ab") as file:
                    file.write(values.tobytes())


def _repeated(path: Path) -> np.ndarray:
    hashes = np.sort(np.fromfile(path, np.uint64))
    return np.unique(hashes[1:][hashes[1:] == hashes[:-1]])
