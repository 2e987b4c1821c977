"""A model that is replaced while the server runs."""

import asyncio
import shutil
from pathlib import Path

import pytest
from httpx import ASGITransport, AsyncClient

from cutrec import Recommender
from cutrec.serving.app import Server, make_app
from cutrec.serving.limits import Limits
from cutrec.serving.served_model import ServedModel
from tests.cutrec.serving.conftest import TINY
from tests.small_log import small_log


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of items 1000, 1001, ... as integers."""
    saved = tmp_path_factory.mktemp("other") / "model"
    Recommender.fit(small_log(seed=1), **TINY).save(saved)
    return saved


def test_requests_during_a_reload_get_the_list_of_one_of_the_two_models(folder: Path, other: Path, tmp_path: Path):
    place = tmp_path / "model"
    shutil.copytree(folder, place)
    server = Server(lambda: ServedModel(place, device="cpu"), Limits())
    old = server.model.hash
    answers = []

    async def main() -> None:
        async with AsyncClient(transport=ASGITransport(make_app(server)), base_url="http://test") as client:

            async def ask() -> None:
                for item in [1000, 1007, 1020] * 15:
                    body = {"history": [f"P-{item}", item], "k": 5}
                    answers.append((item, (await client.post("/recommend", json=body)).json()))

            async def replace() -> None:
                shutil.rmtree(place)
                await server.reload()  # there is no model: the old one stays
                assert server.model.hash == old
                shutil.copytree(other, place)
                await server.reload()

            await asyncio.gather(*(ask() for _ in range(4)), replace())

    asyncio.run(main())
    assert server.model.hash != old
    lists = {}
    for model, kind in ((folder, "P-{}".format), (other, int)):
        histories = [[kind(item)] for item in (1000, 1007, 1020)]
        found = Recommender.load(model).recommend(histories=histories, k=5, frame="polars")
        by_user = found.partition_by("user_id", maintain_order=True)
        for item, listed in zip((1000, 1007, 1020), by_user, strict=True):
            lists[item, kind is int] = listed["item_id"].to_list()
    assert len(answers) == 4 * 45
    for item, answer in answers:
        is_new = answer["model"] != old
        assert answer["items"] == lists[item, is_new]
        assert answer["unknown"]["history"] == [f"P-{item}" if is_new else item]
    metrics = server.metrics.text().decode()
    assert 'cutrec_reloads_total{result="failed"} 1.0' in metrics
    assert 'cutrec_reloads_total{result="done"} 1.0' in metrics
    assert metrics.count("cutrec_model{") == 1
