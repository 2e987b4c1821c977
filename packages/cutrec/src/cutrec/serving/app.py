"""The HTTP interface: paths, errors and examples."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Annotated, Any

from fastapi import Body, FastAPI, Request, Response, Security
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException

from cutrec.errors import StageError
from cutrec.serving.batching import Batcher, OverloadedError
from cutrec.serving.guard import PATHS, Guard
from cutrec.serving.limits import Limits
from cutrec.serving.observing import Metrics, log
from cutrec.serving.schema import (
    Error,
    Recommend,
    RecommendBody,
    Recommended,
    Similar,
    SimilarItems,
    sentence,
)
from cutrec.serving.served_model import Answer, ServedModel

EXAMPLES: dict[str, Any] = {
    "one": {"summary": "One user", "value": {"history": ["P-0017", "P-0042"], "k": 5}},
    "in_stock": {
        "summary": "Only items in stock, with the popular ones for a new visitor",
        "value": {"history": [], "candidates": ["P-0001", "P-0002"], "fallback": "popularity"},
    },
    "several": {
        "summary": "Several users",
        "value": [{"history": ["P-0017"]}, {"history": ["P-0042"], "filter_seen": False, "exclude": ["P-0001"]}],
    },
}
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": Error, "description": text}
    for status, text in (
        (400, "The body is no JSON."),
        (401, "The key is missing or wrong."),
        (408, "The body did not arrive in time."),
        (413, "The body is too large."),
        (415, "The Content-Type is not application/json."),
        (422, "A value is wrong."),
        (503, "Too many requests are waiting, or the server is stopping; Retry-After says when to try again."),
    )
}


class Server:
    """The model that answers, the queue of requests and the metrics.

    Args:
        load: loads the model; called again by `reload`.
        limits: of requests.
    """

    def __init__(self, load: Callable[[], ServedModel], limits: Limits) -> None:
        self._load, self.limits = load, limits
        self.model = load()
        self.stopping = False
        self.metrics = Metrics(lambda: self._batcher.waiting)
        self._batcher = Batcher(lambda requests: self.model.answer(requests), limits, self.metrics.batch.observe)
        self._reloading = asyncio.Lock()
        self._show()

    async def answer(self, requests: list[Recommend] | list[Similar]) -> list[Answer]:
        """The answers to some requests.

        Raises:
            StageError: one of them is wrong.
            OverloadedError: they cannot be answered now.
        """
        self.limits.refuse(requests)
        answers = await self._batcher.submit(requests)
        for number, answer in enumerate(answers):
            if isinstance(answer, StageError) and len(requests) > 1:
                raise StageError(f"{number}.{answer}")
            if isinstance(answer, Exception):
                raise answer
        return answers

    async def reload(self) -> None:
        """Load the model again and answer with it; if that fails, the present one stays."""
        async with self._reloading:
            try:
                self.model = await asyncio.to_thread(self._load)
            except (ValueError, OSError, MemoryError) as error:
                self.metrics.reloads.labels("failed").inc()
                log("reload failed", error=" ".join(str(error).split()), model=self.model.hash)
            else:
                self.metrics.reloads.labels("done").inc()
                log("reloaded", model=self.model.hash, items=self.model.num_items)
                self._show()

    async def close(self) -> None:
        """Answer what waits."""
        self.stopping = True
        await self._batcher.close()

    def _show(self) -> None:
        self.metrics.show_model(self.model.hash, self.model.num_items, self.model.index)


def make_app(server: Server, key: str | None = None) -> FastAPI:
    """The application; see `Guard` for the key."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        log("started", model=server.model.hash, items=server.model.num_items, index=server.model.index)
        yield
        await server.close()
        log("stopped")

    app = FastAPI(
        title="CutRec",
        version=version("cutrec"),
        summary="Recommendations for histories, in the ids of the log.",
        lifespan=lifespan,
        redoc_url=None,
        redirect_slashes=False,
        dependencies=[] if key is None else [Security(HTTPBearer(auto_error=False))],  # for the page; Guard checks
    )
    app.add_middleware(Guard, limits=server.limits, key=key, metrics=server.metrics)
    _add_errors(app)

    @app.post("/recommend", response_model=Recommended | list[Recommended], responses=ERRORS)
    async def recommend(request: Request, body: Annotated[RecommendBody, Body(openapi_examples=EXAMPLES)]) -> Response:
        """The k best items for a history, or for each of several; the same lists as `Recommender.recommend`."""
        requests = body if isinstance(body, list) else [body]
        answers = await server.answer(requests)
        unknown = sum(len(ids) for answer in answers for ids in answer["unknown"].values())
        return _sent(request, answers if isinstance(body, list) else answers[0], len(requests), unknown)

    @app.post("/similar", response_model=SimilarItems, responses=ERRORS)
    async def similar(request: Request, body: Similar) -> Response:
        """The k nearest items of each item, by the cosine of their vectors, as `Recommender.similar_items`."""
        (answer,) = await server.answer([body])
        return _sent(request, answer, len(answer["neighbors"]), len(answer["unknown"]))

    def _sent(request: Request, answer: Answer | Sequence[Answer], lists: int, unknown: int) -> Response:
        request.scope["fields"] |= {"lists": lists, "unknown": unknown}
        server.metrics.unknown.inc(unknown)
        return Response(json.dumps(answer), media_type="application/json")

    @app.get("/health")
    async def health() -> dict[str, str]:
        """The process runs."""
        return {"status": "running"}

    @app.get("/ready", responses={503: {"model": Error, "description": "The server is stopping."}})
    async def ready() -> dict[str, Any]:
        """Requests are answered, and by which model."""
        if server.stopping:
            raise OverloadedError("the server is stopping")
        model = server.model
        return {"status": "ready", "model": model.hash, "items": model.num_items, "index": model.index}

    @app.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """Metrics in Prometheus' text format."""
        return Response(server.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return app


def _add_errors(app: FastAPI) -> None:
    """Every error is a JSON object with one sentence."""

    def failed(status: int, text: str, headers: dict[str, str] | None = None) -> JSONResponse:
        return JSONResponse({"error": text}, status, headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        if isinstance(error.body, bytes):  # it was not read as JSON
            kind = request.headers.get("Content-Type")
            found = "nothing" if kind is None else ascii(kind[:60])
            return failed(415, f"Content-Type: found {found}, allowed: application/json")
        return failed(422, sentence(error.errors()[0]))

    @app.exception_handler(StageError)
    async def wrong(_: Request, error: StageError) -> JSONResponse:
        return failed(422, str(error).encode("ascii", "backslashreplace").decode())

    @app.exception_handler(OverloadedError)
    async def overloaded(_: Request, error: OverloadedError) -> JSONResponse:
        return failed(503, str(error), {"Retry-After": "1"})

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        texts = {
            400: "body: found nothing that can be read as JSON, allowed: JSON",
            404: f"path: found none of this name, allowed: {', '.join(PATHS)}",
            405: f"method: found {request.method}, allowed: {(error.headers or {}).get('Allow', 'another one')}",
        }
        headers = dict(error.headers or {})
        return failed(error.status_code, texts.get(error.status_code, str(error.detail)), headers)

    @app.exception_handler(Exception)
    async def broken(_: Request, error: Exception) -> JSONResponse:
        return failed(500, "the server failed; its log says where")
