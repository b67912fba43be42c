"""What a Flex Template's launcher runs: the job that the image was built for, by its importable name."""

import importlib
import os
import sys

if __name__ == "__main__":
    sys.exit(importlib.import_module(f"jobs.{os.environ['JOB']}").main())
