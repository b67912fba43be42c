"""A SentenceTransformer as the encoder runs it: features in, finished vectors out. Importing it takes seconds: torch,
and with the first model sentence_transformers."""

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from schemas.errors import InputError
from transforms.device import DEFAULT_BATCH_TOKENS, activation_bytes, cuda_batch_tokens
from transforms.fused_transformer import BATCH_TOKENS, FusedTransformer, can_be_fused
from transforms.lanes import LANES
from transforms.model import EncodeOptions, ResolvedModel
from transforms.model_folder import NO_LIMIT
from transforms.packed_transformer import MOST_PADDING, PackedTransformer, can_be_packed
from transforms.tokenize import FastTokenizer, Tokens
from transforms.tokenize_slow import SlowTokenizer

OUT_OF_MEMORY = ("not enough memory", "can't allocate memory", "out of memory")


class LoadedModel:
    """The model's own modules with the options applied, in the fingerprint's dtype and by its backend.

    In a low precision only the transformer is low: with pooling and normalising in bfloat16, norms are off by 4e-3.
    """

    def __init__(self, resolved: ResolvedModel, options: EncodeOptions, device: str, workers: int = 1) -> None:
        """workers: threads that compute with it at a time"""
        self.dim = resolved.fingerprint.dim
        self._normalize = options.normalize == "true"
        self._device = torch.device(device)
        self._lane = LANES[self._device.type]
        self._of_thread = threading.local()
        if self._device.type == "cuda":
            # cuDNN's attention prepares 50 ms at every new shape of a batch, on an H200; the others, nothing.
            torch.backends.cuda.enable_cudnn_sdp(False)
        self.most_padding = self._lane.most_padding
        self._exact = self._load(resolved, options)
        self._model = self._exact
        self.tokenizer = _tokenizer(self._exact, resolved.fingerprint.prompt)
        self.tokenize: Callable[[Sequence[str]], Tokens] = self.tokenizer
        made = resolved.fingerprint
        self.is_reference = (made.backend, made.dtype) == ("torch", "float32")
        if not self.is_reference:
            self._model = self._load(resolved, options)
            if made.backend == "openvino":
                _replace_transformer(self._model, made.dtype)
            else:
                _lower(self._model, getattr(torch, made.dtype))
        if isinstance(getattr(self._model[0], "model", None), PackedTransformer):
            self.most_padding = MOST_PADDING
        self.batch_tokens = options.batch_tokens or self._batch_tokens(getattr(torch, made.dtype), workers)

    def __call__(self, tokens: Any, rows: np.ndarray) -> np.ndarray:
        """(len(rows), dim) float32, valid until the same worker's next call."""
        return self._vectors(self._model, tokens, rows)

    def reference(self, tokens: Any, rows: np.ndarray) -> np.ndarray:
        """The same by torch in float32, to which all else is compared."""
        return self._vectors(self._exact, tokens, rows)

    def begin_thread(self) -> None:
        """Called by each worker first."""
        self._of_thread.lane = self._lane(self._device)

    def widths(self, lengths: np.ndarray) -> np.ndarray:
        """Of texts of so many tokens, what a batch pads them to at least."""
        return self._lane.widths(lengths, self.tokenizer.limit)

    def ran_out_of_memory(self, error: Exception) -> bool:
        """Whether a smaller batch may pass. Frees what the allocator of the device holds back."""
        found = isinstance(error, torch.OutOfMemoryError | MemoryError) or any(m in str(error) for m in OUT_OF_MEMORY)
        if found and self._device.type == "cuda":
            torch.cuda.empty_cache()
        return found

    def _load(self, resolved: ResolvedModel, options: EncodeOptions) -> Any:
        model = load_sentence_transformer(resolved.folder, str(self._device))
        if options.max_seq_length:
            model.max_seq_length = options.max_seq_length
        if options.normalize == "false":
            for name in [name for name, module in model.named_children() if type(module).__name__ == "Normalize"]:
                delattr(model, name)
        return model

    def _vectors(self, model: Any, tokens: Any, rows: np.ndarray) -> np.ndarray:
        lane = self._of_thread.lane
        with torch.inference_mode():
            features = self.tokenizer.features(tokens, rows, int(self.widths(tokens.lengths[rows]).max()))
            vectors = model(lane.to_device(features))["sentence_embedding"][..., : self.dim]
            if self._normalize:
                vectors = torch.nn.functional.normalize(vectors, p=2, dim=1)
            return lane.to_host(vectors.float())

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


def _lower(model: Any, dtype: torch.dtype) -> None:
    """Converts the transformer alone; what it hands on is float32 again. Faster than autocast, which casts weights at
    every call."""
    transformer = _transformer(model, "--dtype", "--dtype float32")
    if dtype == torch.bfloat16 and can_be_fused(transformer, model.max_seq_length or NO_LIMIT):
        model[0].model = FusedTransformer(transformer, dtype)
    elif can_be_packed(transformer, dtype):
        model[0].model = PackedTransformer(transformer, dtype)
    else:
        transformer.to(dtype)
        model[0].register_forward_hook(_raise)


def _replace_transformer(model: Any, dtype: str) -> None:
    from transforms.openvino_transformer import OpenVinoTransformer

    transformer = _transformer(model, "--backend openvino", "--backend torch")
    with _quietly():  # transformers wonders about being traced
        names, window = list(model.tokenizer.model_input_names), model.max_seq_length or NO_LIMIT
        model[0].model = OpenVinoTransformer(transformer, names, dtype, window)


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
