"""Publishing on every store: what is listed is what was written, and what nobody can need goes."""

import json
from collections.abc import Callable
from urllib.parse import unquote

import pytest

from schemas import storage
from schemas.dataset import open_dataset
from schemas.errors import RunFailed
from schemas.manifest import newest_manifest, versions
from tests.publishing import MODEL, alive, encoded, part, publish_ids
from tests.servers.faulty_proxy import FaultyProxy
from tests.servers.store import Store, environment
from transforms.publish import damaged_files
from transforms.write import write_part


def parts_in(folder: str) -> set[str]:
    return {name for name in storage.listing(folder) if name.startswith("part-")}


def test_versions_follow_each_other_and_leave_nothing(folder: str) -> None:
    publish_ids(folder, "first", 0, "a", "b")
    stray = part(folder, "killed", 0, ["stray"], "killed")
    newest = publish_ids(folder, "second", 1, "b", "c")
    assert stray.name not in parts_in(folder) == {entry.name for entry in newest.parts}
    assert storage.names(storage.join(folder, "_manifest")) == ["00000002.json"]
    assert publish_ids(folder, "first", 0, "a", "b") == newest  # a step tried again, long after
    with pytest.raises(RunFailed, match="another run published version 2"):
        publish_ids(folder, "late", 1, "d")


def test_what_a_run_beside_has_written_is_left(folder: str) -> None:
    publish_ids(folder, "first", 0, "a")
    with alive(folder, "backfill", 1):
        mine = part(folder, "backfill", 0, ["x"], "backfill")
        second = publish_ids(folder, "nightly", 1, "b")
        assert parts_in(folder) == {mine.name, second.parts[0].name}
    publish_ids(folder, "nightly again", 2, "b")
    assert parts_in(folder) == {second.parts[0].name}


def test_a_name_that_may_still_be_deleted_is_not_used(folder: str) -> None:
    gone = publish_ids(folder, "first", 0, "a").parts[0].name
    publish_ids(folder, "second", 1, "b")
    record = {"by": ["elsewhere", "boot", "pid:[1]", 1, "0"], "names": [gone]}
    storage.replace(storage.join(folder, "_manifest", "00000002-0.removing"), json.dumps(record).encode())
    assert [p.name for p in publish_ids(folder, "third", 2, "a").parts] == [gone.replace(".parquet", "-1.parquet")]
    assert open_dataset(folder).read(["id"])["id"].to_pylist() == ["a"]


def test_an_object_in_a_parts_place_is_not_read_for_it(
    object_folder: str, put_elsewhere: Callable[[str, bytes], None]
) -> None:
    """Of the same size. The next run takes it for damaged."""
    entry = publish_ids(object_folder, "first", 0, "a").parts[0]
    uri = storage.join(object_folder, entry.name)
    data = storage.read_bytes(uri)
    put_elsewhere(uri, data[:40] + bytes([data[40] ^ 1]) + data[41:])
    with pytest.raises(RunFailed, match=entry.name):
        open_dataset(object_folder).read()
    newest = newest_manifest(object_folder)
    assert newest is not None and damaged_files(object_folder, newest) == {entry.name}
    assert versions(object_folder) == [1]


def test_parts_are_there_before_the_manifest_and_deleted_after_it(s3: str, s3_server: Store) -> None:
    publish_ids(f"{s3}/out", "first", 0, "a")
    with FaultyProxy(s3_server.url) as proxy, environment(s3_server.through(proxy.url)):
        publish_ids(f"{s3}/out", "second", 1, "b", "c")
    asked = [f"{r.method} {unquote(r.path)}" for r in proxy.requests]

    def places(*words: str) -> list[int]:
        return [n for n, request in enumerate(asked) if all(word in request for word in words)]

    parts, (manifest,) = places("PUT ", "/part-"), places("PUT ", "/00000002.json")
    (intent,), (record,), deletes = places("PUT ", ".intent"), places("PUT ", ".removing"), places("POST ", "delete")
    assert len(parts) == 2
    assert max(parts) < intent < manifest < record < deletes[-1]
    assert not [n for n in deletes if n < manifest]


def test_what_is_the_same_on_s3_is_not_fetched_to_see_that(s3: str, s3_server: Store) -> None:
    first = write_part(f"{s3}/out", "run", encoded("s", 0, ["a"]), MODEL)
    with FaultyProxy(s3_server.url) as proxy, environment(s3_server.through(proxy.url)):
        again = write_part(f"{s3}/out", "run", encoded("s", 0, ["a"]), MODEL, fresh=True)
        other = write_part(f"{s3}/out", "run", encoded("s", 0, ["a"], vector=2.0), MODEL, fresh=True)
    assert again == first
    assert other.name == first.name.replace(".parquet", "-1.parquet") and other.checksum != first.checksum
    assert sum(request.method == "GET" and "part-" in request.path for request in proxy.requests) == 1  # of the other
