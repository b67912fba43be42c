"""A folder of many objects on S3, with time for each page: listed, published to, and cleaned up.

    python -m tests.benchmarks.many_objects --objects 200000 --page_seconds 0.4

moto serves it from a process of its own, behind a proxy that is slow with listings. The objects are called like parts
that no version lists, so the run that publishes there lists them and removes them all.
"""

import argparse
import hashlib
import logging
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.servers import moto
from tests.servers.faulty_proxy import FaultyProxy
from tests.servers.process import free_port
from tests.servers.store import environment

BUCKET = "many"


def serve(port: int, objects: int, ready: Any) -> None:
    """moto's server, whose bucket has been filled without a request for each object."""
    from moto.core import DEFAULT_ACCOUNT_ID
    from moto.s3.models import s3_backends
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import run_simple

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    backend = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
    backend.create_bucket(BUCKET, "us-east-1")
    for number in range(objects):
        name = hashlib.md5(str(number).encode(), usedforsecurity=False).hexdigest()
        backend.put_object(BUCKET, f"out/part-{name}.parquet", b"x")
    list_quickly(backend)
    ready.set()
    run_simple("127.0.0.1", port, DomainDispatcherApplication(create_backend_app), threaded=True)


def list_quickly(backend: Any) -> None:
    """moto goes over all keys for each page. Here, only where their number has changed."""
    real, known = backend.list_objects, {}

    def list_objects(bucket: Any, prefix: Any, delimiter: Any, marker: Any, max_keys: Any) -> Any:
        state = (len(bucket.keys), prefix, delimiter, marker, max_keys)
        if state not in known:
            known.clear()
            known[state] = real(bucket, prefix, delimiter, marker, max_keys)
        return known[state]

    backend.list_objects = list_objects


def timed(what: str, call: Callable[[], Any]) -> Any:
    start = time.monotonic()
    result = call()
    sys.stdout.write(f"{what}: {time.monotonic() - start:.1f} s\n")
    sys.stdout.flush()
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--objects", type=int, default=200_000)
    parser.add_argument("--page_seconds", type=float, default=0.4)
    args = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    port, ready = free_port(), context.Event()
    server = context.Process(target=serve, args=(port, args.objects, ready), daemon=True)
    server.start()
    timed("filled", ready.wait)
    time.sleep(1)
    url = f"http://127.0.0.1:{port}"
    with FaultyProxy(url) as proxy, environment(moto.variables(proxy.url)):
        proxy.fail("slow", "GET", "list-type=2", numbers=range(1, 1_000_000), seconds=args.page_seconds)
        rehearse(proxy, args.objects)
    server.terminate()
    return 0


def rehearse(proxy: FaultyProxy, objects: int) -> None:
    import transforms.encode
    from jobs import embed
    from schemas import storage
    from tests.fakes import FakeEncoder

    out = f"s3://{BUCKET}/out"
    names = timed(f"{objects:,} objects listed", lambda: storage.names(out))
    assert len(names) == objects
    transforms.encode.Encoder = FakeEncoder  # type: ignore[assignment, misc]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "a.txt").write_text("one\ntwo\n")
        argv = ["--input", folder, "--output", out, "--device", "cpu"]
        status = timed("published and cleaned up", lambda: embed.main(argv))
    assert status == 0, status
    left = timed("listed again", lambda: storage.names(out))
    pages = [request for request in proxy.requests if "list-type=2" in request.path]
    deletes = [request for request in proxy.requests if "?delete" in request.path]
    sys.stdout.write(f"{len(pages):,} pages and {len(deletes):,} bulk removals; left: {', '.join(left)}\n")
    assert len([name for name in left if name.startswith("part-")]) == 1


if __name__ == "__main__":
    sys.exit(main())
