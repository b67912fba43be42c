"""The verbs of `schemas.storage` hold on every store."""

from schemas import storage


def test_create_puts_a_file_once(folder: str) -> None:
    uri = storage.join(folder, "a.bin")
    assert storage.create(uri, b"first")
    assert not storage.create(uri, b"second")
    assert storage.read_bytes(uri) == b"first"
    assert storage.names(folder) == ["a.bin"]
