"""Real files in, a dataset out that pandas and DuckDB open: what is in it, to the value."""

import bz2
import gzip
import json
import math
import os
import re
from collections.abc import Callable
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from jobs import embed
from schemas.dataset import open_dataset
from schemas.embeddings import MODEL_KEY, read_footer
from schemas.errors import RunFailed
from schemas.model import ModelFingerprint
from tests.fakes import FakeEncoder
from tests.jobs.conftest import Run
from transforms.model import EncodeOptions, resolve_model

DATA = Path(__file__).parents[1] / "data"
TEXTS = ["plain words", 'a "quoted", text', "naïve café", "tab\there", "日本語のテキスト", "the last one"]
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".zst": zstandard.compress,
}


def content(format_: str) -> bytes:
    """TEXTS in a format, numbered by a column `n` where the format has columns."""
    if format_ == "text":
        return "".join(f"{text}\r\n" for text in TEXTS).encode()
    if format_ == "jsonl":
        return "".join(json.dumps({"text": text, "n": f"{n}"}) + "\n" for n, text in enumerate(TEXTS)).encode()
    table = pd.DataFrame({"n": range(len(TEXTS)), "text": TEXTS})
    return table.to_csv(index=False, sep="," if format_ == "csv" else "\t").encode()


@pytest.mark.parametrize("codec", COMPRESS)
@pytest.mark.parametrize("format_", ["text", "jsonl", "csv", "tsv"])
def test_every_format_and_codec_gives_the_same_rows_and_vectors(
    run: Run, tmp_path: Path, format_: str, codec: str
) -> None:
    path = tmp_path / "in" / f"a.{'txt' if format_ == 'text' else format_}{codec}"
    path.parent.mkdir()
    path.write_bytes(COMPRESS[codec](content(format_)))
    found = run(path)
    assert found.status == 0, found.stderr
    assert_texts(found.rows)
    assert all(i.startswith(f"{path.name}#") for i in found.rows["id"])


def test_parquet_gives_the_same_rows_and_vectors_too(run: Run, tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": TEXTS}), tmp_path / "a.parquet", row_group_size=2)
    found = run(tmp_path / "a.parquet", "--split_bytes", "1")
    assert found.texts == {f"a.parquet#{n}": text for n, text in enumerate(TEXTS)}
    assert_texts(found.rows)
    assert len(found.manifest.splits) == 3


def assert_texts(rows: pd.DataFrame) -> None:
    model = resolve_model(EncodeOptions())
    expected = FakeEncoder(model, EncodeOptions()).encode(TEXTS)
    vectors = dict(zip(rows["text"], rows["embedding"], strict=True))
    assert sorted(rows["text"]) == sorted(TEXTS)
    for text, vector, tokens in zip(TEXTS, expected.vectors, expected.token_counts, strict=True):
        np.testing.assert_array_equal(vectors[text], vector)
        assert rows.loc[rows["text"] == text, "token_count"].item() == tokens


def test_several_globs_folders_and_formats_make_one_dataset(run: Run, tmp_path: Path) -> None:
    for name, format_ in (("x/a.txt", "text"), ("x/b.jsonl", "jsonl"), ("y/c.csv.gz", "csv"), ("y/z/d.tsv", "tsv")):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(COMPRESS[path.suffix if path.suffix in COMPRESS else ""](content(format_)))
    everything = run(tmp_path / "in")
    named = run([tmp_path / "in/x/*", tmp_path / "in/y/", tmp_path / "in/**/*.tsv"], output=tmp_path / "named")
    assert sorted(everything.texts.values()) == sorted(TEXTS * 4)
    assert {i.split("#")[0] for i in everything.texts} == {"x/a.txt", "x/b.jsonl", "y/c.csv.gz", "y/z/d.tsv"}
    assert named.texts == everything.texts


def test_format_says_what_a_name_does_not(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.data").write_bytes(content("jsonl"))
    refused = run(tmp_path / "a.data")
    assert (refused.status, "--format" in refused.stderr) == (2, True)
    assert sorted(run(tmp_path / "a.data", "--format", "jsonl").texts.values()) == sorted(TEXTS)
    lines = run(tmp_path / "a.data", "--format", "text", output=tmp_path / "lines")
    assert sorted(lines.texts.values()) == sorted(content("jsonl").decode().splitlines())


def test_a_file_named_in_many_ways_is_read_once(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.txt").write_text("once\n")
    monkeypatch.chdir(tmp_path)
    found = run(["in/a.txt", "./in/*.txt", "in/../in/a.txt", "in/", "in", tmp_path / "in/a.txt"])
    assert found.texts == {"a.txt#0": "once"}


def test_ids_are_the_same_however_a_folder_is_named(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in/d").mkdir(parents=True)
    (tmp_path / "in/d/a.txt").write_text("one\n\ntwo\n")
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(("in", "in/", "./in", str(tmp_path / "in"), "in/*/*", "in/**")):
        assert run(name, output=tmp_path / f"out-{number}").texts == {"d/a.txt#0": "one", "d/a.txt#5": "two"}


@pytest.mark.parametrize(
    "name", ["a b.txt", "日本.txt", "a#1.txt", "a%20b.txt", "a[1].txt", "q?.txt", "st*r.txt", "UP.TXT", "a::b.txt"]
)
def test_a_file_may_have_any_name(run: Run, tmp_path: Path, name: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_text("text\n")
    assert run(tmp_path / "in" / name).texts == {f"{name}#0": "text"}
    assert run(tmp_path / "in", output=tmp_path / "all").texts == {f"{name}#0": "text"}


def test_links_to_files_are_read_as_files(run: Run, tmp_path: Path) -> None:
    (tmp_path / "blob").write_text("text\n")
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.txt").symlink_to(tmp_path / "blob")
    for number, named in enumerate((tmp_path / "in", tmp_path / "in/*.txt", tmp_path / "in/a.txt")):
        assert run(named, output=tmp_path / f"out-{number}").texts == {"a.txt#0": "text"}


def test_links_to_folders_are_read_as_folders(run: Run, tmp_path: Path) -> None:
    for folder in ("disk", "in"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.txt").write_text("text\n")
    (tmp_path / "in/linked").symlink_to(tmp_path / "disk")
    both = {"a.txt#0": "text", "linked/a.txt#0": "text"}
    for number, (named, texts) in enumerate(
        {"in": both, "in/**": both, "in/*/a.txt": {"linked/a.txt#0": "text"}}.items()
    ):
        assert run(tmp_path / named, output=tmp_path / f"out-{number}").texts == texts
    (tmp_path / "in/circle").symlink_to(tmp_path / "in")
    circle = run(tmp_path / "in", output=tmp_path / "out-circle")
    assert (circle.status, "Too many levels of symbolic links" in circle.stderr) == (2, True)


def test_a_link_to_nothing_is_named_and_not_left_out(run: Run, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.txt").write_text("text\n")
    (tmp_path / "in/.#a.txt").symlink_to("user@host.1")  # as Emacs locks a file
    assert run(tmp_path / "in", output=tmp_path / "out-0").texts == {"a.txt#0": "text"}
    (tmp_path / "in/b.txt").symlink_to(tmp_path / "unmounted/b.txt")
    for number, named in enumerate((tmp_path / "in", tmp_path / "in/*"), 1):
        found = run(named, output=tmp_path / f"out-{number}")
        assert (found.status, f"{tmp_path / 'in/b.txt'} is a link to nothing" in found.stderr) == (2, True)


def test_a_name_that_is_no_utf8_is_refused_before_any_work(run: Run, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / os.fsdecode(b"caf\xe9.txt")).write_text("text\n")
    found = run(tmp_path / "in")
    assert found.status == 2
    assert "caf\\udce9.txt' is no UTF-8" in found.stderr.splitlines()[-1]


def test_text_files_are_read_as_editors_write_them(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfbom\r\n\r\n \t\nnul\0in it\nlone\rreturn\nno last newline")
    found = run(tmp_path / "a.txt")
    assert sorted(found.texts.values()) == ["bom", "lone\rreturn", "no last newline", "nul\0in it"]
    assert found.manifest.counts.blank_lines == 2
    assert "blank lines 2" in found.stdout
    assert not found.rejects


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv", "b.txt.gz"])
def test_an_empty_input_publishes_an_empty_dataset(run: Run, tmp_path: Path, name: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_bytes(gzip.compress(b"") if name.endswith("gz") else b"")
    found = run(tmp_path / "in", "--truncate_dim", 8)
    assert found.status == 0, found.stderr
    assert list(found.rows.columns) == ["id", "text", "token_count", "truncated", "embedding"]
    assert len(found.rows) == 0
    assert duckdb.sql(f"select count(*) from '{found.output}/*.parquet'").fetchall() == [(0,)]
    assert found.manifest.counts.rows_in == 0
    assert pq.read_schema(next(found.output.glob("part-*"))).field("embedding").type.list_size == 8
    assert (found.output / "_SUCCESS").exists()


def test_the_same_command_into_two_folders_gives_byte_equal_parts(run: Run, tmp_path: Path) -> None:
    flags = ("--rows_per_part", 64, "--split_bytes", 2000, "--max_error_rate", 1)
    (tmp_path / "in").mkdir()
    lines = [json.dumps({"text": f"row {n} of {n * 7919 % 104729}"}) for n in range(2000)]
    (tmp_path / "in/a.jsonl").write_text("\n".join([*lines[:999], "{broken", *lines[999:]]))
    one, two = (run(tmp_path / "in", *flags, output=tmp_path / name) for name in ("one", "two"))
    files = [{p.relative_to(r.output): p.read_bytes() for p in r.output.rglob("*.parquet")} for r in (one, two)]
    assert files[0] == files[1]
    assert len(files[0]) > 10
    assert sorted(one.rows["text"]) == sorted(json.loads(line)["text"] for line in lines)


def test_the_schema_is_the_contracts(run: Run, tmp_path: Path) -> None:
    table = pa.table({"text": ["a b", "c"], "day": pa.array([1, None], pa.date32()), "score": [0.5, None]})
    pq.write_table(table, tmp_path / "a.parquet")
    found = run(tmp_path / "a.parquet", "--keep_columns", "score,day", "--truncate_dim", 8)
    (part,) = found.output.glob("part-*.parquet")
    schema = pq.read_schema(part)
    assert [(f.name, str(f.type), f.nullable) for f in schema] == [
        ("id", "string", False),
        ("text", "string", False),
        ("token_count", "int32", False),
        ("truncated", "bool", False),
        ("embedding", "fixed_size_list<element: float not null>[8]", False),
        ("score", "double", True),
        ("day", "date32[day]", True),
    ]
    fingerprint = ModelFingerprint.from_json(schema.metadata[MODEL_KEY])
    assert fingerprint == found.manifest.fingerprint
    assert (fingerprint.name, fingerprint.dim, fingerprint.max_seq_length, fingerprint.pooling) == (
        "all-MiniLM-L6-v2", 8, 256, "mean",
    )  # fmt: skip
    assert (fingerprint.dtype, fingerprint.similarity, fingerprint.normalized) == ("float32", "cosine", False)
    columns = pq.ParquetFile(part).metadata.row_group(0)
    assert {columns.column(i).compression for i in range(columns.num_columns)} == {"ZSTD"}
    assert [(r["id"], r["score"], str(r["day"])) for r in pq.read_table(part).to_pylist()] == [
        ("a.parquet#0", 0.5, "1970-01-02"),
        ("a.parquet#1", None, "None"),
    ]


def test_a_flipped_bit_in_a_part_is_noticed(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("".join(f"row number {n}\n" for n in range(500)))
    found = run(tmp_path / "a.txt")
    (part,) = found.output.glob("part-*.parquet")
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(data)
    with pytest.raises(RunFailed, match="is not the file that version 1 lists"):
        open_dataset(str(found.output)).read()
    with pytest.raises(OSError, match="CRC"):  # who reads the folder as it is
        pq.ParquetFile(part, page_checksum_verification=True).read()


def test_pandas_and_duckdb_open_the_folder_as_it_is(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("".join(f"row {n}\n" for n in range(100)))
    (tmp_path / "b.jsonl").write_text('{"text": "bad\n' + '{"text": "good"}\n' * 30)
    found = run([tmp_path / "a.txt", tmp_path / "b.jsonl"], "--rows_per_part", 16, "--max_error_rate", 0.1)
    assert len(list(found.output.glob("part-*"))) > 3
    expected = {*(f"row {n}" for n in range(100)), "good"}
    rows = pd.read_parquet(found.output)
    assert (len(rows), set(rows["text"])) == (130, expected)
    assert rows["embedding"].map(lambda v: math.isclose(np.linalg.norm(v), 1, abs_tol=1e-6)).all()
    query = f"select text, array_length(embedding), token_count, truncated from '{found.output}/*.parquet'"
    assert sorted(set(duckdb.sql(query).fetchall())) == sorted((t, 384, t.count(" ") + 3, False) for t in expected)


def test_the_manifest_accounts_for_every_row_and_file(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n\n{"text": null}\n{"text": "b c"}\n{bad\n{"text": " "}\n')
    (tmp_path / "b.txt").write_text("d\n")
    found = run(tmp_path / "*.*", "--max_error_rate", 0.5)
    manifest, counts = found.manifest, found.manifest.counts
    assert (counts.rows_in, counts.rows_out) == (6, 3)
    assert counts.rejected == {"blank_text": 1, "broken_json": 1, "null_text": 1}
    assert counts.rows_in == counts.rows_out + counts.rejected_rows
    assert (counts.tokens, counts.truncated, counts.blank_lines) == (3 + 4 + 3, 0, 1)
    assert (manifest.version, manifest.parent, manifest.kind, manifest.fidelity) == (1, 0, "embeddings", None)
    assert [Path(i.uri).name for i in manifest.inputs] == ["a.jsonl", "b.txt"]
    assert [i.size for i in manifest.inputs] == [(tmp_path / n).stat().st_size for n in ("a.jsonl", "b.txt")]
    for entry in (*manifest.parts, *manifest.rejects):
        data = (found.output / entry.name).read_bytes()
        assert entry.size == len(data)
        assert entry.rows == pq.read_metadata(found.output / entry.name).num_rows
    (split,) = manifest.splits
    assert (split.parts, split.counts) == (tuple(p.name for p in manifest.parts), counts)
    _, stats = read_footer(found.output / manifest.parts[0].name)
    assert (stats.rows_in, stats.rows_out, stats.tokens) == (3, 3, 10)


def test_ids_come_from_a_column_a_place_or_the_text(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a", "key": "k1"}\n{"text": "b", "key": 12345678901234567890123}\n')
    assert run(tmp_path / "a.jsonl", "--id_column", "key").texts == {"k1": "a", "12345678901234567890123": "b"}
    assert run(tmp_path / "a.jsonl", output=tmp_path / "2").texts == {"a.jsonl#0": "a", "a.jsonl#27": "b"}
    by_text = run(tmp_path / "a.jsonl", "--id_from", "text", output=tmp_path / "3")
    assert by_text.texts == {embed_id(text): text for text in ("a", "b")}


def embed_id(text: str) -> str:
    from transforms.block_table import text_id

    return text_id(text)


def test_ids_that_are_not_unique_are_found_with_examples(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,text\nx,one\ny,two\nx,three\n")
    found = run(tmp_path / "a.csv", "--id_column", "id")
    assert found.status == 1
    assert "1 ids are not unique, among them 'x' (2 times)" in found.stderr
    kept = run(tmp_path / "a.csv", "--id_column", "id", "--duplicate_ids", "keep")
    assert sorted(zip(kept.rows["id"], kept.rows["text"], strict=True)) == [("x", "one"), ("x", "three"), ("y", "two")]
    again = run(tmp_path / "a.csv", "--id_column", "id")
    assert again.status == 1
    assert "1 ids are not unique" in again.stderr


def test_kept_columns_of_line_files_are_text_and_null_where_missing(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(
        '{"text": "a", "n": 123456789012345678901234567890}\n{"text": "b", "n": {"x": [1, 2.5]}}\n'
        '{"text": "c"}\n{"text": "d", "n": null}\n{"text": "e", "n": "s"}\n'
    )
    (tmp_path / "b.csv").write_text("text,n\nf,5\ng,\n")
    found = run([tmp_path / "a.jsonl", tmp_path / "b.csv"], "--keep_columns", "n")
    assert {r["text"]: r["n"] for r in pq.read_table(found.output).to_pylist()} == {
        "a": "123456789012345678901234567890",
        "b": '{"x": [1, 2.5]}',
        "c": None,
        "d": None,
        "e": "s",
        "f": "5",
        "g": "",
    }


def test_the_text_may_be_a_field_of_a_parquet_struct(run: Run, tmp_path: Path) -> None:
    pq.write_table(pa.table({"doc": [{"text": "a", "n": 1}]}), tmp_path / "a.parquet")
    found = run(tmp_path / "a.parquet", "--text_column", "doc.text", "--keep_columns", "doc.n")
    assert found.rows[["text", "doc.n"]].values.tolist() == [["a", 1]]


def test_the_first_object_need_not_have_the_text(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"x": 1}\n{"text": "b", "x": 2}\n{"text": "c"}\n{"text": "d"}\n')
    found = run(tmp_path / "a.jsonl", "--max_error_rate", 0.25, "--keep_columns", "x")
    assert found.status == 0, found.stderr
    rows = found.rows.sort_values("text")[["text", "x"]]
    assert rows.fillna("-").values.tolist() == [["b", "2"], ["c", "-"], ["d", "-"]]


def test_truncation_is_in_the_rows_the_manifest_and_the_summary(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(f"short\n{'long ' * 300}\n")
    found = run(tmp_path / "a.txt")
    assert found.rows["token_count"].tolist() == [3, 303]
    assert found.rows["truncated"].tolist() == [False, True]
    assert found.manifest.counts.truncated == 1
    assert "truncated 1;" in found.stdout
    rejected = run(tmp_path / "a.txt", "--long_texts", "reject", "--max_error_rate", 0.5, output=tmp_path / "rejected")
    assert rejected.rows["text"].tolist() == ["short"]
    assert [(r["reason"], r["stage"], r["offset"]) for r in rejected.rejects] == [("too_long", "encode", 6)]


@pytest.mark.model
def test_the_sample_in_all_formats_has_the_vectors_of_sentence_transformers(run_job: Run, bundled_model: str) -> None:
    from sentence_transformers import SentenceTransformer

    found = run_job(DATA)
    assert found.status == 0, found.stderr
    assert {i.split("#")[0] for i in found.rows["id"]} == {p.name for p in DATA.iterdir()}
    assert len(found.rows) == found.manifest.counts.rows_in >= 300
    expected = SentenceTransformer(bundled_model, device="cpu").encode(found.rows["text"].tolist())
    np.testing.assert_allclose(np.stack(found.rows["embedding"]), expected, rtol=0, atol=1e-6 * np.abs(expected).max())


@pytest.mark.model
def test_chunks_of_long_texts_hold_every_word_and_fit(run_job: Run, tmp_path: Path) -> None:
    words = [f"word{n}" for n in range(100)]
    long = json.dumps({"text": " ".join(words), "k": "x"})
    (tmp_path / "a.jsonl").write_text(long + '\n{"text": "short", "k": "y"}\n')
    flags = ("--max_seq_length", 32, "--keep_columns", "k")
    found = run_job(tmp_path / "a.jsonl", "--long_texts", "chunk", *flags)
    rows, counts = found.rows, found.manifest.counts
    short, chunks = rows[rows["k"] == "y"], rows[rows["k"] == "x"]
    assert short["id"].tolist() == [f"a.jsonl#{len(long) + 1}"]
    chunks = chunks.assign(number=[int(i.removeprefix("a.jsonl#0/")) for i in chunks["id"]]).sort_values("number")
    assert chunks["number"].tolist() == list(range(len(chunks)))
    assert " ".join(chunks["text"]).split() == words
    assert (rows["token_count"] <= 32).all()
    assert not rows["truncated"].any()
    assert (counts.rows_in, counts.rows_out, counts.chunks) == (2, len(rows), len(chunks) - 1)
    cut = run_job(tmp_path / "a.jsonl", *flags, output=tmp_path / "cut")
    assert cut.rows["truncated"].tolist() == [True, False]
    assert cut.rows["token_count"].tolist()[0] > 200


@pytest.mark.model
def test_a_lower_precision_tells_its_fidelity_and_is_held_to_it(run_job: Run, tmp_path: Path) -> None:
    found = run_job(DATA / "sentences.txt", "--dtype", "bfloat16", "--json")
    fidelity = found.manifest.fidelity
    assert fidelity is not None
    assert 0.999 < fidelity["min_cosine"] <= fidelity["mean_cosine"] < 1
    assert fidelity["rows"] >= 8
    assert json.loads(found.stdout)["fidelity"] == fidelity
    assert found.manifest.fingerprint.dtype == "bfloat16"
    strict = ("--dtype", "bfloat16", "--min_fidelity", 0.9999999)
    refused = run_job(DATA / "sentences.txt", *strict, output=tmp_path / "strict")
    assert refused.status == 1
    assert "use --dtype float32" in refused.stderr
    assert not list((tmp_path / "strict/_manifest").glob("*"))


@pytest.mark.model
def test_vectors_that_are_no_numbers_are_rejected(
    run_job: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transforms.loaded_model import LoadedModel

    real = LoadedModel._vectors  # of the batch, and of the last try for a row

    def broken(self: LoadedModel, model: object, tokens: object, rows: np.ndarray) -> np.ndarray:
        vectors = real(self, model, tokens, rows)
        vectors[rows == 1, 5] = np.nan
        vectors[rows == 2] = 0
        return vectors

    monkeypatch.setattr(LoadedModel, "_vectors", broken)
    (tmp_path / "a.txt").write_text("one\ntwo\nthree\nfour\n")
    found = run_job(tmp_path / "a.txt", "--max_error_rate", 0.5)
    assert found.rows["text"].tolist() == ["one", "four"]
    assert [(r["source"], r["offset"], r["stage"], r["reason"], r["raw"]) for r in found.rejects] == [
        ("a.txt", 4, "encode", "non_finite_vector", b"two"),
        ("a.txt", 8, "encode", "zero_vector", b"three"),
    ]
    assert "1 of 384 values are NaN or infinite" in found.rejects[0]["error"]
    assert found.manifest.counts.rejected == {"non_finite_vector": 1, "zero_vector": 1}


def test_main_is_what_the_module_runs() -> None:
    assert embed.main([]) == 2


@pytest.mark.model
def test_a_profile_is_a_chrome_trace_of_every_step_and_says_the_shares(run_job: Run, tmp_path: Path) -> None:
    path = tmp_path / "in.txt"
    path.write_text("one\ntwo\n\nthree\n")
    ran = run_job(path, "--profile", tmp_path / "trace.json", "--dtype", "bfloat16")
    assert ran.status == 0
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    steps = {e["name"]: e["args"] for e in events if e["ph"] == "X"}
    beside = {"read", "find part", "load model", "measure fidelity", "publish"}
    assert {*beside, "tokenize", "compute", "write"} == set(steps)
    assert (steps["tokenize"], steps["compute"], steps["write"]) == (
        {"texts": 3},
        {"texts": 3, "width": 3},
        {"rows": 3},
    )
    assert re.search(r"share of the time: .*write \d+\.\d%.*; .*trace.json", ran.stderr)


def test_a_profile_of_other_processes_is_refused(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "in.txt"
    path.write_text("one\n")
    ran = run(path, "--profile", "t.json", "--direct_num_workers", "2", "--direct_running_mode", "multi_processing")
    assert ran.status == 2
    assert "--profile: records this process alone" in ran.stderr


def test_a_profile_that_cannot_be_written_is_refused_before_any_work(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n")
    ran = run(tmp_path / "a.txt", "--profile", tmp_path)
    assert ran.status == 2
    assert f"--profile {tmp_path}: " in ran.stderr.splitlines()[-1]
    assert not ran.output.exists()
