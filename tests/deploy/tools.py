"""Where `install.sh` puts what the tests here need."""

import os
from importlib.util import find_spec
from pathlib import Path

from tests.needs import need


def tool(name: str) -> Path:
    """A tool's path; where it is missing, the test is skipped, or fails in CI."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    path = cache / "embedding-jobs" / "deploy" / name
    need(path.exists(), f"{name}: run tests/deploy/install.sh")
    return path


def need_package(name: str) -> None:
    """The same for a package of the extra `deploy`."""
    need(find_spec(name), f"{name}: pip install -c deploy/constraints.txt -e '.[deploy]'")
