"""Jobs as they are handed to Dataflow, without a cloud."""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, NamedTuple

import pytest

import transforms.encode
from jobs import cli, embed, join, mine
from schemas import storage
from tests.fakes import FakeEncoder
from tests.needs import need

JOBS = {"embed": embed, "mine": mine, "join": join}


class Translated(NamedTuple):
    """A job as Dataflow gets it."""

    pipeline: Any  # the Runner API's Pipeline
    options: Any  # Beam's, with what the job added

    @property
    def transforms(self) -> dict[str, Any]:
        return {t.unique_name: t for t in self.pipeline.components.transforms.values()}

    def hints(self, name: str) -> dict[str, bytes]:
        """The resource hints of a step."""
        environment = self.transforms[name].environment_id
        return dict(self.pipeline.components.environments[environment].resource_hints) if environment else {}


Translate = Callable[..., Translated]


@pytest.fixture(autouse=True)
def dataflow(monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        found = find_spec("google.cloud.dataflow")
    except ModuleNotFoundError:
        found = None
    need(found, "Beam's Dataflow client: pip install -c deploy/constraints.txt -e '.[dataflow]'")
    monkeypatch.setenv("NO_GCE_CHECK", "true")  # no looking for a metadata server's credentials


@pytest.fixture
def bucket(gs: str) -> str:
    """`gs://…` with two shards in `in/` and the dataset that they make in `dataset/`."""
    storage.create(f"{gs}/in/a.txt", b"Warm socks of alpaca wool.\nA tuple or a list?\n")
    storage.create(f"{gs}/in/b.txt", b"Socks made of warm alpaca wool.\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transforms.encode, "Encoder", FakeEncoder)
        assert embed.main(["--input", f"{gs}/in", "--output", f"{gs}/dataset"]) == 0
    return gs


def data_flags(job: str, bucket: str) -> list[str]:
    """What each job cannot do without."""
    output = f"--output={bucket}/{job}"
    if job == "embed":
        return [output, f"--input={bucket}/in/*.txt"]
    if job == "join":
        return [output, f"--queries={bucket}/dataset", f"--corpus={bucket}/dataset", "--top_k=2"]
    return [output, f"--input={bucket}/dataset", "--min_score=0.5"]


def dataflow_flags(bucket: str) -> list[str]:
    """Beam's, as deploy/dataflow gives them; without credentials, which there are none of."""
    return [
        "--runner=DataflowRunner",
        "--project=proj-abc1",
        "--region=us-central1",
        f"--temp_location={bucket}/tmp",
        f"--staging_location={bucket}/staging",
        "--sdk_container_image=registry.example/embedding-jobs:1",
        "--no_auth",
    ]


@pytest.fixture
def translate(bucket: str, monkeypatch: pytest.MonkeyPatch) -> Translate:
    """`translate(job, *flags)`: the job's own main with a dry run."""
    found: list[Translated] = []
    submitted = cli._submitted

    def record(result: Any, options: Any) -> Any:
        found.append(Translated(result.job.proto_pipeline, options))
        return submitted(result, options)

    monkeypatch.setattr(cli, "_submitted", record)

    def translate(job: str, *flags: str) -> Translated:
        status = JOBS[job].main([*data_flags(job, bucket), *dataflow_flags(bucket), "--dry_run=True", *flags])
        assert status == 0
        return found[-1]

    return translate
