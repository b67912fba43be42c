"""A SentenceTransformer as the encoder runs it: features in, finished vectors out. Importing it takes seconds: torch,
and with the first model sentence_transformers."""

import contextlib
import dataclasses
import functools
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from schemas.errors import InputError
from transforms import padding
from transforms.device import DEFAULT_BATCH_TOKENS, activation_bytes, cuda_batch_tokens
from transforms.device_faults import is_out_of_memory, raise_if_gone
from transforms.fidelity import fidelity
from transforms.fused_transformer import BATCH_TOKENS, FusedTransformer, can_be_fused
from transforms.lanes import LANES, DirectLane
from transforms.model import EncodeOptions, ResolvedModel
from transforms.packed_transformer import MOST_PADDING, PackedTransformer, can_be_packed
from transforms.stateful_layers import check_attention, separate_threads
from transforms.tokenize import FastTokenizer, check_room
from transforms.tokenize_slow import SlowTokenizer
from transforms.window import set_window, stated_window, window

Compute = Callable[[Any, np.ndarray], np.ndarray]
LEAST_LIKE_TORCH = 0.99
"""Fidelity of a backend in whatever precision. What is below it is not what rounding does."""


class LoadedModel:
    """The model's own modules with the options applied, in the fingerprint's dtype and by its backend.

    In a low precision only the transformer is low: with pooling and normalising in bfloat16, norms are off by 4e-3.

    boundaries: numbers of tokens that no batch may have texts on both sides of
    most_padding: tokens of a batch; None for any

    Raises:
        InputError: the model cannot be run so, or no vector of it would depend on its text alone.
        RunFailed: the folder holds another model than the run was planned with.
    """

    def __init__(self, resolved: ResolvedModel, options: EncodeOptions, device: str, workers: int = 1) -> None:
        """workers: threads that compute with it at a time"""
        self.dim = resolved.fingerprint.dim
        self._resolved, self._options = resolved, options
        self._normalize = options.normalize == "true"
        self._device = torch.device(device)
        self._lane = LANES[self._device.type]
        self._of_thread = threading.local()
        if self._device.type == "cuda":
            # cuDNN's attention prepares 50 ms at every new shape of a batch, on an H200; the others, nothing.
            torch.backends.cuda.enable_cudnn_sdp(False)
        self._cpu_lock = threading.Lock()
        self._cpu_model: LoadedModel | None = None
        made = resolved.fingerprint
        self.is_reference = (made.backend, made.dtype) == ("torch", "float32")
        self._exact = self._load()
        self._vocabulary = _vocabulary(self._exact)
        self.tokenizer = _tokenizer(self._exact, made.prompt)
        self.tokenize: Any = self.tokenizer  # texts -> Tokens; the Encoder may have it done elsewhere
        check_room(self.tokenizer.room, self.tokenizer.limit)
        check_attention(self._exact, self.tokenizer.limit)
        self.boundaries = separate_threads(self._exact, self.tokenizer.limit)
        self._model = self._exact if self.is_reference else self._load_other()
        self.batch_tokens = options.batch_tokens or self._batch_tokens(getattr(torch, made.dtype), workers)
        self.pads = self._can_pad()
        self.most_padding = self._most_padding()
        if not self.pads and not self.tokenizer.exact:
            self.batch_tokens = 1  # texts of one length cannot be told: each is a batch

    def __call__(self, tokens: Any, rows: np.ndarray) -> np.ndarray:
        """(len(rows), dim) float32, valid until the same worker's next call."""
        return self._vectors(self._model, tokens, rows)

    def reference(self, tokens: Any, rows: np.ndarray) -> np.ndarray:
        """The same by torch in float32, to which all else is compared."""
        return self._vectors(self._exact, tokens, rows)

    def on_cpu(self, tokens: Any, rows: np.ndarray) -> np.ndarray:
        """The same by the CPU, for what does not fit in the device's memory. It loads a model of its own, once."""
        if self._lane is DirectLane:
            return self.reference(tokens, rows)
        with self._cpu_lock:
            if self._cpu_model is None:
                made = dataclasses.replace(self._resolved.fingerprint, backend="torch", dtype="float32")
                resolved = dataclasses.replace(self._resolved, fingerprint=made)
                self._cpu_model = LoadedModel(resolved, self._options, "cpu")
        return self._cpu_model.reference(tokens, rows)

    def widths(self, lengths: np.ndarray) -> np.ndarray:
        """Of texts of so many tokens, what a batch pads them to at least."""
        widths = self._lane.widths(lengths, self.tokenizer.limit) if self.pads else lengths
        for boundary in self.boundaries:
            widths = np.where(lengths <= boundary, np.minimum(widths, boundary), widths)
        return widths

    def lacks_memory(self, error: Exception) -> bool:
        """Whether a smaller batch may pass. Raises DeviceGone where the device is to blame, not the batch."""
        raise_if_gone(error, self._device, self._probe)
        return is_out_of_memory(error)

    def free_memory(self) -> None:
        """Gives back what the device's allocator holds. Called when the error is gone, which holds tensors too."""
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _probe(self) -> None:
        """Has the device compute something small, and waits for it."""
        assert torch.zeros(1, device=self._device).add(1).item() == 1

    def _load(self) -> Any:
        with self._resolved.checked_folder() as folder:
            model = load_sentence_transformer(folder, str(self._device))
        tokens = self._options.max_seq_length or min(self._resolved.fingerprint.max_seq_length, window(model))
        if tokens != stated_window(model):
            set_window(model, tokens)
        if self._options.normalize == "false":
            for name in _last_normalizes(model):
                delattr(model, name)
        return model

    def _load_other(self) -> Any:
        """In the fingerprint's dtype and by its backend, where that is not torch in float32."""
        model, made = self._load(), self._resolved.fingerprint
        separate_threads(model, self.tokenizer.limit)
        if made.backend == "openvino":
            _replace_transformer(model, made.dtype, self.tokenizer.limit)
        else:
            _lower(model, getattr(torch, made.dtype), self.tokenizer.limit)
        return model

    def _can_pad(self) -> bool:
        """Whether a text's vector stays the same where its batch is padded.

        Raises InputError where OpenVINO computes something else than torch.
        """
        config = getattr(getattr(self._exact[0], "auto_model", None), "config", None)
        tokens = self.tokenizer(padding.probe_texts(config, self.tokenizer.own_words, self.boundaries))
        if self.tokenizer.exact and np.ptp(tokens.lengths) == 0:  # so short a window that nobody can tell
            return False
        exact, own = (functools.partial(self._plain, model) for model in (self._exact, self._model))
        made = self._resolved.fingerprint
        if made.backend == "openvino":
            _check_likeness(exact, own, tokens)
        dtypes = ((exact, "float32"), *([(own, made.dtype)] if made.backend == "openvino" else ()))
        return not any(padding.changes_vectors(compute, tokens, dtype) for compute, dtype in dtypes)

    def _most_padding(self) -> int | None:
        if not self.pads:
            return 0
        packed = isinstance(getattr(self._model[0], "model", None), PackedTransformer)
        return MOST_PADDING if packed else self._lane.most_padding

    def _vectors(self, model: Any, tokens: Any, rows: np.ndarray) -> np.ndarray:
        lane = self._lane_of_thread()
        with torch.inference_mode():
            features = self.tokenizer.features(tokens, rows, int(self.widths(tokens.lengths[rows]).max()))
            self._check_ids(features)
            return lane.to_host(self._finished(model(lane.to_device(features))))

    def _plain(self, model: Any, tokens: Any, rows: np.ndarray) -> np.ndarray:
        """Vectors without a lane, and without padding beyond need: for the thread that loads the model."""
        with torch.inference_mode():
            features = self.tokenizer.features(tokens, rows, int(tokens.lengths[rows].max()))
            self._check_ids(features)
            there = {n: v.to(self._device) if torch.is_tensor(v) else v for n, v in features.items()}
            return self._finished(model(there)).cpu().numpy()

    def _finished(self, features: dict[str, Any]) -> torch.Tensor:
        """(n, dim) float32: what the modules made, cut and normalised as the options ask for."""
        vectors = features["sentence_embedding"][..., : self.dim]
        if self._normalize:
            vectors = torch.nn.functional.normalize(vectors, p=2, dim=1)
        return vectors.float()

    def _check_ids(self, features: dict[str, Any]) -> None:
        """Raises IndexError for a token that the model does not know: on a GPU its lookup would end the device."""
        ids = features.get("input_ids")
        if self._vocabulary and ids is not None and ids.numel() and int(ids.max()) >= self._vocabulary:
            raise IndexError(f"token {int(ids.max())} is beyond the model's vocabulary of {self._vocabulary}")

    def _lane_of_thread(self) -> Any:
        """The way of this thread to the device, which its first batch makes."""
        if not hasattr(self._of_thread, "lane"):
            self._of_thread.lane = self._lane(self._device)
        return self._of_thread.lane

    def _batch_tokens(self, dtype: torch.dtype, workers: int) -> int:
        """Padded tokens a batch that suit the device."""
        if self._device.type == "cuda":
            config = getattr(getattr(self._model[0], "auto_model", None), "config", None)
            token_bytes = activation_bytes(config, min(self.tokenizer.limit, 512), dtype.itemsize)
            if token_bytes:
                return cuda_batch_tokens(torch.cuda.mem_get_info(self._device)[0], token_bytes, workers)
        if isinstance(getattr(self._model[0], "model", None), FusedTransformer):
            return BATCH_TOKENS
        return DEFAULT_BATCH_TOKENS[self._device.type]


def load_sentence_transformer(folder: str, device: str) -> Any:
    """The model in float32, for inference. safetensors and local files only, no code of the model's own."""
    with _quietly():
        from sentence_transformers import SentenceTransformer

        model = SentenceTransformer(
            folder,
            device=device,
            local_files_only=True,
            trust_remote_code=False,
            model_kwargs={"use_safetensors": True, "dtype": torch.float32},
        )
    return model.eval().requires_grad_(False)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without transformers' bar and report on loading weights: stderr is ours. Failures raise all the same."""
    from transformers.utils import logging as transformers_logging

    loggers = [logging.getLogger(name) for name in ("sentence_transformers", "transformers")]
    before = [logger.level for logger in loggers]
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
        if bars:
            transformers_logging.enable_progress_bar()


def _lower(model: Any, dtype: torch.dtype, window: int) -> None:
    """Converts the transformer alone; what it hands on is float32 again. Faster than autocast, which casts weights at
    every call."""
    transformer = _transformer(model, "--dtype", "--dtype float32")
    replaceable = _hands_on_last_states_alone(model[0])
    if dtype == torch.bfloat16 and replaceable and can_be_fused(transformer, window):
        model[0].model = FusedTransformer(transformer, dtype)
    elif replaceable and can_be_packed(transformer, dtype):
        model[0].model = PackedTransformer(transformer, dtype)
    else:
        transformer.to(dtype)
        model[0].register_forward_hook(_raise)


def _replace_transformer(model: Any, dtype: str, window: int) -> None:
    from transforms.openvino_transformer import OpenVinoTransformer

    transformer = _transformer(model, "--backend openvino", "--backend torch")
    if not _hands_on_last_states_alone(model[0]):
        raise InputError(
            "--backend openvino: computes the last layer's states alone, and this model uses others; use --backend "
            "torch"
        )
    with _quietly():  # transformers wonders about being traced
        names = list(model.tokenizer.model_input_names)
        model[0].model = OpenVinoTransformer(transformer, names, dtype, window)


def _check_likeness(exact: Compute, own: Compute, tokens: Any) -> None:
    """Raises InputError where OpenVINO does not compute what torch does of the tokens' texts, each alone."""
    for row in range(len(tokens.lengths)):
        wanted = exact(tokens, np.array([row]))[0].copy()
        try:
            near = fidelity(wanted, own(tokens, np.array([row]))[0])
            problem = "" if near >= LEAST_LIKE_TORCH else f"its vectors are other than torch's (cosine {near:.3f})"
        except Exception as error:
            problem = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        if problem and np.isfinite(wanted).all() and wanted.any():
            raise InputError(f"--backend openvino: cannot run this model, {problem}; use --backend torch")


def _hands_on_last_states_alone(module: Any) -> bool:
    """Whether nothing else of the transformer is used: no other layer's states, and not what its own pooler makes."""
    if getattr(module.auto_model.config, "output_hidden_states", False):
        return False
    used = getattr(module, "modality_config", {}).get("text", {})
    outputs = used.get("method_output_name")
    outputs = outputs if isinstance(outputs, str) else tuple(outputs or ())
    return used.get("method") == "forward" and outputs in ("last_hidden_state", ("last_hidden_state",))


def _last_normalizes(model: Any) -> list[str]:
    """Names of the modules that give the finished vector unit length: those that nothing but Dropout follows."""
    found: list[str] = []
    for name, module in reversed(list(model.named_children())):
        kind = type(module).__name__
        if kind == "Normalize":
            found.append(name)
        elif kind != "Dropout":
            break
    return found


def _vocabulary(model: Any) -> int | None:
    """How many tokens the transformer knows; None where it has no table of them."""
    transformer: Any = getattr(model[0], "auto_model", None)
    try:
        return int(transformer.get_input_embeddings().num_embeddings)
    except (AttributeError, NotImplementedError):
        return None


def _transformer(model: Any, flag: str, instead: str) -> torch.nn.Module:
    transformer = getattr(model[0], "auto_model", None)
    if not isinstance(transformer, torch.nn.Module):
        raise InputError(f"{flag}: the model begins with {type(model[0]).__name__}, no transformer; use {instead}")
    return transformer


def _raise(module: Any, inputs: Any, features: dict[str, Any]) -> dict[str, Any]:
    for name, value in features.items():
        if torch.is_tensor(value) and value.is_floating_point():
            features[name] = value.float()
    return features


def _tokenizer(model: Any, prompt: str) -> FastTokenizer | SlowTokenizer:
    try:
        return FastTokenizer(model, prompt)
    except (ValueError, AttributeError, TypeError):
        return SlowTokenizer(model, prompt)
