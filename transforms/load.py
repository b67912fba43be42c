"""Loads a SentenceTransformer as it is on disk. The one module that imports sentence_transformers: five seconds."""

import contextlib
import logging
from collections.abc import Iterator
from typing import Any


def load_sentence_transformer(folder: str, device: str) -> Any:
    """The model in float32, for inference. safetensors and local files only, no code of the model's own."""
    with _quietly():
        import torch
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
