"""What every request passes first: the key, the size of the body and the time it takes; it is counted and logged."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import MutableMapping
from typing import Any

from fastapi import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cutrec.serving.limits import Limits
from cutrec.serving.observing import Metrics, log

OPEN = ("/health", "/ready", "/docs", "/openapi.json")
"""Paths that need no key: probes cannot send one, and the pages describe the server of this version."""
PATHS = (*OPEN, "/recommend", "/similar", "/metrics")


class Guard:
    """An ASGI middleware.

    Args:
        app: what answers.
        limits: on the body and its time.
        key: what requests must send as ``Authorization: Bearer KEY``; None: nothing.
        metrics: count the requests.
    """

    def __init__(self, app: ASGIApp, limits: Limits, key: str | None, metrics: Metrics) -> None:
        self._app, self._limits, self._metrics = app, limits, metrics
        self._key = None if key is None else key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or refuse."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = time.perf_counter(), 500
        scope["fields"] = {}

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            headers = dict(scope["headers"])
            if self._key is not None and scope["path"] not in OPEN and not _has_key(headers, self._key):
                raise HTTPException(401, "key: found none or another one, allowed: Authorization: Bearer KEY")
            if int(headers.get(b"content-length", b"0")) > self._limits.max_body:
                raise self._too_large()
        except HTTPException as error:
            extra = {"WWW-Authenticate": "Bearer"} if error.status_code == 401 else {"Connection": "close"}
            await JSONResponse({"error": error.detail}, error.status_code, extra)(scope, receive, noting)
        else:
            await self._app(scope, self._limited(receive), noting)
        finally:
            seconds = time.perf_counter() - start
            path = scope["path"] if scope["path"] in PATHS else "other"
            self._metrics.requests.labels(path, str(status)).inc()
            self._metrics.seconds.labels(path).observe(seconds)
            log("request", path=path, status=status, ms=round(seconds * 1000, 2), **scope["fields"])

    def _too_large(self) -> HTTPException:
        return HTTPException(413, f"body: found more than {self._limits.max_body} bytes, allowed: at most so many")

    def _limited(self, receive: Receive) -> Receive:
        """Receive a body within the limits of size and time."""
        deadline = asyncio.get_running_loop().time() + self._limits.timeout
        size, complete = 0, False

        async def limited() -> Message:
            nonlocal size, complete
            if complete:  # what follows is that the client hangs up, which may take any time
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message: dict[str, Any] = dict(await receive())
            except TimeoutError:
                raise HTTPException(408, f"body: found no end within {self._limits.timeout} seconds") from None
            size += len(message.get("body", b""))
            if size > self._limits.max_body:
                raise self._too_large()
            complete = not message.get("more_body", False)
            return message

        return limited


def _has_key(headers: MutableMapping[bytes, bytes], key: bytes) -> bool:
    scheme, _, sent = headers.get(b"authorization", b"").partition(b" ")
    return scheme.lower() == b"bearer" and hmac.compare_digest(sent, key)
