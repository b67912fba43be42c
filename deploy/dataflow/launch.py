"""What a Flex Template's launcher runs: the job that the image was built for, by its importable name."""

import importlib
import os

from jobs import cli

if __name__ == "__main__":
    cli.leave(importlib.import_module(f"jobs.{os.environ['JOB']}").main())
