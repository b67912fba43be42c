"""Finds ids that stand in a dataset more than once, in bounded memory."""

import itertools
import tempfile
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from schemas import storage
from schemas.dataset import part_file
from schemas.errors import RunFailed
from schemas.manifest import PartEntry

BUCKETS = 64
READERS = 32
EXAMPLES = 5


def check_ids(output: str, parts: Sequence[PartEntry]) -> None:
    """Raises RunFailed, with examples, where an id is in the dataset twice.

    64-bit hashes of all ids go to `BUCKETS` files on local disk (8 bytes a row) by their first bits, and each file is
    looked through by itself. Hashes that meet are looked up: a meeting by chance is no duplicate. `READERS` parts are
    read at a time, as on a store each costs some requests and hardly any computing.
    """
    with tempfile.TemporaryDirectory() as folder:
        _write_hashes(output, parts, Path(folder))
        suspects = np.concatenate([_repeated(path) for path in Path(folder).iterdir()] or [np.empty(0, np.uint64)])
    if not len(suspects):
        return
    seen: Counter[str] = Counter()
    for ids in _of_parts(output, parts, lambda ids: ids[np.isin(_hashes(ids), suspects)]):
        seen.update(ids)
    double = [(i, n) for i, n in seen.most_common() if n > 1]
    if double:
        examples = ", ".join(f"{i!r} ({n} times)" for i, n in double[:EXAMPLES])
        raise RunFailed(
            f"{len(double)} ids are not unique, among them {examples}; nothing is published. Mend the ids, or publish "
            "them as they are: --duplicate_ids keep"
        )


def _of_parts(
    output: str, parts: Iterable[PartEntry], of_ids: Callable[[np.ndarray], np.ndarray]
) -> Iterator[np.ndarray]:
    """What `of_ids` makes of each part's ids, in order; some parts are read ahead, so that few are in memory."""

    def read(part: PartEntry) -> np.ndarray:
        with storage.open_random(part_file(output, part)) as file:
            return of_ids(pq.read_table(file, columns=["id"], use_threads=False).column("id").to_numpy())

    left, reading = iter(parts), deque[Future[np.ndarray]]()
    with ThreadPoolExecutor(READERS, thread_name_prefix="ids") as readers:
        reading.extend(readers.submit(read, part) for part in itertools.islice(left, 2 * READERS))
        while reading:
            yield reading.popleft().result()
            reading.extend(readers.submit(read, part) for part in itertools.islice(left, 1))


def _hashes(ids: np.ndarray) -> np.ndarray:
    return pd.util.hash_array(ids.astype(object), categorize=False)


def _write_hashes(output: str, parts: Iterable[PartEntry], folder: Path) -> None:
    for hashes in _of_parts(output, parts, lambda ids: np.sort(_hashes(ids))):
        edges = np.searchsorted(hashes, np.arange(1, BUCKETS, dtype=np.uint64) * np.uint64(2**64 // BUCKETS))
        for bucket, values in enumerate(np.split(hashes, edges)):
            if len(values):
                with (folder / str(bucket)).open("ab") as file:
                    file.write(values.tobytes())


def _repeated(path: Path) -> np.ndarray:
    hashes = np.sort(np.fromfile(path, np.uint64))
    return np.unique(hashes[1:][hashes[1:] == hashes[:-1]])
