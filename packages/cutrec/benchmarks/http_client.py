"""A server in a process of its own, and a client that costs little beside it."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class Connection:
    """A connection for one request at a time. If the server closes it, the next request opens another one."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, path: str, body: bytes) -> tuple[int, bytes]:
        """Send a body and wait for the status and the answer."""
        reader, _ = await self.send(path, body)
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: ([0-9]+)", head, re.IGNORECASE)
        answer = await reader.readexactly(int(length[1]) if length else 0)
        if b"connection: close" in head.lower():
            self.close()
        return int(head[9:12]), answer

    async def send(self, path: str, body: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Send a body and do not wait."""
        if self._streams is None or self._streams[0].at_eof():
            self.close()
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        head = (
            f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        self._streams[1].write(head.encode() + body)
        await self._streams[1].drain()
        return self._streams

    def close(self) -> None:
        """Hang up, whatever is on its way."""
        if self._streams is not None:
            self._streams[1].transport.abort()
        self._streams = None


class Served:
    """A running ``cutrec serve``."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.process, self.port, self.log = process, port, log

    def get(self, path: str) -> str:
        """The text of a page."""
        from urllib.request import urlopen

        with urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=30) as answer:
            text: str = answer.read().decode()
        return text

    def ready(self) -> dict[str, Any]:
        """What /ready says."""
        found: dict[str, Any] = json.loads(self.get("/ready"))
        return found

    def metric(self, name: str) -> float:
        """The value of a metric without labels."""
        line = next(line for line in self.get("/metrics").splitlines() if line.startswith(f"{name} "))
        return float(line.split()[1])


@contextmanager
def serve(*options: str, log: Path, seconds: float = 900) -> Iterator[Served]:
    """Start ``cutrec serve`` on a free port, wait until it answers, and stop it in the end by SIGTERM again and again.

    Raises:
        RuntimeError: it did not start, or did not end with status 0 after SIGTERM.
    """
    command = [sys.executable, "-m", "cutrec.cli", "serve", "--port", "0", *options]
    with log.open("wb") as file, subprocess.Popen(command, stderr=file) as process:  # noqa: S603
        try:
            yield Served(process, _port(process, log, seconds), log)
        except BaseException:
            process.kill()
            raise
        end = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < end:  # a second signal must not undo a stop that succeeds
            process.terminate()
            time.sleep(0.02)
        if process.poll() != 0:
            process.kill()
            raise RuntimeError(f"cutrec serve: found exit status {process.returncode}, allowed: 0\n{log.read_text()}")


def _port(process: subprocess.Popen[bytes], log: Path, seconds: float) -> int:
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        found = re.search(r"running on http://127\.0\.0\.1:([0-9]+)", log.read_text())
        if found:
            return int(found[1])
        time.sleep(0.1)
    raise RuntimeError(f"cutrec serve: found no start within {seconds:g} seconds\n{log.read_text()[-2000:]}")
