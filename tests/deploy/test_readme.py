"""deploy/README.md: its commands parse, its files are there, its sums are right."""

import importlib
import json
import re
import shlex
from pathlib import Path

import pytest

from jobs import cli
from tests.dataflow.conftest import JOBS

ROOT = Path(__file__).parents[2]
README = (ROOT / "deploy" / "README.md").read_text()
COMMANDS = re.findall(r"python -m jobs\.(\w+)((?:\\\n|[^\n`])+)", README)


@pytest.mark.parametrize(("job", "flags"), COMMANDS)
def test_the_commands_parse(job: str, flags: str) -> None:
    args, options = cli.parse(JOBS[job].arguments(), shlex.split(flags.replace("\\\n", " ")))
    assert args.output
    assert cli.submits_only(options)


def test_the_flags_and_files_that_it_names_are_there() -> None:
    text = re.sub(r"```.*?```", "", README, flags=re.S)
    ours = {flag for job in JOBS.values() for flag in job.arguments()._option_string_actions}
    beams = set(cli.parse(JOBS["embed"].arguments(), ["--input=a", "--output=b"])[1].get_all_options())
    named = set(re.findall(r"(--[a-z_]+)(?![\w-])", text))
    assert len(named) > 15
    assert {flag for flag in named - ours if flag[2:] not in beams} <= {"--torch", "--build"}
    names = set(re.findall(r"\b(?:deploy|tests)/[\w/.-]*\w", README)) - {
        "deploy/requirements-cpu.lock",
        "deploy/dataflow",
    }
    assert {name for name in names if not (ROOT / name).exists()} == set()


def test_the_templates_parameters_are_in_its_metadata() -> None:
    (given,) = re.findall(r"--parameters='\^~\^([^']+)'", README)
    parameters = {p["name"]: p for p in json.loads((ROOT / "deploy/dataflow/embed.json").read_text())["parameters"]}
    names = [pair.split("=")[0] for pair in given.split("~")]
    assert set(names) <= set(parameters)
    assert {name for name, p in parameters.items() if not p["isOptional"]} <= set(names)


@pytest.mark.dataflow
def test_the_schedules_request_is_one_of_dataflows() -> None:
    from google.cloud.dataflow_v1beta3 import LaunchFlexTemplateRequest

    text = (ROOT / "deploy/dataflow/schedule.json").read_text()
    launch = LaunchFlexTemplateRequest.from_json(text, ignore_unknown_fields=False).launch_parameter
    flags = [f"--{name}={value}" for name, value in launch.parameters.items()]
    args, _ = cli.parse(importlib.import_module(f"jobs.{launch.job_name}").arguments(), flags)
    assert args.output == "gs://BUCKET/embeddings"
    assert launch.container_spec_gcs_path.endswith(f"/{launch.job_name}.json")


def test_the_costs_follow_from_what_they_say_they_follow_from() -> None:
    text = " ".join(README.split())
    speeds = re.search(r"([\d,]+) \(float32\) and ([\d,]+) tokens/s \(bfloat16\) of two cores", text)
    rest, price = re.search(r"(\d+) µs a row .* and \$([\d.]+) for a vCPU", text).groups()  # type: ignore[union-attr]
    assert speeds
    for name, both in zip(("float32", "bfloat16"), speeds.groups(), strict=True):
        hours = 1e9 * (20 / (number(both) / 2) + float(rest) * 1e-6) / 3600
        row = [number(cell) for cell in cells(name)]
        assert row == [
            pytest.approx(hours, rel=0.01),
            pytest.approx(hours * float(price), rel=0.01),
            round(hours / 160, 1),
        ]
    worker = float(re.search(r"here \$([\d.]+) an hour for 8", text)[1])  # type: ignore[index]
    for rate in ("5,000", "20,000", "50,000"):
        hours = 1e9 / number(rate) / 3600
        assert [number(cell) for cell in cells(rate)] == [round(hours, 1), round(hours * worker)]


def cells(first: str) -> list[str]:
    (row,) = re.findall(rf"^\| {first} \| (.*) \|$", README, re.M)
    return row.split(" | ")


def number(text: str) -> float:
    return float(text.replace(",", ""))
