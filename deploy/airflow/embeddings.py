"""Each night: bring the embeddings up to date on Dataflow, then the pairs above a threshold.

The launchers are short processes in a virtual environment of their own, since Airflow's pins are not ours:

    python3.11 -m venv /opt/embedding-jobs
    /opt/embedding-jobs/bin/pip install --require-hashes --no-deps -r deploy/requirements.lock
    /opt/embedding-jobs/bin/pip install --no-deps embedding_jobs-*.whl

Waiting for a job holds no worker slot (`deferrable`); another try goes on where the last one was.
"""

import datetime

from airflow.providers.apache.beam.operators.beam import BeamRunPythonPipelineOperator
from airflow.providers.google.cloud.operators.dataflow import DataflowConfiguration
from airflow.sdk import DAG

PROJECT = "PROJECT"
REGION = "europe-west4"
BUCKET = "gs://BUCKET"
IMAGE = "REGION-docker.pkg.dev/PROJECT/jobs/embedding-jobs:TAG"
PYTHON = "/opt/embedding-jobs/bin/python"

DATAFLOW = {
    "temp_location": f"{BUCKET}/tmp",
    "staging_location": f"{BUCKET}/staging",
    "sdk_container_image": IMAGE,
    "service_account_email": f"embedding-jobs@{PROJECT}.iam.gserviceaccount.com",
    "machine_type": "c3-standard-8",  # has bfloat16, as --dtype wants it
    "max_num_workers": 20,
}


def on_dataflow(job: str, options: dict[str, object]) -> BeamRunPythonPipelineOperator:
    """A task that runs `python -m jobs.<job>` on Dataflow."""
    return BeamRunPythonPipelineOperator(
        task_id=job,
        runner="DataflowRunner",
        py_interpreter=PYTHON,
        py_options=["-m"],
        py_file=f"jobs.{job}",
        default_pipeline_options=DATAFLOW,
        pipeline_options=options,
        dataflow_config=DataflowConfiguration(job_name=job, project_id=PROJECT, location=REGION),
        deferrable=True,
    )


with DAG(
    dag_id="embeddings",
    schedule="0 2 * * *",
    start_date=datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
    catchup=False,
    max_active_runs=1,
    default_args={"retries": 2, "retry_delay": datetime.timedelta(minutes=10)},
    doc_md=__doc__,
):
    embed = on_dataflow(
        "embed",
        {
            "input": f"{BUCKET}/shards/*.jsonl.gz",
            "text_column": "body",
            "id_column": "key",
            "output": f"{BUCKET}/embeddings",
            "dtype": "bfloat16",
        },
    )
    mine = on_dataflow(
        "mine",
        {"input": f"{BUCKET}/embeddings", "output": f"{BUCKET}/pairs", "min_score": 0.8, "with_text": True},
    )
    embed >> mine
