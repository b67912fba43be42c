"""S3: moto's server. Conditional creates hold there, for single and for multipart puts, also of many at once."""

import contextlib
import os
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from tests.servers.process import free_port, running
from tests.servers.store import Store


@contextlib.contextmanager
def serve(folder: Path) -> Iterator[Store]:
    """The server, with its log in `folder`."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with running(command, port, folder / "moto.log"):
        yield Store("s3", url, variables(url), lambda name: make_bucket(url, name))


def variables(url: str) -> dict[str, str]:
    """The environment of clients of a server at `url`, whatever the machine has configured."""
    return {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def make_bucket(url: str, name: str) -> None:
    with urllib.request.urlopen(urllib.request.Request(f"{url}/{name}", method="PUT")):
        pass
