"""Folders of stores as they are, without what the jobs think of them: every file, and what a dataset comes down to."""

import hashlib
from pathlib import Path
from typing import Any

import fsspec

from schemas.dataset import open_dataset


def files(uri: str) -> dict[str, bytes]:
    """The content of everything below a folder, hidden or not, by its path below it."""
    fs, root = fsspec.url_to_fs(str(uri))
    fs.invalidate_cache()
    return {path.removeprefix(root).lstrip("/"): fs.cat_file(path) for path in fs.find(root)}


def upload(folder: Path, uri: str) -> None:
    """Puts all files below a folder below `uri`."""
    fs, root = fsspec.url_to_fs(uri)
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        target = f"{root}/{path.relative_to(folder).as_posix()}"
        fs.makedirs(target.rsplit("/", 1)[0], exist_ok=True)
        fs.pipe_file(target, path.read_bytes())


def published(uri: str) -> dict[str, Any]:
    """What the newest version says, but for what names the store: URIs, tags, and split ids, which are made of them."""
    dataset = open_dataset(str(uri))
    manifest = dataset.manifest
    assert dataset.read(["id"]).num_rows == manifest.counts.rows_out
    return {
        "version": manifest.version,
        "parts": [(part.name, part.rows, part.size) for part in manifest.parts],
        "rejects": [(part.name, part.rows, part.size) for part in manifest.rejects],
        "splits": [split._replace(id="") for split in manifest.splits],
        "counts": manifest.counts,
        "inputs": sorted((file.uri.rsplit("/", 1)[1], file.size) for file in manifest.inputs),
    }


def assert_same_dataset(uri: str, clean: str) -> None:
    """Part by part what the clean run published, and nothing else in the folder."""
    assert published(uri) == published(clean)
    found, expected = (
        {name: hashlib.sha256(b"" if name.endswith(".json") else content).hexdigest() for name, content in some.items()}
        for some in (files(uri), files(clean))
    )
    assert found == expected
