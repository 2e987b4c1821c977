"""What is known of a running server: Prometheus metrics, and logs of one JSON object per line, without user data."""

from __future__ import annotations

import json
import logging
import time
import traceback
from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

LOG = logging.getLogger("cutrec.serving")
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_LISTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Metrics:
    """The metrics of one server, in a registry of their own."""

    def __init__(self, waiting: Callable[[], int]) -> None:
        registry = self.registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter("cutrec_requests", "Requests", ["path", "status"], registry=registry)
        self.seconds = Histogram(
            "cutrec_request_seconds", "Time of a request", ["path"], buckets=_SECONDS, registry=registry
        )
        self.batch = Histogram("cutrec_batch_lists", "Lists ranked together", buckets=_LISTS, registry=registry)
        self.unknown = Counter("cutrec_unknown_ids", "Ids of requests that the model does not know", registry=registry)
        self.reloads = Counter("cutrec_reloads", "Reloads of the model", ["result"], registry=registry)
        self.model = Gauge("cutrec_model", "1 for the model that answers", ["model"], registry=registry)
        self.items = Gauge("cutrec_items", "Items of the model", registry=registry)
        self.recall = Gauge(
            "cutrec_index_recall", "Recall of the index, as measured when it was built", ["k"], registry=registry
        )
        Gauge("cutrec_waiting_lists", "Lists that wait to be ranked", registry=registry).set_function(waiting)

    def show_model(self, name: str, num_items: int, index: dict[str, Any] | None) -> None:
        """Name the model that answers from now on."""
        self.model.clear()
        self.model.labels(name).set(1)
        self.items.set(num_items)
        self.recall.clear()
        if index is not None:
            self.recall.labels(str(index["k"])).set(index["recall"])

    def text(self) -> bytes:
        """All of them in Prometheus' text format."""
        return generate_latest(self.registry)


class JsonLines(logging.Formatter):
    """A log record as one JSON object. Of an exception: its type and the lines of code, since its text may hold ids."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{record.msecs:03.0f}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info and record.exc_info[1] is not None:
            kind, _, frames = record.exc_info
            line["exception"] = kind.__name__ if kind else ""
            line["at"] = [f"{place.filename}:{place.lineno} {place.name}" for place in traceback.extract_tb(frames)]
        return json.dumps(line)


def log(event: str, level: int = logging.INFO, **fields: object) -> None:
    """Log an event."""
    LOG.log(level, event, extra={"fields": fields})


LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"json": {"()": JsonLines}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json"}},
    "loggers": {
        "cutrec.serving": {"handlers": ["stderr"], "level": "INFO", "propagate": False},
        "uvicorn": {"handlers": ["stderr"], "level": "INFO", "propagate": False},
    },
}
"""As ``logging.config.dictConfig`` takes it; uvicorn's log of requests, which has addresses, is off."""
