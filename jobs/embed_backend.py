"""`--backend auto`: the faster of what is installed, measured on the first rows of the run."""

import dataclasses
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from jobs import cli
from jobs.embed_plan import make_plan
from jobs.embed_sample import sample_rows
from schemas.errors import InputError, RunFailed
from schemas.manifest import newest_manifest
from transforms.device import choose_device
from transforms.fidelity import check
from transforms.model import EncodeOptions, ResolvedModel, resolve_model

if TYPE_CHECKING:
    from jobs.embed import EmbedConfig

MEASURE_ROWS = 512
TURNS = 3


def settle_backend(config: "EmbedConfig", runs_here: bool) -> tuple["EmbedConfig", ResolvedModel]:
    """The config with a backend that is settled, and its model.

    An output that is there keeps its backend, or what is measured today would encode everything anew tomorrow.

    Raises:
        InputError: the workers are elsewhere, where nothing can be measured now; and as `resolve_model`.
    """
    if config.encode.backend != "auto":
        return config, resolve_model(config.encode)
    if not runs_here:
        raise InputError("--backend auto: measures on this machine, and the workers are elsewhere; name one")
    base = newest_manifest(config.output)
    if base:
        return _with_backend(config, base.fingerprint.backend)
    settled, model = _with_backend(config, "torch")
    if choose_device(config.encode.device) != "cpu" or config.encode.dtype == "float16" or not _has_openvino():
        cli.say("backend torch: OpenVINO is not installed, or not for this device or precision")
        return settled, model
    plan, blocks, _ = make_plan(settled, model)
    texts = sample_rows(plan, blocks).texts[:MEASURE_ROWS]
    other, model_of_other = _with_backend(config, "openvino")
    try:
        seconds = _seconds(texts, [(settled.encode, model), (other.encode, model_of_other)])
    except (InputError, RunFailed) as error:
        cli.say(f"backend torch: {error}")
        return settled, model
    ratio = seconds[0] / max(1e-9, seconds[1])
    cli.say(f"backend {'openvino' if ratio > 1 else 'torch'}: openvino makes {ratio:.2f} times torch's tokens a second")
    return (other, model_of_other) if ratio > 1 else (settled, model)


def _with_backend(config: "EmbedConfig", backend: str) -> tuple["EmbedConfig", ResolvedModel]:
    encode = dataclasses.replace(config.encode, backend=backend)
    return dataclasses.replace(config, encode=encode), resolve_model(encode)


def _has_openvino() -> bool:
    from transforms.openvino_transformer import is_installed

    return is_installed()


def _seconds(texts: Sequence[str], contenders: Sequence[tuple[EncodeOptions, ResolvedModel]]) -> list[float]:
    """What encoding the texts takes each of them, the shortest of some turns: what else runs here only adds.

    Raises:
        InputError or RunFailed: the last of them cannot run the model, fails rows that the first does not, or is less
            near to float32 than `--min_fidelity`.
    """
    from transforms.encode import Encoder

    encoders = [Encoder(model, options) for options, model in contenders]
    first, *_, last = (encoder.encode(texts) for encoder in encoders)
    check(last.cosines, contenders[-1][0].min_fidelity, contenders[-1][0].dtype, contenders[-1][0].backend)
    if more := {failure.row for failure in last.failures} - {failure.row for failure in first.failures}:
        raise RunFailed(f"{contenders[-1][0].backend} fails {len(more)} of {len(texts)} rows that torch encodes")
    taken: list[list[float]] = [[] for _ in encoders]
    for _ in range(TURNS):
        for encoder, seconds in zip(encoders, taken, strict=True):
            started = time.perf_counter()
            encoder.encode(texts)
            seconds.append(time.perf_counter() - started)
    return [min(seconds) for seconds in taken]
