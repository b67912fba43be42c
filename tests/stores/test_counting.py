"""What a job asks of a store: requests and bytes, counted on the wire."""

import json
import random
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import transforms.encode
from jobs import embed
from schemas import storage
from schemas.blocks import SplitRead
from schemas.dataset import open_dataset
from tests.fakes import FakeEncoder
from tests.servers.faulty_proxy import FaultyProxy
from tests.servers.store import Store, environment
from transforms.inputs import list_inputs, make_splits, slice_files
from transforms.read import BlockOptions, read_split
from transforms.sources import ReadOptions

OBJECTS, LINES = 1200, 100
"""Two pages of a listing, and so many rows in each that few are read for a sample."""


@pytest.fixture
def proxy(s3_server: Store, s3: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    """Counts; `clear()` its requests when all is in place."""
    monkeypatch.setattr(transforms.encode, "Encoder", FakeEncoder)
    with FaultyProxy(s3_server.url) as proxy, environment(s3_server.through(proxy.url)):
        yield proxy


def count(proxy: FaultyProxy, methods: str, match: str) -> int:
    return len([r for r in proxy.requests if r.method in methods.split() and match in r.path])


def test_many_objects_are_listed_once_and_read_once(s3: str, proxy: FaultyProxy) -> None:
    store, path = storage.resolve(f"{s3}/in")
    store.fs.pipe({f"{path}/{number:05}.txt": b"a line of text\n" * LINES for number in range(OBJECTS)})
    argv = ["--input", f"{s3}/in", "--output", f"{s3}/out", "--split_bytes", "100000", "--device", "cpu"]

    proxy.requests.clear()
    assert embed.main([*argv, "--plan", "--json"]) == 0
    assert_listed_once(proxy)
    assert len(proxy.requests) < 150

    proxy.requests.clear()
    assert embed.main(argv) == 0
    manifest = open_dataset(f"{s3}/out").manifest
    assert manifest.counts.rows_out == OBJECTS * LINES
    assert len(manifest.splits) > 10
    assert_listed_once(proxy)
    assert OBJECTS <= count(proxy, "GET", "/in/") < OBJECTS + 100
    assert len(proxy.requests) < OBJECTS + 4 * len(manifest.parts) + 100


def assert_listed_once(proxy: FaultyProxy) -> None:
    assert count(proxy, "GET", "prefix=in%2F&delimiter=&") == 2
    assert count(proxy, "GET", "prefix=in%2F&delimiter=%2F&max-keys=1&") < 8  # whether the input is a folder
    assert count(proxy, "HEAD", "/in/") == 0


def test_of_a_wide_parquet_file_only_the_columns_asked_for_are_fetched(s3: str, proxy: FaultyProxy) -> None:
    columns, rows = 10, 40_000
    letters = np.random.default_rng(0).integers(97, 123, (columns, rows, 100), np.uint8)
    table = pa.table({f"column_{i}": [row.tobytes().decode() for row in letters[i]] for i in range(columns)})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, row_group_size=rows // 8, compression="none", use_dictionary=False)
    content = sink.getvalue().to_pybytes()
    storage.create(f"{s3}/in/wide.parquet", content)
    proxy.requests.clear()
    flags = ["--text_column", "column_3", "--keep_columns", "column_7", "--device", "cpu", "--split_bytes", "10000000"]
    flags += ["--rows_per_part", "1024"]  # so that what lies between two splits is little of them
    assert embed.main(["--input", f"{s3}/in/wide.parquet", "--output", f"{s3}/out", *flags]) == 0
    manifest = open_dataset(f"{s3}/out").manifest
    assert manifest.counts.rows_out == rows
    assert len(manifest.splits) > 2
    assert len(content) > 40_000_000
    # Besides, the first page behind each split, up to its anchor: here a page is all of a column in a row group.
    assert 0.2 * len(content) <= proxy.sent("/in/wide.parquet") < 0.42 * len(content)


def test_a_file_split_by_ranges_is_fetched_less_than_one_and_a_quarter_times(s3: str, proxy: FaultyProxy) -> None:
    content = b"".join(json.dumps({"text": f"row {number} {'x' * 100}"}).encode() + b"\n" for number in range(300_000))
    storage.create(f"{s3}/in/rows.jsonl", content)
    proxy.requests.clear()
    flags = ["--device", "cpu"]
    assert embed.main(["--input", f"{s3}/in", "--output", f"{s3}/out", *flags]) == 0
    manifest = open_dataset(f"{s3}/out").manifest
    assert manifest.counts.rows_out == 300_000
    assert len(manifest.splits) == 5
    # The sample, the columns' check, and what lies between the end of each range and its anchor are read besides.
    assert len(content) <= proxy.sent("/in/rows.jsonl") < 1.25 * len(content)
    assert count(proxy, "GET", "/in/rows.jsonl") <= 4 * len(manifest.splits)


@pytest.mark.parametrize("row_bytes", [1_000, 10_000])
def test_a_large_file_of_large_rows_is_fetched_little_more_than_once(
    row_bytes: int, s3: str, proxy: FaultyProxy
) -> None:
    rng, split_bytes = random.Random(row_bytes), 4 << 20
    rows = [json.dumps({"text": rng.randbytes(row_bytes // 2).hex()}) for _ in range(16 * split_bytes // row_bytes)]
    content = "\n".join(rows).encode()
    storage.create(f"{s3}/in/rows.jsonl", content)
    proxy.requests.clear()
    options = BlockOptions(
        read=ReadOptions(),
        kept=pa.schema([]),
        fingerprint_digest="model",
        rows_per_part=8192,
        split_bytes=split_bytes,
    )
    splits = make_splits(slice_files(list_inputs([f"{s3}/in"]), "auto", split_bytes), "options")
    reads = [item for split in splits for item in read_split(split, options) if isinstance(item, SplitRead)]
    assert sum(read.rows_in for read in reads) == len(rows)
    assert len(content) <= proxy.sent("/in/rows.jsonl") <= 1.1 * len(content)
