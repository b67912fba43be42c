"""Servers that start once, when a test first asks for one, and fresh buckets with the environment to reach them."""

import os
from collections.abc import Iterator

import pytest

from tests.servers import azurite, fake_gcs, moto
from tests.servers.store import Store, environment

os.environ.setdefault(
    "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false"
)  # counts only where it is set before gcsfs is imported


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with moto.serve(tmp_path_factory.mktemp("moto")) as store:
        yield store


@pytest.fixture(scope="session")
def gs_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with fake_gcs.serve(tmp_path_factory.mktemp("fake-gcs")) as store:
        yield store


@pytest.fixture(scope="session")
def az_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with azurite.serve(tmp_path_factory.mktemp("azurite")) as store:
        yield store


@pytest.fixture
def s3(s3_server: Store) -> Iterator[str]:
    """A new bucket, `s3://bucket-…`, that this process and those it starts can reach."""
    with environment(s3_server.environment):
        yield s3_server.bucket()


@pytest.fixture
def gs(gs_server: Store) -> Iterator[str]:
    """A new bucket, `gs://bucket-…`, that this process and those it starts can reach."""
    with environment(gs_server.environment):
        yield gs_server.bucket()


@pytest.fixture
def az(az_server: Store) -> Iterator[str]:
    """A new container, `az://bucket-…`, that this process and those it starts can reach."""
    with environment(az_server.environment):
        yield az_server.bucket()
