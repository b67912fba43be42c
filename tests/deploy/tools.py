"""Where `install.sh` puts what the tests here need."""

import os
from pathlib import Path

from tests.needs import need


def tool(name: str) -> Path:
    """A tool's path; where it is missing, the test is skipped, or fails in CI."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    path = cache / "embedding-jobs" / "deploy" / name
    need(path.exists(), f"{name}: run tests/deploy/install.sh")
    return path
