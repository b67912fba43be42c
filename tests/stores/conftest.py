"""Each store in turn: a folder on a disk and one in memory, and new buckets of servers."""

from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest

from tests.faults import harness

OBJECT_STORES = ("s3", "gs", "az")
SHARED_STORES = ("file", *OBJECT_STORES)
"""What several processes see: all but memory."""


def _folder(scheme: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if scheme == "file":
        return str(tmp_path / "folder")
    if scheme == "memory":
        return f"memory://{tmp_path.name}/folder"
    return f"{request.getfixturevalue(scheme)}/folder"


@pytest.fixture(params=[*SHARED_STORES, "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URI of an empty folder, on every store."""
    return _folder(request.param, request, tmp_path)


@pytest.fixture(params=SHARED_STORES)
def shared_folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The same on every store that another process can reach."""
    return _folder(request.param, request, tmp_path)


@pytest.fixture(params=OBJECT_STORES)
def object_folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The same on every object store, where there are no folders but keys with slashes in them."""
    return _folder(request.param, request, tmp_path)


@pytest.fixture
def put_elsewhere(request: pytest.FixtureRequest) -> Callable[[str, bytes], None]:
    """`put_elsewhere(uri, data)`: puts a file as another program does, of which our clients know nothing."""

    def put(uri: str, data: bytes) -> None:
        scheme = uri.partition("://")[0]
        if scheme in OBJECT_STORES:
            request.getfixturevalue(f"{scheme}_server").put(uri, data)
        else:
            with fsspec.open(uri, "wb", auto_mkdir=True) as file:
                file.write(data)

    return put


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards on this disk, to be put into stores."""
    folder = tmp_path_factory.mktemp("corpus") / "in"
    harness.write_corpus(folder, files=2)
    return folder


@pytest.fixture(scope="module")
def clean(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What a clean run on this disk publishes of them."""
    folder = tmp_path_factory.mktemp("clean")
    assert harness.run(harness.arguments(corpus, folder / "out"), folder / "log") == 0
    return str(folder / "out")
