"""A stand-in on 127.0.0.1 for the model hub, for plain file servers and for proxies, with faults.

It answers as the hub does: HEAD and GET of ``/REPO/resolve/main/FILE`` with the headers that
huggingface_hub reads, ranges, and its error codes. Any other path is a plain file.
"""

from __future__ import annotations

import hashlib
import threading
import types
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"
PAGE = b"<!DOCTYPE html>\n<html><title>Welcome to the guest network</title>Log in here.</html>"


class Hub:
    """Serves ``files`` by path; ``fault`` says what goes wrong, ``times`` how often (None: always).

    Faults: a number (HTTP status); "stall" (no byte of an answer), "stall body" (headers, then
    none), "cut" (half, then the connection closes), "altered" (one bit of the file turned),
    "page" (a web page, whatever is asked), "login" (a redirect to it). ``asked`` lists requests.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.headers: dict[str, dict[str, str]] = {}  # more of them, by path
        self.fault: int | str | None = None
        self.times: int | None = None
        self.asked: list[tuple[str, str, str]] = []  # method, path, range
        self.gate: threading.Barrier | None = None  # plain files wait here for one another
        self.ended = threading.Event()
        hub = self

        class Handler(_Handler):
            server_hub = hub

        self._server = _Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self.ended.set()
        self._server.shutdown()
        self._server.server_close()

    def add(self, repo: str, file: str, data: bytes) -> None:
        self.files[f"/{repo}/resolve/main/{file}"] = data

    def now(self) -> int | str | None:
        """The fault of this request."""
        if self.fault is None or self.times == 0:
            return None
        if self.times is not None:
            self.times -= 1
        return self.fault


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *args: Any) -> None:
        pass  # clients that hang up are part of the tests


class _Handler(BaseHTTPRequestHandler):
    server_hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        pass

    def do_CONNECT(self) -> None:  # as a proxy
        self.server_hub.asked.append(("CONNECT", self.path, ""))
        fault = self.server_hub.fault
        self._answer(fault if isinstance(fault, int) else 403, b"", {})

    def do_HEAD(self) -> None:
        self._serve()

    def do_GET(self) -> None:
        self._serve()

    def _serve(self) -> None:
        hub = self.server_hub
        hub.asked.append((self.command, self.path, self.headers.get("Range", "")))
        of_body = hub.fault in ("cut", "altered", "stall body")
        fault = None if of_body and self.command == "HEAD" else hub.now()
        if self.path == "/login" or fault == "page":
            return self._answer(200, PAGE, {"Content-Type": "text/html"})
        if fault == "login":
            return self._answer(302, b"", {"Location": f"{hub.url}/login"})
        if fault == "stall":
            hub.ended.wait(30)
            self.close_connection = True
            return None
        if isinstance(fault, int):
            return self._answer(fault, b"no", {})
        on_hub = "/resolve/" in self.path
        data = hub.files.get(self.path)
        if data is None:
            repo = self.path.split("/resolve/")[0]
            known = any(path.startswith(f"{repo}/resolve/") for path in hub.files)
            code = {"X-Error-Code": "EntryNotFound" if known else "RepoNotFound"}
            code["X-Repo-Commit"] = COMMIT
            return self._answer(404 if known or not on_hub else 401, b"", code if on_hub else {})
        if hub.gate and not on_hub:
            hub.gate.wait(60)
        sha256 = hashlib.sha256(data).hexdigest()
        headers = {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes"}
        if on_hub:
            headers |= {
                "X-Repo-Commit": COMMIT,
                "ETag": f'"{sha256}"',
                "X-Linked-Etag": f'"{sha256}"',
                "X-Linked-Size": str(len(data)),
            }
        headers |= hub.headers.get(self.path, {})
        if fault == "altered":
            data = data[:-1] + bytes([data[-1] ^ 1])
        start, status = 0, 200
        if span := self.headers.get("Range"):
            start, status = int(span.removeprefix("bytes=").split("-")[0]), 206
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        body = data[start:]
        stop = {"cut": len(body) // 2, "stall body": 100}.get(str(fault))
        self._answer(status, body, headers, stop)
        if fault == "stall body":
            hub.ended.wait(30)
        return None

    def _answer(
        self, status: int, body: bytes, headers: dict[str, str], stop: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:stop])
            self.wfile.flush()
        if stop is not None:
            self.close_connection = True


def data_sets(images: list, labels: list, names: list, splits: tuple = ("test",)) -> Any:
    """What the package ``datasets`` is asked for, and no more."""

    class Image:
        def __init__(self, decode=True):
            self.decode = decode

    class ClassLabel:
        def __init__(self, names):
            self.names = names

    class Dataset:
        def __init__(self):
            self.features = {"img": Image(), "label": ClassLabel(names), "more": ClassLabel(["x"])}

        def cast_column(self, name, feature):
            assert name == "img" and isinstance(feature, Image) and not feature.decode
            return self

        def __getitem__(self, key):
            if key == "label":
                return labels
            return {"img": {"bytes": images[key], "path": None}, "label": labels[key]}

    def load_dataset(name, split):
        if split not in splits:
            raise ValueError(f'Unknown split "{split}".\nShould be one of {list(splits)}.')
        assert name == "somebody/cifar10"
        return Dataset()

    return types.SimpleNamespace(load_dataset=load_dataset, Image=Image)
