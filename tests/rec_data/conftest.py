"""A local HTTP server that misbehaves on request."""

import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


@dataclass
class Server:
    """What is served, and what went wrong on purpose."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    """One per request, used up in order: "500", "429", "truncate", and for what is asked as a range "shift" (another
    range comes), "less" (100 bytes of it) or "unplaced" (no Content-Range), and "replace" (from now on the file is the
    next of the versions); afterwards all is well.
    """
    versions: list[bytes] = field(default_factory=list)

    ranges: bool = True
    etag: str = '"v1"'
    content_type: str | None = None
    encoding: str | None = None
    pause: float = 0
    """Seconds between two pieces of an answer."""
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    """(path, Range) of every request."""


def make_handler(server):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            asked = self.headers.get("Range")
            server.requests.append((self.path, asked))
            fault = server.faults.pop(0) if server.faults else None
            if fault in ("500", "429"):
                return self.answer(int(fault), b"")
            if fault == "replace":
                server.versions.pop(0)
                server.files[self.path] = server.versions[0]
                server.etag = server.etag and f'"{len(server.versions)}"'
            body = server.files.get(self.path)
            if body is None:
                return self.answer(404, b"")
            start = 0
            if asked and server.ranges and self.headers.get("If-Range") == server.etag:
                start = int(asked.removeprefix("bytes=").rstrip("-"))
                if start >= len(body):
                    return self.answer(416, b"")
            start -= 100 if start and fault == "shift" else 0
            end = start + 100 if start and fault == "less" else len(body)
            place = f"bytes {start}-{end - 1}/{len(body)}" if start and fault != "unplaced" else None
            return self.answer(206 if start else 200, body[start:end], place=place, truncate=fault == "truncate")

        def answer(self, status, body, *, place=None, truncate=False):
            self.send_response(status)
            if place:
                self.send_header("Content-Range", place)
            if server.content_type:
                self.send_header("Content-Type", server.content_type)
            if server.encoding:
                self.send_header("Content-Encoding", server.encoding)
            self.send_header("Content-Length", str(len(body)))
            if server.etag:
                self.send_header("ETag", server.etag)
            self.end_headers()
            sent = body[: len(body) // 2] if truncate else body
            piece = 1 << 18 if server.pause else len(sent) or 1
            for start in range(0, len(sent), piece):
                self.wfile.write(sent[start : start + piece])
                time.sleep(server.pause)
            if truncate:
                self.wfile.flush()
                self.close_connection = True
                self.connection.shutdown(2)

        def log_message(self, *arguments):
            pass

    return Handler


@pytest.fixture
def server(monkeypatch):
    from rec_data.sources import http  # here, because the other tests need none of its libraries

    monkeypatch.setattr(http, "BACKOFF", 0.001)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    served = Server()
    listener = ThreadingHTTPServer(("127.0.0.1", 0), make_handler(served))
    served.url = f"http://127.0.0.1:{listener.server_port}"
    thread = threading.Thread(target=listener.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield served
    listener.shutdown()
    listener.server_close()
    thread.join()
