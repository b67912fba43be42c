"""Writes each job's Flex Template metadata, `deploy/dataflow/<job>.json`, from the flags that its parser has.

python deploy/dataflow/metadata.py
"""

import argparse
import importlib
import json
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
JOBS = ("embed", "join", "mine")
BEAMS = {
    "sdk_container_image": "Image of the workers, the one that this template was built from.",
    "dataflow_service_options": "Such as worker_accelerator=type:nvidia-l4;count:1;install-nvidia-driver for GPUs.",
    "experiments": "Such as use_multiple_sdk_containers for a process a core.",
    "number_of_worker_harness_threads": "Bundles at once in a worker.",
}
"""Flags of Beam's that have no place among what Dataflow itself asks for."""


def metadata(job: str) -> dict[str, Any]:
    """What the service and its console are told of a job's flags."""
    module = importlib.import_module(f"jobs.{job}")
    ours = [_parameter(a) for a in module.arguments()._actions if not isinstance(a, argparse._HelpAction)]
    beams = [
        {"name": name, "label": _label(name), "helpText": text, "isOptional": True, "paramType": "TEXT"}
        for name, text in BEAMS.items()
    ]
    return {"name": f"jobs.{job}", "description": module.DESCRIPTION, "streaming": False, "parameters": ours + beams}


def _parameter(action: argparse.Action) -> dict[str, Any]:
    found: dict[str, Any] = {
        "name": action.option_strings[0].removeprefix("--"),
        "label": _label(action.dest),
        "helpText": action.help,
        "isOptional": not action.required,
        "paramType": "TEXT",
    }
    if isinstance(action.default, bool):
        found["paramType"] = "BOOLEAN"
    elif action.choices:
        found |= {"paramType": "ENUM", "enumOptions": [{"value": choice} for choice in action.choices]}
    elif action.type in (int, float):
        found["paramType"] = "NUMBER"
    if action.default not in (None, ""):
        found["defaultValue"] = json.dumps(action.default) if found["paramType"] == "BOOLEAN" else str(action.default)
    return found


def _label(name: str) -> str:
    return name.replace("_", " ").capitalize()


def to_json(job: str) -> str:
    return json.dumps(metadata(job), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.path.insert(0, str(FOLDER.parents[1]))
    for job in JOBS:
        (FOLDER / f"{job}.json").write_text(to_json(job), encoding="utf-8")
