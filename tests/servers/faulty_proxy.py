"""A proxy before a store's server that counts what goes through, and does wrong what a test asks for.

It refuses, resets, cuts a body short, loses an answer after the server has done what was asked, stalls before the
server is asked or when it has half of what it is sent, is late with the answer or slow, gives other bytes than those
asked for, and drops headers: each happens on real networks, and no well-behaved test server can be asked for it.
"""

import contextlib
import dataclasses
import http.client
import re
import socket
import struct
import threading
from collections.abc import Collection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal, NamedTuple
from urllib.parse import unquote, urlsplit

Kind = Literal["200", "403", "501", "503", "reset", "truncated", "lost", "stall", "half", "late", "slow", "shifted"]
REFUSALS = {
    "200": b"<?xml version='1.0'?><DeleteResult><Error><Key>k</Key><Code>InternalError</Code><Message>We "
    b"encountered an internal error. Please try again.</Message></Error></DeleteResult>",
    "501": b"<?xml version='1.0'?><Error><Code>NotImplemented</Code><Message>A header you provided implies "
    b"functionality that is not implemented</Message></Error>",
    "403": b"<?xml version='1.0'?><Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>",
    "503": b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Reduce your request rate</Message></Error>",
}
BETWEEN_TWO = {"connection", "keep-alive", "transfer-encoding", "content-length", "expect"}
"""Headers of one connection, which a proxy does not pass on."""
RANGE = re.compile(r"bytes=(\d+)-(\d+)")
NAME = re.compile(rb'"name": *"([^"]*)"')
NAME_WITHIN_BYTES = 1024


class Request(NamedTuple):
    """A request, and what its client got."""

    method: str
    path: str  # and query
    status: int  # 0: no answer
    sent: int  # bytes of the answer's body


@dataclasses.dataclass
class Fault:
    """What befalls those `numbers`, from 1, of the requests by these methods whose path or upload has `match` in it."""

    kind: Kind
    methods: Collection[str]
    match: str
    numbers: Collection[int]
    seconds: float  # how long it waits
    seen: int = 0
    met: int = 0
    waiting: threading.Event = dataclasses.field(default_factory=threading.Event)  # it waits


class FaultyProxy:
    """Use it as a context manager: `url` is where it listens, `requests` what went through, in order."""

    def __init__(self, upstream: str) -> None:
        self.upstream = urlsplit(upstream).netloc
        self.requests: list[Request] = []
        self.stopped = threading.Event()
        self.dropped: set[str] = set()  # headers, in small letters, that do not get through, either way
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"proxy": self}))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def fail(
        self, kind: Kind, methods: str, match: str = "", numbers: Collection[int] = (1,), seconds: float = 0
    ) -> Fault:
        """Arranges for a fault, `fail("503", "PUT POST")`; `met` of what is returned counts how often it happened."""
        fault = Fault(kind, methods.split(), match, numbers, seconds)
        self._faults.append(fault)
        return fault

    def fault_of(self, method: str, path: str, body: bytes) -> Fault | None:
        """The fault that this request meets, if any."""
        hit, wanted = None, unquote(path) + _name_in(body)
        with self._lock:
            for fault in self._faults:
                if method in fault.methods and fault.match in wanted:
                    fault.seen += 1
                    if hit is None and fault.seen in fault.numbers:
                        fault.met += 1
                        hit = fault
        return hit

    def sent(self, match: str = "") -> int:
        """Bytes of answers to GETs of paths that contain `match`."""
        return sum(r.sent for r in self.requests if r.method == "GET" and match in r.path)

    def __enter__(self) -> "FaultyProxy":
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        self._server.shutdown()
        self._server.server_close()


def _name_in(body: bytes) -> str:
    """What an upload to GCS is to be called, which is in its body: after that of the bucket, "" in other requests."""
    found = NAME.search(body, 0, NAME_WITHIN_BYTES)
    return f"/{found[1].decode()}" if found else ""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    proxy: FaultyProxy

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.proxy.fault_of(self.command, self.path, body)
        kind = fault.kind if fault else None
        if fault and kind == "stall" and self._waits(fault):
            kind = "reset"
        if fault and kind == "half":
            self._ask_half(body, fault)
            kind = "reset"
        if kind == "reset":
            self._reset()
        elif kind in REFUSALS:
            refusal = REFUSALS[kind]
            self._answer(int(kind), [("Content-Type", "application/xml")], refusal, len(refusal))
        else:
            if kind == "shifted":
                for name in ("Range", "x-ms-range"):
                    if asked := RANGE.fullmatch(self.headers.get(name, "")):
                        self.headers.replace_header(name, f"bytes={int(asked[1]) + 1}-{int(asked[2]) + 1}")
            if fault and kind == "slow":
                self._waits(fault)
            status, headers, content, length = self._ask(body)
            if kind == "lost" or (fault and kind == "late" and self._waits(fault)):
                self._reset()
            else:
                self._answer(status, headers, content[: len(content) // 2] if kind == "truncated" else content, length)

    def _waits(self, fault: Fault) -> bool:
        """Waits; True where the proxy ends before the time is up."""
        fault.waiting.set()
        return self.proxy.stopped.wait(fault.seconds)

    do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = do_DELETE = _pass_on

    def _ask_half(self, body: bytes, fault: Fault) -> None:
        """Sends the server half of the body, waits, and ends the connection."""
        with contextlib.closing(http.client.HTTPConnection(self.proxy.upstream)) as upstream:
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() != "expect":
                    upstream.putheader(name, value)
            upstream.endheaders(body[: len(body) // 2])
            self._waits(fault)

    def _ask(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes, int]:
        """The server's status, headers, body and its length, which a HEAD tells of a body that does not come."""
        not_passed = BETWEEN_TWO | self.proxy.dropped
        headers = {k: v for k, v in self.headers.items() if k.lower() not in not_passed}
        with contextlib.closing(http.client.HTTPConnection(self.proxy.upstream)) as upstream:
            upstream.request(self.command, self.path, body, headers | {"Content-Length": str(len(body))})
            answer = upstream.getresponse()
            content = answer.read()
            length = int(answer.getheader("Content-Length") or len(content))
            return answer.status, answer.getheaders(), content, length

    def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes, length: int) -> None:
        self.proxy.requests.append(Request(self.command, self.path, status, len(content)))
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in BETWEEN_TWO | self.proxy.dropped:
                # Where an upload goes on, it goes on through the proxy.
                self.send_header(
                    name, value.replace(f"//{self.proxy.upstream}", f"//{urlsplit(self.proxy.url).netloc}")
                )
        if status != 204:
            self.send_header("Content-Length", str(length))
        self.end_headers()
        with contextlib.suppress(ConnectionError):  # the client is gone, perhaps killed
            self.wfile.write(content)
        self.close_connection = self.close_connection or (self.command != "HEAD" and len(content) < length)

    def _reset(self) -> None:
        """Ends the connection by RST, in the middle of everything."""
        self.proxy.requests.append(Request(self.command, self.path, 0, 0))
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.rfile.close()
        self.connection.close()
        self.close_connection = True
