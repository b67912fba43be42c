import subprocess
import sys

import pyarrow as pa

from transforms.sources import ReadOptions, columns_of, read_batches


def test_sources_import_no_beam() -> None:
    code = "import sys, transforms.sources; print([m for m in sys.modules if m.split('.')[0] == 'apache_beam'])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_text_has_no_columns(write) -> None:
    assert columns_of(write("a.txt", b"a\n"), ReadOptions()) is None


def test_kept_columns_of_line_files_are_nullable_strings(write) -> None:
    files = {"x.jsonl": b'{"text": "t", "a": 1}', "x.csv": b"b,text,a\n,t,1\n", "x.tsv": b"a\tb\ttext\n1\t\tt\n"}
    for name, content in files.items():
        (rows,) = read_batches(write(name, content), ReadOptions(keep_columns=("a", "b")))
        assert rows.kept.schema == pa.schema([pa.field("a", pa.string()), pa.field("b", pa.string())])
        assert rows.kept.to_pylist() == [{"a": "1", "b": None if name == "x.jsonl" else ""}]
