import subprocess
import sys

import pyarrow as pa

from transforms.sources import ReadOptions, columns_of, kept_schema


def test_sources_import_no_beam() -> None:
    code = "import sys, transforms.sources; print([m for m in sys.modules if m.split('.')[0] == 'apache_beam'])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_text_has_no_columns(write) -> None:
    assert columns_of(write("a.txt", b"a\n"), ReadOptions()) is None


def test_kept_columns_of_line_files_are_nullable_strings(write) -> None:
    expected = pa.schema([pa.field("a", pa.string()), pa.field("b", pa.string())])
    for name in ("x.jsonl", "x.csv", "x.tsv"):
        assert kept_schema(write(name, b""), ReadOptions(keep_columns=("a", "b"))) == expected
