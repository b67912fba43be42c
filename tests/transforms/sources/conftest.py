"""Files to read, as the planner hands them to a source."""

from collections.abc import Callable
from pathlib import Path

import pytest

from schemas.splits import FileInfo, Slice
from transforms.sources import detect

Write = Callable[..., Slice]


@pytest.fixture(scope="session")
def write(tmp_path_factory: pytest.TempPathFactory) -> Write:
    """`write(name, content, start=0, stop=-1)`: a slice of a new file; format and codec as the name says."""

    def _write(name: str, content: bytes, start: int = 0, stop: int = -1) -> Slice:
        path: Path = tmp_path_factory.mktemp("in") / name
        path.write_bytes(content)
        return Slice(FileInfo(str(path), len(content), "tag"), name, *detect(name), start, stop)

    return _write
