"""What lives as long as the process is frozen when the first split is read, and nothing after that."""

import subprocess
import sys
from pathlib import Path

SCRIPT = """
import gc, sys
from jobs import embed
import tests.fakes, transforms.encode
transforms.encode.Encoder = tests.fakes.FakeEncoder
source, output = sys.argv[1:]
assert not gc.get_freeze_count()
assert embed.main(["--input", source, "--output", output, "--device", "cpu"]) == 0
frozen = gc.get_freeze_count()
assert frozen > 100_000, frozen
assert embed.main(["--input", source, "--output", output, "--device", "cpu", "--fresh"]) == 0
assert gc.get_freeze_count() <= frozen, "what the first job left was frozen too"
"""


def test_libraries_are_frozen_once_before_the_first_rows(tmp_path: Path) -> None:
    source = tmp_path / "a.txt"
    source.write_text("one\ntwo\n")
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", SCRIPT, str(source), str(tmp_path / "out")], cwd=root, check=True)
