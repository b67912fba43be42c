"""Each store in turn: a folder on a disk and one in memory, and new buckets of servers."""

from pathlib import Path

import pytest


@pytest.fixture(params=["file", "memory", "s3", "gs", "az"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URI of an empty folder on a store."""
    if request.param == "file":
        return str(tmp_path / "folder")
    if request.param == "memory":
        return f"memory://{tmp_path.name}/folder"
    return f"{request.getfixturevalue(request.param)}/folder"
