"""The verbs on files: whole or not at all, on a disk and on an object store's interface."""

import importlib
import logging
import multiprocessing
import os
import sys
import time
from pathlib import Path

import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from schemas import storage
from schemas.errors import InputError
from transforms.inputs import check_output


@pytest.fixture(params=["disk", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "out") if request.param == "disk" else f"memory://{tmp_path.name}/{time.time_ns()}"


def test_create_puts_a_file_once(folder: str) -> None:
    uri = storage.join(folder, "a.bin")
    assert storage.create(uri, b"first")
    assert not storage.create(uri, b"second")
    assert storage.read_bytes(uri) == b"first"
    assert storage.names(folder) == ["a.bin"]


def test_replace_takes_the_place_of_what_is_there(folder: str) -> None:
    uri = storage.join(folder, "a.bin")
    storage.replace(uri, b"first")
    storage.replace(uri, b"second")
    assert storage.read_bytes(uri) == b"second"
    assert storage.names(folder) == ["a.bin"]


def test_listing_names_files_with_size_and_a_tag_that_changes(folder: str) -> None:
    uri = storage.join(folder, "a.bin")
    storage.replace(uri, b"123")
    before = storage.listing(folder)["a.bin"]
    assert before == storage.stat(uri)
    assert before.size == 3
    time.sleep(0.01)
    storage.replace(uri, b"1234")
    assert storage.listing(folder)["a.bin"].size == 4
    storage.remove([uri, uri])
    assert storage.listing(folder) == {}
    assert storage.stat(uri) is None


def test_a_local_file_rewritten_at_the_same_size_has_another_tag(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"123")
    before = storage.stat(str(path))
    time.sleep(0.02)
    path.write_bytes(b"321")
    assert storage.stat(str(path)) != before


def test_of_many_that_create_at_once_one_wins(tmp_path: Path) -> None:
    uri = str(tmp_path / "out" / "part")
    with multiprocessing.get_context("fork").Pool(4) as pool:
        won = pool.starmap(storage.create, [(uri, bytes([n]) * 100_000) for n in range(16)])
    assert sum(won) == 1
    assert storage.read_bytes(uri) == bytes([won.index(True)]) * 100_000
    assert os.listdir(tmp_path / "out") == ["part"]


def test_only_old_temporaries_are_removed(tmp_path: Path) -> None:
    old, young, data = tmp_path / ".part.tmp-1-a", tmp_path / ".part.tmp-2-b", tmp_path / "part"
    for path in (old, young, data):
        path.write_bytes(b"")
    os.utime(old, (1, 1))
    os.utime(data, (1, 1))
    storage.remove_stale_temporaries(str(tmp_path))
    assert sorted(os.listdir(tmp_path)) == [".part.tmp-2-b", "part"]


def test_find_takes_files_folders_and_globs_and_leaves_out_hidden_ones(tmp_path: Path) -> None:
    for name in ("a.txt", "b/c.txt", "b/_SUCCESS", ".hidden/d.txt", "b/.e.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")

    def found(pattern: str) -> list[str]:
        return [str(Path(f.uri).relative_to(tmp_path)) for f in storage.find(str(tmp_path / pattern))]

    assert found("") == ["a.txt", "b/c.txt"]
    assert found("a.txt") == ["a.txt"]
    assert found("*/*.txt") == ["b/c.txt"]
    assert found("**/*.txt") == ["a.txt", "b/c.txt"]
    assert found("none*") == found("none") == []


def test_find_takes_hidden_names_that_the_pattern_itself_names(tmp_path: Path) -> None:
    for name in ("_c.txt", "a.txt", ".d.txt", "b/_e.txt", "b/.f.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")

    def found(pattern: str) -> list[str]:
        return [str(Path(f.uri).relative_to(tmp_path)) for f in storage.find(str(tmp_path / pattern))]

    assert found("_c.txt") == ["_c.txt"]
    assert found("_*.txt") == ["_c.txt"]
    assert found(".d.txt") == [".d.txt"]
    assert found("**/_*.txt") == ["_c.txt", "b/_e.txt"]
    assert found("*.txt") == ["a.txt"]


@pytest.mark.parametrize("pattern", ["", "**/*.txt"])
def test_a_folder_that_cannot_be_listed_is_an_error_not_a_gap(
    tmp_path: Path, pattern: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "closed").mkdir()
    (tmp_path / "a.txt").write_text("x")
    real = LocalFileSystem.ls

    def ls(self: LocalFileSystem, path: str, *args: object, **options: object) -> object:
        if path.endswith("closed"):
            raise PermissionError(13, "Permission denied", path)
        return real(self, path, *args, **options)

    monkeypatch.setattr(LocalFileSystem, "ls", ls)
    with pytest.raises(InputError, match=r"closed cannot be listed: Permission denied"):
        storage.find(str(tmp_path / pattern))


@pytest.mark.parametrize(
    ("pattern", "fixed"),
    [("{}", "{}/"), ("{}/a*.txt", "{}/"), ("{}/*/a.txt", "{}/"), ("{}/a.txt", "{}/"), ("{}/b*/c/a.txt", "{}/")],
)
def test_the_fixed_folder_of_a_pattern_ends_before_its_first_wildcard(tmp_path: Path, pattern: str, fixed: str) -> None:
    assert storage.fixed_folder(pattern.format(tmp_path)) == fixed.format(tmp_path)


@pytest.mark.parametrize("uri", ["ftp://host/a", "http://host/a", "zip://a::file://b", "s3://a::b"])
def test_other_schemes_and_chains_are_refused_by_name(uri: str) -> None:
    with pytest.raises(InputError, match=r"scheme 'ftp'|scheme 'http'|chained"):
        storage.resolve(uri)


def test_a_folder_never_counts_its_namesake_in(tmp_path: Path) -> None:
    assert not str(tmp_path / "out-2" / "a").startswith(storage.folder_uri(str(tmp_path / "out")))
    place = tmp_path / "out-2"
    place.mkdir()
    (place / "a").write_text("a line")
    for pattern in (str(place), str(place / "a"), f"{place}/*"):
        check_output(str(tmp_path / "out"), [pattern], storage.find(pattern))
    with pytest.raises(InputError, match="lies in it"):
        check_output(str(tmp_path / "out-2"), [str(place / "a")], storage.find(str(place / "a")))


@pytest.mark.parametrize("uri", ["http://[2606:2800:21f::1]/a.txt", "https://host.example/a?b=c"])
def test_http_is_no_chain_and_needs_a_flag(uri: str) -> None:
    with pytest.raises(InputError, match="only with --allow_http"):
        storage.resolve(uri)


def test_a_store_that_overlooks_conditions_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    importlib.import_module("jobs")  # which settles what is logged
    output = f"memory://{tmp_path.name}/out"
    check_output(output, [], [])
    assert caplog.messages == []
    real = MemoryFileSystem.pipe_file
    monkeypatch.setattr(
        MemoryFileSystem, "pipe_file", lambda self, path, data, mode: real(self, path, data, "overwrite")
    )
    check_output(output, [], [])
    (message,) = caplog.messages
    assert "knows no puts on a condition" in message
    monkeypatch.setattr(logging.getLogger(), "level", logging.ERROR)  # as in a job's process
    assert logging.getLogger("transforms.inputs").getEffectiveLevel() == logging.WARNING
    assert storage.names(output) == []


def test_a_forked_process_reads_and_writes_stores_of_its_own(s3: str) -> None:
    """Event loops and connections do not survive a fork."""
    uri = storage.join(s3, "a.bin")
    storage.create(uri, b"x" * 3_000_000)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(_size_read, [uri] * 4) == [3_000_000] * 4
        assert sorted(pool.starmap(storage.create, [(uri + "2", b"1"), (uri + "2", b"2")])) == [False, True]
    assert storage.names(s3) == ["a.bin", "a.bin2"]


def _size_read(uri: str) -> int:
    with storage.open_read(uri) as file:
        return len(file.read())


def test_many_files_are_removed_at_once(s3: str) -> None:
    uris = [storage.join(s3, f"{number}.bin") for number in range(40)]
    for uri in uris:
        storage.create(uri, b"x")
    storage.remove([*uris[1:], storage.join(s3, "never-there")])
    assert storage.names(s3) == ["0.bin"]


def test_an_account_in_an_azure_uri_stays_in_it() -> None:
    uri = "abfs://container@account.dfs.core.windows.net/folder"
    store = storage._store("abfs", "account.dfs.core.windows.net", os.getpid())
    assert store.uri("container/folder/a.txt") == f"{uri}/a.txt"
    assert storage.join(uri, "a.txt") == f"{uri}/a.txt"


def test_azure_without_an_account_is_a_wrong_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AZURE_")]:
        monkeypatch.delenv(name)
    storage.forget_stores()
    with pytest.raises(InputError, match="is the account in the environment"):
        storage.find("az://container/*.txt")


def test_a_store_whose_package_is_missing_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs.core", None)
    storage.forget_stores()
    with pytest.raises(InputError, match=r"embedding-jobs\[gcp\]"):
        storage.find("gs://bucket/*.txt")
    storage.forget_stores()
