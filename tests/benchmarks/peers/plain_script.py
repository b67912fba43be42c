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
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--batch_size", type=int, default=32)
    args = parser.parse_args()

    with open(args.input, encoding="utf-8") as lines:
        texts = [line.rstrip("\n") for line in lines]
    vectors = SentenceTransformer(args.model, model_kwargs={"dtype": args.dtype}).encode(
        texts, batch_size=args.batch_size
    )
    embedding = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
    pq.write_table(pa.table({"text": texts, "embedding": embedding}), Path(args.output) / "embeddings.parquet")


if __name__ == "__main__":
    main()
