"""`kill -9` and two at once, on stores: nothing partial is ever there, and the job goes on as it does on a disk."""

import os
import signal

import pytest

from schemas import storage
from tests.faults import harness
from tests.servers.faulty_proxy import FaultyProxy, Kind
from tests.servers.store import Store, environment

pytestmark = pytest.mark.faults
CONTENT = bytes(range(256)) * 250_000
"""64 MB: every client sends it in several requests, or in one that lasts."""
PATIENCE_SECONDS = 60


@pytest.fixture(params=["s3", "gs", "az"])
def server(request: pytest.FixtureRequest) -> Store:
    return request.getfixturevalue(f"{request.param}_server")


@pytest.mark.parametrize("kind", ["stall", "late"])
def test_killed_at_any_request_of_a_put_all_or_nothing_is_there(server: Store, kind: Kind) -> None:
    """Once before and once after each request that changes something."""
    with environment(server.environment):
        uri = f"{server.bucket()}/folder/part"
        number = 1
        while _killed_at(server, uri, kind, number):
            number += 1
    assert number > 1


def _killed_at(server: Store, uri: str, kind: Kind, number: int) -> bool:
    """Kills a put at its request of this number; False where it has fewer. All or nothing is there then."""
    with FaultyProxy(server.url) as proxy:
        fault = proxy.fail(kind, "PUT POST", numbers=range(number, 100), seconds=PATIENCE_SECONDS)
        with environment(server.through(proxy.url)):
            child = harness.CONTEXT.Process(target=_create, args=(uri, dict(os.environ)))
            child.start()
        while child.is_alive() and not fault.waiting.wait(0.05):
            pass
        child.kill()
        child.join()
    info = storage.stat(uri)
    assert info is None or storage.read_bytes(uri) == CONTENT
    assert storage.names(uri.rsplit("/", 1)[0]) == (["part"] if info else [])
    assert storage.create(uri, CONTENT) == (info is None)
    storage.remove([uri])
    return child.exitcode == -signal.SIGKILL


def _create(uri: str, environ: dict[str, str]) -> None:
    os.environ.update(environ)
    storage.create(uri, CONTENT)
