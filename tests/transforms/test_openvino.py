"""OpenVINO runs the transformer, and the vectors are `SentenceTransformer.encode`'s all the same."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from schemas.errors import InputError, RunFailed
from tests.transforms.test_encoder import DENSE, NORMALIZE, TEXTS, add_dense, assert_same, expected, make_model
from transforms import openvino_transformer
from transforms.encoder import Encoder
from transforms.fidelity import check
from transforms.loaded_model import load_sentence_transformer
from transforms.model import EncodeOptions, resolve_model

pytestmark = pytest.mark.model


def openvino_encoder(folder: str, **options) -> Encoder:
    chosen = EncodeOptions(model=folder, backend="openvino", **options)
    return Encoder(resolve_model(chosen), chosen, 2)


SHAPES = {
    "as it is": {},
    "cls pooling": {"1_Pooling__config": {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}},
    "a short window": {"sentence_bert_config": {"max_seq_length": 16}},
    "no normalizing": {"modules": []},
    "a dense layer": {
        "modules": [DENSE, NORMALIZE],
        "3_Dense__config": {
            "in_features": 384,
            "out_features": 64,
            "bias": True,
            "activation_function": "torch.nn.modules.activation.Tanh",
        },
    },
}


@pytest.mark.parametrize("shape", SHAPES)
def test_vectors_are_those_of_encode_whatever_the_modules(shape: str, bundled_model: str, tmp_path: Path) -> None:
    folder = make_model(bundled_model, tmp_path / "model", **SHAPES[shape])
    if shape == "a dense layer":
        add_dense(folder, 64)
    encoded = openvino_encoder(folder, batch_tokens=64 if shape == "as it is" else None).encode(TEXTS)
    assert_same(encoded.vectors, expected(folder, TEXTS))
    assert min(encoded.cosines) > 1 - 1e-6  # it is measured against torch, also in float32


def test_bfloat16_is_measured_against_torch_in_float32_and_passes_the_gate(bundled_model: str) -> None:
    options = EncodeOptions(model=bundled_model, backend="openvino", dtype="bfloat16")
    encoded = Encoder(resolve_model(options), options, 2).encode(TEXTS)
    exact = expected(bundled_model, TEXTS)
    cosines = (encoded.vectors * exact).sum(axis=1) / np.linalg.norm(encoded.vectors, axis=1)
    assert 0.9995 < cosines.min() < 1 - 1e-7 or not _has_bfloat16()
    assert all(any(abs(c - cosine) < 1e-6 for cosine in cosines) for c in encoded.cosines)
    check(encoded.cosines, 0.999, "bfloat16", "openvino")
    with pytest.raises(RunFailed, match="--backend openvino"):
        check((0.99,), 0.999, "bfloat16", "openvino")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_same_texts_have_the_same_bytes(dtype: str, bundled_model: str) -> None:
    first, again = (openvino_encoder(bundled_model, dtype=dtype) for _ in range(2))
    vectors = first.encode(TEXTS).vectors
    assert vectors.tobytes() == first.encode(TEXTS).vectors.tobytes() == again.encode(TEXTS).vectors.tobytes()


@pytest.mark.parametrize("window, apart", [(512, True), (513, False)])
def test_attention_is_fused_for_long_windows_alone(window: int, apart: bool, bundled_model: str) -> None:
    """By a property that is not promised: fails where a new version of OpenVINO overlooks it."""
    assert ("Softmax" in _kinds_of_nodes(bundled_model, window)) is apart


def test_a_version_that_does_not_know_the_property_computes_all_the_same(
    bundled_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino_transformer, "APART", {"NO_SUCH_PROPERTY": "1"})
    assert "Softmax" not in _kinds_of_nodes(bundled_model, 512)
    assert_same(openvino_encoder(bundled_model).encode(TEXTS).vectors, expected(bundled_model, TEXTS))


def _kinds_of_nodes(folder: str, window: int) -> set[str]:
    """What the compiled transformer consists of."""
    transformer = load_sentence_transformer(folder, "cpu")[0].auto_model
    names = ["input_ids", "attention_mask", "token_type_ids"]
    compiled = openvino_transformer.OpenVinoTransformer(transformer, names, "float32", window)._compiled
    return {node.get_rt_info()["layerType"].astype(str) for node in compiled.get_runtime_model().get_ops()}


def _has_bfloat16() -> bool:
    """Elsewhere OpenVINO computes in float32 whatever is asked for."""
    from transforms.device import has_fast_bfloat16

    return has_fast_bfloat16("cpu")


def test_what_it_cannot_do_is_refused(bundled_model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="--backend openvino --device cuda: it computes on a CPU"):
        EncodeOptions(backend="openvino", device="cuda")
    with pytest.raises(InputError, match="--dtype float16"):
        EncodeOptions(backend="openvino", dtype="float16")
    assert EncodeOptions(backend="openvino").device == "cpu"
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(InputError, match="is not installed; pip install"):
        openvino_encoder(bundled_model)


def test_a_transformer_that_cannot_be_converted_is_refused_with_the_reason(
    bundled_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import openvino

    monkeypatch.setattr(openvino, "convert_model", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("no such op\n")))
    with pytest.raises(InputError, match=r"cannot convert BertModel \(RuntimeError: no such op\); use --backend torch"):
        openvino_encoder(bundled_model)


def test_nothing_is_reported_to_its_makers() -> None:
    """The package's own telemetry would send an event at import."""
    code = (
        "import sys; from transforms.openvino_transformer import is_installed; assert is_installed(); "
        "import openvino.tools.ovc.convert_impl as c; print(c.tm.__name__, sys.modules['openvino_telemetry'])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["openvino.tools.ovc.telemetry_stub", "None"]
