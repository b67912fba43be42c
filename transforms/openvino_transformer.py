"""A transformer run by OpenVINO in place of torch; the model's other modules stay as they are. CPU alone."""

import contextlib
import sys
import threading
import warnings
from typing import Any

import torch

from schemas.errors import InputError
from transforms.device import cpu_threads

PRECISION = {"float32": "f32", "bfloat16": "bf16"}
EXAMPLE = ([5, 6, 7, 8, 9, 10, 11], [5, 6, 7])
"""Token ids that the model is traced with: padded, so that the mask is part of what is traced."""
APART = {"SNIPPETS_MODE": "DISABLE"}
"""Attention as two products and a softmax. OpenVINO would fuse them into one kernel, which in bfloat16 on AMX takes 2.3
times as long for texts of 25 tokens, 1.4 times for 120, and 0.9 for 250. The property is none that it promises."""
LONGEST_APART = 512
"""Tokens. Models of larger windows keep it fused: apart, the scores of 8,192 tokens take gigabytes."""


class OpenVinoTransformer(torch.nn.Module):
    """Stands where the transformer did: token ids and mask in, `last_hidden_state` `(n, tokens, dim)` float32 out.

    One inference request a thread, each of which computes on a core of its own, as the encoder's workers do. What it
    returns is valid until the same thread calls again.

    Raises:
        InputError: OpenVINO is not installed, or cannot convert this transformer.
    """

    def __init__(self, transformer: torch.nn.Module, names: list[str], dtype: str, window: int) -> None:
        """window: the most tokens of a text"""
        super().__init__()
        self.config = transformer.config
        threads = str(cpu_threads())
        settings = {
            "INFERENCE_PRECISION_HINT": PRECISION[dtype],
            "PERFORMANCE_HINT": "THROUGHPUT",
            "NUM_STREAMS": threads,
            "INFERENCE_NUM_THREADS": threads,
        }
        openvino = _import_openvino()
        if apart := window <= LONGEST_APART:
            _choose_eager(transformer)
        self._compiled = _compile(openvino, _convert(openvino, transformer, names), settings, apart)
        inputs = {name for port in self._compiled.inputs for name in port.names}
        self._names = [name for name in names if name in inputs]  # conversion drops what a model does not look at
        self._of_thread = threading.local()

    def forward(self, **features: Any) -> dict[str, torch.Tensor]:
        if not hasattr(self._of_thread, "request"):
            self._of_thread.request = self._compiled.create_infer_request()
        inputs = {name: features[name].numpy() for name in self._names}
        found = self._of_thread.request.infer(inputs, share_inputs=True, share_outputs=True)
        with warnings.catch_warnings(action="ignore"):  # the array is read-only, and so is our use of it
            return {"last_hidden_state": torch.from_numpy(found["last_hidden_state"])}


def is_installed() -> bool:
    try:
        _import_openvino()
    except InputError:
        return False
    return True


def _import_openvino() -> Any:
    """The package, without the reports that it would send to its makers when it is imported."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # counts as not installed
    try:
        import openvino
    except ImportError:
        raise InputError("--backend openvino: is not installed; pip install 'embedding-jobs[openvino]'") from None
    return openvino


def _choose_eager(transformer: Any) -> None:
    """The form of attention with the fewest operations, once they are not fused."""
    if hasattr(transformer, "set_attn_implementation"):
        transformer.set_attn_implementation("eager")


def _convert(openvino: Any, transformer: torch.nn.Module, names: list[str]) -> Any:
    width = len(EXAMPLE[0])
    ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in EXAMPLE])
    mask = torch.tensor([[place < len(row) for place in range(width)] for row in EXAMPLE]).long()
    made = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
    try:
        with warnings.catch_warnings(action="ignore"), torch.inference_mode(False), torch.no_grad():
            model = openvino.convert_model(transformer, example_input={name: made[name] for name in names})
            model.output("last_hidden_state")
    except Exception as error:
        reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
        raise InputError(
            f"--backend openvino: cannot convert {type(transformer).__name__} ({reason}); use --backend torch"
        ) from error
    return model


def _compile(openvino: Any, model: Any, settings: dict[str, str], apart: bool) -> Any:
    core = openvino.Core()
    if apart:
        with contextlib.suppress(RuntimeError):  # of a version without this property; any other reason comes again
            return core.compile_model(model, "CPU", settings | APART)
    return core.compile_model(model, "CPU", settings)
