"""The plain script: `SentenceTransformer.encode` with its defaults, then one Parquet file.

python tests/benchmarks/peers/plain_script.py --input FILE --output DIR --model DIR
"""

import argparse
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from sentence_transformers import SentenceTransformer


def main() -> None:
    parser = argparse.ArgumentParser()
    for flag in ("--input", "--output", "--model"):
        parser.add_argument(flag, required=True)
    args = parser.parse_args()

    with open(args.input, encoding="utf-8") as lines:
        texts = [line.rstrip("\n") for line in lines]
    vectors = SentenceTransformer(args.model).encode(texts)
    embedding = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
    pq.write_table(pa.table({"text": texts, "embedding": embedding}), Path(args.output) / "embeddings.parquet")


if __name__ == "__main__":
    main()
