"""For Airflow's own Python: loads a folder of DAGs and runs each task as Airflow would, up to where it waits.

    python run_dag.py FOLDER OVERRIDES

OVERRIDES is JSON: `interpreter` and `options` of all launchers, and `tasks`, options of each, with which they reach
servers of this machine. Prints JSON.
"""

import json
import sys
from typing import Any

import airflow.providers.apache.beam.hooks.beam as beam
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk.exceptions import TaskDeferred

WAITED_FOR = ("job_id", "project_id", "location")


class Pushed:
    """Stands for the task instance, of which operators here only push values."""

    def xcom_push(self, key: str, value: Any, **_: Any) -> None:
        pass


def run(task: Any, overrides: dict[str, Any], commands: list[list[str]]) -> dict[str, Any]:
    """The command line that Airflow ran for a task, and the job that it then waits for."""
    task.py_interpreter = overrides["interpreter"]
    task.default_pipeline_options = task.default_pipeline_options | overrides["options"]
    task.pipeline_options = task.pipeline_options | overrides["tasks"][task.task_id]
    try:
        type(task).execute(task, {"ti": Pushed(), "task": task})
        raise SystemExit(f"{task.task_id} did not wait")
    except TaskDeferred as deferred:
        waits = deferred.trigger.serialize()[1]
    return {
        "after": sorted(task.upstream_task_ids),
        "command": commands[-1],
        "waits_for": {key: waits[key] for key in WAITED_FOR},
    }


def main(folder: str, overrides: dict[str, Any]) -> dict[str, Any]:
    commands: list[list[str]] = []
    run_command = beam.run_beam_command

    def record(cmd: list[str], *args: Any, **options: Any) -> None:
        commands.append(cmd)
        run_command(cmd, *args, **options)

    beam.run_beam_command = record
    bag = DagBag(folder)
    return {
        "errors": {file: str(error) for file, error in bag.import_errors.items()},
        "dags": {
            dag.dag_id: {task.task_id: run(task, overrides, commands) for task in dag.topological_sort()}
            for dag in bag.dags.values()
        },
    }


if __name__ == "__main__":
    sys.stdout.write("\n" + json.dumps(main(sys.argv[1], json.loads(sys.argv[2]))) + "\n")
