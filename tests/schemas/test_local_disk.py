"""The local disk: files by the system's own names, whole or not at all, and for sure, on file systems of every kind."""

import errno
import json
import multiprocessing
import os
import stat
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas import local_disk, storage
from schemas.errors import InputError, RunFailed


@pytest.fixture
def no_links(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system without hard links, as FAT is: the system says EPERM."""

    def link(source: Any, target: Any, **_: Any) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), source)

    monkeypatch.setattr(os, "link", link)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What is asked of the system, in order: (call, whether of a file or a folder)."""
    asked: list[tuple[str, str]] = []

    def recorded(name: str, of: Callable[..., str]) -> None:
        real = getattr(os, name)

        def call(*args: Any, **options: Any) -> Any:
            kind = of(*args)
            result = real(*args, **options)
            asked.append((name, kind))
            return result

        monkeypatch.setattr(os, name, call)

    recorded("fsync", lambda number: "folder" if stat.S_ISDIR(os.fstat(number).st_mode) else "file")
    recorded("link", lambda source, target: Path(target).name)
    recorded("rename", lambda source, target: Path(target).name)
    recorded("replace", lambda source, target: Path(target).name)
    return asked


def test_a_created_file_is_synced_then_linked_and_then_its_folder_is_synced(
    tmp_path: Path, calls: list[tuple[str, str]]
) -> None:
    assert storage.create(str(tmp_path / "a"), b"content")
    assert calls == [("fsync", "file"), ("link", "a"), ("fsync", "folder")]
    calls.clear()
    assert not storage.create(str(tmp_path / "a"), b"other")
    assert [name for name, _ in calls] == ["fsync"]
    assert (tmp_path / "a").read_bytes() == b"content"
    assert os.listdir(tmp_path) == ["a"]


def test_a_replaced_file_is_synced_then_moved_and_then_its_folder_is_synced(
    tmp_path: Path, calls: list[tuple[str, str]]
) -> None:
    storage.replace(str(tmp_path / "a"), b"content")
    assert [name for name, _ in calls] in (["fsync", "replace", "fsync"], ["fsync", "rename", "fsync"])
    assert [kind for name, kind in calls if name == "fsync"] == ["file", "folder"]


@pytest.mark.usefixtures("no_links")
def test_without_hard_links_one_of_many_creates_wins(tmp_path: Path) -> None:
    for number in range(5):
        uri = str(tmp_path / f"part-{number}")
        barrier = threading.Barrier(8)

        def create(writer: int, uri: str = uri, barrier: threading.Barrier = barrier) -> bool:
            barrier.wait()
            return storage.create(uri, bytes([writer]) * 10_000)

        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(create, range(8)))
        assert sum(won) == 1
        assert storage.read_bytes(uri) == bytes([won.index(True)]) * 10_000
    assert sorted(os.listdir(tmp_path)) == [f"part-{number}" for number in range(5)]


@pytest.mark.usefixtures("no_links")
def test_without_hard_links_one_of_many_processes_wins(tmp_path: Path) -> None:
    uri = str(tmp_path / "part")
    with multiprocessing.get_context("fork").Pool(4) as pool:
        won = pool.starmap(storage.create, [(uri, bytes([n]) * 100_000) for n in range(16)])
    assert sum(won) == 1
    assert storage.read_bytes(uri) == bytes([won.index(True)]) * 100_000
    assert os.listdir(tmp_path) == ["part"]


@pytest.mark.usefixtures("no_links")
def test_what_is_between_the_look_and_the_rename_of_another_is_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second creates while the first has looked and not yet renamed: the first holds the claim."""
    uri, second = str(tmp_path / "manifest"), []
    real = os.rename

    def rename(source: Any, target: Any) -> None:
        monkeypatch.setattr(os, "rename", real)
        monkeypatch.setattr(local_disk, "CLAIM_SECONDS", 0.05)
        with pytest.raises(RunFailed, match=r"manifest\.tmp-claim was left by a run that was killed"):
            second.append(storage.create(uri, b"second"))
        real(source, target)

    monkeypatch.setattr(os, "rename", rename)
    assert storage.create(uri, b"first")
    assert second == []
    assert not storage.create(uri, b"third")
    assert storage.read_bytes(uri) == b"first"
    assert os.listdir(tmp_path) == ["manifest"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_a_link_that_failed_for_another_reason_is_not_made_up_for(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others may link at the same time, and would be overwritten."""

    def link(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", link)
    with pytest.raises(RunFailed, match=os.strerror(number)):
        storage.create(str(tmp_path / "a"), b"x")
    assert os.listdir(tmp_path) == []


@pytest.mark.usefixtures("no_links")
def test_probing_a_folder_without_hard_links_leaves_nothing_and_finds_creates_exclusive(tmp_path: Path) -> None:
    assert storage.probe_write(str(tmp_path))
    assert os.listdir(tmp_path) == []


def test_a_path_leads_where_the_system_goes(tmp_path: Path) -> None:
    """`ln/..` is the folder above the one that `ln` leads to."""
    for name in ("here/a.txt", "there/a.txt"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(name)
    (tmp_path / "there" / "deep").mkdir()
    (tmp_path / "here" / "ln").symlink_to("../there/deep")
    for path in ("here/ln/../a.txt", "here/./ln/..//a.txt", "here/ln/../../there/a.txt"):
        assert (tmp_path / path).read_text() == "there/a.txt"
        assert storage.read_bytes(f"{tmp_path}/{path}") == b"there/a.txt"
        assert [f.uri for f in storage.find(f"{tmp_path}/{path}")] == [str(tmp_path / "there" / "a.txt")]
    assert [f.uri for f in storage.find(f"{tmp_path}/here/ln/../*.txt")] == [str(tmp_path / "there" / "a.txt")]
    assert storage.read_bytes(f"{tmp_path}/there/deep/../a.txt") == b"there/a.txt"
    assert storage.read_bytes(f"{tmp_path}/none/../here/a.txt") == b"here/a.txt"


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.lists(st.sampled_from(["a", "b", "ln", "up", "..", ".", "", "none", "x*"]), min_size=1, max_size=7))
def test_any_path_leads_where_the_system_goes(tmp_path: Path, names: list[str]) -> None:
    if not (tmp_path / "a").exists():
        (tmp_path / "a" / "b").mkdir(parents=True)
        (tmp_path / "b" / "a").mkdir(parents=True)
        (tmp_path / "a" / "ln").symlink_to("../b/a")
        (tmp_path / "b" / "ln").symlink_to(tmp_path / "a" / "b")
        (tmp_path / "b" / "a" / "up").symlink_to("../..")
    path = f"{tmp_path}/{'/'.join(names)}"
    assert os.path.realpath(storage.resolve(path)[1]) == os.path.realpath(path)


def test_a_trailing_slash_means_the_folder(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    assert storage.find(f"{tmp_path}/a.txt/") == []
    assert storage.stat(f"{tmp_path}/a.txt/") is None
    assert [f.uri for f in storage.find(f"{tmp_path}/")] == [str(tmp_path / "a.txt")]
    (tmp_path / "in" / "deep").mkdir(parents=True)
    (tmp_path / "in" / "deep" / "b.txt").write_text("x")
    assert [f.uri for f in storage.find(f"{tmp_path}/*/")] == [str(tmp_path / "in" / "deep" / "b.txt")]


def test_a_file_uri_of_this_machine_is_read_and_of_another_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    assert storage.read_bytes(f"file://{tmp_path}/a.txt") == b"x"
    assert storage.read_bytes(f"file://localhost{tmp_path}/a.txt") == b"x"
    for uri in ("file://nas/tmp/x", "file://localhosts/tmp", "file://relative.txt"):
        with pytest.raises(InputError, match="names the machine"):
            storage.resolve(uri)


@pytest.mark.parametrize("apart", [100, 1, 0])
def test_edits_at_almost_the_same_time_have_other_tags(tmp_path: Path, apart: int) -> None:
    """A float cannot tell 100 ns apart, and `cp -p` and `touch -d` make the time what it was."""
    path = tmp_path / "a.txt"
    moment = 1_790_000_000_123_456_700
    path.write_bytes(b"123")
    os.utime(path, ns=(moment, moment))
    before = storage.stat(str(path))
    assert before and storage.is_unchanged(before)
    while os.stat(path).st_ctime_ns == int(before.etag.split(":")[1]):  # the system's own clock ticks every few ms
        path.write_bytes(b"321")
        os.utime(path, ns=(moment + apart, moment + apart))
    assert storage.stat(str(path)) != before
    assert not storage.is_unchanged(before)


def test_a_file_put_in_place_of_another_has_another_tag(tmp_path: Path) -> None:
    path, other = tmp_path / "a.txt", tmp_path / "b.txt"
    for file, content in ((path, b"123"), (other, b"321")):
        file.write_bytes(content)
        os.utime(file, ns=(10**18, 10**18))
    before = storage.stat(str(path))
    other.replace(path)
    assert storage.stat(str(path)) != before


def test_a_file_whose_inode_alone_is_another_counts_as_unchanged_while_it_is_read(tmp_path: Path) -> None:
    """Some network file systems make inodes up."""
    (tmp_path / "a.txt").write_bytes(b"123")
    (file,) = storage.find(str(tmp_path))
    assert storage.is_unchanged(file._replace(etag=file.etag.rpartition(":")[0] + ":1"))
    assert not storage.is_unchanged(file._replace(etag="1:" + file.etag.partition(":")[2]))


def test_a_device_is_written_to_and_stays_a_device(tmp_path: Path) -> None:
    """As root, `--profile /dev/null` once made a file of it."""
    device = tmp_path / "null"
    try:
        os.mknod(device, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    except PermissionError:
        device = Path(os.devnull)
    storage.replace(str(device), b"gone")
    assert stat.S_ISCHR(os.stat(device).st_mode)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit(fifo.read_bytes)
        storage.replace(str(fifo), b"")  # as a check that it may be written
        storage.replace(str(fifo), b"through")
        assert read.result(10) == b"through"
    assert stat.S_ISFIFO(os.stat(fifo).st_mode)
    for data in (b"", b"x"):
        with pytest.raises(RunFailed, match="cannot be written: Is a directory"):
            storage.replace(str(tmp_path), data)


def test_where_this_process_prints_to_is_not_put_another_file_in_the_place_of(tmp_path: Path) -> None:
    """`--profile /dev/stdout > file`: what is printed later would go to a file that nobody can find."""
    path = tmp_path / "printed"
    path.write_bytes(b"")
    before, printed = os.dup(1), os.open(path, os.O_WRONLY)
    try:
        os.dup2(printed, 1)
        storage.replace(str(path), b"profile")
        os.write(1, b"P")
    finally:
        os.dup2(before, 1)
        os.close(before)
        os.close(printed)
    assert path.read_bytes() == b"Profile"


def test_a_link_stays_a_link_and_its_target_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "real.json").write_bytes(b"old")
    for link, target in (("link", "there/real.json"), ("second", "link"), ("dangling", "there/new.json")):
        (tmp_path / link).symlink_to(target)
        storage.replace(str(tmp_path / link), link.encode())
        assert (tmp_path / link).is_symlink()
        assert (tmp_path / link).read_bytes() == link.encode()
    assert sorted(os.listdir(tmp_path / "there")) == ["new.json", "real.json"]


def test_a_profile_goes_through_a_device(tmp_path: Path) -> None:
    from apache_beam.options.pipeline_options import PipelineOptions

    from jobs import cli

    device = tmp_path / "out"
    os.mkfifo(device)
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit(device.read_bytes)
        with cli.profiled(str(device), PipelineOptions([])):
            pass
        assert "traceEvents" in json.loads(read.result(10))
    assert stat.S_ISFIFO(os.stat(device).st_mode)


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.EBADF])
def test_a_folder_that_cannot_be_synced_is_no_reason_to_say_that_the_file_is_not_there(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fsync

    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    assert storage.create(str(tmp_path / "a"), b"x")
    storage.replace(str(tmp_path / "a"), b"y")
    assert storage.read_bytes(str(tmp_path / "a")) == b"y"


def test_a_disk_that_fails_to_sync_a_folder_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.fsync

    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(RunFailed, match="Input/output error"):
        storage.create(str(tmp_path / "a"), b"x")


def test_a_folder_that_may_be_written_to_but_not_read_takes_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open

    def open_(path: Any, flags: int, *args: Any, **options: Any) -> int:
        if os.path.isdir(path):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return real(path, flags, *args, **options)

    monkeypatch.setattr(os, "open", open_)
    assert storage.create(str(tmp_path / "a"), b"x")
    storage.replace(str(tmp_path / "b"), b"y")
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


@pytest.mark.parametrize("verb", [storage.create, storage.replace])
def test_a_parent_that_is_no_folder_is_told_and_never_taken_for_a_file_that_is_there(
    tmp_path: Path, verb: Callable[[str, bytes], Any]
) -> None:
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "file").write_text("x")
    for parent, says in (("dangling", "is a link to nothing"), ("file", "is a file, no folder|Not a directory")):
        for path in (f"{parent}/a", f"{parent}/deeper/a"):
            with pytest.raises(RunFailed, match=f"cannot be written: .*({says})|cannot be written: ({says})"):
                verb(str(tmp_path / path), b"x")
    for path, says in (("dangling/out", "is a link to nothing"), ("dangling", "is a link"), ("file/out", "is a file")):
        with pytest.raises(RunFailed, match=says):
            storage.probe_write(str(tmp_path / path))


@pytest.mark.parametrize(
    "ask",
    [
        storage.stat,
        storage.find,
        storage.listing,
        storage.names,
        storage.read_bytes,
        lambda uri: storage.remove([uri]),
        lambda uri: storage.create(uri, b"x"),
        lambda uri: storage.replace(uri, b"x"),
    ],
    ids=["stat", "find", "listing", "names", "read", "remove", "create", "replace"],
)
def test_a_name_that_is_too_long_is_one_clear_line(tmp_path: Path, ask: Callable[[str], Any]) -> None:
    with pytest.raises((RunFailed, InputError), match="File name too long"):
        ask(f"{tmp_path}/{'x' * 300}")


def test_the_longest_name_can_be_written(tmp_path: Path) -> None:
    for name in ("x" * 255, "ü" * 127):
        assert storage.create(str(tmp_path / name), b"1")
        storage.replace(str(tmp_path / name), b"2")
        assert storage.read_bytes(str(tmp_path / name)) == b"2"


@pytest.mark.parametrize(
    ("ask", "call", "says"),
    [
        (lambda folder: storage.remove([f"{folder}/a"]), "remove", "a cannot be removed: Operation not permitted"),
        (lambda folder: storage.names(folder), "scandir", "cannot be listed: Operation not permitted"),
        (lambda folder: storage.listing(folder), "scandir", "cannot be listed: Operation not permitted"),
        (lambda folder: storage.replace(f"{folder}/a", b""), "replace", "cannot be written: Operation not permitted"),
    ],
    ids=["remove", "names", "listing", "replace"],
)
def test_what_the_system_refuses_is_one_clear_line(
    tmp_path: Path, ask: Callable[[str], Any], call: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a sticky folder, whose files only their owners may remove or replace, or in one that may not be listed."""
    (tmp_path / "a").write_text("x")

    def refuse(path: Any, *_: Any) -> Any:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), str(path))

    monkeypatch.setattr(os, call, refuse)
    if call == "replace":
        monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(RunFailed, match=says):
        ask(str(tmp_path))
    monkeypatch.undo()
    assert (tmp_path / "a").read_text() == "x"


def test_temporaries_that_may_not_be_removed_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".part.tmp-1-a").write_bytes(b"")
    os.utime(tmp_path / ".part.tmp-1-a", (1, 1))

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "unlink", refuse)
    monkeypatch.setattr(Path, "unlink", refuse)
    storage.remove_stale_temporaries(str(tmp_path))
    assert os.listdir(tmp_path) == [".part.tmp-1-a"]


@pytest.mark.parametrize("pattern", ["", "/**/*.txt"])
def test_a_link_to_a_folder_that_it_lies_in_is_refused(tmp_path: Path, pattern: str) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.txt").write_text("x")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    with pytest.raises(InputError, match="cannot be listed: Too many levels of symbolic links"):
        storage.find(f"{tmp_path}{pattern}")


def test_time_does_not_stand_in_the_way(tmp_path: Path) -> None:
    """The tag of a file is the same whenever it is asked for, in a listing or alone."""
    (tmp_path / "a.txt").write_bytes(b"1")
    (tmp_path / "ln.txt").symlink_to("a.txt")
    first = storage.listing(str(tmp_path))
    there = (tmp_path / "a.txt").stat()
    assert {file.etag for file in first.values()} == {f"{there.st_mtime_ns}:{there.st_ctime_ns}:{there.st_ino}"}
    time.sleep(0.01)
    assert storage.listing(str(tmp_path)) == first
    assert [storage.stat(file.uri) for file in first.values()] == list(first.values())
    assert sorted(storage.find(str(tmp_path))) == sorted(first.values())
