"""GCS: fake-gcs-server, built by `install.sh`.

It passes all that gcsfs does here: creates by ifGenerationMatch=0, single and resumable, of which one of many at once
wins; listings of any name; ranges; uploads cut off by a kill leave nothing. gcp-storage-emulator, which PyPI has, takes
no notice of ifGenerationMatch (each of four creates at once "won"), so it cannot show what this project promises.
"""

import contextlib
import functools
import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote_plus

from tests.needs import need
from tests.servers.process import free_port, programs, running
from tests.servers.store import Store


@contextlib.contextmanager
def serve(folder: Path) -> Iterator[Store]:
    """The server, with its log in `folder`."""
    program = programs() / "fake-gcs-server"
    need(program.exists(), "fake-gcs-server: run tests/servers/install.sh")
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    address = ["-scheme", "http", "-host", "127.0.0.1", "-port", str(port)]
    links = ["-public-host", f"127.0.0.1:{port}", "-external-url", url]
    with running([str(program), *address, *links, "-backend", "memory"], port, folder / "fake-gcs-server.log"):
        yield Store("gs", url, variables(url), functools.partial(make_bucket, url), functools.partial(put_object, url))


def variables(url: str) -> dict[str, str]:
    """The environment of clients of a server at `url`."""
    return {
        "STORAGE_EMULATOR_HOST": url,
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # asks for the bucket's layout by gRPC, which no emulator has
        "NO_GCE_CHECK": "true",  # no looking for a metadata server's credentials
        "GOOGLE_CLOUD_PROJECT": "testing",
    }


def make_bucket(url: str, name: str) -> None:
    _post(f"{url}/storage/v1/b?project=testing", json.dumps({"name": name}).encode(), "application/json")


def put_object(url: str, bucket: str, key: str, data: bytes) -> None:
    where = f"{url}/upload/storage/v1/b/{bucket}/o?uploadType=media&name={quote_plus(key)}"
    _post(where, data, "application/octet-stream")


def _post(url: str, body: bytes, content_type: str) -> None:
    with urllib.request.urlopen(urllib.request.Request(url, body, {"Content-Type": content_type})):
        pass
