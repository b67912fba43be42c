"""GCS: fake-gcs-server, built by `install.sh`.

It passes all that gcsfs does here: creates by ifGenerationMatch=0, single and resumable, of which one of many at once
wins; listings of any name; ranges; uploads cut off by a kill leave nothing. gcp-storage-emulator, which PyPI has, takes
no notice of ifGenerationMatch (each of four creates at once "won"), so it cannot show what this project promises.
"""

import contextlib
import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path

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
        yield Store("gs", url, variables(url), lambda name: make_bucket(url, name))


def variables(url: str) -> dict[str, str]:
    """The environment of clients of a server at `url`."""
    return {
        "STORAGE_EMULATOR_HOST": url,
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # asks for the bucket's layout by gRPC, which no emulator has
        "NO_GCE_CHECK": "true",  # no looking for a metadata server's credentials
        "GOOGLE_CLOUD_PROJECT": "testing",
    }


def make_bucket(url: str, name: str) -> None:
    body = json.dumps({"name": name}).encode()
    headers = {"Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(f"{url}/storage/v1/b?project=testing", body, headers)):
        pass
