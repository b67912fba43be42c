"""Models of all kinds, small and with random weights, as folders that sentence-transformers would load.

Each is an architecture of transformers under a tokenizer, a way of pooling and other JSON; `build` writes its folder.
"""

import dataclasses
import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

HIDDEN, HEADS, LAYERS, WINDOW = 32, 4, 2, 48
WORDS = re.findall(
    r"\S+",
    "the a of weather is lovely today he drove to stadium word long longer short text one two three four and with that "
    "query passage : . , ! in on it was quick brown fox jumps over lazy dog слово столица россии как дела",
)
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
TEXTS = [
    "the weather is lovely today.",
    "He drove to the STADIUM, naïvely — café!",
    "столица россии : как дела",
    "今天天气很好，我们去公园吧。",
    "👋🏽 emoji \u200bzero width",
    "",
    " ",
    "a",
    "the weather is lovely today.",
    "with [SEP] written out and [MASK] too </s> <eos>",
    "word " * 11,
    "the quick brown fox jumps over the lazy dog and " * 2,
    "long and longer " * 60,
    "слово " * 70,
    "слово столица " * 40 + "дела",
    "x" * 300,
    *(f"one two {word} three" for word in WORDS[:20]),
    *(" ".join(WORDS[n : 2 * n + 3]) for n in range(20)),
]


@dataclasses.dataclass(frozen=True)
class Animal:
    """One model of the zoo."""

    config: str  # class of transformers
    model: str
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    tokenizer: str = "wordpiece"  # wordpiece, bpe, unigram, words
    tokenizer_settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    pooling: str = "mean"
    window: int | None = WINDOW
    positions: int = 64
    extra: Callable[[Path], None] = lambda folder: None  # changes the folder when all else is written
    refused: str = ""  # what `Encoder` says of it, "" where it gives the vectors of encode
    fits: int = 0  # the window with which it is not refused
    encode: dict[str, Any] = dataclasses.field(default_factory=dict)  # arguments of encode that give the right vectors
    options: dict[str, Any] = dataclasses.field(default_factory=dict)  # ours, that stand for the same
    plain: bool = False  # transformers' folder alone
    make: Callable[[Path], None] | None = None  # writes the folder of a model that is none of transformers'


ALONE = {"batch_size": 1}
"""For models whose vectors depend on what else is in their batch, if encode is left to itself."""
ROPE = {"num_key_value_heads": 2, "head_dim": 8}
LEFT = {"padding_side": "left"}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0] * 4,
    "long_factor": [4.0, 3.0, 2.0, 1.5],
    "original_max_position_embeddings": 24,
}


def json_of(**files: dict[str, Any]) -> Callable[[Path], None]:
    """Adds to JSON files; a name's `__` is a slash. A list is replaced."""

    def change(folder: Path) -> None:
        for name, values in files.items():
            path = folder / f"{name.replace('__', '/')}.json"
            path.parent.mkdir(exist_ok=True)
            before = json.loads(path.read_text()) if path.exists() else {}
            path.write_text(json.dumps(values if isinstance(values, list) else before | values))

    return change


def modules(*kinds: str) -> list[dict[str, Any]]:
    """modules.json of sentence-transformers' own modules, the first of them a Transformer in the folder itself."""
    places = ["" if not n else f"{n}_{kind}" for n, kind in enumerate(kinds)]
    package = "sentence_transformers.models."
    return [
        {"idx": n, "name": str(n), "path": place, "type": package + kind}
        for n, (place, kind) in enumerate(zip(places, kinds, strict=True))
    ]


def dense(folder: Path, number: int, width: int = 16, into: int = HIDDEN) -> None:
    import torch
    from safetensors.torch import save_file

    place = folder / f"{number}_Dense"
    place.mkdir(exist_ok=True)
    generator = torch.Generator().manual_seed(1)
    weights = {
        "linear.weight": torch.randn(width, into, generator=generator),
        "linear.bias": torch.randn(width, generator=generator),
    }
    save_file(weights, place / "model.safetensors")
    (place / "config.json").write_text(json.dumps({"in_features": into, "out_features": width, "bias": True}))


def then_normalize_and_dense(folder: Path) -> None:
    json_of(modules=modules("Transformer", "Pooling", "Normalize", "Dense"))(folder)  # type: ignore[arg-type]
    dense(folder, 3)


def weighted_layers(folder: Path) -> None:
    import torch
    from safetensors.torch import save_file

    names = ("Transformer", "WeightedLayerPooling", "Pooling")
    json_of(modules=modules(*names), config={"output_hidden_states": True})(folder)  # type: ignore[arg-type]
    (folder / "1_Pooling").rename(folder / "2_Pooling")
    place = folder / "1_WeightedLayerPooling"
    place.mkdir()
    config = {"word_embedding_dimension": HIDDEN, "layer_start": 0, "num_hidden_layers": LAYERS}
    (place / "config.json").write_text(json.dumps(config))
    save_file({"layer_weights": torch.tensor([9.0, 1.0, 0.1])}, place / "model.safetensors")


def pooler_output(folder: Path) -> None:
    json_of(
        modules=modules("Transformer"),  # type: ignore[arg-type]
        sentence_bert_config={
            "modality_config": {"text": {"method": "forward", "method_output_name": "pooler_output"}},
            "module_output_name": "sentence_embedding",
        },
    )(folder)


def processing(**text: Any) -> Callable[[Path], None]:
    return json_of(sentence_bert_config={"processing_kwargs": {"text": text}})


ANIMALS: dict[str, Animal] = {
    "BERT": Animal("BertConfig", "BertModel"),
    "BERT, cls": Animal("BertConfig", "BertModel", pooling="cls"),
    "BERT, max": Animal("BertConfig", "BertModel", pooling="max"),
    "BERT, weighted mean": Animal("BertConfig", "BertModel", pooling="weightedmean"),
    "BERT, last token": Animal("BertConfig", "BertModel", pooling="lasttoken"),
    "BERT, padded left": Animal("BertConfig", "BertModel", tokenizer_settings=LEFT, encode=ALONE),
    "BERT, plain folder": Animal("BertConfig", "BertModel", plain=True, window=None),
    "BERT, Dense": Animal("BertConfig", "BertModel", extra=then_normalize_and_dense),
    "BERT, Dense, --normalize false": Animal(
        "BertConfig", "BertModel", extra=then_normalize_and_dense, options={"normalize": "false"}
    ),
    "BERT, weighted layers": Animal("BertConfig", "BertModel", extra=weighted_layers),
    "BERT, pooler output": Animal("BertConfig", "BertModel", extra=pooler_output),
    "BERT, special tokens split": Animal("BertConfig", "BertModel", tokenizer_settings={"split_special_tokens": True}),
    "BERT, no Latin letters": Animal("BertConfig", "BertModel", tokenizer="cyrillic"),
    "BERT, max_length in processing_kwargs": Animal("BertConfig", "BertModel", extra=processing(max_length=12)),
    "BERT, padded to max_length": Animal(
        "BertConfig", "BertModel", extra=processing(padding="max_length", max_length=20)
    ),
    "BERT, prompt": Animal("BertConfig", "BertModel", encode={"prompt": "query : "}, options={"prompt": "query : "}),
    "RoBERTa": Animal("RobertaConfig", "RobertaModel", tokenizer="bpe", window=None, encode={"max_seq_length": 63}),
    "XLM-R": Animal("XLMRobertaConfig", "XLMRobertaModel", tokenizer="unigram"),
    "MPNet": Animal("MPNetConfig", "MPNetModel"),
    "DistilBERT": Animal(
        "DistilBertConfig", "DistilBertModel", {"dim": HIDDEN, "n_heads": HEADS, "n_layers": LAYERS, "hidden_dim": 64}
    ),
    "ALBERT": Animal("AlbertConfig", "AlbertModel", {"embedding_size": 16}, tokenizer="unigram"),
    "ModernBERT": Animal(
        "ModernBertConfig",
        "ModernBertModel",
        {"local_attention": 8, "global_attn_every_n_layers": 2, "cls_token_id": 2, "sep_token_id": 3},
        tokenizer="bpe",
    ),
    "ModernBERT, long window": Animal(
        "ModernBertConfig",
        "ModernBertModel",
        {"local_attention": 8, "global_attn_every_n_layers": 2, "cls_token_id": 2, "sep_token_id": 3},
        tokenizer="bpe",
        positions=1024,
        window=1024,
    ),
    "ELECTRA": Animal("ElectraConfig", "ElectraModel", {"embedding_size": HIDDEN}),
    "DeBERTa-v2": Animal(
        "DebertaV2Config",
        "DebertaV2Model",
        {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False},
    ),
    "CamemBERT": Animal("CamembertConfig", "CamembertModel", tokenizer="unigram"),
    "T5": Animal(
        "T5Config",
        "T5EncoderModel",
        {"d_model": HIDDEN, "d_kv": 8, "d_ff": 64, "num_layers": LAYERS, "num_heads": HEADS},
        tokenizer="unigram",
    ),
    "T5, no stated window": Animal(
        "T5Config",
        "T5EncoderModel",
        {"d_model": HIDDEN, "d_kv": 8, "d_ff": 64, "num_layers": LAYERS, "num_heads": HEADS, "n_positions": 32},
        tokenizer="unigram",
        window=None,
    ),
    "Longformer": Animal("LongformerConfig", "LongformerModel", {"attention_window": [8, 8]}, encode=ALONE),
    "BigBird": Animal("BigBirdConfig", "BigBirdModel", {"attention_type": "original_full"}),
    "BigBird, sparse": Animal(
        "BigBirdConfig",
        "BigBirdModel",
        {"attention_type": "block_sparse", "block_size": 4, "num_random_blocks": 1},
        refused=r"gives up its sparse attention .* --max_seq_length 28",
        fits=28,
    ),
    "I-BERT, no stated window": Animal("IBertConfig", "IBertModel", window=None, encode={"max_seq_length": 63}),
    "Nystromformer": Animal(
        "NystromformerConfig",
        "NystromformerModel",
        {"num_landmarks": 8},
        refused="cannot encode a text, RuntimeError: shape",
    ),
    "FNet": Animal("FNetConfig", "FNetModel", encode=ALONE),
    "XLNet": Animal(
        "XLNetConfig",
        "XLNetModel",
        {"d_model": HIDDEN, "n_layer": LAYERS, "n_head": HEADS, "d_inner": 64},
        tokenizer="unigram",
        tokenizer_settings=LEFT,
    ),
    "GPT-2, last token": Animal(
        "GPT2Config",
        "GPT2Model",
        {"n_embd": HIDDEN, "n_layer": LAYERS, "n_head": HEADS},
        tokenizer="bpe",
        tokenizer_settings=LEFT,
        pooling="lasttoken",
        encode=ALONE,
    ),
    "GPT-2, padded right": Animal(
        "GPT2Config",
        "GPT2Model",
        {"n_embd": HIDDEN, "n_layer": LAYERS, "n_head": HEADS},
        tokenizer="bpe",
        pooling="lasttoken",
        window=None,
    ),
    "Qwen3, last token": Animal(
        "Qwen3Config", "Qwen3Model", ROPE, tokenizer="bpe", tokenizer_settings=LEFT, pooling="lasttoken"
    ),
    "Qwen3, chat template": Animal(
        "Qwen3Config",
        "Qwen3Model",
        ROPE,
        tokenizer="bpe",
        tokenizer_settings=LEFT
        | {"chat_template": "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }} {% endfor %}"},
        pooling="lasttoken",
    ),
    "Mistral, sliding window": Animal(
        "MistralConfig",
        "MistralModel",
        ROPE | {"sliding_window": 8},
        tokenizer="bpe",
        tokenizer_settings=LEFT,
        pooling="lasttoken",
    ),
    "Phi3, longrope": Animal(
        "Phi3Config",
        "Phi3Model",
        {
            "num_key_value_heads": 2,
            "rope_parameters": LONGROPE,
            "original_max_position_embeddings": 24,
            "sliding_window": None,
        },
        tokenizer="bpe",
        pooling="lasttoken",
        encode=ALONE,
    ),
    "Llama, dynamic rotary": Animal(
        "LlamaConfig",
        "LlamaModel",
        ROPE | {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}},
        positions=24,
        tokenizer="bpe",
        refused=r"rotary frequencies \(dynamic\).*--max_seq_length 24",
        fits=24,
    ),
    "Gemma3": Animal(
        "Gemma3TextConfig",
        "Gemma3TextModel",
        ROPE
        | {
            "sliding_window": 8,
            "use_bidirectional_attention": True,
            "layer_types": ["sliding_attention", "full_attention"],
        },
        tokenizer="bpe",
        tokenizer_settings=LEFT,
    ),
    "GPT-NeoX": Animal("GPTNeoXConfig", "GPTNeoXModel", tokenizer="bpe", pooling="weightedmean"),
    "NomicBERT": Animal("NomicBertConfig", "NomicBertModel"),
    "I-BERT": Animal("IBertConfig", "IBertModel"),
    "RoFormer": Animal("RoFormerConfig", "RoFormerModel", {"embedding_size": HIDDEN}),
    "ConvBERT": Animal("ConvBertConfig", "ConvBertModel", {"embedding_size": HIDDEN, "head_ratio": 2}, encode=ALONE),
    "SqueezeBERT": Animal(
        "SqueezeBertConfig", "SqueezeBertModel", {"embedding_size": HIDDEN, **{f"{n}_groups": 1 for n in "qkv"}}
    ),
    "static embeddings": Animal("", "", make=lambda folder: of_modules(folder, "static")),
    "words, CNN": Animal("", "", make=lambda folder: of_modules(folder, "CNN"), encode=ALONE),
    "words, LSTM": Animal("", "", make=lambda folder: of_modules(folder, "LSTM"), encode=ALONE),
    "bag of words": Animal("", "", make=lambda folder: of_modules(folder, "BoW")),
    "Mamba": Animal(
        "MambaConfig", "MambaModel", {"state_size": 4, "num_layers": LAYERS}, tokenizer="bpe", pooling="lasttoken"
    ),
}


def build(name: str, folder: Path) -> str:
    """Writes a model's folder."""
    import torch
    import transformers

    animal = ANIMALS[name]
    if animal.make:
        animal.make(folder)
        return str(folder)
    tokenizer = make_tokenizer(animal)
    common = {
        "vocab_size": len(tokenizer),
        "hidden_size": HIDDEN,
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "intermediate_size": 64,
        "max_position_embeddings": animal.positions,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config_class = getattr(transformers, animal.config)
    if animal.config == "GPT2Config":
        common["n_positions"] = common.pop("max_position_embeddings")
    if animal.config in ("XLNetConfig", "T5Config"):
        del common["max_position_embeddings"]
    known = {k: v for k, v in common.items() if k not in ("hidden_size",) or "d_model" not in animal.settings}
    torch.manual_seed(random.Random(name).randrange(1 << 30))
    model = getattr(transformers, animal.model)(config_class(**known | animal.settings)).eval()
    with torch.no_grad():
        for weight in model.parameters():  # as if trained: biases are not zero, and attention looks at something
            if weight.dim() > 1:
                weight.mul_(4 if weight.abs().max() < 0.3 else 1)
            else:
                weight.add_(torch.randn_like(weight) * 0.1)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if not animal.plain:
        json_of(
            modules=modules("Transformer", "Pooling"),  # type: ignore[arg-type]
            **{"1_Pooling__config": {"embedding_dimension": HIDDEN, "pooling_mode": animal.pooling}},
            **({"sentence_bert_config": {"max_seq_length": animal.window}} if animal.window else {}),
        )(folder)
    animal.extra(folder)
    return str(folder)


def of_modules(folder: Path, kind: str) -> None:
    """Models whose first module is not a transformer."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules as known

    torch.manual_seed(0)
    if kind == "static":
        tokenizer = make_tokenizer(Animal("", ""))._tokenizer
        made: list[Any] = [known.StaticEmbedding(tokenizer, embedding_dim=HIDDEN)]
    elif kind == "BoW":
        made = [known.BoW(WORDS)]
    else:
        from sentence_transformers.sentence_transformer.modules.tokenizer import WhitespaceTokenizer

        words = known.WordEmbeddings(WhitespaceTokenizer(["PADDING", *WORDS]), torch.randn(len(WORDS) + 1, HIDDEN))
        middle = known.CNN(HIDDEN, 16) if kind == "CNN" else known.LSTM(HIDDEN, 16)
        made = [words, middle, known.Pooling(48 if kind == "CNN" else 32)]
    SentenceTransformer(modules=made, device="cpu").save_pretrained(str(folder))


def make_tokenizer(animal: Animal) -> Any:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    corpus = [" ".join(WORDS), *TEXTS, "".join(map(chr, range(32, 127)))]
    kind = animal.tokenizer
    if kind == "bpe":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer: Any = trainers.BpeTrainer(
            vocab_size=400, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
        )
    elif kind == "unigram":
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=200, special_tokens=SPECIAL, unk_token="[UNK]", show_progress=False
        )
    else:
        tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.BertNormalizer()
        if kind == "cyrillic":
            tokenizer.normalizer = normalizers.Sequence(
                [tokenizer.normalizer, normalizers.Replace(_regex("[a-z]"), "")]
            )
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=SPECIAL, show_progress=False)
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    settings = dict(zip(names, SPECIAL, strict=True)) | animal.tokenizer_settings
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **settings)


def _regex(pattern: str) -> Any:
    from tokenizers import Regex

    return Regex(pattern)
