"""Resolving a model: where its files are found, and what is read from them. Nothing here loads torch."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from schemas.errors import InputError
from transforms import model as model_module
from transforms import model_folder
from transforms.model import EncodeOptions, resolve_model
from transforms.model_folder import NO_LIMIT, folder_sha256

NORMALIZE = {"name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"}


@pytest.fixture
def folder(bundled_model: str, tmp_path: Path) -> Path:
    """A copy of the bundled model whose JSON can be changed; the weights are linked."""
    copy = tmp_path / "model"
    shutil.copytree(bundled_model, copy, ignore=shutil.ignore_patterns("model.safetensors"))
    (copy / "model.safetensors").symlink_to(Path(bundled_model) / "model.safetensors")
    return copy


def change(path: Path, **values: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    found = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(found | values))


def options(folder: Path, **values: Any) -> EncodeOptions:
    return EncodeOptions(model=str(folder), **values)


def test_the_bundled_model_is_found_by_both_its_names_and_described_in_full(bundled_model: str) -> None:
    for name in ("all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2"):
        found = resolve_model(EncodeOptions(model=name))
        assert found.folder == bundled_model
        print_ = found.fingerprint
        assert (print_.name, print_.dim, print_.max_seq_length, print_.pooling) == (name, 384, 256, "mean")
        assert (print_.normalized, print_.prompt, print_.similarity) == (True, "", "cosine")
        assert (print_.dtype, print_.backend, print_.long_texts) == ("float32", "torch", "truncate")


def test_resolving_imports_neither_torch_nor_sentence_transformers() -> None:
    code = (
        "import sys; from transforms.model import *; resolve_model(EncodeOptions());"
        "import transforms.encoder;"
        "sys.exit(bool({'torch', 'sentence_transformers', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2]).returncode == 0


def test_the_bundled_weights_are_refused_when_they_are_not_the_official_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_module, "BUNDLED_SHA256", "0" * 64)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=r"has sha256 53aa51172d14…, the official one is 0000"):
        resolve_model(EncodeOptions())


def test_an_unknown_model_says_what_was_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError) as caught:
        resolve_model(EncodeOptions(model="nobody/no-such-model"))
    message = str(caught.value)
    for part in ("--model nobody/no-such-model", "local folder: there is none", "holds only all-MiniLM-L6-v2"):
        assert part in message
    assert "nobody/no-such-model is not in it" in message
    assert "HF_HUB_OFFLINE is set" in message


def test_a_hub_that_does_not_answer_is_asked_once_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def refuse(*args: Any, **kwargs: Any) -> None:
        asked.append(kwargs["timeout"])
        raise ConnectionError("name resolution failed")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", refuse)
    with pytest.raises(InputError, match="ConnectionError: name resolution failed"):
        resolve_model(EncodeOptions(model="nobody/no-such-model"))
    assert asked == [5.0]


def test_a_url_is_not_found_and_the_hub_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *a, **k: pytest.fail("asked"))
    with pytest.raises(InputError, match="the web has no folders"):
        resolve_model(EncodeOptions(model="https://example.com/model"))


def test_a_revision_of_the_cached_repository_is_used_without_network(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit, cache = "a" * 40, tmp_path / "hub"
    repository = cache / "models--someone--tuned"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "v1").write_text(commit)
    (repository / "snapshots").mkdir()
    shutil.copytree(folder, repository / "snapshots" / commit, symlinks=True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    found = resolve_model(EncodeOptions(model="someone/tuned", model_revision="v1"))
    assert found.folder.endswith(f"models--someone--tuned/snapshots/{commit}")
    assert found.fingerprint.dim == 384


def test_pickled_weights_are_refused_and_the_message_says_how_to_convert(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(InputError, match=r"only as pytorch_model\.bin.*save_pretrained"):
        resolve_model(options(folder))


def test_a_dense_module_with_pickled_weights_is_refused(folder: Path) -> None:
    modules = json.loads((folder / "modules.json").read_text())
    modules.append({"name": "3", "path": "3_Dense", "type": "sentence_transformers.models.Dense"})
    (folder / "modules.json").write_text(json.dumps(modules))
    change(folder / "3_Dense" / "config.json", in_features=384, out_features=8)
    (folder / "3_Dense" / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(InputError, match="3_Dense has its weights only as pytorch_model"):
        resolve_model(options(folder))


def test_a_folder_that_is_no_model_says_which_files_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"neither modules\.json .* nor config\.json"):
        resolve_model(options(tmp_path))


def test_a_folder_without_weights_says_so(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"has no model\.safetensors"):
        resolve_model(options(folder))


def test_broken_json_names_the_file(folder: Path) -> None:
    (folder / "1_Pooling" / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"1_Pooling/config\.json is not JSON"):
        resolve_model(options(folder))


def test_a_plain_transformers_folder_gets_mean_pooling_and_no_normalize(folder: Path) -> None:
    (folder / "modules.json").unlink()
    (folder / "sentence_bert_config.json").unlink()
    found = resolve_model(options(folder)).fingerprint
    assert (found.pooling, found.normalized, found.dim, found.max_seq_length) == ("mean", False, 384, 512)


@pytest.mark.parametrize(
    ("config", "pooling", "dim"),
    [
        ({"word_embedding_dimension": 384, "pooling_mode_cls_token": True}, "cls", 384),
        ({"word_embedding_dimension": 384}, "mean", 384),
        ({"embedding_dimension": 384, "pooling_mode": "lasttoken"}, "lasttoken", 384),
        ({"embedding_dimension": 384, "pooling_mode": ["cls", "mean"]}, "cls+mean", 768),
        (
            {"word_embedding_dimension": 384, "pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True},
            "max+mean",
            768,
        ),
    ],
)
def test_pooling_is_read_in_its_old_and_its_new_form(folder: Path, config: Any, pooling: str, dim: int) -> None:
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(config))
    found = resolve_model(options(folder)).fingerprint
    assert (found.pooling, found.dim) == (pooling, dim)


def test_a_dense_module_after_normalize_sets_dim_and_ends_unit_length(folder: Path) -> None:
    modules = json.loads((folder / "modules.json").read_text())
    modules.append({"name": "3", "path": "3_Dense", "type": "sentence_transformers.models.Dense"})
    (folder / "modules.json").write_text(json.dumps(modules))
    change(folder / "3_Dense" / "config.json", in_features=384, out_features=8)
    (folder / "3_Dense" / "model.safetensors").write_bytes(b"")
    found = resolve_model(options(folder)).fingerprint
    assert (found.dim, found.normalized) == (8, False)


def test_truncate_dim_after_normalize_ends_unit_length_unless_asked_for(folder: Path) -> None:
    found = resolve_model(options(folder, truncate_dim=100)).fingerprint
    assert (found.dim, found.normalized) == (100, False)
    assert resolve_model(options(folder, truncate_dim=100, normalize="true")).fingerprint.normalized
    assert resolve_model(options(folder, truncate_dim=384)).fingerprint.normalized
    with pytest.raises(InputError, match="--truncate_dim 385: the model's vectors have 384"):
        resolve_model(options(folder, truncate_dim=385))


def test_normalize_follows_the_model_unless_the_flag_says_otherwise(folder: Path) -> None:
    assert not resolve_model(options(folder, normalize="false")).fingerprint.normalized
    modules = [m for m in json.loads((folder / "modules.json").read_text()) if m["path"] != "2_Normalize"]
    (folder / "modules.json").write_text(json.dumps(modules))
    assert not resolve_model(options(folder)).fingerprint.normalized
    assert resolve_model(options(folder, normalize="true")).fingerprint.normalized


@pytest.mark.parametrize(
    ("own", "tokenizer", "expected"),
    [
        ({"max_seq_length": 128}, {}, 128),
        ({"max_seq_length": None}, {"model_max_length": 384}, 384),
        ({"max_seq_length": None}, {"model_max_length": int(1e30)}, 512),  # capped by the positions
        ({"max_seq_length": 700}, {}, 700),  # stated outright: not capped
    ],
)
def test_max_seq_length_is_read_where_sentence_transformers_reads_it(
    folder: Path, own: Any, tokenizer: Any, expected: int
) -> None:
    change(folder / "sentence_bert_config.json", **own)
    change(folder / "tokenizer_config.json", **tokenizer)
    assert resolve_model(options(folder)).fingerprint.max_seq_length == expected


def test_a_model_without_positions_has_no_limit(folder: Path) -> None:
    change(folder / "sentence_bert_config.json", max_seq_length=None)
    change(folder / "tokenizer_config.json", model_max_length=int(1e30))
    change(folder / "config.json", max_position_embeddings=-1)
    assert resolve_model(options(folder)).fingerprint.max_seq_length == NO_LIMIT


def test_max_seq_length_beyond_the_models_positions_is_refused(folder: Path) -> None:
    assert resolve_model(options(folder, max_seq_length=512)).fingerprint.max_seq_length == 512
    with pytest.raises(InputError, match="--max_seq_length 513: the model has positions for 512"):
        resolve_model(options(folder, max_seq_length=513))


def test_prompts_come_from_the_flag_the_name_or_the_models_default(folder: Path) -> None:
    prompts = {"query": "query: ", "document": "passage: "}
    change(folder / "config_sentence_transformers.json", prompts=prompts, default_prompt_name="document")
    assert resolve_model(options(folder)).fingerprint.prompt == "passage: "
    assert resolve_model(options(folder, prompt_name="query")).fingerprint.prompt == "query: "
    assert resolve_model(options(folder, prompt="so: ")).fingerprint.prompt == "so: "
    assert resolve_model(options(folder, prompt="")).fingerprint.prompt == ""
    with pytest.raises(InputError, match="--prompt_name title: the model has document, query"):
        resolve_model(options(folder, prompt_name="title"))
    with pytest.raises(InputError, match="not both"):
        options(folder, prompt="a", prompt_name="query")


def test_similarity_is_the_models_own(folder: Path) -> None:
    change(folder / "config_sentence_transformers.json", similarity_fn_name="dot")
    assert resolve_model(options(folder)).fingerprint.similarity == "dot"


def test_the_digest_covers_what_makes_vectors_and_nothing_else(folder: Path) -> None:
    before = resolve_model(options(folder)).fingerprint.weights_sha256
    (folder / "README.md").write_text("other words")
    (folder / ".gitattributes").unlink()
    (folder / "data_config.json").unlink()
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model.onnx").write_bytes(b"0")
    assert resolve_model(options(folder)).fingerprint.weights_sha256 == before
    change(folder / "1_Pooling" / "config.json", include_prompt=False)
    changed = resolve_model(options(folder)).fingerprint.weights_sha256
    assert changed != before
    (folder / "vocab.txt").rename(folder / "vocabulary.txt")
    assert resolve_model(options(folder)).fingerprint.weights_sha256 != changed


@pytest.mark.model
def test_a_module_that_the_json_does_not_explain_is_asked_for_its_shape(folder: Path) -> None:
    modules = json.loads((folder / "modules.json").read_text())
    modules.insert(2, {"name": "n", "path": "n_LayerNorm", "type": "sentence_transformers.models.LayerNorm"})
    (folder / "modules.json").write_text(json.dumps(modules))
    change(folder / "n_LayerNorm" / "config.json", dimension=384)
    import torch
    from safetensors.torch import save_file

    weights = {"norm.weight": torch.ones(384), "norm.bias": torch.zeros(384)}
    save_file(weights, folder / "n_LayerNorm" / "model.safetensors")
    found = resolve_model(options(folder)).fingerprint
    assert (found.dim, found.normalized, found.max_seq_length) == (384, True, 256)
    assert found.pooling == "Transformer+Pooling+LayerNorm+Normalize"


@pytest.mark.parametrize(
    ("flag", "value"),
    [("device", "tpu"), ("dtype", "int8"), ("normalize", "yes"), ("long_texts", "drop"), ("batch_tokens", 0)],
)
def test_a_value_that_a_flag_does_not_have_is_refused_by_the_flags_name(flag: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"--{flag} {value}"):
        EncodeOptions(**{flag: value})


def put_snapshot(cache: Path, folder: Path, commit: str = "a" * 40) -> Path:
    """A cache of the hub, as transformers fills it with a plain model."""
    repository = cache / "models--someone--plain"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    shutil.copytree(folder, repository / "snapshots" / commit, symlinks=True)
    (repository / "snapshots" / commit / "modules.json").unlink()
    return repository


def test_a_snapshot_without_modules_is_refused_unless_the_repository_has_none(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mean pooling was invented for a model of which transformers alone had fetched its own files."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    repository = put_snapshot(tmp_path / "hub", folder)
    asked = EncodeOptions(model="someone/plain")
    with pytest.raises(InputError, match=r"has no modules\.json, as transformers alone fetched it.*HF_HUB_OFFLINE"):
        resolve_model(asked)
    missing = repository / ".no_exist" / ("a" * 40)
    missing.mkdir(parents=True)
    (missing / "modules.json").touch()  # what asking the hub has left
    found = resolve_model(asked)
    assert (found.fingerprint.pooling, found.pooling_assumed) == ("mean", True)


def test_a_repository_without_modules_that_was_fetched_once_is_used_without_network(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub.errors import EntryNotFoundError

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    repository = put_snapshot(tmp_path / "hub", folder)
    snapshot = repository / "snapshots" / ("a" * 40)

    def ask(name: str, file: str, revision: str) -> None:
        assert (name, file) == ("someone/plain", "modules.json")
        (repository / ".no_exist" / revision).mkdir(parents=True)
        (repository / ".no_exist" / revision / file).touch()  # as the hub's library does
        raise EntryNotFoundError("404")

    with monkeypatch.context() as online:
        online.setattr("huggingface_hub.HfApi.model_info", lambda *_, **__: SimpleNamespace(sha="a" * 40))
        online.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(snapshot))
        online.setattr("huggingface_hub.hf_hub_download", ask)
        assert resolve_model(EncodeOptions(model="someone/plain")).folder == str(snapshot)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert resolve_model(EncodeOptions(model="someone/plain")).folder == str(snapshot)


def test_that_pooling_is_assumed_is_known_of_plain_folders_alone(folder: Path) -> None:
    assert not resolve_model(options(folder)).pooling_assumed
    (folder / "modules.json").unlink()
    assert resolve_model(options(folder)).pooling_assumed


def test_a_pooling_without_its_configuration_is_no_mean_pooling(folder: Path) -> None:
    (folder / "1_Pooling" / "config.json").unlink()
    with pytest.raises(InputError, match="cannot be loaded as sentence-transformers would"):
        resolve_model(options(folder))


def test_normalize_false_makes_other_vectors_also_where_they_are_cut(folder: Path) -> None:
    def identity(**values: Any) -> str:
        return resolve_model(options(folder, **values)).fingerprint.digest

    cut, other = identity(truncate_dim=64), identity(truncate_dim=64, normalize="false")
    assert cut != other
    whole = resolve_model(options(folder, truncate_dim=64, normalize="false")).fingerprint
    assert (whole.pooling, whole.normalized, whole.dim) == ("mean, not normalized", False, 64)
    modules = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps(modules[:2]))  # without Normalize there is nothing to leave out
    assert identity(truncate_dim=64) == identity(truncate_dim=64, normalize="false")
    assert identity() == identity(normalize="false")


def test_identities_of_other_flags_are_what_they_were(bundled_model: str) -> None:
    """Of outputs that are published: another digest would encode them anew."""
    digests = {
        (): "4b83bd13fc808308943c2ce649e936d3",
        (("truncate_dim", 64),): "a22368b912ad50b90f1410aabc279a2f",
        (("normalize", "false"),): "0201f8db3860398b15547c742b554b50",
        (("normalize", "true"), ("truncate_dim", 64)): "97ca5150007e09eb8bd2607637009086",
        (("max_seq_length", 100), ("dtype", "bfloat16")): "369d8a3953d5f77b10e355c94e8fcc14",
    }
    for flags, digest in digests.items():
        assert resolve_model(EncodeOptions(**dict(flags))).fingerprint.digest == digest, flags


@pytest.mark.parametrize(
    ("model_type", "pad", "stated", "length"),
    [
        ("roberta", 1, None, 512),
        ("roberta", 1, 514, 512),
        ("roberta", 1, 256, 256),
        ("longformer", 1, None, 512),
        ("bert", 0, None, 514),
    ],
)
def test_positions_that_begin_behind_the_paddings_are_fewer(
    folder: Path, model_type: str, pad: int, stated: int | None, length: int
) -> None:
    change(folder / "config.json", model_type=model_type, pad_token_id=pad, max_position_embeddings=514)
    change(folder / "tokenizer_config.json", model_max_length=10**30)
    (folder / "sentence_bert_config.json").unlink()
    if stated:
        change(folder / "sentence_bert_config.json", max_seq_length=stated)
    assert resolve_model(options(folder)).fingerprint.max_seq_length == length
    with pytest.raises(InputError, match="--max_seq_length 515: the model has positions for 51"):
        resolve_model(options(folder, max_seq_length=515))


def test_files_are_hashed_once_a_process_and_again_when_they_change(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[str] = []
    real = model_folder.file_sha256
    monkeypatch.setattr(model_folder, "file_sha256", lambda path: hashed.append(path.name) or real(path))
    first = model_folder.known_folder_sha256(folder)
    assert "model.safetensors" in hashed
    hashed.clear()
    assert model_folder.known_folder_sha256(folder) == first == folder_sha256(folder)
    hashed.clear()
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text[:-2] + "\n}")
    assert model_folder.known_folder_sha256(folder) != first
    assert "config.json" in hashed
