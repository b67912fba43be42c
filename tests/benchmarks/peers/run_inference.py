"""Beam's RunInference with a handler for sentence-transformers, after the notebook "Bring your own machine learning
(ML) model to Beam RunInference" and https://beam.apache.org/documentation/ml/about-ml/.

Beam has no public handler for this library (the one inside SentenceTransformerEmbeddings is private), so a user writes
the two methods that the page asks for. Beam chooses the batches.

python tests/benchmarks/peers/run_inference.py --input FILE --output DIR --model DIR [any Beam flag]
"""

import argparse
from collections.abc import Iterable, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.ml.inference.base import ModelHandler, PredictionResult, RunInference
from apache_beam.options.pipeline_options import PipelineOptions
from sentence_transformers import SentenceTransformer

SCHEMA = pa.schema([("text", pa.string()), ("embedding", pa.list_(pa.float32()))])


class SentenceTransformerModelHandler(ModelHandler[str, PredictionResult, SentenceTransformer]):
    def __init__(self, model_name: str) -> None:
        super().__init__()
        self._model_name = model_name

    def load_model(self) -> SentenceTransformer:
        return SentenceTransformer(self._model_name)

    def run_inference(
        self, batch: Sequence[str], model: SentenceTransformer, inference_args: dict[str, Any] | None = None
    ) -> Iterable[PredictionResult]:
        vectors: np.ndarray = model.encode(list(batch), **(inference_args or {}))
        return [PredictionResult(text, vector) for text, vector in zip(batch, vectors, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser()
    for flag in ("--input", "--output", "--model"):
        parser.add_argument(flag, required=True)
    args, beam_args = parser.parse_known_args()

    with beam.Pipeline(options=PipelineOptions(beam_args)) as pipeline:
        (
            pipeline
            | beam.io.ReadFromText(args.input)
            | RunInference(SentenceTransformerModelHandler(args.model))
            | beam.Map(lambda result: {"text": result.example, "embedding": result.inference})
            | beam.io.WriteToParquet(f"{args.output}/embeddings", SCHEMA, file_name_suffix=".parquet")
        )


if __name__ == "__main__":
    main()
