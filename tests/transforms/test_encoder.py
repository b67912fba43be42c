"""The encoder's vectors are `SentenceTransformer.encode`'s, whatever the model's modules.

Shapes of models are made from the bundled weights by changing the JSON beside them; most keep two of the six layers,
for speed.
"""

import json
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas.errors import InputError
from schemas.rejects import Reason
from tests.benchmarks import corpus
from transforms.encoder import Encoder
from transforms.encoder_job import batches
from transforms.model import EncodeOptions, resolve_model

pytestmark = pytest.mark.model

TEXTS = [
    "The weather is lovely today.",
    "He drove to the STADIUM, naïvely — café!",
    "Столица Франции — Париж. Как дела?",
    "今天天气很好，我们去公园吧。",
    "👋🏽 emoji 👩‍👩‍👧 and \u200bzero width",
    "",
    " ",
    "\n\t",
    "a",
    "The weather is lovely today.",
    "  The weather is lovely today.\n",
    "\ufeffwith a BOM and a \x00 NUL",
    "word " * 40,
    "long and longer " * 300,
    "слово " * 200,
    "漢" * 600,
    "x" * 3000,
]
NORMALIZE = {"path": "2_Normalize", "type": "sentence_transformers.models.Normalize"}
DENSE = {"path": "3_Dense", "type": "sentence_transformers.models.Dense"}


def make_model(bundled: str, place: Path, modules: list[dict] | None = None, layers: int = 2, **files: dict) -> str:
    """A folder with the bundled weights, other `modules` after Transformer and Pooling, and changed JSON `files`
    (a name's `__` is a slash)."""
    shutil.copytree(bundled, place, ignore=shutil.ignore_patterns("model.safetensors", "*.md"))
    (place / "model.safetensors").symlink_to(Path(bundled) / "model.safetensors")
    listed = json.loads((place / "modules.json").read_text())
    listed = listed if modules is None else [*listed[:2], *modules]
    named = [module | {"idx": i, "name": str(i)} for i, module in enumerate(listed)]
    (place / "modules.json").write_text(json.dumps(named))
    for name, values in ({"config": {"num_hidden_layers": layers}} | files).items():
        path = place / f"{name.replace('__', '/')}.json"
        path.parent.mkdir(exist_ok=True)
        before = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(before | values))
    return str(place)


def add_dense(folder: str, width: int) -> None:
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(0)
    weights = {
        "linear.weight": torch.randn(width, 384, generator=generator) / 10,
        "linear.bias": torch.randn(width, generator=generator),
    }
    save_file(weights, Path(folder) / "3_Dense" / "model.safetensors")


def poison_weights(folder: str, change: Callable[[dict], None]) -> None:
    from safetensors.torch import load_file, save_file

    path = Path(folder) / "model.safetensors"
    weights = load_file(path)
    path.unlink()
    change(weights)
    save_file(weights, path)


def expected(folder: str, texts: list[str], **encode: Any) -> np.ndarray:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(folder, device="cpu", local_files_only=True)
    if length := encode.pop("max_seq_length", None):
        model.max_seq_length = length
    return model.encode(texts, **encode)


def make_encoder(folder: str, threads: int = 2, **options: Any) -> Encoder:
    chosen = EncodeOptions(**{"model": folder, "device": "cpu"} | options)
    return Encoder(resolve_model(chosen), chosen, threads)


def assert_same(found: np.ndarray, wanted: np.ndarray) -> None:
    assert found.shape == wanted.shape
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6 * max(1, np.abs(wanted).max()))  # CPUs differ by 2e-7


@pytest.fixture(scope="module")
def encoder(bundled_model: str) -> Encoder:
    return make_encoder(bundled_model)


@pytest.fixture(scope="module")
def small(bundled_model: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two layers and a window of 16 tokens: quick to run, easy to overflow."""
    place = tmp_path_factory.mktemp("small") / "model"
    return make_model(bundled_model, place, sentence_bert_config={"max_seq_length": 16})


@pytest.fixture(scope="module")
def small_encoder(small: str) -> Encoder:
    return make_encoder(small)


def pooling(**flags: bool) -> dict:
    return {"1_Pooling__config": {"pooling_mode_mean_tokens": False} | flags}


SHAPES: dict[str, tuple[list[dict] | None, dict]] = {
    "cls": (None, pooling(pooling_mode_cls_token=True)),
    "max": (None, pooling(pooling_mode_max_tokens=True)),
    "mean_sqrt_len": (None, pooling(pooling_mode_mean_sqrt_len_tokens=True)),
    "cls and mean": (None, pooling(pooling_mode_cls_token=True, pooling_mode_mean_tokens=True)),
    "no Normalize, 128 tokens, as paraphrase-MiniLM-L6-v2": ([], {"sentence_bert_config": {"max_seq_length": 128}}),
    "16 tokens": (None, {"sentence_bert_config": {"max_seq_length": 16}}),
    "lower-casing": (None, {"sentence_bert_config": {"do_lower_case": True}}),
    "the model's truncate_dim": (None, {"config_sentence_transformers": {"truncate_dim": 100}}),
    "dense tanh": (
        [DENSE, NORMALIZE],
        {"3_Dense__config": {"in_features": 384, "out_features": 128}},
    ),
    "dense identity": (
        [DENSE],
        {
            "3_Dense__config": {
                "in_features": 384,
                "out_features": 128,
                "activation_function": "torch.nn.modules.linear.Identity",
            }
        },
    ),
    "default prompt": (
        None,
        {"config_sentence_transformers": {"prompts": {"p": "passage: "}, "default_prompt_name": "p"}},
    ),
    "prompt not pooled": (
        None,
        {
            "config_sentence_transformers": {"prompts": {"p": "Represent this: "}, "default_prompt_name": "p"},
            "1_Pooling__config": {"include_prompt": False},
        },
    ),
    "truncated and padded on the left": (
        None,
        {
            "tokenizer_config": {"truncation_side": "left", "padding_side": "left"},
            "sentence_bert_config": {"max_seq_length": 16},
        },
    ),
}


@pytest.mark.parametrize("name", SHAPES)
def test_vectors_are_those_of_sentence_transformers_for(name: str, bundled_model: str, tmp_path: Path) -> None:
    modules, files = SHAPES[name]
    folder = make_model(bundled_model, tmp_path / "model", modules, **files)
    if modules and DENSE in modules:
        add_dense(folder, 128)
    encoder = make_encoder(folder)
    found, wanted = encoder.encode(TEXTS), expected(folder, TEXTS, batch_size=1)  # padding moves BERT's positions
    assert_same(found.vectors, wanted)
    assert type(encoder._models[0].tokenizer).__name__ == "FastTokenizer"
    assert encoder._models[0].pads == ("left" not in name)
    fingerprint = resolve_model(EncodeOptions(model=folder)).fingerprint
    assert fingerprint.dim == wanted.shape[1]
    assert fingerprint.normalized == bool(np.allclose(np.linalg.norm(wanted, axis=1), 1, atol=1e-5))


def test_vectors_of_500_texts_of_mixed_lengths_are_those_of_sentence_transformers(
    bundled_model: str, tmp_path: Path
) -> None:
    folder = make_model(bundled_model, tmp_path / "model")
    texts = TEXTS + corpus.mixed_lengths(483)
    random.Random(1).shuffle(texts)
    assert_same(make_encoder(folder).encode(texts).vectors, expected(folder, texts))


def test_vectors_of_the_whole_bundled_model_are_those_of_sentence_transformers(
    bundled_model: str, encoder: Encoder
) -> None:
    texts = TEXTS + corpus.sentences(40)
    assert_same(encoder.encode(texts).vectors, expected(bundled_model, texts))


@pytest.mark.parametrize(
    ("flags", "encode"),
    [
        ({"prompt": "query: "}, {"prompt": "query: "}),
        ({"normalize": "true", "truncate_dim": 64}, {"normalize_embeddings": True, "truncate_dim": 64}),
        ({"max_seq_length": 12}, {"max_seq_length": 12}),
    ],
)
def test_options_do_what_the_arguments_of_encode_do(small: str, flags: dict, encode: dict) -> None:
    assert_same(make_encoder(small, **flags).encode(TEXTS).vectors, expected(small, TEXTS, **encode))


def test_normalize_false_takes_the_models_normalize_away(bundled_model: str, tmp_path: Path) -> None:
    folder = make_model(bundled_model, tmp_path / "with")
    without = make_model(bundled_model, tmp_path / "without", modules=[])
    assert_same(make_encoder(folder, normalize="false").encode(TEXTS).vectors, expected(without, TEXTS))


def test_a_model_saved_by_sentence_transformers_now_gives_its_vectors(small: str, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    SentenceTransformer(small, device="cpu").save_pretrained(str(tmp_path / "saved"))
    encoder = make_encoder(str(tmp_path / "saved"))
    assert encoder._models[0].tokenizer.limit == 16
    assert_same(encoder.encode(TEXTS).vectors, expected(small, TEXTS))


def test_a_plain_transformers_folder_gives_the_vectors_of_sentence_transformers(
    bundled_model: str, tmp_path: Path
) -> None:
    folder = make_model(bundled_model, tmp_path / "model")
    (Path(folder) / "modules.json").unlink()
    assert_same(make_encoder(folder).encode(TEXTS[:9]).vectors, expected(folder, TEXTS[:9]))


def test_a_tokenizer_that_is_not_known_is_left_to_the_model(small: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> None:
        raise ValueError("unusual")

    fast = make_encoder(small).encode(TEXTS)
    monkeypatch.setattr("transforms.tokenize.FastTokenizer._verify", refuse)
    encoder = make_encoder(small)
    slow = encoder.encode(TEXTS)
    assert type(encoder._models[0].tokenizer).__name__ == "SlowTokenizer"
    assert_same(slow.vectors, expected(small, TEXTS))
    assert slow.token_counts.tolist() == fast.token_counts.tolist()
    assert slow.truncated.tolist() == fast.truncated.tolist()
    assert [len(pieces) > 1 for pieces in encoder.chunk(TEXTS)] == fast.truncated.tolist()


def test_a_model_without_a_transformer_gives_its_vectors_but_has_no_low_precision(
    bundled_model: str, tmp_path: Path
) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(f"{bundled_model}/tokenizer.json")
    SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=32)]).save_pretrained(str(tmp_path / "m"))
    folder, texts = str(tmp_path / "m"), [text for text in TEXTS if text.strip()]
    assert_same(make_encoder(folder).encode(texts).vectors, expected(folder, texts))
    with pytest.raises(InputError, match="begins with StaticEmbedding, no transformer"):
        make_encoder(folder, dtype="bfloat16")


def test_one_row_and_none(encoder: Encoder, bundled_model: str) -> None:
    assert_same(encoder.encode(["hello"]).vectors, expected(bundled_model, ["hello"]))
    none = encoder.encode([])
    assert (none.vectors.shape, none.token_counts.shape, none.truncated.shape) == ((0, 384), (0,), (0,))


def test_loading_and_encoding_never_reach_for_the_network(small: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.getaddrinfo", lambda *a, **k: pytest.fail(f"asked for {a}"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    assert make_encoder(small).encode(["hello"]).vectors.any()


def test_token_counts_are_those_before_truncation_with_prompt_and_special_tokens(small: str) -> None:
    encoder = make_encoder(small, prompt="query: ")
    found = encoder.encode(["", "one two", "one " * 13, "one " * 100])
    assert found.token_counts.tolist() == [4, 6, 17, 104]  # [CLS] query : … [SEP]
    assert found.truncated.tolist() == [False, False, True, True]


def test_a_very_long_text_is_cut_before_tokenizing_and_has_the_same_vector(small_encoder: Encoder, small: str) -> None:
    texts = ["many words " * 60_000, "ab" * 100_000 + " and then it ends", ("y" * 70_000 + " ") * 30]
    found = small_encoder.encode(texts)
    assert_same(found.vectors, expected(small, texts))
    assert 10_000 < found.token_counts[0] < 20_000  # of 120,002: a lower bound
    assert found.token_counts[1:].tolist() == [7, found.token_counts[2]]  # one unknown word: read on to the end
    assert found.truncated.tolist() == [True, False, True]


def test_equal_texts_are_computed_once_and_reported_as_often_as_they_come(
    small_encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed, told = [], []
    inner = small_encoder._models[0].__class__.__call__
    monkeypatch.setattr(
        small_encoder._models[0].__class__,
        "__call__",
        lambda self, t, rows: computed.append(len(rows)) or inner(self, t, rows),
    )
    found = small_encoder.encode(["a b", "c", "a b", "a b"], lambda *batch: told.append(batch))
    assert sum(computed) == 2
    assert tuple(map(sum, zip(*told, strict=True))) == (4, 7)
    assert np.array_equal(found.vectors[[0, 2, 3]], found.vectors[[0, 0, 0]])
    assert not np.array_equal(found.vectors[0], found.vectors[1])


def test_the_same_texts_give_the_same_bits_whatever_the_threads_do(small: str) -> None:
    texts = TEXTS + corpus.sentences(200)
    first, second = make_encoder(small, threads=1), make_encoder(small, threads=4)
    vectors = first.encode(texts).vectors
    for encoder in (first, second, second):
        assert np.array_equal(vectors.view(np.int32), encoder.encode(texts).vectors.view(np.int32))


def test_vectors_do_not_depend_on_batching(small: str) -> None:
    texts = TEXTS + corpus.sentences(50)
    one_by_one, together = make_encoder(small, batch_tokens=1), make_encoder(small, batch_tokens=10**6)
    assert_same(one_by_one.encode(texts).vectors, together.encode(texts).vectors)


@given(st.lists(st.integers(0, 300), max_size=60), st.integers(1, 1000))
def test_batches_hold_every_row_once_and_no_more_than_the_budget(lengths: list[int], budget: int) -> None:
    array = np.array(lengths, np.int64)
    cut = list(batches(array, np.arange(len(array)), budget))
    assert sorted(r for batch in cut for r in batch) == list(range(len(array)))
    assert all(len(b) == 1 or len(b) * array[b].max() <= budget for b in cut)
    longest = [array[b].max() for b in cut]
    assert longest == sorted(longest, reverse=True)


@given(st.lists(st.integers(1, 60), min_size=1, max_size=40), st.integers(0, 60), st.integers(1, 60))
def test_a_batch_ends_just_where_its_padding_or_a_boundary_would_be_passed(
    lengths: list[int], most: int, boundary: int
) -> None:
    array = np.array(lengths)
    cut = list(batches(array, np.arange(len(array)), 10**6, most, (boundary,)))
    assert sorted(r for batch in cut for r in batch) == list(range(len(array)))
    for batch, following in zip(cut, [*cut[1:], np.zeros(0, np.int64)], strict=True):
        widths = array[batch]
        assert (widths[0] - widths).sum() <= most  # at the limit itself a row may join
        assert len({bool(width > boundary) for width in widths}) == 1
        if len(following):
            wider = array[following[0]]
            joined = int((widths[0] - widths).sum() + widths[0] - wider)
            assert joined > most or (wider <= boundary < widths[0])


def test_a_row_joins_a_batch_whose_padding_it_brings_to_the_limit_itself() -> None:
    lengths = np.array([10, 8, 7, 7])  # padding 0, 2, 5, 8
    cut = [list(b) for b in batches(lengths, np.arange(4), 10**6, 5)]
    assert cut == [[0, 1, 2], [3]]


def test_only_rows_with_a_poisoned_token_are_refused_as_not_finite(bundled_model: str, tmp_path: Path) -> None:
    folder = make_model(bundled_model, tmp_path / "model")
    texts = ["all is well", "a zebra", "nothing here", "zebra zebra", "a zebra"]

    def poison(weights: dict) -> None:
        weights["embeddings.word_embeddings.weight"][29145] = float("nan")  # zebra

    wanted = expected(folder, texts)
    poison_weights(folder, poison)
    found = make_encoder(folder).encode(texts)
    assert [(f.row, f.reason) for f in found.failures] == [
        (1, Reason.NON_FINITE),
        (3, Reason.NON_FINITE),
        (4, Reason.NON_FINITE),
    ]
    assert "384 of 384 values" in found.failures[0].message
    assert not found.vectors[[1, 3, 4]].any()
    assert_same(found.vectors[[0, 2]], wanted[[0, 2]])


def test_a_vector_of_zeros_is_refused(bundled_model: str, tmp_path: Path) -> None:
    dense = {"3_Dense__config": {"in_features": 384, "out_features": 4, "bias": False}}
    folder = make_model(bundled_model, tmp_path / "model", [DENSE], **dense)
    import torch
    from safetensors.torch import save_file

    save_file({"linear.weight": torch.zeros(4, 384)}, Path(folder) / "3_Dense" / "model.safetensors")
    found = make_encoder(folder).encode(["a", "b"])
    assert [(f.row, f.reason) for f in found.failures] == [(0, Reason.ZERO_VECTOR), (1, Reason.ZERO_VECTOR)]


def fail_on(encoder: Encoder, monkeypatch: pytest.MonkeyPatch, why: Callable[[Any], Exception | None]) -> list[tuple]:
    """Makes the transformer raise what `why(input_ids)` returns; the shapes that it met."""
    shapes: list[tuple] = []
    transformer = encoder._models[0]._model[0]
    inner = transformer.forward

    def forward(features: dict, **kwargs: Any) -> dict:
        shapes.append(tuple(features["input_ids"].shape))
        if error := why(features["input_ids"]):
            raise error
        return inner(features, **kwargs)

    monkeypatch.setattr(transformer, "forward", forward)
    return shapes


def test_a_batch_that_fails_is_bisected_to_the_row(small: str, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = make_encoder(small)
    texts = [f"sentence number {i}" for i in range(40)]
    texts[13], texts[31] = "here is a zebra", "another zebra is here"
    fail_on(encoder, monkeypatch, lambda ids: RuntimeError("bad id") if (ids == 29145).any() else None)
    found = encoder.encode(texts)
    assert [(f.row, f.reason, f.message) for f in found.failures] == [
        (13, Reason.ENCODE_ERROR, "RuntimeError: bad id"),
        (31, Reason.ENCODE_ERROR, "RuntimeError: bad id"),
    ]
    rest = [i for i in range(40) if i not in (13, 31)]
    assert_same(found.vectors[rest], expected(small, texts)[rest])


def test_the_batch_size_is_halved_when_memory_runs_out_and_stays_so(
    small: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    encoder = make_encoder(small, threads=1, batch_tokens=1024)
    shapes = fail_on(encoder, monkeypatch, lambda ids: torch.OutOfMemoryError("full") if ids.numel() > 300 else None)
    texts = [f"sentence number {i}" for i in range(400)]
    found = encoder.encode(texts)
    assert not found.failures
    assert_same(found.vectors, expected(small, texts))
    assert 150 < encoder.batch_tokens <= 300
    shapes.clear()
    encoder.encode(texts)
    assert all(rows * width <= 300 for rows, width in shapes)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_low_precision_stays_near_float32_and_says_how_near(dtype: str, bundled_model: str, encoder: Encoder) -> None:
    texts = corpus.sentences(40)
    low = make_encoder(bundled_model, dtype=dtype)
    found, exact = low.encode(texts), encoder.encode(texts)
    cosines = (found.vectors * exact.vectors).sum(axis=1)
    assert cosines.min() >= 0.999
    assert not np.array_equal(found.vectors, exact.vectors)
    np.testing.assert_allclose(np.linalg.norm(found.vectors, axis=1), 1, atol=1e-6)  # normalised in float32
    assert len(found.cosines) == 8
    assert cosines.min() - 1e-6 <= min(found.cosines) <= 1
    assert sorted(found.cosines) == pytest.approx(sorted(low.encode(texts[::-1]).cosines), abs=1e-5)
    assert exact.cosines == ()


def test_texts_that_are_too_long_are_not_encoded_where_they_are_rejected(small: str) -> None:
    told: list[tuple[int, int]] = []
    found = make_encoder(small, long_texts="reject").encode(["short", "word " * 50], lambda *batch: told.append(batch))
    assert told == [(1, 3), (1, 0)]
    assert found.truncated.tolist() == [False, True]
    assert found.token_counts.tolist() == [3, 52]
    assert found.vectors[0].any()
    assert not found.vectors[1].any()
    assert found.failures == []


def test_a_device_that_is_not_here_is_refused_by_its_flag(small: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    options = EncodeOptions(model=small, device="cuda")
    with pytest.raises(InputError, match="--device cuda"):
        Encoder(resolve_model(options), options)


WORDS = st.lists(
    st.one_of(
        st.sampled_from(
            ["a", "word", "Слово", "antidisestablishmentarianism", "x1.y2,z3", "日本語", "👩‍👩‍👧", "e\u0301"]
        ),
        st.text("abcdefghijklmnop.,-", min_size=1, max_size=60),
        st.text("漢字語中文", min_size=1, max_size=40),
    ),
    max_size=60,
)
SPACES = st.sampled_from([" ", "  ", "\n", "\t ", "\u2003"])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(words=WORDS, space=SPACES, data=st.data())
def test_chunks_fit_keep_words_whole_and_lose_nothing_but_whitespace(
    small_encoder: Encoder, words: list[str], space: str, data: Any
) -> None:
    text = space.join(words)
    (pieces,) = small_encoder.chunk([text])
    counts = small_encoder._models[0].tokenizer(pieces).counts
    assert (counts <= 16).all()
    if len(pieces) > 1:
        assert small_encoder._models[0].tokenizer([text]).counts[0] > 16
    assert "".join("".join(pieces).split()) == "".join(text.split())
    at = 0
    for piece in pieces:
        found = text.index(piece, at)
        assert not text[at:found].strip()
        if found and found == at and not text[at - 1].isspace() and not piece[0].isspace():  # inside a word
            word = next(m for m in re.finditer(r"\S+", text) if m.start() < found < m.end())
            assert small_encoder._models[0].tokenizer([word.group()]).counts[0] > 16
        at = found + len(piece)


def test_a_text_that_fits_is_its_own_only_chunk(small_encoder: Encoder) -> None:
    assert small_encoder.chunk(["  a b \n", "", " "]) == [["  a b \n"], [""], [" "]]


def test_chunks_leave_room_for_the_prompt(small: str) -> None:
    encoder = make_encoder(small, prompt="a rather long prompt: ")
    (pieces,) = encoder.chunk(["one two three four five six seven eight nine ten eleven twelve"])
    assert pieces == ["one two three four five six seven eight nine", "ten eleven twelve"]


def test_a_book_is_cut_segment_by_segment_into_full_chunks(small_encoder: Encoder) -> None:
    (pieces,) = small_encoder.chunk(["many words " * 20_000])
    assert len(pieces) == 40_000 // 14 + 1
    assert {len(piece.split()) for piece in pieces[:-1]} == {14}
