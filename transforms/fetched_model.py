"""A model in a store -> a folder on this machine: fetched once a machine, and checked before each use."""

import contextlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock

from schemas import storage
from schemas.errors import InputError, RunFailed
from schemas.splits import FileInfo, digest
from transforms.model_folder import counts, folder_sha256

CHUNK_BYTES = 8 << 20


def fetch_model(uri: str, expected_sha256: str = "") -> Path:
    """The model at `uri` as a local folder, complete for sure: it is fetched beside its place and moved there, under a
    lock that others who want it wait for. What is there already is used where it is whole.

    expected_sha256: `folder_sha256` of the model that was planned with; "" for whatever is there now

    Raises:
        InputError: there is no model.
        RunFailed: another model is there than was planned with.
    """
    files = _listed(uri)
    place = _cache() / digest([(name, file.size, file.etag) for name, file in files])
    with FileLock(f"{place}.lock"):
        if not _is_whole(place):
            shutil.rmtree(place, ignore_errors=True)
            _fetch(files, place)
    found = _digest_file(place).read_text()
    if expected_sha256 and found != expected_sha256:
        raise RunFailed(
            f"--model {storage.blanked(uri)}: is another model than this run was planned with (sha256 of its files "
            f"{found[:12]}…, expected {expected_sha256[:12]}…); run again when nothing writes to it"
        )
    return place


def _listed(uri: str) -> list[tuple[str, FileInfo]]:
    """The files that make the model, by their names below `uri`."""
    if uri.startswith(("http://", "https://")):
        raise InputError(f"--model {storage.blanked(uri)}: the web has no folders; put the model in a store or on disk")
    root = storage.folder_uri(uri)
    named = [(file.uri.removeprefix(root), file) for file in storage.find(root)]
    files = [(name, file) for name, file in named if counts(Path(name))]
    if not files:
        raise InputError(f"--model {storage.blanked(uri)}: no files of a model there; name the folder that holds them")
    return files


def _digest_file(place: Path) -> Path:
    """Says what the folder held when it was fetched; put there last."""
    return place.with_suffix(".sha256")


def _is_whole(place: Path) -> bool:
    """Whether it was fetched to its end and is what it was then."""
    said = _digest_file(place)
    return place.is_dir() and said.is_file() and said.read_text() == folder_sha256(place)


def _fetch(files: list[tuple[str, FileInfo]], place: Path) -> None:
    with _beside(place) as temporary:
        for name, file in files:
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            with storage.open_read(file) as source, (temporary / name).open("wb") as target:
                shutil.copyfileobj(source, target, CHUNK_BYTES)
        _digest_file(place).unlink(missing_ok=True)
        sha256 = folder_sha256(temporary)
        temporary.rename(place)
    _digest_file(place).write_text(sha256)


@contextlib.contextmanager
def _beside(place: Path) -> Iterator[Path]:
    """A folder that is gone afterwards unless it was moved. What a killed process left of its own goes first: the lock
    is held, so nobody is writing it."""
    for left in place.parent.glob(f"{place.name}.tmp-*"):
        shutil.rmtree(left, ignore_errors=True)
    temporary = Path(tempfile.mkdtemp(prefix=f"{place.name}.tmp-", dir=place.parent))
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _cache() -> Path:
    """The user's cache folder, or where a worker has no home one among the temporary files, which is this user's alone.

    Raises:
        RunFailed: neither can be written, or the second is another user's, who could change what is in it.
    """
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "embedding-jobs"
    temporary = Path(tempfile.gettempdir()) / f"embedding-jobs-{os.getuid()}"
    for parent in (home, temporary):
        with contextlib.suppress(OSError):
            parent.mkdir(parents=True, exist_ok=True, mode=0o777 if parent is home else 0o700)
            if parent is temporary:
                _check_own(parent)
            (parent / "models").mkdir(exist_ok=True)
            if os.access(parent / "models", os.W_OK):
                return parent / "models"
    raise RunFailed(f"--model: no folder to fetch it to: {home} and {temporary} cannot be written")


def _check_own(folder: Path) -> None:
    """Raises RunFailed unless the folder is this user's and nobody else may write to it."""
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise RunFailed(f"--model: {folder} is not a folder that this user alone may write to; remove it")
