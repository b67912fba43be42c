"""A model in a store: fetched once a machine, whole or not at all, and never another than was planned with."""

import json
import multiprocessing
import os
import shutil
from pathlib import Path

import pytest

from schemas import storage
from schemas.errors import InputError, RunFailed
from transforms.fetched_model import fetch_model
from transforms.model import EncodeOptions, resolve_model
from transforms.model_folder import folder_sha256


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "embedding-jobs" / "models"


@pytest.fixture
def stored(tmp_path: Path) -> str:
    """A model's files in a store, and some that are no part of it."""
    uri = f"memory://{tmp_path.name}/model"
    for name in ("config.json", "1_Pooling/config.json", "model.safetensors", "README.md", "onnx/model.onnx", "a.bin"):
        storage.replace(storage.join(uri, name), name.encode() * 1000)
    return uri


def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are fetched from now on."""
    names: list[str] = []
    real = storage.open_read

    def counting(file: storage.FileInfo, *args: int) -> object:
        names.append(file.uri.rsplit("/model/", 1)[1])
        return real(file, *args)

    monkeypatch.setattr(storage, "open_read", counting)
    return names


def test_only_files_that_make_vectors_are_fetched_and_only_once(
    stored: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched = opened(monkeypatch)
    folder = fetch_model(stored + "/")
    assert sorted(fetched) == ["1_Pooling/config.json", "config.json", "model.safetensors"]
    assert (folder / "1_Pooling/config.json").read_bytes() == b"1_Pooling/config.json" * 1000
    assert fetch_model(stored, folder_sha256(folder)) == folder
    assert len(fetched) == 3
    assert [p.name for p in cache.iterdir() if "tmp" in p.name] == []


@pytest.mark.parametrize("damage", ["changed", "shortened", "removed", "unfinished"])
def test_a_damaged_copy_is_fetched_again(stored: str, damage: str) -> None:
    folder = fetch_model(stored)
    sha256, weights = folder_sha256(folder), folder / "model.safetensors"
    if damage == "changed":
        weights.write_bytes(b"x" * weights.stat().st_size)
    elif damage == "shortened":
        weights.write_bytes(b"x")
    elif damage == "removed":
        weights.unlink()
    else:  # killed between the move and the record of what was fetched
        folder.with_suffix(".sha256").unlink()
    assert fetch_model(stored, sha256) == folder
    assert folder_sha256(folder) == sha256


def test_what_a_killed_fetch_left_is_never_used(stored: str, cache: Path) -> None:
    folder = fetch_model(stored)
    shutil.rmtree(folder)
    half = cache / f"{folder.name}.tmp-killed"
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"half")
    assert (fetch_model(stored) / "model.safetensors").stat().st_size == 17_000
    assert not half.exists()


def test_another_model_than_was_planned_with_is_refused(stored: str) -> None:
    planned = folder_sha256(fetch_model(stored))
    storage.replace(storage.join(stored, "model.safetensors"), b"another")
    with pytest.raises(RunFailed, match="another model than this run was planned with"):
        fetch_model(stored, planned)
    assert folder_sha256(fetch_model(stored)) != planned


def test_a_fetch_that_fails_leaves_nothing(stored: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = storage.open_read

    def failing(file: storage.FileInfo, *args: int) -> object:
        if file.uri.endswith("safetensors"):
            raise RunFailed("the store is gone")
        return real(file, *args)

    with monkeypatch.context() as patch:
        patch.setattr(storage, "open_read", failing)
        with pytest.raises(RunFailed, match="the store is gone"):
            fetch_model(stored)
    assert [p.name for p in cache.iterdir() if p.is_dir()] == []
    assert fetch_model(stored).is_dir()


def test_of_two_processes_one_fetches(tmp_path: Path, s3: str, bundled_model: str) -> None:
    uri = f"{s3}/model"
    for name in ("config.json", "model.safetensors"):
        storage.create(storage.join(uri, name), (Path(bundled_model) / name).read_bytes())
    context = multiprocessing.get_context("fork")
    logs = [tmp_path / "log-0", tmp_path / "log-1"]
    processes = [context.Process(target=_fetch_and_log, args=(uri, log)) for log in logs]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    (folder_a, fetched_a), (folder_b, fetched_b) = (json.loads(log.read_text()) for log in logs)
    assert folder_a == folder_b
    assert sorted(map(len, (fetched_a, fetched_b))) == [0, 2]
    assert (Path(folder_a) / "model.safetensors").stat().st_size > 80_000_000


def _fetch_and_log(uri: str, log: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        fetched = opened(patch)
        log.write_text(json.dumps([str(fetch_model(uri)), fetched]))


def test_a_model_in_a_store_has_the_fingerprint_of_its_folder(tmp_path: Path, bundled_model: str) -> None:
    uri = f"memory://{tmp_path.name}/model"
    for path in Path(bundled_model).rglob("*"):
        if path.is_file():
            storage.create(storage.join(uri, path.relative_to(bundled_model).as_posix()), path.read_bytes())
    found = resolve_model(EncodeOptions(model=uri))
    assert found.place == uri
    assert found.fingerprint.digest == resolve_model(EncodeOptions(model=bundled_model)).fingerprint.digest
    assert folder_sha256(Path(found.folder)) == found.fingerprint.weights_sha256


def test_a_place_without_a_model_is_a_wrong_command_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no files of a model there"):
        fetch_model(f"memory://{tmp_path.name}/nothing")


def test_a_cache_among_the_temporary_files_is_this_users_alone(
    stored: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/no-home")
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    place = tmp_path / f"embedding-jobs-{os.getuid()}"
    assert fetch_model(stored).is_relative_to(place)
    assert place.stat().st_mode & 0o777 == 0o700
    place.chmod(0o777)
    with pytest.raises(RunFailed, match="is not a folder that this user alone may write to; remove it"):
        fetch_model(stored)
    place.rename(tmp_path / "elsewhere")
    place.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RunFailed, match="is not a folder that this user alone may write to"):
        fetch_model(stored)
