"""The Flex Templates' metadata says what the jobs' parsers take, in the service's own words."""

import importlib
import json
import os
import pkgutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import jobs
from deploy.dataflow import metadata
from jobs import cli

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "dataflow"


def of(job: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{job}.json").read_text())


def test_each_job_has_a_template() -> None:
    modules = [importlib.import_module(f"jobs.{found.name}") for found in pkgutil.iter_modules(jobs.__path__)]
    assert {m.__name__.split(".")[1] for m in modules if hasattr(m, "arguments")} == set(metadata.JOBS)
    assert {path.stem for path in FOLDER.glob("*.json")} - {"schedule"} == set(metadata.JOBS)


@pytest.mark.parametrize("job", metadata.JOBS)
def test_the_metadata_is_that_of_the_parser(job: str) -> None:
    assert (FOLDER / f"{job}.json").read_text() == metadata.to_json(job), "run: python deploy/dataflow/metadata.py"


@pytest.mark.parametrize("job", metadata.JOBS)
def test_every_flag_and_no_other_is_in_the_metadata(job: str) -> None:
    actions = importlib.import_module(f"jobs.{job}").arguments()._actions
    flags = {flag.removeprefix("--"): a for a in actions for flag in a.option_strings if flag not in ("-h", "--help")}
    parameters = {p["name"]: p for p in of(job)["parameters"]}
    assert set(parameters) - set(metadata.BEAMS) == set(flags)
    for name, action in flags.items():
        assert parameters[name]["isOptional"] is not action.required
        assert parameters[name]["helpText"] == action.help != ""


@pytest.mark.parametrize("job", metadata.JOBS)
def test_what_the_launcher_makes_of_the_parameters_parses(job: str) -> None:
    """The launcher hands over `--name=value`, for switches too."""
    parser = importlib.import_module(f"jobs.{job}").arguments()
    values = {"BOOLEAN": "true", "NUMBER": "1", "TEXT": "a"}
    given = {p["name"]: p.get("defaultValue", values.get(p["paramType"], "")) for p in of(job)["parameters"]}
    given["number_of_worker_harness_threads"] = "4"
    args, options = cli.parse(parser, [f"--{name}={value}" for name, value in given.items()])
    plain, _ = cli.parse(parser, [f"--{p['name']}=1" for p in of(job)["parameters"] if not p["isOptional"]])
    assert options.get_all_options()["sdk_container_image"] == "a"
    for parameter in of(job)["parameters"]:
        if "defaultValue" in parameter:
            assert getattr(args, parameter["name"]) == getattr(plain, parameter["name"])


@pytest.mark.dataflow
@pytest.mark.parametrize("job", metadata.JOBS)
def test_the_metadata_has_the_structure_that_dataflow_documents(job: str) -> None:
    from google.cloud.dataflow_v1beta3 import ParameterMetadata, TemplateMetadata

    found = TemplateMetadata.from_json(json.dumps(of(job)), ignore_unknown_fields=False)
    assert found.name == f"jobs.{job}"
    assert not found.streaming
    for parameter in found.parameters:
        assert isinstance(parameter, ParameterMetadata)
        assert parameter.name and parameter.label and parameter.help_text


def test_the_launcher_runs_the_images_job() -> None:
    command = [sys.executable, str(FOLDER / "launch.py"), "--min_scroe=1"]
    environment = os.environ | {"JOB": "mine", "PYTHONPATH": str(ROOT)}
    found = subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True)
    assert (found.returncode, found.stdout) == (2, "")
    assert "--input, --output, --min_score" in found.stderr
