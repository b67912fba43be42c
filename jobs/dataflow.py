"""What a run on Dataflow needs that its flags need not say, and what cannot work there."""

from pathlib import PurePath

from apache_beam.options.pipeline_options import (
    DebugOptions,
    PipelineOptions,
    SetupOptions,
    StandardOptions,
    WorkerOptions,
)

from schemas.errors import InputError
from transforms.model import PACKAGED, ResolvedModel

HARNESS_THREADS = 4
"""Bundles at once in a worker: one encodes, the others read, write and wait with a block each."""
BAKED_MODELS = PurePath("/opt/models")
"""Folders below it are taken to be in the workers' image."""


def on_dataflow(options: PipelineOptions) -> bool:
    name = options.view_as(StandardOptions).runner or ""
    return name.rsplit(".", 1)[-1].lower() in ("dataflow", "dataflowrunner")


def prepare(options: PipelineOptions, model: ResolvedModel | None = None) -> None:
    """Settles how Dataflow's workers are run; elsewhere it does nothing.

    model: what the pipeline encodes with, if it does

    Raises:
        InputError: workers would lack this package or the model.
    """
    if not on_dataflow(options):
        return
    _check_image(options)
    debug, setup = options.view_as(DebugOptions), options.view_as(SetupOptions)
    # Beam would stage `pip freeze`, which tells of local paths, and of credentials in the URLs of packages.
    debug.add_experiment("disable_logging_submission_environment")
    if setup.save_main_session is None:  # nor is there anything in __main__ that workers need
        setup.save_main_session = False
    if model:
        _check_model(model)
        _one_encoder_a_worker(debug)


def refusal(error: Exception, options: PipelineOptions) -> str:
    """What Dataflow or the store it stages to has against a job; empty where the error is none of theirs."""
    theirs = type(error).__module__.startswith(("google.", "requests.")) or isinstance(error, OSError)
    return f"Dataflow took no job: {str(error).splitlines()[0]}" if theirs and on_dataflow(options) else ""


def _check_image(options: PipelineOptions) -> None:
    setup = options.view_as(SetupOptions)
    if not (options.view_as(WorkerOptions).sdk_container_image or setup.setup_file or setup.extra_packages):
        raise InputError(
            "--runner DataflowRunner: workers need this package and its model; name the image that deploy/Dockerfile "
            "makes: --sdk_container_image IMAGE"
        )


def _check_model(model: ResolvedModel) -> None:
    name, place = model.fingerprint.name, model.place
    everywhere = "://" in name or "://" in place or PurePath(place).is_relative_to(BAKED_MODELS)
    if everywhere or place == PACKAGED:
        return
    raise InputError(
        f"--model {name}: was found in {place} on this machine, and Dataflow's workers are elsewhere; copy that "
        f"folder to a store (--model gs://BUCKET/MODEL), or into the image, below {BAKED_MODELS}"
    )


def _one_encoder_a_worker(debug: DebugOptions) -> None:
    """One process a machine. Dataflow starts one a core, of which each would load the model and start a thread a core;
    ours computes outside of Python's lock on all cores, or on the one GPU, from one copy of the weights."""
    if "use_multiple_sdk_containers" not in (debug.experiments or []):
        debug.add_experiment("no_use_multiple_sdk_containers")
    if not debug.number_of_worker_harness_threads:
        debug.number_of_worker_harness_threads = HARNESS_THREADS
