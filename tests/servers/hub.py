"""A Hugging Face Hub of one data set: the endpoints that reading asks for, as the Hub answers them.

The repository, its tree a page at a time, what is at a path, and files by ranges; a file above `LARGE_BYTES` is a
redirect, as the Hub keeps large files elsewhere.
"""

import hashlib
import json
from urllib.parse import parse_qs, unquote, urlsplit

from tests.servers.web import Handler, WebServer

LARGE_BYTES = 10_000
PAGE_ENTRIES = 3


class Hub(WebServer):
    """Use it as a context manager: `url` is where it listens; `put` adds files to `repo`."""

    def __init__(self, repo: str) -> None:
        super().__init__(_Handler)
        self.repo = repo
        self.content: dict[str, bytes] = {}

    def put(self, path: str, content: bytes) -> None:
        self.content[path] = content
        resolved = f"/datasets/{self.repo}/resolve/main/{path}"
        if len(content) > LARGE_BYTES:
            self.files[f"/elsewhere/{path}"] = content
            self.redirects[resolved] = f"{self.url}/elsewhere/{path}"
        else:
            self.files[resolved] = content

    def entries(self, folder: str, recursive: bool) -> list[dict[str, object]]:
        """What the tree endpoint says of a folder; folders come before what is in them."""
        head = f"{folder}/" if folder else ""
        found: dict[str, dict[str, object]] = {}
        for path in sorted(self.content):
            if not path.startswith(head):
                continue
            parts = path[len(head) :].split("/")
            for depth in range(1, len(parts) if recursive else min(len(parts), 2)):
                name = head + "/".join(parts[:depth])
                found[name] = {"type": "directory", "oid": _digest(name.encode()), "size": 0, "path": name}
            if recursive or len(parts) == 1:
                found[path] = self.entry(path)
        return list(found.values())

    def entry(self, path: str) -> dict[str, object]:
        content = self.content[path]
        about: dict[str, object] = {"type": "file", "oid": _digest(content), "size": len(content), "path": path}
        if len(content) > LARGE_BYTES:
            about["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
        return about


class _Handler(Handler):
    web: Hub

    def do_GET(self) -> None:
        api = f"/api/datasets/{self.web.repo}"
        path = unquote(urlsplit(self.path).path)
        if path in (api, f"{api}/revision/main"):
            self._say({"id": self.web.repo, "sha": "0" * 40, "siblings": []})
        elif path == f"{api}/tree/main" or path.startswith(f"{api}/tree/main/"):
            self._tree(path.removeprefix(f"{api}/tree/main").strip("/"))
        elif path.startswith("/api/"):
            self._answer(404, {"X-Error-Code": "RepoNotFound"}, b"")
        else:
            super().do_GET()

    do_HEAD = do_GET

    def _tree(self, folder: str) -> None:
        asked = parse_qs(urlsplit(self.path).query)
        entries = self.web.entries(folder, asked.get("recursive", [""])[0].lower() == "true")
        if not entries:
            self._answer(404, {"X-Error-Code": "EntryNotFound"}, b"")
            return
        start = int(asked.get("cursor", ["0"])[0])
        stop = start + PAGE_ENTRIES
        more = {}
        if stop < len(entries):
            query = "&".join(f"{name}={asked[name][0]}" for name in asked if name != "cursor")
            more["Link"] = f'<{self.web.url}{urlsplit(self.path).path}?{query}&cursor={stop}>; rel="next"'
        self._say(entries[start:stop], more)

    def do_POST(self) -> None:
        form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        known = self.web.entries("", recursive=True)
        self._say([entry for path in form["paths"] for entry in known if entry["path"] == path])

    def _say(self, what: object, headers: dict[str, str] | None = None) -> None:
        self._answer(200, {"Content-Type": "application/json"} | (headers or {}), json.dumps(what).encode())


def _digest(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()  # git's
