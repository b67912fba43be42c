"""What one row that is inserted near the start of a file makes a run encode anew, and how much of the file it reads.

    python -m tests.benchmarks.edits [--megabytes 100]

For row sizes from 10 bytes to 100 KB, and for texts that repeat, in JSONL and Parquet with ids. Blocks are told apart
by their names, as a run does it; nothing is encoded. Prints a Markdown table.
"""

import argparse
import json
import random
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from schemas.blocks import Block
from tests.reads import bytes_read
from transforms.inputs import list_inputs, make_splits, slice_files
from transforms.read import BlockOptions, read_split
from transforms.sources import ReadOptions

Row = tuple[str, str]
ROW_BYTES = (10, 100, 400, 1_000, 2_000, 4_000, 10_000, 100_000)
ROW_GROUP_BYTES = 8 << 20


def random_rows(row_bytes: int, n: int, distinct: int = 0) -> list[Row]:
    """distinct: number of distinct texts; 0 for all"""
    rng = random.Random(row_bytes)

    texts = [rng.randbytes(row_bytes // 2).hex() for _ in range(distinct or n)]
    return [(f"{rng.getrandbits(48):x}", rng.choice(texts) if distinct else texts[i]) for i in range(n)]


def write_jsonl(path: Path, rows: list[Row]) -> None:
    path.write_text("".join(json.dumps({"id": id_, "text": text}) + "\n" for id_, text in rows))


def write_parquet(path: Path, rows: list[Row]) -> None:
    ids, texts = zip(*rows, strict=True)
    group_rows = max(1, ROW_GROUP_BYTES // max(1, sum(map(len, texts)) // len(texts)))
    pq.write_table(pa.table({"id": ids, "text": texts}), path, row_group_size=group_rows)


WRITERS: dict[str, Callable[[Path, list[Row]], None]] = {"jsonl": write_jsonl, "parquet": write_parquet}


def blocks_of(path: Path, options: BlockOptions) -> dict[str, int]:
    """Rows of each block of the file, by its name."""
    splits = make_splits(slice_files(list_inputs([str(path)]), "auto", options.split_bytes), "options")
    blocks: Iterator[Block] = (
        item for split in splits for item in read_split(split, options) if isinstance(item, Block)
    )
    return {block.name: block.table.num_rows for block in blocks}


def measure(path: Path, rows: list[Row], inserted: list[Row], options: BlockOptions) -> tuple[float, float, float]:
    """`(share of rows encoded anew, bytes read of bytes there, rows of a block)`."""
    write = WRITERS[path.suffix[1:]]
    write(path, rows)
    before = blocks_of(path, options)
    at = min(1000, len(rows) // 20)
    write(path, [*rows[:at], *inserted, *rows[at:]])
    with bytes_read() as read:
        after = blocks_of(path, options)
    anew = sum(n for name, n in after.items() if name not in before)
    return anew / (len(rows) + len(inserted)), sum(read.values()) / path.stat().st_size, len(rows) / len(after)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=100, help="size of the texts of a file")
    parser.add_argument("--formats", nargs="+", default=list(WRITERS), choices=list(WRITERS))
    args = parser.parse_args()
    options = BlockOptions(read=ReadOptions(id_column="id"), kept=pa.schema([]), fingerprint_digest="model")
    print("| format | bytes of a row | distinct texts | encoded anew | bytes read | rows of a block |")
    print("| --- | --- | --- | --- | --- | --- |")
    cases = [(row_bytes, 0) for row_bytes in ROW_BYTES] + [(n, d) for n in (30, 2_000) for d in (1, 50)]
    for kind in args.formats:
        for row_bytes, distinct in cases:
            rows = random_rows(row_bytes, min((args.megabytes << 20) // row_bytes, 1_000_000), distinct)
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / f"in.{kind}"
                anew, read, block = measure(path, rows, [("new", rows[0][1][::-1])], options)
            shown = f"{distinct or 'all'} | {anew:.2%} | {read:.2f} | {block:,.0f}"
            print(f"| {kind} | {row_bytes:,} | {shown} |", flush=True)


if __name__ == "__main__":
    main()
