"""The folder that ids of `jobs.embed` name their files below, and that it does not change by itself.

Without an id column, an id is `<name of the file>#<place in it>`. One more `--input` in another folder would make all
names begin elsewhere, so that every id is another and every row is encoded anew. Such a run is refused.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from schemas import storage
from schemas.errors import InputError
from schemas.manifest import Manifest
from schemas.splits import FileInfo
from transforms.inputs import common_root

if TYPE_CHECKING:
    from jobs.embed import EmbedConfig

ROOT = "input_root"
"""The manifest's name for it, among the options, for the record."""


def input_root(config: "EmbedConfig") -> str:
    """As a URI that ends with '/'. Raises InputError for an `--input_root` that is no place."""
    if config.input_root is None:
        return common_root(config.input)
    try:
        return storage.folder_uri(config.input_root)
    except InputError as error:
        raise InputError(f"--input_root {error}") from None


def check_root(
    config: "EmbedConfig", earlier: Manifest | None, root: str, files: Sequence[tuple[FileInfo, str]]
) -> None:
    """Raises InputError where a file that the newest version was made of would have another name than in its ids."""
    if earlier is None or config.fresh or config.may_rename or not config.unique_ids:
        return
    before = earlier.options.get(ROOT) or _root_of_ids(earlier, config.output)
    if before in (None, storage.blanked(root)):
        return
    known = {file.uri for file in earlier.inputs}
    for file, name in files:
        uri = storage.blanked(file.uri)
        if uri in known and uri.removeprefix(before) != name:
            raise InputError(
                f"--input: ids name files below {before} in version {earlier.version} of {config.output}, and would "
                f"name them below {storage.blanked(root)} now ({uri.removeprefix(before)!r} would be {name!r}), so all "
                f"rows would get other ids and be encoded anew; keep the ids: --input_root {before}, or encode "
                "everything anew: --fresh"
            )


def _root_of_ids(manifest: Manifest, output: str) -> str | None:
    """What the ids of a version say that does not record it. None where they do not tell."""
    part = next((entry for entry in manifest.parts if entry.rows), None)
    if part is None or manifest.options.get("id_column") or manifest.options.get("id_from") == "text":
        return None
    try:
        with storage.open_random(storage.join(output, part.name)) as file:
            id_ = next(pq.ParquetFile(file).iter_batches(1, columns=["id"])).column(0)[0].as_py()
    except (OSError, pa.ArrowException):  # a damaged part, which is made again
        return None
    uris = [file.uri for file in manifest.inputs]
    roots = {root for uri in uris for root in _folders_above(uri) if id_.startswith(f"{uri.removeprefix(root)}#")}
    fitting = [root for root in roots if all(uri.startswith(root) for uri in uris)]
    return fitting[0] if len(fitting) == 1 else None


def _folders_above(uri: str) -> list[str]:
    parts = uri.split("/")
    return ["/".join(parts[:depth]) + "/" for depth in range(1, len(parts))]
