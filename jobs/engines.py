"""What each of Beam's runners needs on the command line here, and what cannot work on it: told before any work."""

import dataclasses
import os
import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from apache_beam.options.pipeline_options import PipelineOptions

from jobs import cli
from schemas.errors import InputError
from transforms.device import choose_device

LOOPBACK_HOSTS = ("", "localhost", "127.0.0.1", "::1", "[::1]")
CONNECT_SECONDS = 5.0


@dataclasses.dataclass(frozen=True)
class Engine:
    """A runner, as far as its flags go."""

    master: str = ""  # the flag that says where it runs
    here: str = "no such"  # pattern of that flag's values with which the job itself starts it, on this machine
    needs: Mapping[str, str] = dataclasses.field(default_factory=dict)  # flags that it cannot do without, and why
    processes: str = "sdk_worker_parallelism"  # the flag for Python processes on one machine
    elsewhere: bool = False  # always


ENGINES = {
    "directrunner": Engine(processes="direct_num_workers"),
    "prismrunner": Engine(
        "job_endpoint",
        "",
        {"prism_location": "the program itself, which `deploy/install_engines.sh prism` puts into .engines/prism"},
    ),
    "portablerunner": Engine(
        "job_endpoint",
        "embed",
        {
            "job_endpoint": "where a job server listens, as localhost:8099",
            "environment_type": "LOOPBACK (workers in this process) or EXTERNAL (worker pools beside the engine)",
        },
    ),
    "flinkrunner": Engine("flink_master", r"\[auto\]|\[local\]"),
    "sparkrunner": Engine("spark_master_url", r"local(\[.+\])?"),
    "dataflowrunner": Engine(elsewhere=True),
}
"""By the class's name in small letters. A runner that is not here is Beam's own matter, and is not checked."""


def check(options: PipelineOptions, paths: Mapping[str, Sequence[str]], device: str) -> None:
    """Says what is unwise, and raises InputError for what cannot work.

    paths: files and folders that workers open, by the flag that names them
    """
    runner = _name(options)
    engine = ENGINES.get(runner)
    if engine is None:
        return
    flags = options.get_all_options()
    for refuse in (_missing_flags, _wrong_environment, _local_paths, _shared_gpu):
        for problem in refuse(engine, flags, paths, device):
            raise InputError(problem)
    if workers_here(options) and device not in ("auto", "cpu"):
        choose_device(device)
    for warning in _crowded_cores(engine, flags, device):
        cli.say(f"warning: {warning}")
    _reach(engine, flags)


def workers_here(options: PipelineOptions) -> bool:
    """Whether texts are encoded in this very process, whatever schedules it."""
    engine = ENGINES.get(_name(options))
    return engine is not None and _in_this_process(engine, options.get_all_options())


def _name(options: PipelineOptions) -> str:
    name = (options.get_all_options()["runner"] or "direct").rsplit(".", 1)[-1].lower()
    return name if name.endswith("runner") else f"{name}runner"


def _in_this_process(engine: Engine, flags: Mapping[str, Any]) -> bool:
    if engine is ENGINES["directrunner"]:
        return flags["direct_running_mode"] != "multi_processing"
    environment = (flags["environment_type"] or "").upper()
    return environment == "LOOPBACK" or (not environment and _started_here(engine, flags))


def _started_here(engine: Engine, flags: Mapping[str, Any]) -> bool:
    """Whether the job starts the engine itself; Beam's default for workers is this process then."""
    return bool(engine.master) and bool(re.fullmatch(engine.here, flags[engine.master] or ""))


def _remote(engine: Engine, flags: Mapping[str, Any]) -> str:
    """The address of an engine on other machines; empty where it is on this one."""
    if engine.elsewhere:
        return "Google Cloud"
    if not engine.master or _started_here(engine, flags):
        return ""
    address = str(flags[engine.master] or "")
    return "" if _host_and_port(address)[0] in LOOPBACK_HOSTS else address


def _host_and_port(address: str) -> tuple[str, int | None]:
    try:
        parts = urlsplit(address if "://" in address else f"//{address}")
        return parts.hostname or "", parts.port
    except ValueError:
        raise InputError(f"{address}: is no HOST:PORT") from None


def _missing_flags(engine: Engine, flags: Mapping[str, Any], *_: Any) -> Iterator[str]:
    if engine.master == "job_endpoint" and flags["job_endpoint"]:
        needs = {k: v for k, v in engine.needs.items() if k != "prism_location"}
    else:
        needs = dict(engine.needs)
    for name, why in needs.items():
        if not flags[name]:
            yield f"--runner {flags['runner']}: needs --{name}, {why}"
    for name in ("prism_location", "flink_job_server_jar", "spark_job_server_jar"):
        place = flags[name]
        if place and "://" not in place and not Path(place).is_file():
            yield f"--{name} {place}: there is no such file"
    if (place := flags["prism_location"]) and not os.access(place, os.X_OK):
        yield f"--prism_location {place}: is no program; name the file that Go or Beam's release made"


def _wrong_environment(engine: Engine, flags: Mapping[str, Any], *_: Any) -> Iterator[str]:
    if engine.elsewhere or not engine.master:
        return
    environment = (flags["environment_type"] or "").upper()
    own = flags["environment_config"] or flags["environment_options"] or flags["sdk_container_image"]
    remote = _remote(engine, flags)
    if not environment and not _started_here(engine, flags):
        yield (
            f"--runner {flags['runner']}: needs --environment_type: LOOPBACK (workers in this process) or EXTERNAL "
            "(worker pools beside the engine); Beam's default is a container that lacks this package"
        )
    if environment == "EXTERNAL" and not own:
        yield "--environment_type EXTERNAL: needs --environment_config HOST:PORT, where a worker pool listens"
    if environment == "DOCKER" and not own:
        yield (
            "--environment_type DOCKER: Beam's own image lacks this package; name the one that deploy/Dockerfile "
            "makes: --environment_config IMAGE"
        )
    if environment == "LOOPBACK" and remote:
        yield (
            f"--environment_type LOOPBACK: workers would be in this process, which {remote} cannot reach; start worker "
            "pools beside it and name them: --environment_type EXTERNAL --environment_config HOST:PORT"
        )
    if flags["no_wait_until_finish"] and _in_this_process(engine, flags):
        yield "--no_wait_until_finish: the workers are in this process and end with it; use --environment_type EXTERNAL"


def _local_paths(engine: Engine, flags: Mapping[str, Any], paths: Mapping[str, Sequence[str]], _: str) -> Iterator[str]:
    """A path that all machines see, as one on NFS, is named as a URL: file:///…"""
    where = _remote(engine, flags)
    container = (flags["environment_type"] or "").upper() == "DOCKER" and "a container"
    if not (where or container):
        return
    for flag, names in paths.items():
        for name in names:
            if "://" not in name:
                yield (
                    f"{flag} {name}: is on this machine, and the workers are on {where or container}; use a store "
                    "(gs://, s3://, …), or file:///PATH for a folder that all of them see"
                )


def _shared_gpu(engine: Engine, flags: Mapping[str, Any], _: Any, device: str) -> Iterator[str]:
    processes = _processes(engine, flags)
    if device == "cuda" and processes != 1:
        many = "one for each core" if processes == 0 else str(processes)
        yield (
            f"--{engine.processes} {flags[engine.processes]} with --device cuda: {many} processes on a machine would "
            f"each load the model into the GPU and size their batches for all of its memory; use "
            f"--{engine.processes} 1, which keeps it busy"
        )


def _crowded_cores(engine: Engine, flags: Mapping[str, Any], device: str) -> Iterator[str]:
    in_memory = engine is ENGINES["directrunner"] and flags["direct_running_mode"] == "in_memory"
    if in_memory and flags["direct_num_workers"] != 1:
        yield "--direct_num_workers: does nothing with --direct_running_mode in_memory; one process uses all cores"
    elif device != "cuda" and _processes(engine, flags) != 1:
        yield (
            f"--{engine.processes} {flags[engine.processes]}: each process computes on all cores of its machine, so "
            "several take turns and hold the model several times; 1 is enough"
        )


def _processes(engine: Engine, flags: Mapping[str, Any]) -> int:
    """Python processes on one machine; 0 is as many as the engine likes."""
    if engine.elsewhere:  # jobs.dataflow sees to it
        return 1
    if engine is ENGINES["directrunner"] and flags["direct_running_mode"] != "multi_processing":
        return 1
    try:
        return int(flags[engine.processes])
    except ValueError:
        raise InputError(f"--{engine.processes} {flags[engine.processes]}: is no number") from None


def _reach(engine: Engine, flags: Mapping[str, Any]) -> None:
    """Beam waits five minutes for a job server, and says nothing meanwhile."""
    address = flags["job_endpoint"]
    if engine.master != "job_endpoint" or _started_here(engine, flags):
        return
    host, port = _host_and_port(address)
    if not port:
        raise InputError(f"--job_endpoint {address}: is no HOST:PORT")
    try:
        socket.create_connection((host, port), CONNECT_SECONDS).close()
    except OSError as error:
        raise InputError(f"--job_endpoint {address}: no job server answers there ({error.strerror or error})") from None
