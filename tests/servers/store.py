"""What the servers have in common: how clients are told of them, and fresh buckets."""

import contextlib
import secrets
from collections.abc import Callable, Iterator
from typing import NamedTuple

import fsspec
import pytest

from schemas import storage


class Store(NamedTuple):
    """A server of one kind of store that is up."""

    scheme: str
    url: str
    environment: dict[str, str]  # tells clients where it is and how to sign
    make_bucket: Callable[[str], None]
    put_object: Callable[[str, str, bytes], None]  # (bucket, key, content), whatever the key, without fsspec

    def through(self, url: str) -> dict[str, str]:
        """The environment of clients that reach it through a proxy at `url`."""
        return {name: value.replace(self.url, url) for name, value in self.environment.items()}

    def put(self, uri: str, data: bytes) -> None:
        """Puts an object as another program does, of which this process's clients know nothing."""
        bucket, _, key = uri.removeprefix(f"{self.scheme}://").partition("/")
        self.put_object(bucket, key, data)

    def bucket(self) -> str:
        """The URI of a new, empty bucket."""
        name = f"bucket-{secrets.token_hex(6)}"
        self.make_bucket(name)
        return f"{self.scheme}://{name}"


@contextlib.contextmanager
def environment(variables: dict[str, str]) -> Iterator[None]:
    """These variables, for this process and those that it starts; clients made before or under them are forgotten."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        forget_clients()
        try:
            yield
        finally:
            forget_clients()


def forget_clients() -> None:
    """fsspec keeps clients, and what they have listed, for as long as the process lives."""
    for loaded in set(fsspec.registry.values()):
        loaded.clear_instance_cache()
    storage.forget_stores()
