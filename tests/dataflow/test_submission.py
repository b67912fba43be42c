"""Whole submissions by the job's own process, to servers that stand in for Dataflow and for GCS."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from apache_beam.portability.api import beam_runner_api_pb2

from schemas import storage
from schemas.dataset import open_dataset
from tests.dataflow.conftest import JOBS, data_flags, dataflow_flags
from tests.dataflow.service import JOB_ID, Service, serve

pytestmark = pytest.mark.dataflow

ROOT = Path(__file__).parents[2]
Submit = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def service() -> Iterator[Service]:
    with serve() as service:
        yield service


@pytest.fixture
def submit(bucket: str, service: Service) -> Submit:
    """`submit(job, *flags)`: `python -m jobs.<job>` to its end."""

    def submit(job: str, *flags: str) -> "subprocess.CompletedProcess[str]":
        endpoint = f"--dataflow_endpoint={service.endpoint}"
        command = [sys.executable, "-m", f"jobs.{job}", *data_flags(job, bucket), *dataflow_flags(bucket), endpoint]
        return subprocess.run([*command, *flags], cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=120)

    return submit


def staged(job: dict[str, Any]) -> bytes:
    """The pipeline that a job points to."""
    return storage.read_bytes(options_of(job)["pipelineUrl"])


def options_of(job: dict[str, Any]) -> dict[str, Any]:
    return job["environment"]["sdkPipelineOptions"]["options"]


WORKER = """
import sys
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.portability import python_urns
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

pipeline = beam_runner_api_pb2.Pipeline.FromString(sys.stdin.buffer.read())
for environment in pipeline.components.environments.values():
    environment.urn, environment.payload = python_urns.EMBEDDED_PYTHON, b""  # Dataflow would start the image here
FnApiRunner().run_via_runner_api(pipeline, PipelineOptions([])).wait_until_finish()
"""


@pytest.mark.model
def test_what_was_staged_publishes_by_itself(submit: Submit, service: Service, bucket: str, tmp_path: Path) -> None:
    """Run by a process that knows of the job what the staged pipeline says, and no more."""
    submit("embed")
    submit("mine")
    for job in service.jobs:
        command, path = [sys.executable, "-c", WORKER], {"PYTHONPATH": str(ROOT)}
        subprocess.run(command, input=staged(job), env=os.environ | path, cwd=tmp_path, check=True, timeout=120)
    embedded = open_dataset(f"{bucket}/embed")
    assert embedded.manifest.counts.rows_out == 3
    assert embedded.manifest.fingerprint.name == "all-MiniLM-L6-v2"
    assert open_dataset(f"{bucket}/mine").manifest.details["input_version"] == 1


@pytest.mark.parametrize("job", JOBS)
def test_a_job_is_submitted_and_not_waited_for(submit: Submit, service: Service, bucket: str, job: str) -> None:
    found = submit(job, "--json")
    assert found.returncode == 0, found.stderr
    output = f"{bucket}/{job}"
    assert json.loads(found.stdout) == {"output": output, "submitted": JOB_ID}
    assert f"Created job with id: [{JOB_ID}]; the pipeline publishes when it is done" in found.stderr.splitlines()
    assert service.requests == [("POST", "/v1b3/projects/proj-abc1/locations/us-central1/jobs")]
    # Publishing is the pipeline's own last step; until then its lease says that it is alive.
    assert storage.names(output) == ["_manifest"]
    assert [name.rpartition(".")[2] for name in storage.names(f"{output}/_manifest")] == ["lease"]


def test_what_arrives_is_the_pipeline_with_one_process_a_worker(submit: Submit, service: Service) -> None:
    submit("embed", "--machine_type=n2-standard-8", "--encode_min_ram=16GB")
    (job,) = service.jobs
    (pool,) = job["environment"]["workerPools"]
    assert job["type"] in ("JOB_TYPE_BATCH", 1)
    assert pool["machineType"] == "n2-standard-8"
    assert pool["numThreadsPerWorker"] == 4
    assert {image["containerImage"] for image in pool["sdkHarnessContainerImages"]} == {
        "registry.example/embedding-jobs:1"
    }
    assert "packages" not in pool
    assert "no_use_multiple_sdk_containers" in job["environment"]["experiments"]
    assert "use_multiple_sdk_containers" not in job["environment"]["experiments"]
    raw = staged(job)
    assert options_of(job)["pipelineProtoHash"] == hashlib.sha256(raw).hexdigest()
    names = {t.unique_name for t in beam_runner_api_pb2.Pipeline.FromString(raw).components.transforms.values()}
    assert "PublishDataset/Publish" in names


def test_the_next_run_on_a_published_dataset_says_submitted_too(submit: Submit, service: Service, bucket: str) -> None:
    found = submit("embed", "--output", f"{bucket}/dataset", "--fresh")
    assert (found.returncode, found.stdout) == (0, f"{bucket}/dataset: {JOB_ID} submitted\n")
    assert len(service.jobs) == 1
    names = storage.names(f"{bucket}/dataset/_manifest")
    assert [name.rpartition(".")[2] for name in names] == ["json", "lease"]


def test_a_template_is_written_where_its_launcher_looks_for_it(submit: Submit, service: Service, bucket: str) -> None:
    template = f"{bucket}/staging/job_object"
    found = submit("embed", f"--template_location={template}")
    assert found.returncode == 0, found.stderr
    assert f"template written: {template}" in found.stderr.splitlines()
    assert service.requests == []
    assert "PublishDataset" in str(staged(json.loads(storage.read_bytes(template))))


def test_a_job_that_the_service_refuses_is_a_failure_in_one_line(submit: Submit, service: Service) -> None:
    service.refusal = (403, "(1a2b): Current user cannot act as service account")
    found = submit("embed")
    assert (found.returncode, found.stdout) == (1, "")
    last = found.stderr.splitlines()[-1]
    assert last.startswith("failed: ")
    assert "cannot act as service account" in last
    assert "Traceback" not in found.stderr
