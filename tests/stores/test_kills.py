"""`kill -9` and two at once, on stores: nothing partial is ever there, and the job goes on as it does on a disk."""

import os
import signal

import pytest

from schemas import storage
from tests.faults import harness
from tests.servers.faulty_proxy import FaultyProxy, Kind
from tests.servers.store import Store, environment

pytestmark = pytest.mark.faults
CONTENT = bytes(range(250)) * 420_000
"""105 MB, more than any of fsspec's stores sends in one request."""
PATIENCE_SECONDS = 60


@pytest.fixture(params=["s3", "gs", "az"])
def server(request: pytest.FixtureRequest) -> Store:
    return request.getfixturevalue(f"{request.param}_server")


def test_killed_at_any_request_of_a_put_all_or_nothing_is_there(server: Store) -> None:
    """Before and after the first requests and the last ones."""
    with environment(server.environment):
        uri = f"{server.bucket()}/folder/part"
        requests = _requests_of_a_create(server, uri)
        assert requests > 2
        points: list[tuple[Kind, int]] = [
            ("stall", 1),
            ("stall", 2),
            ("stall", requests),
            ("late", 1),
            ("late", requests),
        ]
        for kind, number in points:
            assert _exit_status_of_create(server, uri, kind, number) == -signal.SIGKILL
            info = storage.stat(uri)
            assert info is None or storage.read_bytes(uri) == CONTENT
            assert storage.names(uri.rsplit("/", 1)[0]) == (["part"] if info else [])
            assert bool(info) == (kind == "late" and number == requests)
            assert storage.create(uri, b"x") == (info is None)
            storage.remove([uri])


def _requests_of_a_create(server: Store, uri: str) -> int:
    with FaultyProxy(server.url) as proxy, environment(server.through(proxy.url)):
        storage.create(uri, CONTENT)
        storage.remove([uri])
        return sum(request.method in ("PUT", "POST") for request in proxy.requests)


def _exit_status_of_create(server: Store, uri: str, kind: Kind, number: int) -> int | None:
    """Of a process that creates and is killed before (stall) or after (late) the store has met its n-th request."""
    with FaultyProxy(server.url) as proxy:
        fault = proxy.fail(kind, "PUT POST", numbers=range(number, 100), seconds=PATIENCE_SECONDS)
        with environment(server.through(proxy.url)):
            child = harness.CONTEXT.Process(target=_create, args=(uri, dict(os.environ)))
            child.start()
        while child.is_alive() and not fault.waiting.wait(0.05):
            pass
        child.kill()
        child.join()
        return child.exitcode


def _create(uri: str, environ: dict[str, str]) -> None:
    os.environ.update(environ)
    storage.create(uri, CONTENT)
