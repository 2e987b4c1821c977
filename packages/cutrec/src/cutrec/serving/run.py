"""The process of a server: signals, and uvicorn."""

from __future__ import annotations

import asyncio
import signal
from types import FrameType

import uvicorn

from cutrec.serving.app import Server, make_app
from cutrec.serving.observing import LOGGING


def serve(server: Server, *, host: str, port: int, key: str | None) -> None:
    """Answer until SIGTERM or SIGINT; what has arrived by then is answered first. SIGHUP reloads the model."""
    process = uvicorn.Server(
        uvicorn.Config(
            make_app(server, key),
            host=host,
            port=port,
            log_config=LOGGING,
            access_log=False,
            server_header=False,
            timeout_keep_alive=75,  # proxies close what is idle after 60 s; a request must not meet a server that does
            timeout_graceful_shutdown=2 * server.limits.timeout,
        )
    )

    async def run() -> None:
        loop, reloads = asyncio.get_running_loop(), set[asyncio.Task[None]]()

        def reload() -> None:
            task = loop.create_task(server.reload())
            reloads.add(task)
            task.add_done_callback(reloads.discard)

        if hasattr(signal, "SIGHUP"):
            loop.add_signal_handler(signal.SIGHUP, reload)
        await process.serve()

    # uvicorn raises the signal again after it has stopped; that it has done its work is a success.
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, _nothing)
    asyncio.run(run())
    for name in (signal.SIGTERM, signal.SIGINT):  # Python's shutdown would bring back the handlers that kill
        signal.signal(name, signal.SIG_IGN)


def _nothing(_: int, __: FrameType | None) -> None:
    """A handler that lets the process end by itself."""
