"""A model to serve, and a server in this process."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from starlette.testclient import TestClient

from cutrec import Recommender
from cutrec.serving.app import Server, make_app
from cutrec.serving.limits import Limits
from cutrec.serving.served_model import ServedModel
from tests.small_log import small_log

TINY: dict[str, Any] = {"max_seq_len": 8, "backbone": {"hidden": 8}, "loss": "cce", "train": {"max_epochs": 1}}


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved model of items P-1000, P-1001, ..., with the histories of its users."""
    log = small_log().with_columns(item_id=pl.format("P-{}", "item_id"))
    saved = tmp_path_factory.mktemp("served") / "model"
    Recommender.fit(log, **TINY).save(saved, histories=True)
    return saved


@pytest.fixture
def serving(folder: Path) -> Callable[..., Any]:
    """Opens a client of a server of the model, with other limits if some are given."""

    @contextmanager
    def opened(key: str | None = None, place: Path = folder, index: Path | None = None, **limits: int) -> Iterator[Any]:
        server = Server(lambda: ServedModel(place, device="cpu", index=index), Limits(**limits))
        with TestClient(make_app(server, key), raise_server_exceptions=False) as client:
            client.server = server
            yield client

    return opened


@pytest.fixture
def client(serving: Callable[..., Any]) -> Iterator[TestClient]:
    with serving() as opened:
        yield opened
