"""Python workers for one TaskManager of a cluster on this machine; on Kubernetes the image's boot entry does this.

    python deploy/flink/worker_pool.py --host 127.0.0.2 --service_port 50000

Beam's own `python -m apache_beam.runners.worker.worker_pool_main` listens on every interface and starts a worker for
whoever asks, runs whatever `python` is first on the PATH, and hands workers a stdout that nobody reads, on which they
stand still when its 64 KiB are full. This is its servicer on an address of loopback, with workers of this very
interpreter that log to stderr.
"""

import argparse
import logging
import signal
import subprocess
import sys
import threading
from typing import Any

import grpc
from apache_beam.portability.api import beam_fn_api_pb2, beam_fn_api_pb2_grpc
from apache_beam.runners.worker.sdk_worker import SdkHarness
from apache_beam.runners.worker.worker_pool_main import BeamFnExternalWorkerPoolServicer, kill_process_gracefully
from apache_beam.utils.thread_pool_executor import shared_unbounded_instance

LOG_FORMAT = "%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s"


class _Pool(BeamFnExternalWorkerPoolServicer):
    def __init__(self, program: str) -> None:
        super().__init__(use_process=True)
        self.program = program

    def StartWorker(self, request: Any, _: Any) -> Any:
        command = [sys.executable, self.program, "--id", request.worker_id]
        command += ["--control_endpoint", request.control_endpoint.url]
        self._worker_processes[request.worker_id] = subprocess.Popen(command)
        return beam_fn_api_pb2.StartWorkerResponse()

    def stop(self) -> None:
        for process in self._worker_processes.values():
            kill_process_gracefully(process)


def serve(host: str, port: int, program: str) -> None:
    """Starts and stops workers as the TaskManager asks, until SIGTERM."""
    pool = _Pool(program)
    server = grpc.server(shared_unbounded_instance())
    beam_fn_api_pb2_grpc.add_BeamFnExternalWorkerPoolServicer_to_server(pool, server)
    server.add_insecure_port(f"{host}:{port}")
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    server.start()
    ended.wait()
    server.stop(0)
    pool.stop()


def work(worker_id: str, control: str) -> None:
    """Is a worker until its TaskManager lets go of it."""
    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT, force=True)  # Beam has logged, which configures too
    logging.getLogger("apache_beam").setLevel(logging.WARNING)
    SdkHarness(control, worker_id=worker_id).run()


def main() -> int:
    """A pool, or with the flags that a pool gives to what it starts, a worker."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at, on loopback")
    parser.add_argument("--service_port", type=int, default=50000)
    parser.add_argument("--program", default=__file__, help="the Python program that a worker is")
    parser.add_argument("--id", help=argparse.SUPPRESS)
    parser.add_argument("--control_endpoint", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.id:
        work(args.id, args.control_endpoint)
    else:
        serve(args.host, args.service_port, args.program)
    return 0


if __name__ == "__main__":
    sys.exit(main())
