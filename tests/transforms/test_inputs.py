"""Inputs: each file once, none of the output's own, and what an earlier version lists is not read again."""

import os
from pathlib import Path

import pytest

import transforms.encode
from jobs import embed
from schemas import local_disk
from schemas.dataset import open_dataset
from schemas.errors import InputError
from schemas.stores import Store
from tests.fakes import FakeEncoder
from transforms.inputs import check_output, list_inputs


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    for name in ("a/x.txt", "a/y.txt", "c/z.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"line of {name}\n")
    return folder


def names(*patterns: object) -> list[str]:
    return [name for _, name in list_inputs([str(pattern) for pattern in patterns])]


def test_a_link_to_a_sibling_folder_lists_no_file_twice(corpus: Path) -> None:
    expected = names(corpus)
    assert expected == ["a/x.txt", "a/y.txt", "c/z.txt"]
    (corpus / "0-link").symlink_to("a")
    (corpus / "c" / "link").symlink_to(corpus / "a")
    assert names(corpus) == names(f"{corpus}/**/*.txt") == expected
    assert names(f"{corpus}/*/x.txt") == ["a/x.txt"]
    assert names(corpus / "0-link", corpus / "a") == names(corpus / "a", corpus / "0-link") == ["a/x.txt", "a/y.txt"]


def test_a_link_to_a_folder_elsewhere_is_followed_once(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "w.txt").write_text("w")
    for link in ("l1", "l2"):
        (corpus / link).symlink_to(tmp_path / "else")
    assert names(corpus) == ["a/x.txt", "a/y.txt", "c/z.txt", "l1/w.txt"]


def check(output: Path, *patterns: Path) -> None:
    asked = [str(pattern) for pattern in patterns]
    check_output(str(output), asked, [file for file, _ in list_inputs(asked)])


def test_an_output_that_is_a_link_into_the_input_is_refused(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "out").symlink_to(corpus / "new")
    (corpus / "new").mkdir()
    with pytest.raises(InputError, match="lies in the input folder"):
        check(tmp_path / "out", corpus)
    with pytest.raises(InputError, match="lies in the input folder"):
        check(tmp_path / "out" / "deeper", corpus)
    (tmp_path / "ln").symlink_to(corpus)
    with pytest.raises(InputError, match="lies in the input folder"):
        check(corpus / "new", tmp_path / "ln")


def test_an_input_that_a_link_leads_to_in_the_output_is_refused(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "ln").symlink_to(corpus / "a")
    with pytest.raises(InputError, match="lies in it"):
        check(corpus, tmp_path / "ln")
    (tmp_path / "in2").mkdir()
    (tmp_path / "in2" / "ln").symlink_to(corpus)
    with pytest.raises(InputError, match="lies in it"):
        check(corpus / "a", tmp_path / "in2")


def test_an_output_beside_the_input_with_the_same_beginning_is_accepted(corpus: Path, tmp_path: Path) -> None:
    """`in` is no folder of `in-2`, nor the other way round."""
    check(tmp_path / "in-2", corpus)
    (tmp_path / "i").mkdir()
    check(tmp_path / "i", corpus)


def test_a_file_that_changed_since_is_read_again_though_its_size_is_the_same(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transforms.encode, "Encoder", FakeEncoder)
    out = str(tmp_path / "out")
    argv = ["--input", str(corpus), "--output", out, "--device", "cpu"]
    with pytest.MonkeyPatch.context() as before:
        before.setattr(local_disk.LocalDisk, "info", Store.info)
        assert embed.main(argv) == 0
    changed = corpus / "a" / "x.txt"
    changed.write_text(changed.read_text().replace("line", "LINE"))
    os.utime(changed, ns=(10**18, 10**18))
    assert embed.main(argv) == 0
    assert "LINE of a/x.txt" in open_dataset(out).read(["text"])["text"].to_pylist()
