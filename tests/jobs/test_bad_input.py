"""Broken rows are refused one by one and say why; broken files and broken corpora publish nothing."""

import bz2
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from schemas import storage
from schemas.rejects import REJECTS_SCHEMA
from tests.jobs.conftest import Ran, Run

GOOD = b'{"text": "good", "id": "1"}\n'
ANY = "--max_error_rate=1"


def assert_nothing_published(found: Ran) -> None:
    assert found.stdout == ""
    assert "Traceback" not in found.stderr
    assert not list((found.output / "_manifest").glob("*"))
    assert not (found.output / "_SUCCESS").exists()


BROKEN_LINES: list[tuple[bytes, str, str]] = [
    (b'{"text": "caf\xe9"}', "invalid_utf8", "no UTF-8 at byte 13"),
    (b'{"text": "\\ud800"}', "lone_surrogate", "lone surrogate"),
    (b'{"text": "a"', "broken_json", "Expecting ',' delimiter"),
    (b'["text"]', "broken_json", "expected an object on the line, got list"),
    (b'{"body": "a"}', "missing_field", "no field 'text'; there are 'body'"),
    (b'{"text": null}', "null_text", "field 'text' is null"),
    (b'{"text": " \\t"}', "blank_text", "field 'text' is blank"),
    (b'{"text": 5}', "wrong_type", "should be a string, is int"),
    (b'{"text": "a", "id": ""}', "missing_id", "id field 'id' is blank"),
    (b'{"text": "' + b"x" * 3000 + b'"}', "too_large", "a line of more than 2000 bytes (--max_record_bytes)"),
]


@pytest.mark.parametrize(("line", "reason", "error"), BROKEN_LINES, ids=[f"{r}-{e[:9]}" for _, r, e in BROKEN_LINES])
def test_a_broken_line_goes_to_rejects_and_the_rest_goes_on(
    run: Run, tmp_path: Path, line: bytes, reason: str, error: str
) -> None:
    (tmp_path / "a.jsonl").write_bytes(GOOD + line + b"\n" + GOOD.replace(b"1", b"2"))
    found = run(tmp_path / "a.jsonl", "--id_column", "id", "--max_record_bytes", 2000, ANY)
    assert found.texts == {"1": "good", "2": "good"}
    (reject,) = found.rejects
    assert error in reject.pop("error")
    assert reject == {"source": "a.jsonl", "offset": len(GOOD), "stage": "read", "reason": reason, "raw": line[:1024]}
    assert found.manifest.counts.rejected == {reason: 1}
    assert f"rejected: 1 {reason}" in found.stdout


BROKEN_ROWS: list[tuple[bytes, str, str]] = [
    (b"b", "wrong_width", "1 fields, the header has 2"),
    (b"b,c,d", "wrong_width", "3 fields, the header has 2"),
    (b'b,"c', "broken_csv", "its quote is never closed"),
    (b"b,\xff", "invalid_utf8", "no UTF-8"),
    (b"b, ", "blank_text", "field 'text' is blank"),
]


@pytest.mark.parametrize(("row", "reason", "error"), BROKEN_ROWS)
def test_a_broken_csv_row_goes_to_rejects_by_its_number(
    run: Run, tmp_path: Path, row: bytes, reason: str, error: str
) -> None:
    (tmp_path / "a.csv").write_bytes(b'id,text\n1,"two\nlines"\n' + row + b"\n3,good\n")
    found = run(tmp_path / "a.csv", ANY)
    assert found.texts == {"a.csv#0": "two\nlines", "a.csv#2": "good"}
    assert [(r["source"], r["offset"], r["stage"], r["reason"], r["raw"]) for r in found.rejects] == [
        ("a.csv", 1, "read", reason, row)
    ]
    assert error in found.rejects[0]["error"]


def test_null_and_blank_parquet_texts_are_rejected_by_their_row(run: Run, tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a", None, "b", ""]}), tmp_path / "a.parquet")
    found = run(tmp_path / "a.parquet")
    assert (found.status, found.texts) == (0, {"a.parquet#0": "a", "a.parquet#2": "b"})
    assert [(r["offset"], r["reason"]) for r in found.rejects] == [(1, "null_text"), (3, "blank_text")]


def test_rejects_have_the_schema_that_the_contract_states(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"a\n\xff\nb\n")
    found = run(tmp_path / "a.txt", ANY)
    (path,) = (found.output / "_rejects").iterdir()
    assert pq.read_schema(path).equals(REJECTS_SCHEMA)
    assert [entry.name for entry in found.manifest.rejects] == [f"_rejects/{path.name}"]


def test_a_record_above_sixteen_mebibytes_is_skipped_and_the_rest_is_read(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"before\n" + b"x" * ((16 << 20) + 1) + b"\nafter\n")
    found = run(tmp_path / "a.txt", ANY)
    assert sorted(found.texts.values()) == ["after", "before"]
    assert [(r["offset"], r["reason"], r["raw"]) for r in found.rejects] == [(7, "too_large", b"x" * 1024)]


TEXT = b"".join(b"line %d\n" % n for n in range(5000))
BAD_FILES: dict[str, tuple[bytes, str]] = {
    "cut.txt.gz": (gzip.compress(TEXT)[:-9], "truncated"),
    "cut.txt.bz2": (bz2.compress(TEXT)[:-9], "truncated"),
    "cut.txt.zst": (zstandard.compress(TEXT)[:-9], "truncated"),
    "flipped.txt.gz": (gzip.compress(TEXT)[:-5] + b"\0" * 5, "corrupt"),
    "plain.jsonl.gz": (GOOD, "no gzip file"),
    "nothing.txt.zst": (b"", "empty"),
    "text.parquet": (TEXT, "no readable Parquet file"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_fails_the_run_by_name_and_reason_or_is_listed(run: Run, tmp_path: Path, name: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/good.txt").write_text("good\n")
    (tmp_path / "in" / name).write_bytes(BAD_FILES[name][0])
    found = run(tmp_path / "in")
    assert found.status == 1
    assert str(tmp_path / "in" / name) in found.stderr.splitlines()[-1]
    assert BAD_FILES[name][1] in found.stderr.splitlines()[-1]
    assert "--skip_bad_files" in found.stderr
    assert_nothing_published(found)
    skipped = run(tmp_path / "in", "--skip_bad_files")
    assert skipped.status == 0, skipped.stderr
    assert skipped.texts["good.txt#0"] == "good"
    ((uri, reason),) = skipped.manifest.bad_files
    assert (Path(uri).name, BAD_FILES[name][1] in reason) == (name, True)
    assert f"files left out: {tmp_path / 'in' / name}" in skipped.stdout


def test_a_file_that_turns_bad_past_the_sample_fails_the_run(run: Run, tmp_path: Path) -> None:
    """What is looked at before the run is its first thousand rows; the rest is found out by reading."""
    text = b"".join(b"line %d of %x\n" % (n, n * 7919) for n in range(200_000))
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(text, 1)[:-9])
    found = run(tmp_path / "a.txt.gz")
    assert found.status == 1
    assert found.stderr.splitlines()[-1].startswith(f"failed: {tmp_path / 'a.txt.gz'}: truncated")
    assert_nothing_published(found)


@pytest.mark.parametrize("bad_first", [True, False])
def test_a_parquet_file_without_the_column_is_named(run: Run, tmp_path: Path, bad_first: bool) -> None:
    bad, good = ("a", "b") if bad_first else ("b", "a")
    (tmp_path / "in").mkdir()
    pq.write_table(pa.table({"body": ["x"]}), tmp_path / f"in/{bad}.parquet")
    pq.write_table(pa.table({"text": ["y"]}), tmp_path / f"in/{good}.parquet")
    found = run(tmp_path / "in")
    assert found.status == (2 if bad_first else 1)
    assert f"{bad}.parquet" in found.stderr
    assert "body" in found.stderr.splitlines()[-1]
    assert_nothing_published(found)
    skipped = run(tmp_path / "in", "--skip_bad_files")
    assert skipped.texts == {f"{good}.parquet#0": "y"}
    assert [Path(uri).name for uri, _ in skipped.manifest.bad_files] == [f"{bad}.parquet"]


def test_a_file_that_may_not_be_read_is_named(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Permissions do not stop root, so the store says no here."""
    real = storage.open_read

    def closed(file: Any, *args: Any) -> Any:
        if file.uri.endswith("secret.txt"):
            raise PermissionError(13, "Permission denied")
        return real(file, *args)

    monkeypatch.setattr(storage, "open_read", closed)
    (tmp_path / "in").mkdir()
    for name in ("good.txt", "secret.txt"):
        (tmp_path / "in" / name).write_text("text\n")
    found = run(tmp_path / "in")
    assert found.status == 1
    assert f"{tmp_path / 'in/secret.txt'}: cannot be read: Permission denied" in found.stderr
    assert run(tmp_path / "in", "--skip_bad_files").texts == {"good.txt#0": "text"}
    assert run(tmp_path / "in").status == 1  # though that version lists the file as left out
    monkeypatch.setattr(storage, "open_read", real)
    assert run(tmp_path / "in", "--skip_bad_files").texts == {"good.txt#0": "text", "secret.txt#0": "text"}


def test_too_many_broken_rows_publish_nothing_and_show_the_three_most_frequent_reasons(
    run: Run, tmp_path: Path
) -> None:
    lines = [json.dumps({"text": f"row {n}"}) for n in range(100)]
    lines += ['{"te'] * 4 + ['{"text": 5}'] * 3 + ['{"x": 5}'] * 2 + ['{"text": "\\ud800"}'] + ['{"text": ""}'] * 20
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    found = run(tmp_path / "a.jsonl")
    assert found.status == 1
    assert_nothing_published(found)
    message = found.stderr.splitlines()[-1]
    offset = len("\n".join(lines[:100])) + 1
    assert message.startswith("failed: 10 of 130 rows are broken, more than --max_error_rate 0.001: ")
    assert f"0.001: 4 x broken_json (as a.jsonl#{offset}: Unterminated string" in message
    assert "3 x wrong_type (as a.jsonl#" in message
    assert "2 x missing_field (as a.jsonl#" in message
    assert "lone_surrogate" not in message
    assert "blank_text" not in message
    published = run(tmp_path / "a.jsonl", "--max_error_rate", 10 / 130)
    assert published.status == 0
    assert published.manifest.counts.rejected_rows == 30
    assert len(published.rejects) == 30


def test_blank_fields_do_not_count_as_broken(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": ""}\n' * 50 + '{"text": null}\n' * 50 + '{"text": "a"}\n')
    found = run(tmp_path / "a.jsonl", "--max_error_rate", 0)
    assert (found.status, list(found.texts.values())) == (0, ["a"])
    assert found.manifest.counts.rejected == {"blank_text": 50, "null_text": 50}


def test_mostly_broken_rows_stop_the_run_before_the_model_is_loaded(
    run_job: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loaded(*_: object) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("transforms.encode.Encoder", loaded)
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n' * 499 + "no json\n" * 501 + '{"text": "a"}\n' * 100_000)
    found = run_job(tmp_path / "a.jsonl", ANY)
    assert found.status == 1
    assert "501 of the first 1000 rows are broken: 501 x broken_json (as a.jsonl#6986: " in found.stderr
    assert "Is --format or a column's name wrong?" in found.stderr
    assert not found.output.exists()


def test_a_binary_file_read_as_text_stops_the_run(run: Run, tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": [f"row {n}" for n in range(2000)]}), tmp_path / "a.bin", compression="gzip")
    found = run(tmp_path / "a.bin", "--format", "text")
    assert found.status == 1
    assert "invalid_utf8" in found.stderr
    assert not found.output.exists()
