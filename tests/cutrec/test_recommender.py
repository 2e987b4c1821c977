"""`Recommender` against the pipeline and against a ranking by hand; frames in and out; saving and loading."""

import json
import operator
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cutrec import Recommender, UnknownItemsWarning, UnknownUsersWarning
from cutrec.cli import execute
from cutrec.config import load
from cutrec.paths import MODEL, OLD_MODEL
from pipelines import download, split, train
from rec_models.inference import encode
from rec_models.training.checkpoint import ModelCheckpoint
from tests.old_model import write_old_model
from tests.small_log import small_log, workplace

__all__ = ["workplace"]

README = Path(__file__).parents[2] / "packages/cutrec/README.md"
TINY: dict[str, Any] = {"max_seq_len": 8, "backbone": {"hidden": 8}, "loss": "cce", "train": {"max_epochs": 1}}
SHOP = {"user": "customer", "item": "product", "timestamp": "bought_at"}


def shop_log() -> pl.DataFrame:
    return small_log().select(
        customer=pl.format("CUST-{}", pl.col("user_id").cast(pl.String).str.zfill(4)),
        product=pl.format("P-{}", pl.col("item_id").cast(pl.String).str.slice(1).str.zfill(4)),
        bought_at=pl.from_epoch("timestamp"),
    )


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `fit` on the shop's log, with random item vectors, so that lists differ between users."""
    folder = tmp_path_factory.mktemp("shop") / "out"
    Recommender.fit(shop_log(), columns=SHOP, out=folder, **TINY)
    return folder


@pytest.fixture
def model(out: Path) -> Recommender:
    return Recommender.load(out)


def test_the_example_of_the_readme_runs_in_ten_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    code = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)[0]
    assert len(code.split("\n")) <= 10
    monkeypatch.chdir(tmp_path)
    shop_log().write_csv("shop.csv")
    shorter = 'timestamp": "bought_at"}, max_seq_len=8, train={"max_epochs": 1})'
    found: dict[str, Any] = {}
    exec(code.replace('timestamp": "bought_at"})', shorter), found)
    assert found["lists"].columns == ["customer", "product", "rank", "score"]
    assert found["lists"]["customer"].unique(maintain_order=True).to_list() == ["CUST-0007", "CUST-0042", "CUST-0100"]
    assert found["similar"]["product"].to_list() == ["P-0013"] * 5
    assert found["again"].drop("score").equals(found["lists"].filter(customer="CUST-0007").drop("score"))


def test_lists_are_those_of_the_pipeline(workplace, tmp_path: Path):
    keys = {"dataset": "log.parquet", "max_seq_len": 8, "backbone.hidden": 8, "loss": "cce", "train.max_epochs": 1}
    checkout = workplace(keys)
    (checkout / "data").mkdir()
    small_log().write_parquet("log.parquet")
    for stage in (download, split, train):
        stage.main(load())
    fitted = Recommender.fit(small_log(), **TINY)
    staged = Recommender.load("data/train")
    assert {k: v.tolist() for k, v in fitted.encoder.state_dict().items()} == {
        k: v.tolist() for k, v in staged.encoder.state_dict().items()
    }
    execute(["recommend", "--k", "5", "--out", "lists.parquet"])
    by_command = pl.read_parquet("lists.parquet")
    assert fitted.recommend(k=5).equals(by_command)
    assert staged.recommend(k=5).equals(by_command)
    some = by_command["user_id"].unique(maintain_order=True)[[7, 3]]
    expected = pl.concat(by_command.filter(user_id=user) for user in some)
    assert fitted.recommend(some, k=5).drop("score").rows() == expected.drop("score").rows()
    assert fitted.metrics["validation_ndcg@10"] == staged.metrics["validation_ndcg@10"]


def test_importing_cutrec_loads_nothing():
    code = (
        "import cutrec, sys; print([name for name in ('torch', 'polars', 'pandas', 'pyarrow') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


IDS = {
    "text": (pl.format("u{}", "user_id"), pl.format("i{}", "item_id")),
    "digits": (pl.col("user_id").cast(pl.String), pl.col("item_id").cast(pl.String)),
    "int32": (pl.col("user_id").cast(pl.Int32), pl.col("item_id").cast(pl.Int32)),
    "uint64": (pl.col("user_id").cast(pl.UInt64) + 2**63, pl.col("item_id").cast(pl.UInt64) + 2**63),
}


@pytest.mark.parametrize("ids", IDS)
@pytest.mark.parametrize("kind", ["pandas", "polars", "pyarrow"])
def test_frames_come_back_in_their_kind_with_their_names_and_types(kind: str, ids: str):
    user, item = IDS[ids]
    log = small_log().select(user.alias("who"), item.alias("what"), pl.col("timestamp").alias("when"))
    frame = {"pandas": log.to_pandas, "polars": lambda: log, "pyarrow": log.to_arrow}[kind]()
    model = Recommender.fit(frame, columns={"user": "who", "item": "what", "timestamp": "when"}, **TINY)
    users = log["who"].unique(maintain_order=True)[[5, 2]].to_list()
    for found in (model.recommend(users, k=3), model.recommend(histories=frame, k=3)):
        assert type(found) is type(frame)
        of_ids = operator.attrgetter("type" if kind == "pyarrow" else "dtype")
        assert [of_ids(found[name]) for name in ("who", "what")] == [of_ids(frame[name]) for name in ("who", "what")]
    found = pl.from_arrow(model.recommend(users, k=3, frame="pyarrow"))
    assert found["who"].to_list() == [user for user in users for _ in range(3)]
    by_text = model.recommend([str(user) for user in users], k=3, frame="pyarrow")  # as in a CSV
    assert pl.from_arrow(by_text).equals(found)
    whole = pl.from_arrow(model.recommend(histories=frame, k=3, frame="pyarrow"))
    assert whole.filter(pl.col("who") == users[0]).drop("score").rows() == found[:3].drop("score").rows()


def best(model: Recommender, history: list[str], allowed: set[str], k: int) -> list[tuple[str, float]]:
    """The ranking by hand: all scores, sorted; without known items the counts of training."""
    names = pl.read_parquet(model._folder / "items.parquet")
    dense = {name: place for place, name in enumerate(names["original_id"])}
    known = [dense[item] for item in history if item in dense]
    if known:
        scores = (encode(model.encoder, [known]) @ model.encoder.item_table.T)[0].tolist()
    else:
        scores = names["count"].to_list()
    ranked = sorted(((-scores[place], place, name) for name, place in dense.items() if name in allowed))
    return [(name, -score) for score, _, name in ranked[:k]]


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_lists_with_restrictions_are_those_of_a_ranking_by_hand(out: Path, data: st.DataObject):
    model = Recommender.load(out)
    names = pl.read_parquet(out / "train/items.parquet")["original_id"].to_list()
    with torch.no_grad():  # one epoch leaves scores so close that rounding could change the order
        model.encoder.item_table.copy_(torch.randn(model.encoder.item_table.shape, generator=torch.manual_seed(0)))
    item = st.sampled_from([*names, "P-none", "P-other"])
    histories = data.draw(st.dictionaries(st.sampled_from("abcdef"), st.lists(item, max_size=12), min_size=1))
    candidates = data.draw(st.none() | st.sets(item, min_size=1).filter(lambda some: some & set(names)))
    per_user = st.dictionaries(st.sampled_from("abcdefg"), st.lists(item, max_size=9))
    exclude = data.draw(st.none() | st.lists(item) | per_user)
    filter_seen, fallback = data.draw(st.booleans()), data.draw(st.sampled_from([None, "popularity"]))
    k = data.draw(st.integers(1, len(names)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = model.recommend(
            histories=histories, k=k, filter_seen=filter_seen, candidates=candidates, exclude=exclude, fallback=fallback
        )
    expected = []
    for user, history in histories.items():
        if set(history) & set(names) or fallback:
            allowed = set(names if candidates is None else candidates)
            allowed -= set(exclude.get(user, ()) if isinstance(exclude, dict) else exclude or ())
            ranked = best(model, history, allowed - set(history) if filter_seen else allowed, k)
            expected += [(user, name, rank, score) for rank, (name, score) in enumerate(ranked, start=1)]
    assert found.drop("score").rows() == [row[:3] for row in expected]
    assert found["score"].to_list() == pytest.approx([row[3] for row in expected], abs=1e-4)


@pytest.mark.gpu
def test_restrictions_hold_on_a_gpu_too(out: Path):
    names = pl.read_parquet(out / "train/items.parquet")["original_id"].to_list()
    options = {"k": 6, "candidates": names[::2], "exclude": {"a": names[:9]}, "frame": "polars"}
    histories = {"a": names[10:14], "b": names[3:5]}
    on_gpu, on_cpu = (
        Recommender.load(out, device=device).recommend(histories=histories, **options) for device in ("cuda", "cpu")
    )
    for user, hidden in (("a", {*names[10:14], *names[:9]}), ("b", set(names[3:5]))):
        assert set(on_gpu.filter(customer=user)["product"]) <= set(names[::2]) - hidden
    assert on_gpu["score"].to_list() == pytest.approx(on_cpu["score"].to_list(), abs=0.05)  # products of bf16
    similar = [Recommender.load(out, device=device).similar_items(names[:3], k=4) for device in ("cuda", "cpu")]
    assert similar[0].drop("score").equals(similar[1].drop("score"))


def test_the_same_histories_in_every_form(model: Recommender):
    events = shop_log().head(40).sort("bought_at")
    by_user = events.group_by("customer", maintain_order=True).agg("product")
    histories = dict(by_user.rows())
    whole = model.recommend(histories=events, k=4)
    assert model.recommend(histories=histories, k=4).equals(whole)
    series = events.to_pandas().groupby("customer", sort=False)["product"].agg(list)
    assert model.recommend(histories=series, k=4).equals(whole)
    assert model.recommend(histories=events.drop("bought_at"), k=4).equals(whole)  # in the order of rows
    unnamed = model.recommend(histories=list(histories.values()), k=4)
    assert unnamed["customer"].unique(maintain_order=True).to_list() == list(range(len(histories)))
    assert unnamed.drop("customer").equals(whole.drop("customer"))


def test_unknown_ids_are_reported_once_and_can_be_read(model: Recommender):
    with pytest.warns(UnknownUsersWarning, match="2 of 3: 'x', 'y'; the log lacks 2 of them") as said:
        found = model.recommend(["x", "CUST-0001", "y"], k=2)
    assert [warning.message.ids for warning in said] == [["x", "y"]]
    assert found["customer"].to_list() == ["CUST-0001"] * 2
    with pytest.warns(UnknownUsersWarning), pytest.warns(UnknownItemsWarning) as said:
        model.recommend(histories={"a": ["P-0001", "7", "7", "new"], "b": ["new"]}, k=2)
    assert [w.message.ids for w in said if w.category is UnknownItemsWarning] == [["7", "new"]]
    with pytest.warns(UnknownUsersWarning):
        filled = model.recommend(["x", "CUST-0001", "y"], k=2, fallback="popularity")
    assert filled["customer"].to_list() == ["x", "x", "CUST-0001", "CUST-0001", "y", "y"]
    with pytest.warns(UnknownItemsWarning, match="candidates: unknown items are skipped: 1: 'new'"):
        assert (
            model.recommend("CUST-0001", candidates=["P-0001", "P-0002", "P-0003", "new"], filter_seen=False).height
            == 3
        )


def test_similar_items_are_the_nearest_by_cosine(model: Recommender):
    names = pl.read_parquet(model._folder / "items.parquet")["original_id"].to_list()
    with pytest.warns(UnknownItemsWarning, match="items: unknown items are skipped: 1: 'new'"):
        found = model.similar_items([names[4], "new", names[0]], k=6)
    vectors = model.encoder.item_table.numpy()
    directions = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for place in (4, 0):
        cosines = directions @ directions[place]
        cosines[place] = -2
        order = np.argsort(-cosines)[:6]
        own = found.filter(product=names[place])
        assert own["similar_product"].to_list() == [names[other] for other in order]
        assert own["score"].to_list() == pytest.approx(cosines[order], abs=1e-5)
    assert len(model.similar_items(names[0], k=len(names) - 1)) == len(names) - 1
    with pytest.raises(ValueError, match="k: found 40, allowed: 1 to 39, the other items of the catalogue"):
        model.similar_items(names[0], k=len(names))


def test_a_saved_model_gives_the_same_lists(model: Recommender, tmp_path: Path):
    expected = model.recommend(k=5)
    model.save(tmp_path / "with", histories=True)
    again = Recommender.load(tmp_path / "with")
    assert again.recommend(k=5).equals(expected)
    assert again.metrics == model.metrics
    again.save(tmp_path / "with/../without")
    for place in ("without", "with"):
        if place == "with":
            model.save(tmp_path / "with")  # over the one that held histories
            assert not (tmp_path / "with/log.parquet").exists()
        without = Recommender.load(tmp_path / place)
        histories = {"a": ["P-0001", "P-0002"]}
        assert without.recommend(histories=histories).equals(model.recommend(histories=histories))
        with pytest.raises(
            ValueError, match=r"users: found no log beside .*, allowed: histories=.*save\(folder, histories=True"
        ):
            without.recommend("CUST-0001")
        with pytest.raises(ValueError, match="histories: found True, but there is no log"):
            without.save(tmp_path / "more", histories=True)


@pytest.mark.parametrize("name", [MODEL.name, "items.parquet", "log.parquet", "metrics.json", "recommender.json"])
def test_a_damaged_folder_is_refused(model: Recommender, tmp_path: Path, name: str):
    model.save(tmp_path / "saved", histories=True)
    path = tmp_path / "saved" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name}.*(damaged|do not fit)"):
        Recommender.load(tmp_path / "saved")


def test_a_model_with_the_items_of_another_one_is_refused(model: Recommender, tmp_path: Path):
    model.save(tmp_path / "saved")
    items = pl.read_parquet(tmp_path / "saved/items.parquet")
    items.with_columns(pl.col("original_id").reverse()).write_parquet(tmp_path / "saved/items.parquet")
    (tmp_path / "saved/SHA256SUMS").unlink()
    with pytest.raises(ValueError, match="is not the catalogue that"):
        Recommender.load(tmp_path / "saved")


def test_a_folder_with_files_of_others_is_left_alone(model: Recommender, tmp_path: Path):
    own = {"log.parquet": b"my log", "metrics.json": b"{}"}
    for name, content in own.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=r"folder: found .* with other files, allowed: a new one"):
        model.save(tmp_path, histories=True)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == own
    (tmp_path / "empty").mkdir()
    model.save(tmp_path / "empty")


def test_a_model_that_was_replaced_since_it_was_loaded_is_not_saved(out: Path, tmp_path: Path):
    shutil.copytree(out / "train", tmp_path / "train")
    model = Recommender.load(tmp_path / "train")
    (tmp_path / "train/model.safetensors").write_bytes(b"of the next training")
    with pytest.raises(ValueError, match="was written since it was loaded; load it again"):
        model.save(tmp_path / "saved")
    assert not (tmp_path / "saved/model.safetensors").exists()


def test_a_model_of_version_0_1_is_used_and_saved_as_a_new_one(model: Recommender, out: Path, tmp_path: Path):
    shutil.copytree(out, tmp_path / "out", ignore=shutil.ignore_patterns("SHA256SUMS"))
    (path := tmp_path / "out/train" / MODEL.name).unlink()
    write_old_model(ModelCheckpoint.read(out / "train" / MODEL.name), path.with_name(OLD_MODEL))
    old = Recommender.load(tmp_path / "out")
    assert old.recommend(k=5).equals(model.recommend(k=5))
    assert old.evaluate()["ndcg@10"] == model.evaluate()["ndcg@10"]
    old.save(tmp_path / "saved")
    assert not (tmp_path / "saved" / OLD_MODEL).exists()
    assert (tmp_path / "saved" / MODEL.name).read_bytes() == (out / "train" / MODEL.name).read_bytes()


def test_the_split_of_fit_measures_the_model(model: Recommender, tmp_path: Path):
    found = model.evaluate()
    assert set(found) >= {"ndcg@10", "popularity"}
    assert found["users"] > 0
    model.save(tmp_path / "saved")
    (row,) = (line for line in (tmp_path / "saved/README.md").read_text().splitlines() if line.startswith("| ndcg@10"))
    assert row.split("|")[3].split()[0] == f"{found['ndcg@10']:.4f}"
    with pytest.raises(ValueError, match=r"evaluate: found no .*split, allowed: after fit"):
        Recommender.load(tmp_path / "saved").evaluate()


def test_groups_of_items_measure_the_diversity_of_lists(tmp_path: Path):
    items = small_log().select(id=pl.col("item_id").unique()).with_columns(title=pl.col("id"), group=pl.col("id"))
    items.write_csv(tmp_path / "items.csv")
    model = Recommender.fit(small_log(), **TINY, report={"item_names": tmp_path / "items.csv"})
    assert model.evaluate()["diversity@10"] == 1  # every item is a group of its own


def test_a_tracker_of_fit_writes_where_the_caller_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    model = Recommender.fit(small_log(), **(TINY | {"train": {"max_epochs": 1, "tracker": "dvclive"}}))
    logged = json.loads(Path("dvclive/metrics.json").read_text())
    assert logged["validation"]["ndcg_at_10"] == pytest.approx(model.metrics["validation_ndcg@10"], abs=1e-6)
    assert Path("dvclive/params.yaml").read_text().count("backbone") == 0  # the names are those of the model's file
    assert "model.hidden: 8" in Path("dvclive/params.yaml").read_text()


def test_a_temporary_folder_goes_with_the_object(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    model = Recommender.fit(small_log(), **TINY)
    assert len(model.recommend([3, 4], k=2)) == 4
    del model
    with pytest.raises(ValueError, match="min_item_count 5 drops all"):
        Recommender.fit(small_log().head(3), **TINY)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            {"users": "CUST-0001", "histories": [["P-0001"]]},
            "histories: found it beside users, allowed: one of the two",
        ),
        ({"k": 0}, "k: found 0, allowed: 1 to 40, the size of the catalogue"),
        ({"k": 41}, "k: found 41, allowed: 1 to 40"),
        ({"k": True}, "k: found True"),
        ({"users": [1.5]}, "users: found [1.5], allowed: ids as in the log, integers or strings"),
        ({"users": [None]}, "users: found [None]"),
        ({"users": ["a", 1]}, "users: found ['a', 1]"),
        ({"users": {"a": 1}}, "users: found {'a': 1}"),
        ({"histories": ["P-0001", "P-0002"]}, "histories: found 'P-0001' of user 0, allowed: a list of the items"),
        ({"histories": "events.csv"}, "histories: found 'events.csv', allowed: a data frame of events, or a dict"),
        ({"histories": 5}, "histories: found 5"),
        ({"histories": pl.DataFrame({"customer": ["a"]})}, "histories has no column 'product' (for item_id)"),
        (
            {"histories": pl.DataFrame({"customer": ["a", None], "product": ["b", "c"]})},
            "histories: column 'customer' has 1 empty value (histories, row 2); allowed: none",
        ),
        ({"candidates": ["new"]}, "candidates: found no item that the model knows"),
        ({"candidates": [[1]]}, "candidates: found [[1]]"),
        ({"exclude": {"CUST-0001": [None]}}, "exclude: found [None]"),
        ({"fallback": "random"}, "fallback: found 'random', allowed: popularity or None"),
        ({"users": "CUST-0001", "frame": "spark"}, "frame: found 'spark', allowed: pandas, polars, pyarrow"),
    ],
)
@pytest.mark.filterwarnings("ignore::cutrec.errors.UnknownIdsWarning")
def test_wrong_arguments_are_named(model: Recommender, arguments: dict[str, Any], says: str):
    with pytest.raises(ValueError, match=re.escape(says)) as error:
        model.recommend(**arguments)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("log", "options", "says"),
    [
        (
            small_log(),
            {"columns": {"user": "uid"}},
            "log has no column 'uid' (for user_id); its columns are: user_id, item_id, timestamp; allowed: another "
            'name for it (columns={"user": "user_id"})',
        ),
        (small_log(), {"columns": {"who": "uid"}}, "download.columns.who: unknown key"),
        (small_log(), {"columns": ["user_id"]}, "columns: found ['user_id'], allowed: a dict such as"),
        (small_log(), {"los": "cce"}, "los: unknown key (did you mean loss?)"),
        (small_log(), {"train.max_epochs": 0}, "train.max_epochs: found 0"),
        (small_log(), {"train": {"devices": 2}}, "train.devices: found 2, allowed here: 1"),
        (small_log(), {"dataset": "demo"}, "dataset: found it as a setting, allowed: the log as the first argument"),
        (small_log().with_columns(item_id=None), {}, "log: column 'item_id' has"),
        (small_log().to_pandas().astype({"item_id": object}).replace({"item_id": {1003: "x"}}), {}, "log: found "),
        ([1, 2], {}, "log: found list, allowed: a path, or a pandas, polars or pyarrow data frame"),
        ("none.csv", {}, "dataset 'none.csv': no file"),
    ],
)
def test_wrong_logs_and_settings_are_named(log: Any, options: dict[str, Any], says: str):
    with pytest.raises(ValueError, match=re.escape(says)) as error:
        Recommender.fit(log, **options)
    assert "\n" not in str(error.value)


def test_a_folder_without_a_model_and_an_output_of_the_pipeline_are_named(model: Recommender, workplace):
    workplace({})
    with pytest.raises(
        ValueError, match=r"folder: found no none/model.safetensors, allowed: a folder that save, fit or the train"
    ):
        Recommender.load("none")
    file = model._folder / "model.safetensors"
    assert Recommender.load(file, device="cpu").ranker.hash == model.ranker.hash
    with pytest.raises(ValueError, match=r"folder: found the file .*items.parquet, allowed: .* or model.safeten"):
        Recommender.load(file.with_name("items.parquet"))
    with pytest.raises(ValueError, match="out: found data/download, allowed: outside of data/download"):
        Recommender.fit(small_log(), out="data")
    with pytest.raises(ValueError, match="folder: found data/train, allowed: outside of data/train"):
        model.save("data/train")
