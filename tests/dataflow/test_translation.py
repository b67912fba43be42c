"""What Dataflow is handed: steps, hints, workers, and nothing of the machine that submits."""

import base64
import bz2
import contextlib
import getpass
import re
import zlib
from pathlib import Path
from typing import Any

import pytest
from apache_beam.options.pipeline_options import DebugOptions
from apache_beam.portability.api import beam_runner_api_pb2

import transforms.model
from jobs import embed
from schemas import storage
from tests.dataflow.conftest import JOBS, Translate, Translated, data_flags, dataflow_flags

pytestmark = pytest.mark.dataflow

ROOT = Path(__file__).parents[2]
ENCODE = "EncodeTexts/EncodeBlock/ParDo(_EncodeBlock)"
STEPS = {
    "embed": "PlanSplits Reshuffle ReadBlocks AdoptParts EncodeTexts WriteParts AllRejects WriteRejects AllParts "
    "PublishDataset",
    "mine": "MineDataset",
    "join": "JoinDatasets",
}
BEAMS_FILES = re.compile(rb"/[\w/.\-]+/apache_beam/[\w/]+\.py")
"""Its pickles of its own functions carry where they were defined, for tracebacks."""
ACCELERATOR = "type:nvidia-l4;count:1;install-nvidia-driver"


def steps_of(found: Translated) -> list[str]:
    """The pipeline's outermost steps."""
    transforms = found.pipeline.components.transforms
    (root,) = found.pipeline.root_transform_ids
    return [transforms[i].unique_name for i in transforms[root].subtransforms]


def inner_steps(found: Translated, step: str) -> list[str]:
    transforms = found.pipeline.components.transforms
    return [transforms[i].unique_name.rsplit("/", 1)[-1] for i in found.transforms[step].subtransforms]


def test_the_steps_on_the_screen_are_those_of_the_readme(translate: Translate) -> None:
    for job, steps in STEPS.items():
        assert steps_of(translate(job)) == steps.split()
    drawn = (ROOT / "README.md").read_text().split("The pipeline:")[1].split("Only descriptions")[0]
    assert set(STEPS["embed"].split()) - {"AllRejects", "AllParts"} <= set(re.findall(r"\w+", drawn))


@pytest.mark.parametrize("job", JOBS)
def test_steps_of_ours_have_names_of_ours(translate: Translate, job: str) -> None:
    found = translate(job)
    outer = [name for step in STEPS[job].split() for name in inner_steps(found, step)]
    beams_own = re.compile(r"AddRandomKeys|RemoveRandomKeys|ReshufflePerKey|GroupByKey|Flatten|(Flat)?Map\w*\(.*\)")
    named = [name for name in outer if not beams_own.fullmatch(name)]
    assert named
    assert [name for name in named if not re.fullmatch(r"([A-Z][a-z]+)+", name)] == []


def test_without_flags_no_step_has_hints(translate: Translate) -> None:
    found = translate("embed")
    assert {name: hints for name in found.transforms if (hints := found.hints(name))} == {}


def test_hints_are_on_the_encode_step_alone(translate: Translate) -> None:
    found = translate("embed", f"--encode_accelerator={ACCELERATOR}", "--encode_min_ram=16GB")
    assert {name: hints for name in found.transforms if (hints := found.hints(name))} == {
        ENCODE: {
            "beam:resources:accelerator:v1": ACCELERATOR.encode(),
            "beam:resources:min_ram_bytes:v1": b"16000000000",
        }
    }


def experiments(found: Translated) -> list[str]:
    return found.options.view_as(DebugOptions).experiments


def test_one_process_a_worker_holds_the_encoder(translate: Translate) -> None:
    found = translate("embed")
    assert "no_use_multiple_sdk_containers" in experiments(found)
    assert found.options.view_as(DebugOptions).number_of_worker_harness_threads == 4


def test_who_asks_for_other_processes_and_threads_gets_them(translate: Translate) -> None:
    found = translate("embed", "--experiments=use_multiple_sdk_containers", "--number_of_worker_harness_threads=1")
    assert "no_use_multiple_sdk_containers" not in experiments(found)
    assert found.options.view_as(DebugOptions).number_of_worker_harness_threads == 1


def test_a_job_without_a_model_has_a_process_a_core(translate: Translate) -> None:
    for job in ("mine", "join"):
        assert "no_use_multiple_sdk_containers" not in experiments(translate(job))


@pytest.mark.parametrize("job", JOBS)
def test_what_is_shipped_tells_nothing_of_the_machine_that_submits(
    translate: Translate, job: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    secret = "c0ffee-secret"
    for name in ("GOOGLE_APPLICATION_CREDENTIALS", "AWS_SECRET_ACCESS_KEY", "AZURE_STORAGE_KEY", "HF_TOKEN"):
        monkeypatch.setenv(name, str(tmp_path / secret))
    (tmp_path / secret).write_text("{}")
    shipped = BEAMS_FILES.sub(b"", unpacked(translate(job).pipeline))
    unwanted = [secret, str(ROOT), str(Path.home()), str(tmp_path), "site-packages", "__main__"]
    if len(getpass.getuser()) > 4:  # "root" is a word of Beam's own
        unwanted.append(getpass.getuser())
    assert [word for word in unwanted if word.encode() in shipped] == []
    assert b"base_version" in shipped  # the plan itself was looked at


@pytest.mark.parametrize("job", JOBS)
def test_nothing_is_staged_beside_the_pipeline(translate: Translate, job: str) -> None:
    for environment in translate(job).pipeline.components.environments.values():
        assert list(environment.dependencies) == []
        payload = beam_runner_api_pb2.DockerPayload.FromString(environment.payload)
        assert payload.container_image == "registry.example/embedding-jobs:1"


REFUSED: dict[str, tuple[list[str], tuple[str, ...]]] = {
    "a model in a folder of this machine": (["--model={folder}"], ("--model {folder}", "gs://")),
    "no image": (["--sdk_container_image="], ("--sdk_container_image", "deploy/Dockerfile")),
    "a hint that Beam cannot read": (["--encode_min_ram=lots"], ("--encode_min_ram", "lots")),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_work_is_refused_before_it_is_submitted(
    bucket: str, bundled_model: str, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    flags, words = REFUSED[case]
    flags = [flag.format(folder=bundled_model) for flag in flags]
    assert embed.main([*data_flags("embed", bucket), *dataflow_flags(bucket), "--dry_run=True", *flags]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    for word in words:
        assert word.format(folder=bundled_model) in line


def test_a_model_of_a_hub_is_refused_as_workers_never_ask_one(
    bucket: str, bundled_model: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transforms.model, "_hub", lambda _: Path(bundled_model))
    command = [*data_flags("embed", bucket), *dataflow_flags(bucket), "--dry_run=True", "--model=someone/tuned"]
    assert embed.main(command) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: --model someone/tuned: was found in {bundled_model} on this machine")


@pytest.mark.parametrize("place", ["store", "image"])
def test_a_model_in_a_store_or_in_the_image_is_named_to_the_workers(
    translate: Translate, bucket: str, bundled_model: str, place: str
) -> None:
    name = f"file://{bundled_model}"
    if place == "store":
        name = f"{bucket}/model"
        for path in (p for p in Path(bundled_model).rglob("*") if p.is_file()):
            storage.replace(f"{name}/{path.relative_to(bundled_model).as_posix()}", path.read_bytes())
    shipped = unpacked(translate("embed", f"--model={name}").pipeline)
    assert name.encode() in shipped
    assert (bundled_model.encode() in shipped) == (place == "image")


def unpacked(pipeline: Any) -> bytes:
    """The pipeline's bytes, and those that are compressed in it: Beam's pickles, and our plan in one of them."""
    found = [pipeline.SerializeToString()]
    for transform in pipeline.components.transforms.values():
        if transform.spec.urn == "beam:transform:pardo:v1":
            payload = beam_runner_api_pb2.ParDoPayload.FromString(transform.spec.payload)
            found.append(bz2.decompress(base64.b64decode(payload.do_fn.payload)))
    for pickled in found[1:]:
        for start in re.finditer(rb"x[\x01\x5e\x9c\xda]", pickled):
            with contextlib.suppress(zlib.error):
                found.append(zlib.decompressobj().decompress(pickled[start.start() :]))
    return b"\n".join(found)
