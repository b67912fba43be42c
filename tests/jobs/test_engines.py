"""Flags that cannot work on an engine are refused in one line before any work, and unwise ones are warned of."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs import cli, embed, engines, mine
from schemas.errors import InputError
from tests.jobs.conftest import Run

EXTERNAL = "--environment_type=EXTERNAL --environment_config=localhost:50000"
REMOTE = f"--runner=PortableRunner --job_endpoint=flink.example:8099 {EXTERNAL}"
DATAFLOW = (
    "--runner=DataflowRunner --project=proj-abc1 --region=us-central1 --temp_location=gs://bkt/tmp "
    "--sdk_container_image=registry.example/embedding-jobs:1"
)

REFUSED: dict[str, tuple[str, ...]] = {
    "--runner=PortableRunner": ("needs --job_endpoint",),
    "--runner=PortableRunner --job_endpoint=localhost:8099": ("needs --environment_type", "EXTERNAL"),
    "--runner=PortableRunner --job_endpoint=localhost:8099 --environment_type=EXTERNAL": ("--environment_config",),
    "--runner=PortableRunner --job_endpoint=localhost:8099 --environment_type=DOCKER": ("lacks this package",),
    "--runner=PortableRunner --job_endpoint=localhost:8099 --environment_type=DOCKER --environment_config=image:1": (
        "--input in: is on this machine",
        "a container",
    ),
    "--runner=PortableRunner --job_endpoint=flink.example:8099 --environment_type=LOOPBACK": (
        "which flink.example:8099 cannot reach",
        "EXTERNAL",
    ),
    "--runner=PortableRunner --job_endpoint=localhost:8099 --environment_type=LOOPBACK --no_wait_until_finish": (
        "--no_wait_until_finish",
    ),
    "--runner=PortableRunner --job_endpoint=localhost:1 --environment_type=LOOPBACK": ("no job server answers",),
    "--runner=PortableRunner --job_endpoint=localhost --environment_type=LOOPBACK": ("is no HOST:PORT",),
    "--runner=PortableRunner --job_endpoint=localhost:x --environment_type=LOOPBACK": ("is no HOST:PORT",),
    REMOTE: ("--input in: is on this machine", "flink.example:8099", "file:///"),
    f"{REMOTE} --input gs://bkt/in": ("--output out: is on this machine",),
    f"--runner=PortableRunner --job_endpoint=localhost:8099 {EXTERNAL} --device cuda --sdk_worker_parallelism 4": (
        "--sdk_worker_parallelism 4 with --device cuda",
        "4 processes",
    ),
    f"--runner=PortableRunner --job_endpoint=localhost:8099 {EXTERNAL} --device cuda --sdk_worker_parallelism 0": (
        "one for each core",
    ),
    f"--runner=PortableRunner --job_endpoint=localhost:8099 {EXTERNAL} --sdk_worker_parallelism x": ("is no number",),
    "--runner=PrismRunner": ("needs --prism_location", "deploy/install_engines.sh prism"),
    "--runner=prism --prism_location=nowhere/prism": ("--prism_location nowhere/prism: there is no such file",),
    "--runner=PrismRunner --prism_location=in/a.txt": ("is no program",),
    "--runner=FlinkRunner --flink_job_server_jar=nowhere.jar": ("--flink_job_server_jar nowhere.jar",),
    "--runner=FlinkRunner --flink_master=localhost:8081": ("needs --environment_type",),
    "--runner=FlinkRunner --flink_master=http://flink.example:8081 --environment_type=LOOPBACK": ("cannot reach",),
    "--runner=SparkRunner --spark_master_url=spark://spark.example:7077 --environment_type=LOOPBACK": ("cannot reach",),
    DATAFLOW: ("--input in: is on this machine", "Google Cloud"),
    "--direct_running_mode=multi_processing --direct_num_workers=2 --device cuda": (
        "--direct_num_workers 2 with --device cuda",
    ),
}


@pytest.fixture(autouse=True)
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.txt").write_text("one row\n")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("flags", REFUSED)
def test_flags_that_cannot_work_are_refused(flags: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = [] if "--input" in flags else ["--input", "in"]
    assert embed.main([*place, "--output", "out", *flags.split()]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    for word in REFUSED[flags]:
        assert word in line
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in"]


def test_mining_is_refused_alike(capsys: pytest.CaptureFixture[str]) -> None:
    assert mine.main(["--input", "in", "--output", "out", "--min_score", "0.8", *REMOTE.split()]) == 2
    assert "--input in: is on this machine" in capsys.readouterr().err


def test_a_models_folder_must_be_where_the_workers_are(bundled_model: str, capsys: pytest.CaptureFixture[str]) -> None:
    stores = ["--input", "gs://bkt/in", "--output", "gs://bkt/out"]
    assert embed.main([*stores, "--model", bundled_model, *REMOTE.split()]) == 2
    assert f"--model {bundled_model}: is on this machine" in capsys.readouterr().err


def test_what_beam_has_against_its_own_flags_is_one_line_too(capsys: pytest.CaptureFixture[str]) -> None:
    both = "--runner=FlinkRunner --environment_type=LOOPBACK --environment_options=process_command=x"
    assert embed.main(["--input", "in", "--output", "out", *both.split()]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: --runner: Option process_command is not compatible with environment type LOOPBACK")


@pytest.fixture
def job_server() -> Iterator[str]:
    """Something that listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"localhost:{server.getsockname()[1]}"


def check(flags: str, *paths: str, device: str = "auto") -> None:
    _, options = cli.parse(cli.parser("embed", ""), flags.split())
    engines.check(options, {"--input": paths}, device)


def test_what_can_work_is_let_through(job_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    local = f"--runner=PortableRunner --job_endpoint={job_server}"
    check(f"{local} --environment_type=LOOPBACK", "in")
    check(f"{local} {EXTERNAL}", "in")
    check(f"{local} --environment_type=EXTERNAL --environment_options=external_service_address=localhost:1", "in")
    check("--runner=FlinkRunner", "in")
    check("--runner=FlinkRunner --flink_master=[local]", "in")
    check(f"--runner=FlinkRunner --flink_master=flink.example:8081 {EXTERNAL}", "gs://bkt/in", "file:///nfs/in")
    check("--runner=SparkRunner --spark_master_url=local[8]", "in")
    check(f"{local} {EXTERNAL} --sdk_worker_parallelism=1", "in", device="cuda")
    check(DATAFLOW, "gs://bkt/in", device="cuda")
    check("--runner=BundleBasedDirectRunner", "in")


WARNED = {
    "--direct_num_workers=2": "--direct_num_workers: does nothing",
    "--direct_num_workers=2 --direct_running_mode=multi_processing": "all cores of its machine",
    f"--runner=FlinkRunner --flink_master=localhost:8081 {EXTERNAL} --sdk_worker_parallelism=2": "take turns",
}


@pytest.mark.parametrize("flags", WARNED)
def test_what_is_unwise_is_warned_of(flags: str, capsys: pytest.CaptureFixture[str]) -> None:
    check(flags, "in")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: ")
    assert WARNED[flags] in line


def test_a_device_is_looked_for_where_the_workers_are(job_server: str) -> None:
    torch = pytest.importorskip("torch")
    device = "mps" if torch.cuda.is_available() else "cuda"
    local = f"--runner=PortableRunner --job_endpoint={job_server}"
    with pytest.raises(InputError, match=f"--device {device}"):
        check(f"{local} --environment_type=LOOPBACK", "in", device=device)
    check(f"{local} {EXTERNAL}", "in", device=device)


def test_two_processes_publish_what_one_does(run_job: Run, tmp_path: Path) -> None:
    flags = ["--split_bytes", 1000, "--rows_per_part", 64, "--device", "cpu"]
    source = Path(__file__).parents[1] / "data/sentences.txt"
    many = ["--direct_running_mode=multi_processing", "--direct_num_workers=2"]
    one, two = (run_job(source, *flags, *more, output=tmp_path / name) for name, more in (("1", ()), ("2", many)))
    assert (one.status, two.status) == (0, 0), two.stderr
    assert [part.name for part in one.manifest.parts] == [part.name for part in two.manifest.parts]
    assert len(one.manifest.parts) > 2
