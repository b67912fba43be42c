"""A plain web server: files with ranges and entity tags, and redirects."""

import hashlib
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class WebServer:
    """Use it as a context manager: `url` is where it listens; `files` by path, `redirects` from path to URL, and
    `requests` ("METHOD path bytes-sent") in order."""

    def __init__(self, handler: "type[Handler] | None" = None) -> None:
        self.files: dict[str, bytes] = {}
        self.redirects: dict[str, str] = {}
        self.requests: list[str] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (handler or Handler,), {"web": self}))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "WebServer":
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    web: WebServer

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path in self.web.redirects:
            self._answer(302, {"Location": self.web.redirects[path]}, b"")
        elif path not in self.web.files:
            self._answer(404, {}, b"no such file")
        else:
            self._answer(*self._file(self.web.files[path]))

    do_HEAD = do_GET

    def _file(self, content: bytes) -> tuple[int, dict[str, str], bytes]:
        headers = {"Accept-Ranges": "bytes", "ETag": f'"{hashlib.sha256(content).hexdigest()[:16]}"'}
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if not asked or not any(asked.groups()):
            return 200, headers, content
        first, last = asked.groups()
        start = int(first) if first else max(len(content) - int(last), 0)
        stop = min(int(last) + 1, len(content)) if first and last else len(content)
        if start >= len(content):
            return 416, {"Content-Range": f"bytes */{len(content)}"}, b""
        return 206, headers | {"Content-Range": f"bytes {start}-{stop - 1}/{len(content)}"}, content[start:stop]

    def _answer(self, status: int, headers: dict[str, str], content: bytes) -> None:
        body = b"" if self.command == "HEAD" else content
        self.web.requests.append(f"{self.command} {self.path} {len(body)}")
        self.send_response_only(status)
        for name, value in (headers | {"Content-Length": str(len(content))}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
