"""Models of all kinds (tests/zoo.py): the vectors of `SentenceTransformer.encode`, or refused by name before any."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from schemas.errors import InputError
from schemas.rejects import Reason
from tests import zoo
from tests.transforms.test_encoder import expected
from transforms.encoder import Encoder
from transforms.fidelity import fidelity
from transforms.model import EncodeOptions, resolve_model

ATOL = 3e-6


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, Any]]:
    """Of each model that was met: its folder, and what encode makes of the texts."""
    return {}


def met(name: str, folders: dict[str, tuple[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any]:
    if name not in folders:
        folder = zoo.build(name, tmp_path_factory.mktemp("zoo") / "model")
        folders[name] = folder, expected(folder, zoo.TEXTS, **zoo.ANIMALS[name].encode)
    return folders[name]


def make_encoder(folder: str, name: str, threads: int = 2, **options: Any) -> Encoder:
    chosen = EncodeOptions(model=folder, device="cpu", **zoo.ANIMALS[name].options | options)
    return Encoder(resolve_model(chosen), chosen, threads)


@pytest.mark.parametrize("name", [name for name, animal in zoo.ANIMALS.items() if not animal.refused])
def test_float32_is_encodes_however_the_texts_are_batched(name: str, folders: Any, tmp_path_factory: Any) -> None:
    folder, wanted = met(name, folders, tmp_path_factory)
    tolerance = ATOL * max(1, np.abs(wanted).max())
    encoder = make_encoder(folder, name)
    found = encoder.encode(zoo.TEXTS)
    np.testing.assert_allclose(found.vectors, wanted, rtol=0, atol=tolerance)
    many = make_encoder(folder, name, threads=4, batch_tokens=100).encode(zoo.TEXTS[::-1])
    np.testing.assert_allclose(many.vectors[::-1], wanted, rtol=0, atol=tolerance)
    assert {failure.reason for failure in found.failures} <= {Reason.ZERO_VECTOR}
    fingerprint = encoder._models[0]._resolved.fingerprint
    assert encoder._models[0].tokenizer.limit == fingerprint.max_seq_length
    assert wanted.shape[1] == fingerprint.dim


@pytest.mark.parametrize("name", [name for name, animal in zoo.ANIMALS.items() if animal.refused])
def test_what_cannot_be_right_is_refused_by_name(name: str, tmp_path: Path) -> None:
    folder = zoo.build(name, tmp_path / "model")
    with pytest.raises(InputError, match=zoo.ANIMALS[name].refused):
        make_encoder(folder, name)
    if not (fits := zoo.ANIMALS[name].fits):
        return
    shorter = expected(folder, zoo.TEXTS, max_seq_length=fits)
    np.testing.assert_allclose(
        make_encoder(folder, name, max_seq_length=fits).encode(zoo.TEXTS).vectors, shorter, atol=ATOL
    )


LOW = ["BERT, weighted layers", "BERT, pooler output", "BERT, Dense", "RoBERTa", "Phi3, longrope", "GPT-2, last token"]


@pytest.mark.parametrize("name", LOW)
def test_bfloat16_is_near(name: str, folders: Any, tmp_path_factory: Any) -> None:
    folder, wanted = met(name, folders, tmp_path_factory)
    found = make_encoder(folder, name, dtype="bfloat16").encode(zoo.TEXTS)
    assert not found.failures
    assert min(map(fidelity, wanted, found.vectors)) > 0.999
    assert min(found.cosines) > 0.999


@pytest.mark.parametrize("name", ["ModernBERT, long window", "FNet", "RoBERTa"])
def test_openvino_computes_every_row(name: str, folders: Any, tmp_path_factory: Any) -> None:
    """ModernBERT's rows beside padding beyond its window were NaN; FNet looks at no mask, which conversion drops."""
    folder, wanted = met(name, folders, tmp_path_factory)
    found = make_encoder(folder, name, backend="openvino").encode(zoo.TEXTS)
    assert not found.failures
    np.testing.assert_allclose(found.vectors, wanted, rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("BERT, weighted layers", "computes the last layer's states alone"),
        ("BERT, pooler output", "computes the last layer's states alone"),
        ("Longformer", r"its vectors are other than torch's \(cosine 0\.[0-9]+\)"),
    ],
)
def test_openvino_refuses_by_name(name: str, why: str, folders: Any, tmp_path_factory: Any) -> None:
    folder, _ = met(name, folders, tmp_path_factory)
    with pytest.raises(InputError, match=f"--backend openvino.*{why}"):
        make_encoder(folder, name, backend="openvino")


@pytest.mark.parametrize("name", ["BERT, max_length in processing_kwargs", "BERT, padded to max_length"])
def test_a_window_in_processing_kwargs_is_the_models(name: str, folders: Any, tmp_path_factory: Any) -> None:
    folder, _ = met(name, folders, tmp_path_factory)
    texts = ["one two three " * 20, "one two"]
    limit = 12 if "in" in name else 20
    assert make_encoder(folder, name).encode(texts).truncated.tolist() == [True, False]
    encoder = make_encoder(folder, name, long_texts="chunk")
    (pieces, _) = encoder.chunk(texts)
    assert len(pieces) > 60 // limit
    assert not encoder.encode(pieces).truncated.any()
    shorter, own = (make_encoder(folder, name, max_seq_length=n).encode(texts) for n in (6, limit))
    assert shorter.truncated.tolist() == [True, False]
    assert np.abs(shorter.vectors[0] - own.vectors[0]).max() > 1e-3
    assert np.abs(shorter.vectors[1] - own.vectors[1]).max() < 1e-6


@pytest.mark.parametrize("window", [3, 4, 6])
def test_padding_is_seen_in_the_shortest_window(window: int, folders: Any, tmp_path_factory: Any) -> None:
    name = "GPT-2, last token"
    folder, _ = met(name, folders, tmp_path_factory)
    encoder = make_encoder(folder, name, max_seq_length=window)
    assert not encoder._models[0].pads
    wanted = expected(folder, zoo.TEXTS, max_seq_length=window, batch_size=1)
    np.testing.assert_allclose(encoder.encode(zoo.TEXTS).vectors, wanted, rtol=0, atol=ATOL * np.abs(wanted).max())


def test_texts_of_one_length_share_batches_where_padding_moves_them(folders: Any, tmp_path_factory: Any) -> None:
    name = "GPT-2, last token"
    encoder = make_encoder(met(name, folders, tmp_path_factory)[0], name)
    shapes: list[tuple[int, ...]] = []
    model = encoder._models[0]._model
    model[0].register_forward_pre_hook(lambda module, args: shapes.append(tuple(args[0]["attention_mask"].shape)))
    encoder.encode(zoo.TEXTS)
    assert max(rows for rows, _ in shapes) > 1
    assert len({width for _, width in shapes}) == len(shapes)
