"""An approximate index: what it misses is measured, and lists under restrictions have all their items."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import torch

from cutrec import Recommender
from cutrec.cli import execute
from cutrec.errors import StageError
from cutrec.recommending.item_index import FACTS, FILE, ItemIndex
from rec_eval import Catalogue, TopK, top_k


@pytest.fixture(scope="module")
def index(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("index") / "index"
    execute(["index", "--model", str(folder), "--out", str(out), "--histories", "50"])
    return out


def test_a_server_ranks_with_the_index_and_says_its_recall(serving, index: Path, folder: Path):
    facts = json.loads((index / FACTS).read_text())
    assert (facts["items"], facts["k"], facts["histories"]) == (40, 10, 50)
    assert facts["recall"] >= 0.98
    histories = [[f"P-{1000 + item}", f"P-{1000 + 3 * item}"] for item in range(12)]
    with serving(index=index) as client:
        assert client.get("/ready").json()["index"] == {"k": 10, "recall": facts["recall"], "histories": 50}
        assert f'cutrec_index_recall{{k="10"}} {facts["recall"]}' in client.get("/metrics").text
        answers = client.post("/recommend", json=[{"history": history, "k": 5} for history in histories]).json()
        few = {"history": histories[0], "candidates": ["P-1005", "P-1009"], "k": 5}
        assert set(client.post("/recommend", json=few).json()["items"]) == {"P-1005", "P-1009"}
    expected = Recommender.load(folder).recommend(histories=histories, k=5, frame="polars")
    assert [item for answer in answers for item in answer["items"]] == expected["item_id"].to_list()


class Proposing:
    """A graph that proposes the items with the lowest ids, as a poor index would."""

    def search(self, queries, count, threads):
        ids = np.tile(np.arange(count, dtype=np.uint64), (len(queries), 1))
        counts = np.full(len(queries), count)
        return SimpleNamespace(keys=ids, counts=counts) if len(queries) > 1 else SimpleNamespace(keys=ids[0])


@pytest.mark.parametrize("users", [1, 3])
def test_a_user_who_has_seen_all_that_is_proposed_is_ranked_exactly(users: int):
    generator = torch.Generator().manual_seed(0)
    items = Catalogue(torch.randn(2000, 16, generator=generator))
    queries = torch.randn(users, 16, generator=generator)
    seen = [torch.arange(900 if user == 0 else 3) for user in range(users)]  # more than are fetched, of the first user
    offsets = torch.tensor([0, *(len(one) for one in seen)]).cumsum(0)
    hidden = {"seen_offsets": offsets, "seen_items": torch.cat(seen)}
    found = ItemIndex(Proposing(), {}).top_k(queries, items, 10, **hidden)
    exact = top_k(queries, items, 10, **hidden)
    assert torch.equal(found.ids[0], exact.ids[0])
    for user in range(1, users):  # the best of those that are proposed: 2 k, and as many as the most that are hidden
        assert found.ids[user].max() < 2 * 10 + 512
        assert found.ids[user].min() >= 3
        assert torch.all(found.scores[user].diff() <= 0)


def test_an_index_of_another_model_or_a_damaged_one_is_refused(index: Path, tmp_path: Path):
    with pytest.raises(StageError, match=r"found an index of the model .*, allowed: of 0000; build it again"):
        ItemIndex.load(index, "0000")
    model = json.loads((index / FACTS).read_text())["model"]
    for name in (FILE, FACTS):
        (tmp_path / name).write_bytes((index / name).read_bytes())
    (tmp_path / FILE).write_bytes(b"0" + (index / FILE).read_bytes()[1:])
    with pytest.raises(StageError, match="found another checksum"):
        ItemIndex.load(tmp_path, model)
    for name in (FILE, FACTS):
        (tmp_path / name).unlink()
        with pytest.raises(StageError, match=rf"--index: found no {tmp_path}/{name}, allowed: .* cutrec index"):
            ItemIndex.load(tmp_path, model)


def test_a_recall_that_is_not_reached_writes_nothing(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def poor(self, queries, items, k, **_):
        ids = torch.arange(k).expand(len(queries), -1)
        return TopK(ids, torch.zeros(ids.shape))

    monkeypatch.setattr(ItemIndex, "top_k", poor)
    with pytest.raises(StageError, match=r"--recall: found 0\.[0-9]+ with 8192 candidates"):
        execute(["index", "--model", str(folder), "--out", str(tmp_path / "index"), "--histories", "20"])
    assert not (tmp_path / "index" / FACTS).exists()


def test_histories_are_drawn_from_the_log(folder: Path):
    model = Recommender.load(folder)
    some = model.some_histories(20)
    assert len(some) == 20
    assert len(model.some_histories(10_000)) == model.recommend(k=1, frame="polars").select(pl.len()).item()
