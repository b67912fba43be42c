"""What a store costs beside a disk: reading by ranges, planning many objects, and what is fetched of a wide file.

    python -m tests.benchmarks.stores [--megabytes 100] [--objects 5000] [--parquet_megabytes 1000]

The store is moto's S3 server on this machine: what is measured is the client, not a network. Prints a Markdown table.
"""

import argparse
import contextlib
import io
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import transforms.encode
from jobs import embed
from schemas import storage
from schemas.splits import FileInfo
from tests.benchmarks.processes import machine, markdown
from tests.fakes import FakeEncoder
from tests.servers import moto
from tests.servers.faulty_proxy import FaultyProxy
from tests.servers.store import environment
from transforms.inputs import slice_files
from transforms.sources import ReadOptions, read_rows

ROUNDS = 5
RANGE_BYTES = 8 << 20
"""Of a split."""
COLUMNS, COLUMN_BYTES, ROW_GROUP_ROWS = 10, 100, 10_000
READ_TARGET, PLAN_TARGET = 2.0, 5.0


def read_rows_of(uri: str) -> int:
    """Reads the rows of a file as its splits do, one split after the other."""
    slices = slice_files([(listed(uri), uri.rsplit("/", 1)[1])], "jsonl", RANGE_BYTES)
    return sum(1 for pieces in slices for piece in pieces for _ in read_rows(piece, ReadOptions()))


def read_bytes_of(uri: str) -> int:
    """Reads the bytes of a file by the same ranges, and does nothing with them."""
    file, total = listed(uri), 0
    for start in range(0, file.size, RANGE_BYTES):
        with storage.open_read(file, start, start + RANGE_BYTES) as reader:
            left = min(RANGE_BYTES, file.size - start)
            while left and (data := reader.read(min(left, 1 << 20))):
                left, total = left - len(data), total + len(data)
    return total


def listed(uri: str) -> FileInfo:
    (file,) = storage.find(uri)
    return file


def measure_reading(bucket: str, folder: Path, megabytes: int) -> list[list[str]]:
    line = b'{"text": "%012d ' + b"some text of a usual length. " * 4 + b'"}\n'
    content = b"".join(line % number for number in range(megabytes * 1_000_000 // len(line % 0)))
    uris = [str(folder / "rows.jsonl"), f"{bucket}/rows.jsonl"]
    for uri in uris:
        storage.create(uri, content)
    del content
    table = []
    for what, read, target in (("rows", read_rows_of, f"{READ_TARGET:.0f} ×"), ("bytes alone", read_bytes_of, "")):
        seconds: dict[str, list[float]] = {uri: [] for uri in uris}
        for _ in range(ROUNDS):
            for uri in uris:
                started = time.perf_counter()
                read(uri)
                seconds[uri].append(time.perf_counter() - started)
        local, store = (statistics.median(seconds[uri]) for uri in uris)
        ratio = f"{store / local:.1f} × a disk's {local:.2f} s"
        table.append([f"read {megabytes} MB of JSONL by ranges: {what}", f"{store:.2f} s", ratio, target])
    return table


def measure_planning(bucket: str, proxy: FaultyProxy, objects: int) -> list[list[str]]:
    store, path = storage.resolve(f"{bucket}/many")
    store.fs.pipe({f"{path}/{number:06}.txt": b"a line of text\n" * 50 for number in range(objects)})
    proxy.requests.clear()
    started = time.perf_counter()
    run_job("--input", f"{bucket}/many", "--output", f"{bucket}/out", "--plan")
    seconds = time.perf_counter() - started
    return [
        [f"plan {objects:,} objects", f"{seconds:.2f} s", f"{len(proxy.requests)} requests", f"{PLAN_TARGET:.0f} s"]
    ]


def write_wide(path: Path, megabytes: int) -> None:
    """Ten columns of texts that do not compress, never all in memory."""
    random = np.random.default_rng(0)
    schema = pa.schema([(f"column_{i}", pa.string()) for i in range(COLUMNS)])
    groups = max(1, megabytes * 1_000_000 // (COLUMNS * COLUMN_BYTES * ROW_GROUP_ROWS))
    with pq.ParquetWriter(path, schema, compression="none", use_dictionary=False) as writer:
        for _ in range(groups):
            letters = random.integers(97, 123, (COLUMNS, ROW_GROUP_ROWS, COLUMN_BYTES), np.uint8)
            columns = [pa.array([row.tobytes().decode() for row in column]) for column in letters]
            writer.write_table(pa.table(columns, schema=schema))


def measure_parquet(bucket: str, folder: Path, proxy: FaultyProxy, megabytes: int) -> list[list[str]]:
    path = folder / "wide.parquet"
    write_wide(path, megabytes)
    storage.create(f"{bucket}/wide/wide.parquet", path.read_bytes())
    proxy.requests.clear()
    started = time.perf_counter()
    flags = ("--text_column", "column_3", "--keep_columns", "column_7")
    run_job("--input", f"{bucket}/wide", "--output", str(folder / "out"), *flags)
    seconds = time.perf_counter() - started
    fetched, size = proxy.sent("/wide/wide.parquet"), path.stat().st_size
    what = f"embed a column of Parquet, {size / 1e6:,.0f} MB in {COLUMNS} columns, and keep another"
    return [
        [what, f"{seconds:.1f} s", f"{fetched / 1e6:,.0f} MB fetched, {fetched / size:.1%}", "20 % are the columns"]
    ]


def run_job(*argv: str) -> None:
    said = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
        status = embed.main([*argv, "--device", "cpu"])
    if status:
        raise RuntimeError(said.getvalue())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--objects", type=int, default=5000)
    parser.add_argument("--parquet_megabytes", type=int, default=1000)
    args = parser.parse_args()
    transforms.encode.Encoder = FakeEncoder  # type: ignore[assignment, misc]
    table = [["what", "took", "", "to reach"]]
    with tempfile.TemporaryDirectory() as name, moto.serve(Path(name)) as store:
        folder = Path(name)
        with environment(store.environment):
            table += measure_reading(store.bucket(), folder, args.megabytes)
        with FaultyProxy(store.url) as proxy, environment(store.through(proxy.url)):
            table += measure_planning(store.bucket(), proxy, args.objects)
            table += measure_parquet(store.bucket(), folder, proxy, args.parquet_megabytes)
    sys.stdout.write(f"{markdown(table)}\n\n{machine()}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
