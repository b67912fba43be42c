"""A worker of a pool whose encoder is fake and takes its time, for faults that need nothing but time."""

import runpy

import transforms.encode
from tests.engines.clusters import ROOT
from tests.faults.harness import SlowEncoder

SlowEncoder.seconds_per_block = 0.4
transforms.encode.Encoder = SlowEncoder  # type: ignore[assignment, misc]
runpy.run_path(str(ROOT / "deploy/flink/worker_pool.py"), run_name="__main__")
