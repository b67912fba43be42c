"""A wrong command line is told in one line before anything is written; a right one says what it does."""

import bz2
import fcntl
import gzip
import json
import os
import pty
import runpy
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path

import pandas
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

import jobs.embed
from jobs import cli
from schemas.errors import InputError
from schemas.processes import this_process
from tests.jobs.conftest import Ran, Run

ROOT = Path(__file__).parents[2]
SLOW = """
import sys, time
from jobs import cli, embed
import transforms.encode
from tests.fakes import FakeEncoder

class SlowEncoder(FakeEncoder):
    def encode(self, texts, on_batch=None):
        time.sleep(0.2)
        return super().encode(texts, on_batch)

transforms.encode.Encoder = SlowEncoder
cli.REFRESH_SECONDS = cli.LOG_SECONDS = 0.1
sys.exit(embed.main(sys.argv[1:]))
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder with one text file, and the working directory beside it."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.txt").write_text("one row\nanother\n")
    return tmp_path / "in"


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def assert_refused(found: Ran, *words: str) -> None:
    assert found.status == 2
    assert found.stdout == ""
    (line,) = found.stderr.splitlines()
    assert line.startswith("error: ")
    for word in words:
        assert word in line


WRONG: dict[str, tuple[str, ...]] = {
    "--txt_column x": ("--txt_column: no such flag", "did you mean --text_column?"),
    "--runer DirectRunner": ("did you mean --runner?",),
    "--direct_num_worker 2": ("did you mean --direct_num_workers?",),
    "--zzzzzzzz": ("--zzzzzzzz: no such flag",),
    "stray": ("stray",),
    "--runner Nope": ("--runner Nope", "DirectRunner"),
    "--runner": ("--runner",),
    "--direct_num_workers x": ("--direct_num_workers", "'x'"),
    "--format xml": ("--format", "jsonl"),
    "--rows_per_part 0": ("--rows_per_part 0",),
    "--rows_per_part x": ("--rows_per_part", "'x'"),
    "--split_bytes -1": ("--split_bytes -1",),
    "--max_record_bytes 0": ("--max_record_bytes 0",),
    "--keep_versions 0": ("--keep_versions 0",),
    "--encode_timeout_seconds 0": ("--encode_timeout_seconds 0",),
    "--max_error_rate 2": ("--max_error_rate 2",),
    "--max_error_rate nan": ("--max_error_rate nan",),
    "--min_fidelity 3": ("--min_fidelity 3",),
    "--truncate_dim 0": ("--truncate_dim 0",),
    "--truncate_dim 999": ("--truncate_dim 999", "384"),
    "--max_seq_length 9999": ("--max_seq_length 9999", "512"),
    "--batch_tokens 0": ("--batch_tokens 0",),
    "--dtype int8": ("--dtype", "bfloat16"),
    "--prompt a --prompt_name b": ("--prompt and --prompt_name",),
    "--prompt_name nope": ("--prompt_name nope", "the model has"),
    "--model /no/such/model": ("--model /no/such/model", "Tried local folder"),
    "--id_column a": ("a.txt", "no columns"),
    "--format text --keep_columns a": ("--format text",),
    "--keep_columns text": ("--keep_columns text",),
    "--keep_columns a,embedding": ("--keep_columns embedding",),
    "--keep_columns _source": ("--keep_columns _source",),
    "--keep_columns a,b,a": ("--keep_columns a: is named twice",),
    "--id_from text --id_column a": ("--id_from text and --id_column",),
    "--json=3": ("--json",),
}


@pytest.mark.parametrize("flags", WRONG)
def test_a_wrong_flag_is_told_in_one_line_and_nothing_is_written(
    run: Run, source: Path, tmp_path: Path, flags: str
) -> None:
    before = tree(tmp_path)
    assert_refused(run(source, *flags.split()), *WRONG[flags])
    assert tree(tmp_path) == before


INPUTS: dict[str, tuple[str, ...]] = {
    "in/*.nope": ("in/*.nope", "matches no file"),
    "nowhere": ("nowhere", "matches no file"),
    "": ("--input", "empty"),
    "ftp://host/a.txt": ("scheme 'ftp'",),
    "zip://a.txt::file://b.zip": ("chained",),
    "in/a.xyz": ("a.xyz", "--format"),
    "in/a.parquet.gz": ("a.parquet.gz", "decompress it"),
}


@pytest.mark.parametrize("name", INPUTS)
def test_an_input_that_is_none_is_told(
    run: Run, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (source / "a.xyz").touch()
    (source / "a.parquet.gz").touch()
    before = tree(tmp_path)
    assert_refused(run(["in/a.txt", name]), *INPUTS[name])
    assert tree(tmp_path) == before


OUTPUTS: dict[str, tuple[str, ...]] = {
    "file": ("--output file: is a file",),
    "file/out": ("--output file/out:", "file is a file, no folder"),
    "file/a/b": ("--output file/a/b:", "file is a file, no folder"),
    "/proc/out": ("--output /proc/out:", "cannot be written"),
    "foreign": ("--output foreign: holds something else (thesis.doc)",),
    "in": ("--output in: the input", "in/a.txt lies in it"),
    ".": ("--output .: the input",),
    "in/out": ("--output in/out: lies in the input folder in",),
    "": ("--output", "empty"),
    "http://host/out": ("http://host/out", "scheme 'http'"),
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_an_output_that_is_no_place_for_a_dataset_is_told(
    run: Run, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign/thesis.doc").touch()
    before = tree(tmp_path)
    assert jobs.embed.main(["--input", "in", "--output", name]) == 2
    assert_refused(run("in", output=name), *OUTPUTS[name])  # type: ignore[arg-type]
    assert tree(tmp_path) == before


def test_a_missing_flag_is_named(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert jobs.embed.main(["--input", "a"]) == 2
    assert "--output" in capsys.readouterr().err
    assert jobs.embed.main(["--output", "a"]) == 2
    assert "--input" in capsys.readouterr().err


def test_an_unknown_column_lists_those_there_are(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("key,body\n1,x\n")
    (tmp_path / "a.jsonl").write_text('{"key": 1, "body": "x"}\n')
    pq.write_table(pa.table({"key": [1], "body": ["x"]}), tmp_path / "a.parquet")
    for name in ("a.csv", "a.jsonl", "a.parquet"):
        assert_refused(run(tmp_path / name), "--text_column text", name, "key, body")
        body = ("--text_column", "body")
        assert_refused(run(tmp_path / name, *body, "--id_column", "idd"), "--id_column idd", name, "key, body")
        assert_refused(run(tmp_path / name, *body, "--keep_columns", "key,topic"), "--keep_columns topic", "key, body")
    assert not (tmp_path / "out").exists()


def test_a_column_of_two_types_is_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("n,text\n1,x\n")
    pq.write_table(pa.table({"n": [1], "text": ["x"]}), tmp_path / "a.parquet")
    found = run([tmp_path / "a.csv", tmp_path / "a.parquet"], "--keep_columns", "n")
    assert_refused(found, "--keep_columns n", "string", "int64")


def test_a_device_that_is_not_here_is_told(run: Run, source: Path) -> None:
    torch = pytest.importorskip("torch")
    device = "mps" if torch.cuda.is_available() else "cuda"
    found = run(source, "--device", device)
    assert_refused(found, f"--device {device}")
    assert not found.output.exists()


def test_what_only_the_encoder_can_tell_is_one_line_too(
    run_job: Run, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise InputError("--dtype bfloat16: not with this model")

    monkeypatch.setattr("transforms.encode.Encoder", refuse)
    found = run_job(source)
    assert found.status == 2
    assert found.stderr.splitlines()[-1] == "error: --dtype bfloat16: not with this model"
    assert not [path for path in found.output.rglob("*") if path.is_file()]


def test_a_run_that_finds_nothing_new_loads_no_model(run: Run, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(source)

    def loaded(*_: object) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("transforms.encode.Encoder", loaded)
    again = run(source)
    assert (again.status, again.manifest) == (0, first.manifest)
    assert "nothing was new" in again.stdout


def test_a_plan_says_what_there_is_to_do_and_writes_nothing(run: Run, source: Path, tmp_path: Path) -> None:
    before = tree(tmp_path)
    found = run(source, "--plan")
    assert found.status == 0
    assert tree(tmp_path) == before
    lines = dict(line.split(": ") for line in found.stdout.splitlines())
    assert {k: lines[k] for k in ("splits", "input_bytes", "rows", "tokens")} == {
        "splits": "1", "input_bytes": "16", "rows": "2", "tokens": "7",
    }  # fmt: skip
    assert {"tokens_per_second", "seconds_on_this_machine"} <= set(lines)
    assert run(source).status == 0
    published = tree(tmp_path)
    again = json.loads(run(source, "--plan", "--json").stdout)
    assert (again["splits"], again["rows"], again["tokens"]) == (0, 0, 0)
    assert tree(tmp_path) == published


def test_a_plan_leaves_a_clean_up_that_was_killed_to_the_run(run: Run, source: Path, tmp_path: Path) -> None:
    assert run(source).status == 0
    stray = tmp_path / f"out/part-{'0' * 32}.parquet"
    stray.touch()
    by = [*(this_process() or ())[:3], 1 << 30, "0"]  # a process of this machine that is over
    record = tmp_path / "out/_manifest/00000001-0.removing"
    record.write_text(json.dumps({"by": by, "names": [stray.name]}))
    before = tree(tmp_path)
    assert run(source, "--plan").status == 0
    assert tree(tmp_path) == before
    assert run(source).status == 0
    assert before - tree(tmp_path) == {f"out/{stray.name}", "out/_manifest/00000001-0.removing"}


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl.gz", "a.csv", "a.tsv.bz2", "a.jsonl.zst", "a.parquet"])
def test_a_plan_guesses_the_rows_of_any_format(run: Run, tmp_path: Path, name: str) -> None:

    rows, separator = 30_000, "\t" if "tsv" in name else ","
    texts = [f"row {n:06} of {n * 7919 % 104729:06}" for n in range(rows)]
    if name.endswith("parquet"):
        pq.write_table(pa.table({"text": texts}), tmp_path / name, row_group_size=7000)
    else:
        lines = [json.dumps({"text": t}) for t in texts] if "json" in name else texts
        if "sv" in name:
            lines = [f"n{separator}text", *(f'{n}{separator}"{t}\nand more"' for n, t in enumerate(texts))]
        data = "\n".join(lines).encode()
        codecs = {".gz": gzip.compress, ".bz2": bz2.compress, ".zst": zstandard.compress}
        compress: Callable[[bytes], bytes] = codecs.get(Path(name).suffix, bytes)
        (tmp_path / name).write_bytes(compress(data))
    found = json.loads(run(tmp_path / name, "--plan", "--json").stdout)
    assert 0.8 * rows < found["rows"] < 1.25 * rows


@pytest.mark.parametrize("name", ["a.txt", "a.parquet"])
def test_a_plan_looks_at_rows_all_over_the_input(run: Run, tmp_path: Path, name: str) -> None:
    """The first tenth of the rows is of short texts: from them alone, a tenth of the tokens would be guessed."""
    texts = [f"{n}" + " a" * (2 if n < 2000 else 40) for n in range(20_000)]
    if name.endswith("parquet"):
        pq.write_table(pa.table({"text": texts}), tmp_path / name, row_group_size=500)
    else:
        (tmp_path / name).write_text("\n".join(texts))
    planned = json.loads(run(tmp_path / name, "--plan", "--json", "--split_bytes", 100_000).stdout)
    done = json.loads(run(tmp_path / name, "--json").stdout)
    assert planned["sample_rows"] <= 1000
    for of in ("tokens", "rows"):
        made = done["rows_out" if of == "rows" else of]
        assert 0.8 * made < planned[of] < 1.2 * made, of


def test_help_lists_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        jobs.embed.main(["--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    actions = jobs.embed.arguments()._actions
    assert len(actions) > 25
    for action in actions:
        assert action.option_strings[-1] in shown
        assert action.help
    assert "--runner" in shown


def test_json_is_alone_on_stdout(run: Run, source: Path) -> None:
    found = run(source, "--json")
    summary = json.loads(found.stdout)
    assert (summary["rows_in"], summary["rows_out"], summary["rejected"], summary["truncated"]) == (2, 2, {}, 0)
    assert (summary["tokens"], summary["version"], summary["output"]) == (7, 1, str(found.output))
    assert "rows" not in found.stderr


def test_the_summary_is_for_people_and_its_last_line_opens_the_dataset(run: Run, source: Path) -> None:
    (source / "b.jsonl").write_text('{"text": null}\n{"text": "third"}\n')
    found = run(source)
    assert found.stdout.splitlines()[0] == f"{found.output}: version 1"
    assert "rows in 4, out 3; rejected: 1 null_text" in found.stdout
    assert "truncated 0; tokens 10; parts 1" in found.stdout
    assert "tokens/s" in found.stdout
    opening = found.stdout.splitlines()[-1].removeprefix("  open it: ")
    assert len(eval(opening, {"pandas": pandas})) == 3


def test_stderr_says_what_is_about_to_happen_and_nothing_else(source: Path, tmp_path: Path) -> None:
    """In a process of its own: what Beam logs while it is imported would litter it too."""
    command = [sys.executable, "-c", SLOW, "--input", str(source), "--output", str(tmp_path / "out"), "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    lines = [line for line in done.stderr.splitlines() if not line.endswith("tokens/s")]
    assert [line.split()[0] for line in lines] == ["input", "model", "encode", "output"]
    assert lines[0].endswith("1 file, 16 bytes; 1 splits, 0 of them done before")
    assert "384 dimensions, 256 tokens, mean pooling, normalized" in lines[1]
    assert "float32, torch" in lines[2]
    assert lines[3].endswith(str(tmp_path / "out"))
    assert json.loads(done.stdout)["rows_out"] == 2


def test_a_terminal_shows_rows_speed_and_time_left_and_ctrl_c_ends_at_once(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("".join(f"row {n} of {n * 7919 % 104729}\n" for n in range(20_000)))
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
    arguments = ["--input", str(tmp_path / "a.txt"), "--output", str(tmp_path / "out"), "--rows_per_part", "64"]
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, *arguments], cwd=ROOT, stderr=theirs, stdout=subprocess.PIPE
    )
    os.close(theirs)
    shown = _read_until(ours, lambda text: "rows, " in text and len(list(tmp_path.glob("out/part-*"))) > 5)
    process.send_signal(signal.SIGINT)
    sent = time.monotonic()
    shown += _read_until(ours, lambda _: False)
    assert process.wait(10) == 130
    assert time.monotonic() - sent < 2
    bars = [bar for bar in shown.split("\r") if "tokens/s" in bar]
    assert any(bar.split("|")[2].strip()[0].isdigit() and "<" in bar for bar in bars)
    assert "interrupted: what is finished is kept; run the same command again to go on" in shown.splitlines()[-1]
    assert process.stdout is not None
    assert process.stdout.read() == b""
    assert not list((tmp_path / "out/_manifest").glob("*.json"))


HANGS = """
import atexit, sys, threading
from jobs import cli

class Channel:
    def __init__(self):
        self.lock = threading.Lock()
        threading.Thread(target=self.lock.acquire).start()
    def __del__(self):
        self.lock.acquire()

channel = Channel()
atexit.register(print, "servers ended")
sys.stdout.write("done; ")
"""


@pytest.mark.parametrize("status", [0, 1])
def test_a_job_that_is_over_ends_though_a_library_hangs_in_the_interpreters_teardown(status: int) -> None:
    command = [sys.executable, "-c", f"{HANGS}\ncli.leave({status})"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (status, "done; servers ended\n")


@pytest.mark.parametrize("job", ["embed", "mine", "join"])
def test_jobs_leave_past_the_teardown(job: str, monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[int] = []
    monkeypatch.setattr(cli, "leave", left.append)
    monkeypatch.setattr(sys, "argv", [f"jobs/{job}.py", "--no_such_flag"])
    runpy.run_path(str(ROOT / f"jobs/{job}.py"), run_name="__main__")
    assert left == [2]


def _read_until(descriptor: int, enough: Callable[[str], bool]) -> str:
    text, deadline = "", time.monotonic() + 60
    while not enough(text) and time.monotonic() < deadline:
        if select.select([descriptor], [], [], 0.1)[0]:
            try:
                data = os.read(descriptor, 1 << 16)
            except OSError:  # the other end is closed
                break
            text += data.decode(errors="replace")
    return text


def test_without_a_terminal_progress_is_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "LOG_SECONDS", 0.05)
    with cli.progress_bar(1000):
        cli.PROGRESS.add(rows=7, tokens=100, input_bytes=250)
        time.sleep(0.3)
    assert "25% 7 rows, " in capsys.readouterr().err


def test_switches_and_inputs_may_be_given_as_templates_and_schedulers_give_them(run: Run, source: Path) -> None:
    (source.parent / "b.txt").write_text("a third\n")
    found = run(source, f"--input={source.parent / 'b.txt'}", "--fresh=true", "--json=false")
    assert sorted(found.texts.values()) == ["a third", "another", "one row"]
    assert "rows in 3" in found.stdout


def test_beams_own_logs_can_be_shown(run: Run, source: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert run(source).status == 0
    assert not [r for r in caplog.records if r.name.startswith("apache_beam")]
    assert run(source, "--fresh", "--beam_logs").status == 0
    assert [r for r in caplog.records if r.name.startswith("apache_beam") and r.levelname == "INFO"]


@pytest.mark.parametrize(
    ("runner", "said"),
    [("DirectRunner", "what is finished is kept"), ("FlinkRunner", "FlinkRunner may go on with the job")],
)
def test_ctrl_c_says_what_goes_on_elsewhere(runner: str, said: str) -> None:
    program = f"""
import os, signal
from apache_beam.options.pipeline_options import PipelineOptions
from jobs import cli
with cli._interruptible("what is finished is kept"), cli._told_where(PipelineOptions(["--runner={runner}"])):
    os.kill(os.getpid(), signal.SIGINT)
"""
    found = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert (found.returncode, found.stderr.splitlines()[-1].startswith(f"interrupted: {said}")) == (130, True)
