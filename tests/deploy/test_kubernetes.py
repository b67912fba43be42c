"""The manifests fit the schemas of Kubernetes and of the Flink operator, and run what our parsers take."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs import cli, embed
from tests.deploy.tools import need_package, tool

pytestmark = pytest.mark.deploy

ROOT = Path(__file__).parents[2]
KUBERNETES = "1.30"


def manifest(name: str) -> dict[str, Any]:
    return yaml.safe_load((ROOT / "deploy" / "flink" / name).read_text())


def test_the_cron_job_fits_kubernetes_schema() -> None:
    need_package("kubernetes_validate")
    import kubernetes_validate

    kubernetes_validate.validate(manifest("submit.yaml"), KUBERNETES, strict=True)


def test_the_flink_deployment_fits_the_operators_definition() -> None:
    need_package("jsonschema")
    from jsonschema import Draft202012Validator

    deployment = manifest("deployment.yaml")
    definition = yaml.safe_load(tool("flink-operator.yaml").read_text())
    group, version = deployment["apiVersion"].split("/")
    assert (definition["spec"]["group"], definition["spec"]["names"]["kind"]) == (group, deployment["kind"])
    (schema,) = [v["schema"]["openAPIV3Schema"] for v in definition["spec"]["versions"] if v["name"] == version]
    strict = _strict(schema)
    strict["properties"] |= PLAIN
    Draft202012Validator(strict).validate(deployment)


PLAIN = {name: {"type": "string"} for name in ("apiVersion", "kind")} | {"metadata": {"type": "object"}}
"""What Kubernetes itself adds to each definition."""


def _strict(schema: Any) -> Any:
    """The schema, with names that it does not know forbidden: the API server drops them silently."""
    if isinstance(schema, list):
        return [_strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {name: _strict(part) for name, part in schema.items()}
    if schema.get("x-kubernetes-int-or-string"):
        schema.pop("type", None)
    known = isinstance(schema.get("properties"), dict) and schema.get("type") == "object"
    if known and not schema.get("x-kubernetes-preserve-unknown-fields"):
        schema["additionalProperties"] = False
    return schema


def test_the_sidecar_fits_kubernetes_schema() -> None:
    need_package("kubernetes_validate")
    import kubernetes_validate

    pod = copy.deepcopy(manifest("deployment.yaml")["spec"]["taskManager"]["podTemplate"])
    kubernetes_validate.validate(pod, KUBERNETES, strict=True)
    (container,) = pod["spec"]["containers"]
    assert container["securityContext"]["runAsUser"] == 1000  # that of the Dockerfile


def test_what_the_cron_job_runs_parses() -> None:
    pod = manifest("submit.yaml")["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    python, dash_m, module, *flags = pod["containers"][0]["command"]
    assert (python, dash_m, module) == ("python", "-m", "jobs.embed")
    args, options = cli.parse(embed.arguments(), flags)
    assert args.output == "gs://BUCKET/embeddings"
    beams = options.get_all_options()
    port = beams["job_endpoint"].rsplit(":", 1)[1]
    (server,) = pod["initContainers"]
    assert f"--job-port={port}" in server["args"]
    assert server["startupProbe"]["tcpSocket"]["port"] == int(port)
    spec = manifest("deployment.yaml")["spec"]
    assert beams["parallelism"] == spec["taskManager"]["replicas"]
    assert spec["flinkConfiguration"]["taskmanager.numberOfTaskSlots"] == "1"
    (pool,) = spec["taskManager"]["podTemplate"]["spec"]["containers"]
    assert beams["environment_config"].rsplit(":", 1)[1] == str(pool["ports"][0]["containerPort"])
    assert f"--flink-master={manifest('deployment.yaml')['metadata']['name']}-rest:8081" in server["args"]
