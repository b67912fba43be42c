"""What the files of a sentence-transformers folder say of its vectors, read from the JSON as sentence-transformers 6
reads it (`base/model.py`, `base/modules/transformer.py`, `sentence_transformer/modules/pooling.py` there).

Loading the model would tell the same after five seconds of imports; it is asked where the JSON is not enough.
"""

import dataclasses
import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from schemas.errors import InputError

if TYPE_CHECKING:
    from transforms.model import EncodeOptions

NO_LIMIT = 2**31 - 1
"""The max_seq_length of a model that states none."""

NOT_PART_OF_THE_MODEL = ("onnx", "openvino", "coreml", "eval", "checkpoints", "runs", "blobs", "refs")
OTHER_FILES = ("data_config.json", "train_script.py", "requirements.txt", "LICENSE", "LICENSE.txt")
WEIGHTS_OF_OTHERS = (".bin", ".h5", ".ot", ".msgpack", ".onnx", ".tflite", ".gguf")
OTHER_SUFFIXES = (*WEIGHTS_OF_OTHERS, ".md", ".png", ".csv", ".pdf", ".lock")
TRANSFORMER_CONFIGS = [
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
]
POOLING_FLAGS = {  # in the order in which pooled vectors are put side by side
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
POSITIONS_AFTER_PADDING = (
    *(
        "roberta",
        "xlm-roberta",
        "xlm-roberta-xl",
        "roberta-prelayernorm",
        "camembert",
        "data2vec-text",
        "mpnet",
        "ibert",
    ),
    *("longformer", "xmod", "luke", "lilt", "esm"),
)
"""Their positions start at pad_token_id + 1, so that many of the table are never reached."""
N_POSITIONS = ("gpt2", "gptj", "gpt_bigcode", "codegen", "ctrl", "openai-gpt")
"""They call the length of that table `n_positions`. T5 has a field of that name too, which says nothing."""


class NotReadable(Exception):
    """The JSON does not say; the loaded model has to be asked."""


@dataclasses.dataclass(frozen=True)
class Shape:
    """What a folder and the options make of a text."""

    dim: int
    max_seq_length: int
    pooling: str
    normalized: bool
    prompt: str
    similarity: str


def describe_folder(folder: Path, options: "EncodeOptions") -> Shape:
    """The shape of the vectors. Raises InputError for a folder that cannot be used, or options that do not fit it."""
    config = _json(folder / "config_sentence_transformers.json")
    modules = _modules(folder)
    _require_safetensors(folder, modules)
    prompt = _prompt(config, options)
    try:
        length, limit = _max_seq_length(folder / modules[0]["path"], modules[0])
        dim, pooling, normalized = _vectors(folder, modules)
    except NotReadable:
        length, limit, dim, pooling, normalized = _ask(folder)
    if options.max_seq_length and options.max_seq_length > limit:
        raise InputError(f"--max_seq_length {options.max_seq_length}: the model has positions for {limit} tokens")
    unit = normalized
    truncate_dim = options.truncate_dim or config.get("truncate_dim")
    if options.truncate_dim and options.truncate_dim > dim:
        raise InputError(f"--truncate_dim {options.truncate_dim}: the model's vectors have {dim} dimensions")
    if truncate_dim and truncate_dim < dim:
        dim, normalized = truncate_dim, False  # sentence-transformers cuts after the model's own Normalize
        if unit and options.normalize == "false":  # neither has unit length, but they are of another scale
            pooling += ", not normalized"
    if options.normalize != "model":
        normalized = options.normalize == "true"
    return Shape(
        dim=dim,
        max_seq_length=min(options.max_seq_length or length, NO_LIMIT),
        pooling=pooling,
        normalized=normalized,
        prompt=prompt,
        similarity=config.get("similarity_fn_name") or "cosine",
    )


def folder_sha256(folder: Path) -> str:
    """A digest over the names and contents of all files that make the vectors: weights, tokenizer, configurations."""
    seen = hashlib.sha256()
    for name, path in _files(folder):
        seen.update(f"{name}\n{file_sha256(path)}\n".encode())
    return seen.hexdigest()


def known_folder_sha256(folder: Path) -> str:
    """The same, from memory where this process has read these very files before."""
    stats = tuple((name, s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for name, s in _stats(folder))
    if stats not in _KNOWN:
        _KNOWN[stats] = folder_sha256(folder)
    return _KNOWN[stats]


_KNOWN: dict[tuple[tuple[str, int, int, int, int, int], ...], str] = {}


def _stats(folder: Path) -> list[tuple[str, os.stat_result]]:
    return [(name, path.stat()) for name, path in _files(folder)]


def _files(folder: Path) -> list[tuple[str, Path]]:
    """Those that make the vectors, by their names below the folder, in the order of these."""
    named = [(path.relative_to(folder), path) for path in folder.rglob("*")]
    return sorted((name.as_posix(), path) for name, path in named if path.is_file() and counts(name))


def counts(name: Path) -> bool:
    """Whether a file of a model's folder, by its name in it, has a part in the vectors."""
    hidden = any(part.startswith(".") for part in name.parts)
    other = name.parts[0] in NOT_PART_OF_THE_MODEL or name.name in OTHER_FILES or name.suffix in OTHER_SUFFIXES
    return not hidden and not other


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _json(path: Path, kind: type = dict) -> Any:
    """A JSON object (or list, with `kind`); empty where there is no such file."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return kind()
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"--model: {path} is not JSON: {error}") from None
    if not isinstance(found, kind):
        raise InputError(f"--model: {path} is not a JSON {kind.__name__}")
    return found


def _modules(folder: Path) -> list[dict[str, Any]]:
    """modules.json, or what sentence-transformers makes of a plain transformers folder: mean pooling added."""
    if (folder / "modules.json").is_file():
        modules = _json(folder / "modules.json", list)
        if not modules or any(not {"path", "type"} <= set(module) for module in modules):
            raise InputError(f"--model: {folder}/modules.json is no list of modules, each with a path and a type")
        return modules
    config = _json(folder / "config.json")
    if not config:
        raise InputError(
            f"--model: {folder} is no model: it has neither modules.json (sentence-transformers) nor config.json "
            "(transformers)"
        )
    pooling = {"path": None, "type": "sentence_transformers.models.Pooling", "mean_of": config.get("hidden_size")}
    if any(a.endswith("ForCausalLM") for a in config.get("architectures") or ()):
        raise InputError(f"--model: {folder} is a causal language model without modules.json: no sentence embeddings")
    return [{"path": "", "type": "sentence_transformers.models.Transformer"}, pooling]


def _require_safetensors(folder: Path, modules: list[dict[str, Any]]) -> None:
    """Pickled weights can run code when they are read, so they are not read."""
    for module in modules:
        if module["path"] is None:
            continue
        place = folder / module["path"]
        if (place / "adapter_config.json").is_file():
            raise InputError(f"--model: {place} is a PEFT adapter; merge it into its base model and save that")
        has_weights = any(place.glob("*.safetensors"))
        if not has_weights and (pickled := next(place.glob("*.bin"), None)):
            raise InputError(
                f"--model: {place} has its weights only as {pickled.name}; only safetensors are read. "
                "Convert it once where you trust it: SentenceTransformer(FOLDER).save_pretrained(NEW_FOLDER)"
            )
        if not has_weights and _kind(module) in ("Transformer", "Dense"):
            raise InputError(f"--model: {place} has no model.safetensors")


def _kind(module: dict[str, Any]) -> str:
    """The class of one of sentence-transformers' own modules; '' for anyone else's."""
    package, _, name = module["type"].rpartition(".")
    return name if package.split(".")[0] == "sentence_transformers" else ""


def _prompt(config: dict[str, Any], options: "EncodeOptions") -> str:
    """The text that goes before every text."""
    if options.prompt is not None:
        return options.prompt
    prompts = config.get("prompts") or {}
    name = options.prompt_name if options.prompt_name is not None else config.get("default_prompt_name")
    if name is None:
        return ""
    if name not in prompts:
        flag = "--prompt_name" if options.prompt_name is not None else "--model: its default_prompt_name"
        raise InputError(f"{flag} {name}: the model has {', '.join(sorted(prompts)) or 'no prompts'}")
    return prompts[name] or ""


def _max_seq_length(place: Path, module: dict[str, Any]) -> tuple[int, int]:
    """`(max_seq_length, the most that it can be set to)`."""
    if _kind(module) != "Transformer":
        raise NotReadable
    own: dict[str, Any] = next((found for name in TRANSFORMER_CONFIGS if (found := _json(place / name))), {})
    if {"processing_kwargs", "tokenizer_name_or_path"} & set(own):
        raise NotReadable
    config, tokenizer = _json(place / "config.json"), _json(place / "tokenizer_config.json")
    kind = config.get("model_type")
    positions = config.get("n_positions" if kind in N_POSITIONS else "max_position_embeddings", -1)
    known = isinstance(positions, int) and positions > 0
    limit, most = (positions, NO_LIMIT) if known else (NO_LIMIT, NO_LIMIT)
    if known and kind in POSITIONS_AFTER_PADDING:
        padding = config.get("pad_token_id")
        limit = most = positions - (1 if padding is None else padding) - 1
    for kwargs in ("processor_kwargs", "tokenizer_args", "tokenizer_kwargs"):
        if stated := (own.get(kwargs) or {}).get("model_max_length"):
            return min(int(stated), most), limit
    if own.get("max_seq_length") is not None:
        return min(int(own["max_seq_length"]), most), limit
    return min(int(tokenizer.get("model_max_length") or NO_LIMIT), limit), limit


def _vectors(folder: Path, modules: list[dict[str, Any]]) -> tuple[int, str, bool]:
    """`(dim, pooling, whether vectors have unit length)`."""
    dim, pooling, normalized = 0, "", False
    for module in modules[1:]:
        kind = _kind(module)
        config = _json(folder / module["path"] / "config.json") if module["path"] else {}
        on_sentence = config.get("module_input_name", "sentence_embedding") == "sentence_embedding"
        if kind == "Pooling":
            size = module.get("mean_of") or config.get("embedding_dimension") or config.get("word_embedding_dimension")
            modes = _pooling_modes(config)
            if not size:
                raise NotReadable
            dim, pooling, normalized = size * len(modes), "+".join(modes), False
        elif kind == "Dense" and on_sentence and not config.get("module_output_name", "").startswith("token"):
            dim, normalized = config["out_features"], False
        elif kind == "Normalize" and on_sentence:
            normalized = True
        elif kind != "Dropout":
            raise NotReadable
    if not dim or _kind(modules[0]) != "Transformer":
        raise NotReadable
    return dim, pooling, normalized


def _pooling_modes(config: dict[str, Any]) -> list[str]:
    if modes := config.get("pooling_mode"):
        return [modes] if isinstance(modes, str) else list(modes)
    return [mode for flag, mode in POOLING_FLAGS.items() if config.get(flag)] or ["mean"]


def _ask(folder: Path) -> tuple[int, int, int, str, bool]:
    """`(max_seq_length, its limit, dim, the modules' names, unit length)` of the loaded model, five seconds later.

    Raises InputError where it cannot be loaded.
    """
    from transforms.loaded_model import load_sentence_transformer
    from transforms.window import window

    try:
        model = load_sentence_transformer(str(folder), "cpu")
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:500]
        raise InputError(f"--model: {folder} cannot be loaded as sentence-transformers would: {reason}") from error
    model.truncate_dim = None
    dim = model.get_embedding_dimension()
    if dim is None:
        dim = int(model.encode(["dimension"]).shape[1])
    names = [type(module).__name__ for module in model]
    positions = getattr(getattr(model[0], "config", None), "max_position_embeddings", None)
    limit = positions if isinstance(positions, int) and positions > 0 else NO_LIMIT
    return window(model), limit, dim, "+".join(names), names[-1] == "Normalize"
