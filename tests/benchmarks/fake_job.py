"""`jobs.embed` with a fake encoder, for what the pipeline itself takes: python -m tests.benchmarks.fake_job FLAGS"""

import sys

import transforms.encode
from jobs import embed
from tests.fakes import FakeEncoder

transforms.encode.Encoder = FakeEncoder  # type: ignore[misc, assignment]

if __name__ == "__main__":
    sys.exit(embed.main())
