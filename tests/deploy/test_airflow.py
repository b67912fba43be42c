"""The DAG by Airflow itself, in its own environment: it loads, and its tasks submit jobs and wait for them."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs import cli, embed, mine
from tests.dataflow.conftest import bucket, dataflow  # noqa: F401
from tests.dataflow.service import JOB_ID, Service, serve
from tests.deploy.tools import tool

pytestmark = pytest.mark.deploy

ROOT = Path(__file__).parents[2]


@pytest.fixture
def service() -> Iterator[Service]:
    with serve() as service:
        yield service


def by_airflow(home: Path, overrides: dict[str, Any]) -> dict[str, Any]:
    """What run_dag.py tells of deploy/airflow."""
    command = [str(tool("airflow") / "bin/python"), str(ROOT / "tests/deploy/run_dag.py")]
    environment = {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "false",
        "AIRFLOW_CONN_GOOGLE_CLOUD_DEFAULT": "google-cloud-platform://",
        "PYTHONPATH": str(ROOT),
    }
    found = subprocess.run(
        [*command, str(ROOT / "deploy/airflow"), json.dumps(overrides)],
        env=os.environ | environment,
        cwd=home,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert found.returncode == 0, found.stderr[-4000:]
    return json.loads(found.stdout.splitlines()[-1])


def test_the_dags_tasks_submit_jobs_and_wait_for_them(
    tmp_path: Path,
    bucket: str,  # noqa: F811
    service: Service,
) -> None:
    overrides = {
        "interpreter": sys.executable,
        "options": {
            "temp_location": f"{bucket}/tmp",
            "staging_location": f"{bucket}/staging",
            "dataflow_endpoint": service.endpoint,
            "no_auth": True,
        },
        "tasks": {
            "embed": {"input": f"{bucket}/in/*.txt", "id_column": None, "output": f"{bucket}/embeddings"},
            "mine": {"input": f"{bucket}/dataset", "output": f"{bucket}/pairs"},
        },
    }
    found = by_airflow(tmp_path, overrides)
    assert found["errors"] == {}
    tasks = found["dags"]["embeddings"]
    assert {name: task["after"] for name, task in tasks.items()} == {"embed": [], "mine": ["embed"]}
    for name, job in {"embed": embed, "mine": mine}.items():
        python, dash_m, module, *flags = tasks[name]["command"]
        assert (python, dash_m, module) == (sys.executable, "-m", f"jobs.{name}")
        args, options = cli.parse(job.arguments(), flags)
        assert args.output == overrides["tasks"][name]["output"]
        assert options.get_all_options()["sdk_container_image"].endswith("embedding-jobs:TAG")
        assert tasks[name]["waits_for"] == {"job_id": JOB_ID, "project_id": "PROJECT", "location": "europe-west4"}
    assert [job["name"].rsplit("-", 1)[0] for job in service.jobs] == ["embed", "mine"]
