"""Which files an `--input` names, each once, and the names that ids are made of."""

import dataclasses
import os
from pathlib import Path

import pytest

from schemas import splits, storage
from schemas.manifest import manifest_uri, read_manifest, versions
from tests.jobs.conftest import Run
from transforms.inputs import list_inputs

ONE_ROW = ("--rows_per_part", "1")
"""Blocks of one row, so that none changes with the file beside it."""


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """`in/day1/a.txt`, `in/day1/sub/b.txt`, `in/day2/c.txt`"""
    for name in ("day1/a.txt", "day1/sub/b.txt", "day2/c.txt"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"text of {path.stem}\n")
    return tmp_path / "in"


def forget_root(output: Path) -> None:
    """Makes the manifest what a version before this one wrote."""
    manifest = read_manifest(str(output), 1)
    options = {name: value for name, value in manifest.options.items() if name != "input_root"}
    assert options != manifest.options
    old = dataclasses.replace(manifest, options=options)
    storage.replace(manifest_uri(str(output), 1), old.to_json())


@pytest.mark.parametrize("recorded", [True, False])
def test_an_input_in_another_folder_is_refused_where_it_would_change_all_ids(
    run: Run, folders: Path, recorded: bool
) -> None:
    first = run(folders / "day1", *ONE_ROW)
    ids = {"a.txt#0": "text of a", "sub/b.txt#0": "text of b"}
    assert first.texts == ids
    if not recorded:
        forget_root(first.output)
    both = [folders / "day1", folders / "day2"]
    refused = run(both, *ONE_ROW)
    assert refused.status == 2
    assert f"keep the ids: --input_root {folders}/day1/, or encode everything anew: --fresh" in refused.stderr
    assert "('a.txt' would be 'day1/a.txt')" in refused.stderr
    assert versions(str(first.output)) == [1]
    kept = run(both, *ONE_ROW, "--input_root", folders / "day1")
    assert kept.status == 0
    assert kept.texts == ids | {f"{folders}/day2/c.txt#0": "text of c"}
    assert kept.manifest.reused["rows"] == 2
    again = run(both, *ONE_ROW, "--input_root", f"{folders}/day1/")
    assert "nothing was new" in again.stdout
    fresh = run(both, "--fresh")
    assert fresh.status == 0
    assert set(fresh.texts) == {"day1/a.txt#0", "day1/sub/b.txt#0", "day2/c.txt#0"}


def test_a_folder_less_is_refused_as_one_more_is(run: Run, folders: Path) -> None:
    run([folders / "day1", folders / "day2"])
    refused = run(folders / "day1")
    assert refused.status == 2
    assert f"--input_root {folders}/," in refused.stderr
    assert run(folders / "day1", "--input_root", folders).manifest.counts.rows_out == 2


def test_ids_that_name_no_files_let_any_input_come_along(run: Run, folders: Path) -> None:
    assert run(folders / "day1", *ONE_ROW, "--id_from", "text").manifest.counts.rows_out == 2
    both = run([folders / "day1", folders / "day2"], *ONE_ROW, "--id_from", "text")
    assert both.status == 0
    assert both.manifest.reused["rows"] == 2


def test_other_files_may_come_in_place_of_all_that_were_there(run: Run, folders: Path) -> None:
    run(folders / "day1")
    found = run(folders / "day2")
    assert found.status == 0
    assert found.texts == {"c.txt#0": "text of c"}


def test_an_input_root_that_is_no_place_is_refused(run: Run, folders: Path) -> None:
    found = run(folders / "day1", "--input_root", "ftp://host/x")
    assert found.status == 2
    assert "--input_root ftp://host/x: scheme 'ftp' is not one of" in found.stderr


def test_a_file_that_is_named_is_read_whatever_its_name(run: Run, folders: Path) -> None:
    (folders / "_c.txt").write_text("hidden elsewhere\n")
    assert run(folders / "_c.txt").texts == {"_c.txt#0": "hidden elsewhere"}


def test_a_file_of_several_names_is_read_once(run: Run, folders: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folders / "0-link.txt").symlink_to(folders / "day1" / "a.txt")
    (folders / "day3").symlink_to(folders / "day2")
    os.link(folders / "day1" / "sub" / "b.txt", folders / "day1" / "hard.txt")
    (folders / "copy.txt").write_text("text of a\n")
    found = run(folders)
    assert found.texts == {
        "copy.txt#0": "text of a",
        "day1/a.txt#0": "text of a",
        "day1/hard.txt#0": "text of b",
        "day2/c.txt#0": "text of c",
    }
    assert f"3 of 7 names are links to a file that has another of them, as {folders}/0-link.txt to" in caplog.text


def test_a_link_alone_is_read_under_its_own_name(folders: Path) -> None:
    (folders / "day2" / "link.txt").symlink_to(folders / "day1" / "a.txt")
    assert [name for _, name in list_inputs([str(folders / "day2")])] == ["c.txt", "link.txt"]


def test_an_output_of_an_earlier_reader_is_read_once_more_and_nothing_is_encoded(
    run: Run, folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(splits, "READ_VERSION", splits.READ_VERSION - 1)
        first = run(folders)
    found = run(folders)
    assert found.manifest.reused == {"splits": 0, "parts": 1, "rows": 3}
    assert found.texts == first.texts
    assert "nothing was new" in run(folders).stdout
