"""Queries that come as text: embedded as the corpus was, into a dataset of the output's own, before they are joined."""

import argparse
import dataclasses
from collections.abc import Sequence
from typing import Any

from apache_beam.options.pipeline_options import PipelineOptions

from jobs import cli, embed
from jobs.embed import EmbedConfig
from schemas import storage
from schemas.errors import InputError
from schemas.manifest import versions
from schemas.matches import QUERIES_FOLDER
from schemas.model import ASKED_OF, ModelFingerprint
from transforms.model import EncodeOptions, ResolvedModel, resolve_model
from transforms.sources import ReadOptions


def is_dataset(queries: Sequence[str]) -> bool:
    """Whether what `--queries` names was published by a job; all else is text."""
    return len(queries) == 1 and not any(c in queries[0] for c in "*?[") and bool(versions(queries[0]))


def embed_queries(args: argparse.Namespace, corpus: ModelFingerprint, options: PipelineOptions) -> str:
    """Brings the embedded queries up to date, as `jobs.embed` does, and says where they are.

    Raises:
        InputError: no such text, or the corpus's model is not here.
        RunFailed: they could not be embedded.
    """
    if cli.submits_only(options):
        raise InputError("--queries: are text, and this runner does not wait for them; embed them first: jobs.embed")
    encode, model = corpus_encoder(args, corpus)
    config = EmbedConfig(
        input=tuple(args.queries),
        output=storage.join(args.output, QUERIES_FOLDER),
        read=ReadOptions(
            text_column=args.text_column, id_column=args.id_column, max_record_bytes=args.max_record_bytes
        ),
        encode=encode,
        format=args.format,
        id_from=args.id_from,
        may_rename=True,
        duplicate_ids=args.duplicate_ids,
        max_error_rate=args.max_error_rate,
        skip_bad_files=args.skip_bad_files,
    )
    try:
        embed.Run.settle(config, model, options).go()
    except InputError as error:
        raise InputError(str(error).replace("--input", "--queries")) from None
    return config.output


def corpus_encoder(args: argparse.Namespace, corpus: ModelFingerprint) -> tuple[EncodeOptions, ResolvedModel]:
    """The model that made the corpus, with the queries' prompt: the corpus's own unless another is asked for.

    Raises:
        InputError: it is not what is found under its name.
    """
    named = args.query_prompt_name is not None
    prompt = args.query_prompt if named or args.query_prompt is not None else corpus.prompt
    try:
        encode = EncodeOptions(
            model=args.model or corpus.name,
            device=args.device,
            dtype=corpus.dtype,
            backend=corpus.backend,
            long_texts=corpus.long_texts,
            prompt_name=args.query_prompt_name,
            prompt=prompt,
        )
        model = resolve_model(encode)
        if changes := _changes(model.fingerprint, corpus):
            encode = dataclasses.replace(encode, **changes)
            model = resolve_model(encode)
    except InputError as error:
        raise InputError(str(error).replace("--prompt", "--query_prompt")) from None
    changed = model.fingerprint.differences(corpus, but=ASKED_OF)
    if changed:
        raise InputError(
            f"--model {encode.model}: is not the model that made the corpus: {'; '.join(changed)}; name its folder"
        )
    return encode, model


def _changes(found: ModelFingerprint, wanted: ModelFingerprint) -> dict[str, Any]:
    """Options by which a model makes such vectors. Only what differs: what says what the model does anyway may do it
    twice."""
    changes: dict[str, Any] = {}
    if found.max_seq_length != wanted.max_seq_length:
        changes["max_seq_length"] = wanted.max_seq_length
    if found.dim != wanted.dim:
        changes["truncate_dim"] = wanted.dim  # which ends unit length
    if wanted.normalized != (found.normalized and found.dim == wanted.dim):
        changes["normalize"] = "true" if wanted.normalized else "false"
    return changes
