"""Azure Blob Storage: Microsoft's own Azurite, installed by `install.sh`."""

import contextlib
import functools
import shutil
from collections.abc import Iterator
from pathlib import Path

from azure.storage.blob import BlobClient, ContainerClient

from tests.needs import need
from tests.servers.process import free_port, programs, running
from tests.servers.store import Store

ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""The account that every Azurite has, as its documentation gives it."""


@contextlib.contextmanager
def serve(folder: Path) -> Iterator[Store]:
    """The server, with its log in `folder`."""
    program = programs() / "node_modules" / "azurite" / "dist" / "src" / "blob" / "main.js"
    need(program.exists() and shutil.which("node"), "Azurite: run tests/servers/install.sh")
    port = free_port()
    address = ["--blobHost", "127.0.0.1", "--blobPort", str(port)]
    quiet = ["--inMemoryPersistence", "--disableTelemetry", "--skipApiVersionCheck", "--silent"]
    with running(["node", str(program), *address, *quiet], port, folder / "azurite.log"):
        environment = variables(f"http://127.0.0.1:{port}")
        connection = environment["AZURE_STORAGE_CONNECTION_STRING"]
        verbs = functools.partial(make_container, connection), functools.partial(put_blob, connection)
        yield Store("az", f"http://127.0.0.1:{port}", environment, *verbs)


def variables(url: str) -> dict[str, str]:
    """The environment of clients of a server at `url`."""
    account = f"AccountName={ACCOUNT};AccountKey={KEY};BlobEndpoint={url}/{ACCOUNT};"
    return {"AZURE_STORAGE_CONNECTION_STRING": f"DefaultEndpointsProtocol=http;{account}"}


def make_container(connection: str, name: str) -> None:
    with ContainerClient.from_connection_string(connection, name) as container:
        container.create_container()


def put_blob(connection: str, container: str, key: str, data: bytes) -> None:
    with BlobClient.from_connection_string(connection, container, key) as blob:
        blob.upload_blob(data, overwrite=True)
