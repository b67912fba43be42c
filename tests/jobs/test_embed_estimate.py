"""`--plan` says how long a run takes: in processes of their own, as a person meets it."""

import json
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
STEADY = """
import sys, time
from jobs import embed
import transforms.encode
from tests.fakes import FakeEncoder

class SteadyEncoder(FakeEncoder):
    def encode(self, texts, on_batch=None):
        time.sleep(0.002 * len(texts))
        return super().encode(texts, on_batch)

transforms.encode.Encoder = SteadyEncoder
sys.exit(embed.main(sys.argv[1:]))
"""


def run(code: str, *arguments: str) -> tuple[float, str]:
    """Seconds, and what it said on stdout."""
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return time.monotonic() - started, done.stdout


def test_a_plan_tells_the_time_that_the_run_takes(tmp_path: Path) -> None:
    """Of an encoder that takes 2 ms a row; starting and ending are measured and guessed."""
    (tmp_path / "in.txt").write_text("".join(f"row {n} of many\n" for n in range(6000)))
    flags = ("--device", "cpu", "--input", str(tmp_path / "in.txt"), "--output", str(tmp_path / "out"), "--json")
    _, planned = run(STEADY, *flags, "--plan")
    taken, _ = run(STEADY, *flags)
    assert taken > 12
    assert 0.75 < json.loads(planned)["seconds_on_this_machine"] / taken < 1.25  # machines are shared


def test_a_process_is_as_old_as_its_program_not_as_our_modules() -> None:
    code = (
        "import time; time.sleep(1)\nfrom jobs.embed_estimate import seconds_since_start; print(seconds_since_start())"
    )
    taken, said = run(code)
    assert 1 < float(said) < taken
