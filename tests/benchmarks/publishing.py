"""What planning, publishing, cleaning up and opening take of a dataset of very many parts.

    python -m tests.benchmarks.publishing [--parts 200000] [--s3_parts 5000] [--folder DIR] [--changed 0.5]

The parts are small files of a row each. Version 1 lists them; version 2 leaves `--changed` of them out, so that its
clean-up deletes as many. On a disk, and on moto's S3 on this machine, whose time is its own more than a network's.
Prints a Markdown table.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from schemas import storage
from schemas.dataset import open_dataset, part_file
from schemas.embeddings import Part, part_bytes
from schemas.manifest import newest_manifest
from tests.benchmarks.processes import machine, markdown
from tests.publishing import encoded, plan, read
from tests.servers import moto
from tests.servers.store import Store, environment
from transforms.duplicates import check_ids
from transforms.leases import leased
from transforms.publish import damaged_files, publish


def write_parts(put: Callable[[str, bytes], None], output: str, numbers: range) -> list[Part]:
    """As workers do, but without their fsyncs."""
    parts = []
    for number in numbers:
        block = encoded(f"s{number}", 0, [f"id {number}"])
        data = part_bytes(block.table, block.stats)
        put(f"{output}/{block.name}", data)
        parts.append(Part(f"s{number}", 0, block.name, len(data), "", False, block.stats, 0))
    listed = storage.listing(output)
    tag = "etag:{}" if not storage.is_local(output) else "unchecked:{}"  # a sha256 of each is the workers' work
    return [p._replace(checksum=tag.format(listed[p.name].etag), etag=listed[p.name].etag) for p in parts]


def timed(what: str, table: list[list[str]], call: Callable[[], object]) -> None:
    started = time.perf_counter()
    call()
    table[-1].append(f"{time.perf_counter() - started:.1f}")
    sys.stderr.write(f"{what}: {table[-1][-1]} s\n")


def rehearse(
    put: Callable[[str, bytes], None], output: str, count: int, changed: float, table: list[list[str]]
) -> None:
    parts = write_parts(put, output, range(count))
    reads = [read(p.split_id, 1, 1) for p in parts]

    def version(base: int, some: slice) -> None:
        chosen = reads[some]
        wanted = plan(output, run=f"run {base}", base_version=base, order=tuple(r.split_id for r in chosen))
        with leased(output, wanted.run, base, here=True):
            publish(wanted, chosen if not base else [], parts[some] if not base else [], [])

    timed("publish", table, lambda: version(0, slice(None)))
    newest = newest_manifest(output)
    assert newest is not None
    timed("plan", table, lambda: damaged_files(output, newest))
    timed("double ids", table, lambda: check_ids(output, newest.parts))
    keep = max(1, int(count * (1 - changed)))
    timed("publish and clean up", table, lambda: version(1, slice(0, keep)))
    timed("open", table, lambda: open_dataset(output))
    kept = open_dataset(output).manifest.parts
    assert len(kept) == keep == len([name for name in storage.listing(output) if name.startswith("part-")])
    assert storage.stat(part_file(output, kept[-1]).uri) is not None


def put_on_disk(path: str, data: bytes) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_bytes(data)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", type=int, default=200_000)
    parser.add_argument("--s3_parts", type=int, default=5_000)
    parser.add_argument("--changed", type=float, default=0.5)
    parser.add_argument("--folder", help="of the disk to try; default: a temporary one")
    args = parser.parse_args()
    table = [["", "publish, s", "plan: files there?", "double ids", "publish and clean up", "open"]]
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        if args.parts:
            table.append([f"disk, {args.parts:,} parts"])
            rehearse(put_on_disk, f"{folder}/out", args.parts, args.changed, table)
        if args.s3_parts:
            table.append([f"S3 (moto), {args.s3_parts:,} parts"])
            with moto.serve(Path(folder)) as server, environment(server.environment):
                measure_s3(server, args.s3_parts, args.changed, table)
    sys.stdout.write(f"{markdown(table)}\n\n{machine()}\n")
    return 0


def measure_s3(server: Store, count: int, changed: float, table: list[list[str]]) -> None:
    rehearse(server.put, f"{server.bucket()}/out", count, changed, table)


if __name__ == "__main__":
    sys.exit(main())
