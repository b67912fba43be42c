"""What a test needs beyond Python packages: where it is missing the test is skipped, in CI it fails."""

import os

import pytest


def need(found: object, what: str) -> None:
    """Goes on where `found` is something; else `what` tells what to install."""
    if found:
        return
    message = f"needs {what}"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)
