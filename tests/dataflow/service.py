"""A stand-in for Dataflow's service: takes jobs as its REST API does, keeps them, runs none."""

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

JOB_ID = "2026-01-02_03_04_05-6789"


class Service(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.requests: list[tuple[str, str]] = []  # (method, path)
        self.jobs: list[dict[str, Any]] = []
        self.refusal: tuple[int, str] | None = None

    @property
    def endpoint(self) -> str:
        return f"http://localhost:{self.server_port}"  # 'localhost' makes Beam speak REST rather than gRPC


class _Answers(BaseHTTPRequestHandler):
    server: Service

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append(("POST", self.path.split("?")[0]))
        if self.server.refusal:
            status, message = self.server.refusal
            self._answer(status, {"error": {"code": status, "message": message, "status": "PERMISSION_DENIED"}})
            return
        self.server.jobs.append(body)
        self._answer(200, body | {"id": JOB_ID, "currentState": "JOB_STATE_PENDING"})

    def do_GET(self) -> None:
        self.server.requests.append(("GET", self.path.split("?")[0]))
        self._answer(200, {"id": JOB_ID, "currentState": "JOB_STATE_RUNNING"})

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Requests are kept, not printed."""


@contextlib.contextmanager
def serve() -> Iterator[Service]:
    with Service() as service:
        thread = threading.Thread(target=service.serve_forever, daemon=True)
        thread.start()
        try:
            yield service
        finally:
            service.shutdown()
            thread.join()
