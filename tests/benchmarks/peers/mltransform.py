"""Beam's MLTransform with SentenceTransformerEmbeddings, after the notebook "Generate Text Embeddings by using Hugging
Face Hub models" and https://beam.apache.org/documentation/ml/preprocess-data/. It needs no tensorflow-transform.

MLTransform puts the vector in the place of its text, so the text goes along under a second name.

python tests/benchmarks/peers/mltransform.py --input FILE --output DIR --model DIR [any Beam flag]
"""

import argparse
import tempfile

import apache_beam as beam
import pyarrow as pa
from apache_beam.ml.transforms.base import MLTransform
from apache_beam.ml.transforms.embeddings.huggingface import SentenceTransformerEmbeddings
from apache_beam.options.pipeline_options import PipelineOptions

SCHEMA = pa.schema([("text", pa.string()), ("embedding", pa.list_(pa.float32()))])


def main() -> None:
    parser = argparse.ArgumentParser()
    for flag in ("--input", "--output", "--model"):
        parser.add_argument(flag, required=True)
    args, beam_args = parser.parse_known_args()

    embeddings = SentenceTransformerEmbeddings(model_name=args.model, columns=["embedding"])
    artifacts = tempfile.mkdtemp(prefix="artifacts_")
    with beam.Pipeline(options=PipelineOptions(beam_args)) as pipeline:
        (
            pipeline
            | beam.io.ReadFromText(args.input)
            | beam.Map(lambda line: {"text": line, "embedding": line})
            | MLTransform(write_artifact_location=artifacts).with_transform(embeddings)
            | beam.io.WriteToParquet(f"{args.output}/embeddings", SCHEMA, file_name_suffix=".parquet")
        )


if __name__ == "__main__":
    main()
