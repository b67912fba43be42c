"""What the README prints is what the parsers take, and the files that it names are there."""

import re
import shlex
from pathlib import Path

import pytest

from jobs import cli, embed, join, mine

JOBS = {"embed": embed, "join": join, "mine": mine}
ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
COMMANDS = re.findall(r"python -m jobs\.(\w+)((?:\\\n|[^\n`])+)", README)


def test_the_readme_shows_each_job() -> None:
    assert {job for job, _ in COMMANDS} == set(JOBS)


@pytest.mark.parametrize(("job", "flags"), COMMANDS)
def test_the_readmes_commands_parse(job: str, flags: str) -> None:
    parser = JOBS[job].arguments()
    args, _ = cli.parse(parser, shlex.split(flags.replace("\\\n", " ")))
    assert args.output


def test_the_flags_that_the_readme_names_are_flags() -> None:
    ours = {flag for job in JOBS.values() for flag in job.arguments()._option_string_actions}
    named = set(re.findall(r"`(--[a-z_]+)", README))
    assert named <= ours | {"--check"}


def test_the_modules_and_tests_that_the_readme_names_are_there() -> None:
    names = set(re.findall(r"\b((?:jobs|transforms|schemas|tests|deploy)/[\w/]+\.\w+)", README))
    assert names
    assert [name for name in sorted(names) if not (ROOT / name).exists()] == []
    tree = README[README.index("## What is where") : README.index("The pipeline:")]
    files = set(re.findall(r"\b(\w+\.(?:py|txt))\b", tree))
    there = {p.name for folder in ("jobs", "transforms", "schemas", "deploy") for p in (ROOT / folder).rglob("*")}
    assert files <= there
