"""Bodies that come in pieces, slowly or without an end."""

import asyncio
import json
from collections.abc import Sequence

import pytest

from cutrec.serving.app import Server, make_app
from cutrec.serving.limits import Limits
from cutrec.serving.served_model import ServedModel


@pytest.mark.parametrize(
    ("pieces", "length", "status", "message"),
    [
        ([b'{"history": ["P-1', b'000"]}'], None, 200, ""),
        ([b'{"history": ["', b"x" * 60, b"x" * 60], None, 413, "body: found more than 100 bytes, allowed: at most so"),
        ([], 101, 413, "body: found more than 100 bytes"),
        ([b'{"history": ["'], None, 408, "body: found no end within 1 seconds"),
    ],
    ids=["pieces", "too-large", "said-to-be-too-large", "no-end"],
)
def test_a_body_is_read_within_its_limits(folder, pieces: Sequence[bytes], length, status: int, message: str):
    server = Server(lambda: ServedModel(folder, device="cpu"), Limits(max_body=100, timeout=1))
    sent = []

    async def main() -> None:
        waiting = list(pieces)

        async def receive() -> dict:
            if not waiting:
                await asyncio.sleep(60)  # the client neither goes on nor hangs up
            piece = waiting.pop(0)
            return {"type": "http.request", "body": piece, "more_body": bool(waiting) or status == 408}

        async def send(part: dict) -> None:
            sent.append(part)

        headers = [(b"content-type", b"application/json")]
        headers += [(b"content-length", str(length).encode())] if length else []
        scope = {"type": "http", "method": "POST", "path": "/recommend", "headers": headers, "query_string": b""}
        await make_app(server)({**scope, "http_version": "1.1", "scheme": "http"}, receive, send)

    asyncio.run(main())
    answer = json.loads(b"".join(part.get("body", b"") for part in sent))
    assert sent[0]["status"] == status
    assert answer.get("error", "").startswith(message)
    assert server.metrics.registry.get_sample_value(
        "cutrec_requests_total", {"path": "/recommend", "status": str(status)}
    )
