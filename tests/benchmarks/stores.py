"""What a store costs beside a disk: reading by ranges, planning many objects, and what is fetched of a wide file.

    python -m tests.benchmarks.stores [reading planning parquet] [--megabytes 100] [--objects 5000]
        [--parquet_megabytes 1000]

The servers are on this machine: what is measured is the client, not a network. S3 is moto's, which copies an object
whole for each request for a range of it: a row shows what a bare client needs there for the same requests. So the wide
file is read from fake-gcs-server, where a request costs what it asks for. Prints a Markdown table.
"""

import argparse
import contextlib
import io
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import transforms.encode
from jobs import embed
from schemas import storage
from schemas.blocks import Block
from schemas.splits import FileInfo, Slice
from tests.benchmarks.processes import machine, markdown
from tests.fakes import FakeEncoder
from tests.servers import fake_gcs, moto
from tests.servers.faulty_proxy import FaultyProxy
from tests.servers.store import Store, environment
from transforms.inputs import make_splits, slice_files
from transforms.read import BlockOptions, read_split
from transforms.sources import ReadOptions, read_rows

ROUNDS = 5
RANGE_BYTES = 8 << 20
"""Of a split."""
COLUMNS, COLUMN_BYTES, ROW_GROUP_ROWS = 10, 1000, 10_000
READ_TARGET, PLAN_TARGET = 2.0, 5.0
OPTIONS = BlockOptions(read=ReadOptions(), kept=pa.schema([]), fingerprint_digest="")

Table = list[list[str]]


def read_blocks_of(uri: str) -> int:
    """Reads a file as a job does: one split after the other, each to its blocks."""
    splits = make_splits(slices_of(uri), "")
    return sum(b.table.num_rows for split in splits for b in read_split(split, OPTIONS) if isinstance(b, Block))


def read_rows_of(uri: str) -> int:
    """Reads the rows of the same ranges, and makes nothing of them."""
    return sum(1 for pieces in slices_of(uri) for piece in pieces for _ in read_rows(piece, ReadOptions()))


def slices_of(uri: str) -> list[tuple[Slice, ...]]:
    return slice_files([(listed(uri), uri.rsplit("/", 1)[1])], "jsonl", RANGE_BYTES)


def listed(uri: str) -> FileInfo:
    (file,) = storage.find(uri)
    return file


def measure_reading(folder: Path, megabytes: int) -> Table:
    line = b'{"text": "%012d ' + b"some text of a usual length. " * 4 + b'"}\n'
    content = b"".join(line % number for number in range(megabytes * 1_000_000 // len(line % 0)))
    local = str(folder / "rows.jsonl")
    storage.create(local, content)
    table = []
    for serve in (moto.serve, fake_gcs.serve):
        with serve(folder) as server:
            uri = f"{server.bucket()}/rows.jsonl"
            server.put(uri, content)
            table += compare_reading(server, uri, local, f"{megabytes} MB by ranges, {server.scheme}")
    return table


def compare_reading(server: Store, uri: str, local: str, what: str) -> Table:
    """Rows for a file on a store and on a disk, read in turn."""
    with FaultyProxy(server.url) as proxy, environment(server.through(proxy.url)):
        read_blocks_of(uri)
        sizes = [request.sent for request in proxy.requests if request.sent > 1 << 16]
    table = []
    with environment(server.environment):
        for name, read in (("a split's blocks", read_blocks_of), ("rows alone", read_rows_of)):
            store, disk = medians(lambda read=read: read(uri), lambda read=read: read(local))  # type: ignore[misc]
            ratio, reach = f"{store / disk:.2f} × a disk's {disk:.2f} s", f"{READ_TARGET:.0f} ×"
            table.append([f"{what}: {name}", f"{store:.2f} s", ratio, reach])
    if server.scheme == "s3":
        (bare,) = medians(lambda: request_bare(server, uri, sizes))
        fetched = sum(sizes) / Path(local).stat().st_size
        table.append(
            [f"{what}: a bare client", f"{bare:.2f} s", f"{len(sizes)} requests, {fetched:.2f} × the file", ""]
        )
    return table


def medians(*calls: Callable[[], object]) -> list[float]:
    """Seconds that each takes, called in turn."""
    seconds: list[list[float]] = [[] for _ in calls]
    for _ in range(ROUNDS):
        for taken, call in zip(seconds, calls, strict=True):
            started = time.perf_counter()
            call()
            taken.append(time.perf_counter() - started)
    return [statistics.median(taken) for taken in seconds]


def request_bare(server: Store, uri: str, sizes: Sequence[int]) -> None:
    """As many requests of these sizes, one after the other, by boto3 alone."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    client = moto.client(server.url)
    for size in sizes:
        client.get_object(Bucket=bucket, Key=key, Range=f"bytes=0-{size - 1}")["Body"].read()


def measure_planning(folder: Path, objects: int) -> Table:
    with moto.serve(folder) as server, FaultyProxy(server.url) as proxy:
        bucket = server.bucket()
        for number in range(objects):
            server.put(f"{bucket}/many/{number:06}.txt", b"a line of text\n" * 50)
        with environment(server.through(proxy.url)):
            started = time.perf_counter()
            run_job("--input", f"{bucket}/many", "--output", f"{bucket}/out", "--plan")
            seconds = time.perf_counter() - started
    requests = f"{len(proxy.requests)} requests"
    return [[f"plan {objects:,} objects, s3", f"{seconds:.2f} s", requests, f"{PLAN_TARGET:.0f} s"]]


def write_wide(path: Path, megabytes: int) -> None:
    """Ten columns of texts that do not compress, a row group at a time."""
    random = np.random.default_rng(0)
    schema = pa.schema([(f"column_{i}", pa.string()) for i in range(COLUMNS)])
    offsets = pa.py_buffer(np.arange(ROW_GROUP_ROWS + 1, dtype=np.int32) * COLUMN_BYTES)
    groups = max(1, megabytes * 1_000_000 // (COLUMNS * COLUMN_BYTES * ROW_GROUP_ROWS))
    with pq.ParquetWriter(path, schema, compression="none", use_dictionary=False) as writer:
        for _ in range(groups):
            letters = random.integers(97, 123, (COLUMNS, ROW_GROUP_ROWS * COLUMN_BYTES), np.uint8)
            columns = [pa.StringArray.from_buffers(ROW_GROUP_ROWS, offsets, pa.py_buffer(column)) for column in letters]
            writer.write_table(pa.table(columns, schema=schema))


def measure_parquet(folder: Path, megabytes: int) -> Table:
    path = folder / "wide.parquet"
    write_wide(path, megabytes)
    chunks = pq.read_metadata(path)
    needed = sum(
        chunks.row_group(g).column(c).total_compressed_size for g in range(chunks.num_row_groups) for c in (3, 7)
    )
    with fake_gcs.serve(folder) as server, FaultyProxy(server.url) as proxy:
        bucket = server.bucket()
        server.put(f"{bucket}/wide/wide.parquet", path.read_bytes())
        flags = ("--text_column", "column_3", "--keep_columns", "column_7")
        with environment(server.through(proxy.url)):
            started = time.perf_counter()
            run_job("--input", f"{bucket}/wide", "--output", str(folder / "out"), *flags)
            seconds = time.perf_counter() - started
    fetched, size = proxy.sent("wide.parquet"), path.stat().st_size
    what = f"embed one of {COLUMNS} columns of {size / 1e6:,.0f} MB of Parquet and keep another, gs"
    said = f"{fetched / 1e6:,.0f} MB fetched, {fetched / needed:.3f} × the two columns"
    return [[what, f"{seconds:.1f} s", said, f"{needed / 1e6:,.0f} MB"]]


def run_job(*argv: str) -> None:
    said = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
        status = embed.main([*argv, "--device", "cpu"])
    if status:
        raise RuntimeError(said.getvalue())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", metavar="WHAT", help="reading, planning, parquet; default: all")
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--objects", type=int, default=5000)
    parser.add_argument("--parquet_megabytes", type=int, default=1000)
    args = parser.parse_args()
    transforms.encode.Encoder = FakeEncoder  # type: ignore[assignment, misc]
    measures = {
        "reading": (measure_reading, args.megabytes),
        "planning": (measure_planning, args.objects),
        "parquet": (measure_parquet, args.parquet_megabytes),
    }
    table = [["what", "took", "", "to reach"]]
    for what in args.what or measures:
        measure, size = measures[what]
        with tempfile.TemporaryDirectory() as folder:
            table += measure(Path(folder), size)
    sys.stdout.write(f"{markdown(table)}\n\n{machine()}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
