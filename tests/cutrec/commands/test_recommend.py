"""Recommending for the users of a log and of files, with the model at hand or one that has seen everything."""

import dataclasses
import hashlib
import re
import shutil
import zlib
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from cutrec import Recommender, config
from cutrec.checksums import write_checksums
from cutrec.cli import execute
from cutrec.config import loss_settings
from cutrec.config_point import Config
from cutrec.errors import StageError
from cutrec.workflow import recommend, refit, scoring
from cutrec.workflow.history_sources import SplitSource
from rec_data.config import Split
from rec_data.splits.split import split_log
from rec_models.config import Train
from rec_models.inference import load
from rec_models.inference import recommend as rank_all
from rec_models.training.checkpoint import ModelCheckpoint
from tests.old_model import write_old_model
from tests.small_log import write_params
from tests.small_model import SETTINGS, write_model
from tests.split_parts import divide


def decided(params: Path = Path("params.yaml")) -> Config:
    """The point of params.yaml, with the defaults of `Config` where that says auto."""
    return dataclasses.replace(config.load(params), undecided=())


@pytest.fixture(scope="module")
def trained_once(split_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder after download, split and one epoch of train; the weights are random."""
    folder = tmp_path_factory.mktemp("trained") / "checkout"
    shutil.copytree(split_once, folder)
    write_params(folder, SETTINGS)
    write_model(folder)
    return folder


@pytest.fixture
def trained(trained_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, as the current directory."""
    monkeypatch.chdir(shutil.copytree(trained_once, tmp_path / "checkout"))
    return tmp_path / "checkout"


@pytest.fixture(scope="module")
def refitted_once(trained_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same after ``cutrec recommend --refit``."""
    folder = shutil.copytree(trained_once, tmp_path_factory.mktemp("refitted") / "checkout")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run("--refit", "--k", "2")
    return folder


def run(*arguments: str) -> pl.DataFrame:
    execute(["recommend", "--out", "out/top.parquet", *arguments])
    assert not list(Path("out").glob("*.part"))
    return pl.read_parquet("out/top.parquet")


def expected(histories: dict[object, list[int]], k: int, **options: bool) -> list[tuple[object, int, int]]:
    """The same by the library's own ranking: (user, item, rank), original ids."""
    names = pl.read_parquet("data/split/items.parquet")["original_id"].to_list()
    lists = [[names.index(item) for item in history if item in names] for history in histories.values()]
    found = rank_all(load("data/train/model.safetensors"), lists, k, **options).items.tolist()
    return [
        (user, names[item], rank)
        for user, items in zip(histories, found, strict=True)
        for rank, item in enumerate(items, start=1)
        if item >= 0
    ]


def test_every_user_of_the_log_gets_the_best_items_after_their_whole_history(trained: Path):
    log = pl.read_parquet("data/download/log.parquet").sort("timestamp")
    histories = {user: log.filter(user_id=user)["item_id"].to_list() for user in log["user_id"].unique().sort()}
    found = run("--k", "3", "--batch-users", "64")
    assert found.columns == ["user_id", "item_id", "rank", "score"]
    assert sorted(found.drop("score").rows()) == sorted(expected(histories, 3))
    assert (found.group_by("user_id").agg(pl.col("score").is_sorted(descending=True).all())["score"]).all()


def test_histories_of_a_file_in_original_ids(trained: Path, capsys: pytest.CaptureFixture[str]):
    names = pl.read_parquet("data/split/items.parquet")["original_id"].to_list()
    rows = [("ann", names[3]), ("ann", 5), ("bob", 7), ("ann", names[1])]
    pl.DataFrame(rows, schema=["user_id", "item_id"], orient="row").write_csv("h.csv")
    found = run("--histories", "h.csv", "--k", "4")
    assert found.drop("score").rows() == expected({"ann": [names[3], names[1]]}, 4)
    said = capsys.readouterr()
    assert "note: unknown items are skipped: 2 in 2 events: 5, 7" in said.err
    assert "note: users without any known item get no list: 1: 'bob'" in said.err
    assert "out/top.parquet: 4 recommendations for 1 users, on cpu" in said.out


def test_times_that_are_not_there_are_told_if_nobody_named_them(trained: Path, capsys: pytest.CaptureFixture[str]):
    names = pl.read_parquet("data/split/items.parquet")["original_id"].to_list()
    Path("h.csv").write_text(f"user_id,item_id,time\n1,{names[3]},2\n1,{names[1]},1\n")
    found = run("--histories", "h.csv", "--k", "4")
    assert found.drop("score").rows() == expected({1: [names[3], names[1]]}, 4)
    assert "note: no column 'timestamp': events of a user are taken in the order of rows" in capsys.readouterr().err
    found = run("--histories", "h.csv", "--k", "4", "--timestamp-column", "time")
    assert found.drop("score").rows() == expected({1: [names[1], names[3]]}, 4)
    assert capsys.readouterr().err.count("note: ") == 0
    with pytest.raises(ValueError, match=r"no column 'tiem' \(for timestamp\)"):
        execute(["recommend", "--histories", "h.csv", "--timestamp-column", "tiem"])
    with pytest.raises(ValueError, match=r"--timestamp-column: found user_id, item_id, user_id, allowed: different"):
        execute(["recommend", "--histories", "h.csv", "--timestamp-column", "user_id"])


def test_histories_are_read_with_the_format_of_the_log(trained: Path):
    names = pl.read_parquet("data/split/items.parquet")["original_id"].to_list()
    columns = {"user": 2, "item": 1, "timestamp": None}
    keys = {f"download.columns.{key}": value for key, value in columns.items()}
    write_params(trained, SETTINGS | keys | {"download.format.header": False, "download.format.quote": "'"})
    Path("h.txt").write_text(f"{names[3]} 'ann'\n{names[1]} 'ann'\n")
    wanted = expected({"ann": [names[3], names[1]]}, 4)
    assert run("--histories", "h.txt", "--k", "4").drop("score").rows() == wanted
    Path("h.csv").write_text(f"who,item_id\n'ann',{names[3]}\n'ann',{names[1]}\n")
    found = run("--histories", "h.csv", "--k", "4", "--user-column", "who", "--item-column", "item_id")
    assert found.drop("score").rows() == wanted


def test_positions_for_a_file_without_header(trained: Path):
    names = pl.read_parquet("data/split/items.parquet")["original_id"].to_list()
    Path("h.csv").write_text(f"{names[3]},7,2\n{names[1]},7,1\n")
    headless = ["-S", "download.format.header=false", "--user-column", "2", "--item-column", "1"]
    found = run("--histories", "h.csv", "--k", "4", *headless, "--timestamp-column", "3")
    assert found.drop("score").rows() == expected({7: [names[1], names[3]]}, 4)
    with pytest.raises(ValueError, match=r"^download: allowed: positions from 1, .* where timestamp is 'timestamp'"):
        execute(["recommend", "--histories", "h.csv", *headless])
    with pytest.raises(ValueError, match=r"^download: allowed: positions from 1, .* where user is 'user_id'") as caught:
        execute(["recommend", "--histories", "h.csv", *headless[:2]])
    Path("h.csv").write_text(f"7,{names[3]},2\n7,{names[1]},1\n")  # in the order of the flags
    cure = re.findall(r"-S|download\.columns\.\w+=\w+", str(caught.value))
    found = run("--histories", "h.csv", "--k", "4", *headless[:2], *cure)
    assert found.drop("score").rows() == expected({7: [names[1], names[3]]}, 4)


def test_whole_numbers_written_as_floats_get_a_hint(trained: Path, capsys: pytest.CaptureFixture[str]):
    names = pl.read_parquet("data/split/items.parquet")["original_id"].to_list()
    Path("h.csv").write_text(f"user_id,item_id\n1,{names[3]}\n1,{names[1]}.0\n")
    assert run("--histories", "h.csv", "--k", "4").drop("score").rows() == expected({1: [names[3], names[1]]}, 4)
    Path("h.csv").write_text(f"user_id,item_id\n1,{names[3]}\n1,{names[1]}.0\n1,x\n")
    run("--histories", "h.csv", "--k", "4")
    said = capsys.readouterr().err
    assert f"'{names[1]}.0', 'x'; ids of text files are compared as text: write 7 and not 7.0" in said


def test_the_suffix_decides_what_is_written(trained: Path):
    items = pl.read_parquet("data/train/items.parquet")
    named = items.with_columns(pl.format('{} "b", c', "original_id").alias("original_id"))
    named.write_parquet("data/train/items.parquet")
    model = Path("data/train/model.safetensors")
    dataclasses.replace(ModelCheckpoint.read(model), catalogue=None).save(model)
    rows = pl.DataFrame({"user_id": ["a,b", "c"], "item_id": named["original_id"][:2]})
    rows.write_parquet("h.parquet")
    expected = run("--histories", "h.parquet", "--k", "4", "--batch-users", "1")
    execute(["recommend", "--histories", "h.parquet", "--k", "4", "--batch-users", "1", "--out", "out/top.csv"])
    found = pl.read_csv("out/top.csv", schema=expected.schema)
    assert found.drop("score").rows() == expected.drop("score").rows()
    assert found["score"].to_list() == pytest.approx(expected["score"].to_list())


def test_lists_of_some_users_of_the_log_are_printed(trained: Path, capsys: pytest.CaptureFixture[str]):
    everybody = run("--k", "3")
    Path("data/recommend").mkdir(exist_ok=True)
    one, other = everybody["user_id"].unique(maintain_order=True)[3:5]
    capsys.readouterr()
    execute(["recommend", "--k", "3", "--user", str(one), "--user", str(other), "--user", "nobody"])
    printed = capsys.readouterr()
    found = pl.read_csv(printed.out.encode(), schema=everybody.schema)
    wanted = everybody.filter(pl.col("user_id").is_in([one, other]))
    assert found.drop("score").sort("user_id", "rank").rows() == wanted.drop("score").sort("user_id", "rank").rows()
    assert "users that data/download/log.parquet does not hold: 'nobody'" in printed.err
    assert not list(Path("data/recommend").iterdir())
    execute(["recommend", "--k", "3", "--out", "-"])
    found = pl.read_csv(capsys.readouterr().out.encode(), schema=everybody.schema)
    assert found.drop("score").equals(everybody.drop("score"))
    assert run("--k", "3", "--user", str(one))["user_id"].unique().to_list() == [one]  # with --out
    with pytest.raises(StageError, match="nobody has an item"):
        execute(["recommend", "--user", "nobody"])


def test_seen_items_come_back_on_request(trained: Path):
    names = pl.read_parquet("data/split/items.parquet")["original_id"].to_list()
    pl.DataFrame({"user_id": [1], "item_id": [names[:5]]}).write_parquet("h.parquet")
    found = run("--histories", "h.parquet", "--k", str(len(names)), "--keep-seen")
    assert sorted(found["item_id"]) == names
    assert len(run("--histories", "h.parquet", "--k", str(len(names)))) == len(names) - 5


@pytest.mark.filterwarnings("ignore::cutrec.UnknownUsersWarning")
def test_a_refit_sees_every_event_and_every_item(trained: Path):
    point = decided()
    log = pl.read_parquet("data/download/log.parquet")
    extra = pl.DataFrame({"user_id": [0] * 5, "item_id": [9] * 5, "timestamp": [1_800_000_000] * 5})
    pl.concat([log, extra]).write_parquet("data/download/log.parquet")  # an item that only the future has
    found = run("--refit", "--k", "2")
    assert found["user_id"].n_unique() == log["user_id"].n_unique()
    catalogue = pl.read_parquet("out/top.refit/items.parquet")
    assert sorted(catalogue["original_id"]) == sorted({*log["item_id"], 9})
    checkpoint = ModelCheckpoint.read(Path("out/top.refit/model.safetensors"))
    assert (checkpoint.num_items, checkpoint.epoch) == (len(catalogue), 1)
    assert checkpoint.loss == loss_settings(point)
    popular = Recommender.load("out/top.refit").recommend(histories={"new": []}, k=40, fallback="popularity")
    assert (
        popular["score"].to_list()
        == sorted(pl.concat([log, extra])["item_id"].value_counts()["count"], reverse=True)[:40]
    )
    again = run("--model", "out/top.refit/model.safetensors", "--k", "2")  # takes the catalogue that lies beside it
    assert again.drop("score").rows() == found.drop("score").rows()


def test_a_model_of_version_0_1_ranks_and_is_refitted(trained: Path, refitted_once: Path):
    before, model = run("--k", "3"), Path("data/train/model.safetensors")
    write_old_model(ModelCheckpoint.read(model), model.with_name("model.ckpt"))
    model.unlink()
    assert run("--k", "3").equals(before)
    assert run("--k", "3", "--model", "data/train/model.ckpt").equals(before)
    refitted = run("--k", "3", "--refit")
    assert {path.name for path in Path("out/top.refit").iterdir()} >= {"README.md", "SHA256SUMS", "metrics.json"}
    assert run("--k", "3", "--model", "out/top.refit").equals(refitted)
    assert run("--k", "3", "--model", str(refitted_once / "out/top.refit")).equals(refitted)


@pytest.mark.parametrize("option", ["--refit", "--keep-seen"])
def test_a_damaged_model_is_refused_even_if_only_its_settings_are_read(trained: Path, option: str):
    write_checksums(Path("data/train"))
    model = Path("data/train/model.safetensors")
    model.write_bytes(model.read_bytes().replace(b'"epoch":"1"', b'"epoch":"9"'))
    with pytest.raises(StageError, match=r"model\.safetensors and data/train/SHA256SUMS do not fit each other"):
        execute(["recommend", option])


@pytest.mark.parametrize("broken", ["writing the ids", "items.parquet", "model.safetensors"])
def test_a_refit_that_is_killed_never_pairs_a_model_with_other_ids(
    refitted_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
):
    monkeypatch.chdir(shutil.copytree(refitted_once, tmp_path / "checkout"))
    kept = {name: Path("out/top.refit", name).read_bytes() for name in ("items.parquet", "model.safetensors")}
    log = pl.read_parquet("data/download/log.parquet")
    extra = pl.DataFrame({"user_id": [0] * 5, "item_id": [9] * 5, "timestamp": [1_800_000_000] * 5})
    pl.concat([log, extra]).write_parquet("data/download/log.parquet")  # another catalogue
    move = Path.replace

    def killed(self: Path, target: Path) -> Path:
        if Path(target) == Path("out/top.refit", broken):
            raise KeyboardInterrupt
        return move(self, target)

    def killed_at_once(*_: object) -> None:
        raise KeyboardInterrupt

    if broken == "writing the ids":
        monkeypatch.setattr("pyarrow.parquet.write_table", killed_at_once)
    else:
        monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        execute(["recommend", "--refit", "--out", "out/top.parquet"])
    model = Path("out/top.refit/model.safetensors")
    if model.exists():
        assert {name: Path("out/top.refit", name).read_bytes() for name in kept} == kept


def test_a_refit_trains_as_long_as_the_best_epoch(trained: Path):
    checkpoint = dataclasses.replace(ModelCheckpoint.read(Path("data/train/model.safetensors")), epoch=7)
    loop = refit.loop_settings(checkpoint, torch.device("cpu"))
    assert dataclasses.replace(loop, max_epochs=20, accelerator="auto") == checkpoint.training
    assert (loop.max_epochs, loop.accelerator) == (7, "cpu")


def test_a_refit_at_another_point_is_refused(trained: Path):
    point = dataclasses.replace(decided(), train=Train(learning_rate=0.5))
    with pytest.raises(StageError, match=r"has train.learning_rate=0.5, the model was trained with 0.001"):
        refit.refuse_other_config(point, ModelCheckpoint.read(Path("data/train/model.safetensors")))


@pytest.mark.parametrize(
    ("point", "says"),
    [
        ({"batch_size": 256}, "has batch_size=256, the model was trained with 128"),
        ({"train": Train(window=4)}, "has train.window=4, the model was trained with None"),
    ],
)
def test_a_refit_with_other_batches_is_refused(trained: Path, point: dict[str, Any], says: str):
    other = dataclasses.replace(decided(), **point)
    with pytest.raises(StageError, match=says):
        refit.refuse_other_config(other, ModelCheckpoint.read(Path("data/train/model.safetensors")))


def test_a_model_that_does_not_know_its_batches_is_refitted_with_a_warning(
    trained: Path, capsys: pytest.CaptureFixture[str]
):
    checkpoint = dataclasses.replace(ModelCheckpoint.read(Path("data/train/model.safetensors")), batching=None)
    refit.refuse_other_config(decided(), checkpoint)
    assert "warning: the model does not say what its batches held" in capsys.readouterr().err


def test_what_params_leaves_open_is_taken_from_the_model(trained: Path):
    checkpoint = ModelCheckpoint.read(Path("data/train/model.safetensors"))
    assert refit.as_trained(config.load(), checkpoint) == decided()
    old = dataclasses.replace(checkpoint, batching=None)
    assert refit.as_trained(config.load(), old).undecided == ("batch_size", "train.window")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--k", "0"], "--k: found 0, allowed: 1 to 1,000,000; --help"),
        (["--k", "two"], "--k: found two, allowed: 1 to 1,000,000; --help"),
        (["--batch-users", "-1"], "--batch-users: found -1, allowed: 1 to 1,000,000"),
        (["--k", "1" + 5000 * "0"], "allowed: 1 to 1,000,000; --help"),
        (["--batch-users", "100000000000000000000"], "--batch-users: found 100000000000000000000, allowed: 1 to 1,0"),
        (["--k", "41"], "--k: found 41, allowed: 1 to 40, the size of the catalogue"),
        (["--model", "none.ckpt"], "--model: found no none.ckpt, allowed: what the train stage wrote (dvc repro)"),
        (["--histories", "none.csv"], "histories 'none.csv': no file"),
        (["--histories", ""], "histories: found '', allowed: a path, a folder or a glob"),
        (["--kk", "3"], "unrecognized arguments: --kk 3; --help lists the options"),
        (["--device", "tpu"], "device"),
        (["--user-column", "visitor"], "--user-column: it names a column of --histories, which is not given"),
        (
            ["--out", "data/split/top.parquet"],
            "found data/split, allowed: outside of data/split, which the pipeline writes",
        ),
        (["-S", "download.ties=row_order"], "-S: it changes how --histories are read, which are not given"),
        (
            ["--histories", "h.csv", "-S", "loss=ce"],
            "found 'loss=ce', allowed: download.KEY=... of params.yaml",
        ),
        (["--out", "lists.xlsx"], "--out: found lists.xlsx, allowed: a file whose name ends in .parquet or .csv"),
        (
            ["--refit", "--out", "data/split/../train/top.parquet"],
            "allowed: outside of data/train, which the pipeline writes",
        ),
    ],
)
def test_mistakes_get_one_line(trained: Path, arguments: list[str], says: str):
    with pytest.raises(ValueError, match=re.escape(says)) as caught:
        execute(["recommend", *arguments])
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_refused(trained: Path):
    with pytest.raises(StageError, match="--device: found cuda, but torch finds no GPU here, allowed: cpu"):
        execute(["recommend", "--device", "cuda"])


def test_a_catalogue_of_another_size_is_refused(trained: Path):
    pl.DataFrame({"original_id": [1, 2]}).write_parquet("data/train/items.parquet")
    with pytest.raises(StageError, match=r"ranks 40 items, but data/train/items.parquet holds 2"):
        execute(["recommend"])


def test_a_catalogue_of_equal_length_with_other_ids_is_refused(trained: Path):
    items = pl.read_parquet("data/train/items.parquet")
    items.with_columns(pl.col("original_id").reverse()).write_parquet("data/train/items.parquet")
    says = r"^data/train/items.parquet is not the catalogue that data/train/model.safetensors was trained with"
    with pytest.raises(StageError, match=says):
        execute(["recommend"])


def test_the_same_ids_written_by_another_tool_are_the_same_catalogue(trained: Path):
    before = run("--k", "3")
    ids = pl.read_parquet("data/train/items.parquet")["original_id"].cast(pl.Int16)
    pq.write_table(pa.table({"original_id": ids.to_arrow()}), "data/train/items.parquet", compression="gzip")
    assert run("--k", "3").rows() == before.rows()


def test_a_model_that_does_not_know_its_catalogue_works_with_a_note(trained: Path, capsys: pytest.CaptureFixture[str]):
    before = run("--k", "3")
    model = Path("data/train/model.safetensors")
    dataclasses.replace(ModelCheckpoint.read(model), catalogue=None).save(model)
    capsys.readouterr()
    assert run("--k", "3").equals(before)
    assert (
        "note: data/train/model.safetensors is of an earlier version, which did not record" in capsys.readouterr().err
    )


def test_a_refit_after_another_split_is_refused(trained: Path):
    items = pl.read_parquet("data/split/items.parquet")
    items.with_columns(pl.col("original_id").reverse()).write_parquet("data/split/items.parquet")
    with pytest.raises(
        StageError, match=r"^data/split/items.parquet is not the catalogue that data/train/model.safetensors"
    ):
        execute(["recommend", "--refit"])


def test_another_log_than_that_of_training_gets_one_note(trained: Path, capsys: pytest.CaptureFixture[str]):
    log, model = Path("data/download/log.parquet"), Path("data/train/model.safetensors")
    digest = hashlib.sha256(log.read_bytes()).hexdigest()
    dataclasses.replace(ModelCheckpoint.read(model), log=digest).save(model)
    run("--k", "3")
    run("--refit", "--k", "2")
    refitted = ("--model", "out/top.refit/model.safetensors", "--k", "2")
    run(*refitted)
    assert "another log" not in capsys.readouterr().err
    other = pl.read_parquet(log).with_columns(pl.col("user_id") + 1000)  # the same items, as another data set may have
    other.write_parquet(log)
    for path, arguments in ((str(model), ("--k", "3")), (refitted[1], refitted)):
        run(*arguments)
        (line,) = [line for line in capsys.readouterr().err.splitlines() if "another log" in line]
        assert line.startswith(f"note: {log} is another log than {path} was trained with: lists are right only if ")


def test_the_log_beside_the_model_is_ranked_from(trained: Path, capsys: pytest.CaptureFixture[str]):
    """As `Recommender.load` does: that of an update has the events of the new days."""
    last = pl.read_parquet("data/download/log.parquet").sort("timestamp", maintain_order=True).tail(200)
    longer = last.with_columns(pl.col("user_id") + 1000, pl.col("timestamp") + 86_400)
    before = run("--k", "3")
    shutil.copytree("data/train", "data/update/train")
    Path("data/update/download").mkdir()
    longer.write_parquet("data/update/download/log.parquet")
    model = Path("data/update/train/model.safetensors")
    digest = hashlib.sha256(Path("data/update/download/log.parquet").read_bytes()).hexdigest()
    dataclasses.replace(ModelCheckpoint.read(model), log=digest).save(model)
    write_checksums(model.parent)
    for folder in ("data/update", "data/update/train", model):
        found = run("--k", "3", "--model", str(folder))
        assert set(found["user_id"]) == set(longer["user_id"])
    execute(["recommend", "--k", "3", "--model", "data/update", "--part", "1/1", "--out", "out/lists"])
    parts = pl.read_parquet("out/lists/*.parquet")
    assert parts.sort("user_id", "rank").drop("score").equals(found.sort("user_id", "rank").drop("score"))
    assert "another log" not in capsys.readouterr().err
    shutil.rmtree("data/update/download")
    assert run("--k", "3", "--model", "data/update").drop("score").equals(before.drop("score"))
    assert "note: data/download/log.parquet is another log than data/update/train/" in capsys.readouterr().err


@pytest.mark.parametrize("step", ["read_histories", "ranked_batches"])
def test_a_log_that_is_replaced_before_the_lists_are_written_is_refused(
    step: str, trained: Path, monkeypatch: pytest.MonkeyPatch
):
    """The users of the old log may have been forgotten."""
    go_on = getattr(recommend, step)

    def replace(*arguments: Any, **options: Any) -> Any:
        shutil.copyfile("data/download/log.parquet", "copy")
        Path("copy").replace("data/download/log.parquet")
        return go_on(*arguments, **options)

    monkeypatch.setattr(recommend, step, replace)
    Path("out/top.parquet").unlink(missing_ok=True)
    with pytest.raises(StageError, match=r"log.parquet: found that another process wrote it"):
        run("--k", "3")
    assert not list(Path("out").glob("top.parquet*"))


def test_ids_are_those_of_the_model_even_if_the_split_was_made_anew(trained: Path):
    before = run("--k", "3")
    items = pl.read_parquet("data/split/items.parquet")
    items.with_columns(pl.col("original_id").reverse()).write_parquet("data/split/items.parquet")
    assert run("--k", "3").equals(before)


def test_a_model_without_its_catalogue_is_refused(trained: Path):
    Path("data/train/items.parquet").unlink()
    with pytest.raises(StageError, match=r"--model: found no data/train/items.parquet, which says what items"):
        execute(["recommend"])


def test_before_the_pipeline_has_run_the_missing_file_is_named(workplace):
    workplace({})
    with pytest.raises(StageError, match=r"--model: found no data/train, allowed: what the train stage"):
        execute(["recommend"])


def test_ids_that_the_type_of_the_catalogue_does_not_hold_are_unknown(
    trained: Path, capsys: pytest.CaptureFixture[str]
):
    known = pl.read_parquet("data/train/items.parquet")["original_id"][0]
    huge = [-1, 2**63, 2**64 - 1, 10**25]
    text = "".join(f"7,{item},{row}\n" for row, item in enumerate([known, *huge]))
    Path("h.csv").write_text(f"user_id,item_id,timestamp\n{text}")
    assert run("--histories", "h.csv", "--k", "2")["user_id"].to_list() == [7, 7]
    assert f"unknown items are skipped: 4 in 4 events: '-1', '{2**63}'" in capsys.readouterr().err


def test_histories_are_read_with_the_settings_of_the_log(trained: Path):
    write_params(trained, {**SETTINGS, "download.time_format": "%d.%m.%Y", "download.null_values": []})
    known = pl.read_parquet("data/train/items.parquet")["original_id"][:2].to_list()
    Path("h.csv").write_text(f"user_id,item_id,timestamp\nNA,{known[0]},31.01.2024\nNA,{known[1]},01.02.2024\n")
    assert run("--histories", "h.csv", "--k", "2")["user_id"].to_list() == ["NA", "NA"]


def test_histories_in_another_form_than_the_log(trained: Path, capsys: pytest.CaptureFixture[str]):
    names = pl.read_parquet("data/split/items.parquet")["original_id"].to_list()
    Path("h.csv").write_bytes(f"user_id;item_id;when;what\nthé;{names[3]};02.01.2024;buy\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"-S download\.format\.encoding"):
        execute(["recommend", "--histories", "h.csv"])
    changes = ["encoding=latin-1", "columns.timestamp=when", "time_format=%d.%m.%Y", "events.column=what"]
    changes = [f"download.{'format.' if 'enc' in change else ''}{change}" for change in changes]
    options = [word for change in [*changes, "download.events.keep=[buy]"] for word in ("-S", change)]
    found = run("--histories", "h.csv", "--k", "4", *options)
    assert found.drop("score").rows() == expected({"thé": [names[3]]}, 4)
    assert "note" not in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"no column 'tiem' \(for timestamp\)"):
        execute(["recommend", "--histories", "h.csv", *options, "-S", "download.columns.timestamp=tiem"])


def test_a_missing_column_of_events_is_told_and_refused_if_it_was_named(
    trained: Path, capsys: pytest.CaptureFixture[str]
):
    names = pl.read_parquet("data/split/items.parquet")["original_id"].to_list()
    Path("h.csv").write_text(f"user_id,item_id,timestamp,kind\n8,{names[3]},1,see\n8,{names[1]},2,buy\n")
    write_params(trained, SETTINGS | {"download.events.column": "action", "download.events.keep": ["buy"]})
    assert run("--histories", "h.csv", "--k", "4").drop("score").rows() == expected({8: [names[3], names[1]]}, 4)
    assert "note: no column 'action': events other than buy are not skipped" in capsys.readouterr().err
    for change in ("download.events.column=action", "download.events={column: action, keep: [buy]}"):
        with pytest.raises(ValueError, match=r"no column 'action' \(for download.events.column\)"):
            execute(["recommend", "--histories", "h.csv", "-S", change])
    found = run("--histories", "h.csv", "--k", "4", "-S", "download.events.column=kind")
    assert found.drop("score").rows() == expected({8: [names[1]]}, 4)


def test_histories_with_names_for_a_log_without(trained: Path):
    names = pl.read_parquet("data/split/items.parquet")["original_id"].to_list()
    keys = {f"download.columns.{key}": place for key, place in (("user", 1), ("item", 2), ("timestamp", 3))}
    write_params(trained, SETTINGS | keys | {"download.format.header": False})
    Path("h.csv").write_text(f"user_id,item_id,timestamp\n8,{names[3]},1706702401\n8,{names[1]},1706702400\n")
    changes = ["format.header=true", "columns.user=user_id", "columns.item=item_id", "columns.timestamp=timestamp"]
    options = [word for change in changes for word in ("-S", f"download.{change}")]
    assert run("--histories", "h.csv", "--k", "4", *options).drop("score").rows() == expected(
        {8: [names[1], names[3]]}, 4
    )


def test_what_is_left_out_of_histories_is_told(trained: Path, capsys: pytest.CaptureFixture[str]):
    names = pl.read_parquet("data/split/items.parquet")["original_id"].to_list()
    limit = ["-S", "download.min_rating=3", "-S", "download.duplicates=drop"]
    Path("h.csv").write_text(f"user_id,item_id,stars\n1,{names[3]},5\n1,{names[1]},1\n2,{names[1]},2\n")
    found = run("--histories", "h.csv", "--k", "4", *limit, "-S", "download.columns.rating=stars")
    assert found.drop("score").rows() == expected({1: [names[3]]}, 4)
    said = capsys.readouterr().err
    assert "note: events with a rating below 3 are skipped: 2" in said
    assert "note: users whose events are all skipped get no list: 1" in said
    assert "note: -S download.duplicates=drop has no effect on rows without times" in said
    run("--histories", "h.csv", "--k", "4", *limit)
    assert "note: no column of ratings: -S download.min_rating=3.0 is not applied" in capsys.readouterr().err
    rows = {"user_id": [1, 1], "item_id": [names[:2], names[2:4]]}
    pl.DataFrame(rows).write_parquet("h.parquet")
    assert run("--histories", "h.parquet", "--k", "4").drop("score").rows() == expected({1: names[:4]}, 4)
    assert "users with several lists, which are joined in the order of rows: 1" in capsys.readouterr().err


def test_parts_of_the_users_are_written_into_a_folder(trained: Path, capsys: pytest.CaptureFixture[str]):
    everybody = run("--k", "3").sort("user_id", "rank")
    for number in (2, 1):
        execute(["recommend", "--k", "3", "--part", f"{number}/2", "--chunk-events", "400", "--out", "out/lists"])
    said = capsys.readouterr().out
    assert re.search(r"out/lists/part-00002-of-00002: [\d,]+ recommendations for \d+ users, on cpu\n", said)
    assert said.endswith("out/lists: all 2 parts are complete\n")
    found = pl.read_parquet("out/lists/*.parquet").sort("user_id", "rank")
    assert found.drop("score").equals(everybody.drop("score"))
    shutil.copyfile("data/download/log.parquet", "h.parquet")
    for number in (1, 2):
        execute(["recommend", "--k", "3", "--part", f"{number}/2", "--histories", "h.parquet"])
    found = pl.read_parquet("data/recommend/parts/*.parquet").sort("user_id", "rank")
    assert found.drop("score").equals(everybody.drop("score"))
    with pytest.raises(StageError, match="lists with another --k: found 4, allowed: 3 as there; take another folder"):
        execute(["recommend", "--k", "4", "--part", "1/2", "--out", "out/lists"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--part", "3/2"], r"--part: found 3/2, allowed: I/N with I from 1 to N, such as 1/8"),
        (["--part", "0/2"], r"--part: found 0/2, allowed: I/N"),
        (["--part", "half"], r"--part: found half, allowed: I/N"),
        (["--part", "1/2", "--out", "lists.parquet"], r"--out: found lists.parquet, allowed with --part: a folder"),
        (["--part", "1/2", "--user", "3"], r"--part: found it with --user or --refit, allowed: all users"),
        (["--part", "1/2", "--out", "data/train"], r"--out: found data/train, allowed: outside of data/train"),
        (
            ["--chunk-events", "5"],
            r"--chunk-events: it is about --part, which is not given; --part 1/1 takes",
        ),
    ],
)
def test_a_wrong_part_is_refused_in_one_line(arguments: list[str], said: str, trained: Path):
    with pytest.raises(StageError, match=said) as caught:
        execute(["recommend", *arguments])
    assert "\n" not in str(caught.value)


def test_a_log_whose_split_is_in_parts_is_never_read_at_once(
    trained: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    whole, some = run("--k", "3"), run("--k", "3", "--user", "5", "--user", "77")
    divide(trained / "data/split", 3)
    assert run("--k", "3", "--user", "5", "--user", "77").equals(some)
    with monkeypatch.context() as patch:
        patch.setattr(recommend, "read_histories", None)
        for chunks in ("1000000", "500"):
            patch.setattr(scoring, "CHUNK_EVENTS", int(chunks))
            execute(["recommend", "--k", "3", "--out", f"lists{chunks}"])
            found = pl.read_parquet(f"lists{chunks}/*.parquet").sort("user_id", "rank")
            assert found.drop("score").equals(whole.sort("user_id", "rank").drop("score"))
            assert Path(f"lists{chunks}/_SUCCESS").is_file()
    assert "note: the split is in 3 parts, so lists are written in parts too (--part 1/1)" in capsys.readouterr().err
    with pytest.raises(StageError, match=r"--out: found out/top.csv, allowed for a split in parts: a folder"):
        execute(["recommend", "--out", "out/top.csv"])
    with pytest.raises(StageError, match=r"data/split: found a split in 3 parts, allowed: 1 here; --refit trains on"):
        run("--refit")


@pytest.mark.parametrize("parts", [1, 3])
def test_without_a_log_histories_are_those_of_the_split(
    trained: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, parts: int
):
    """Of leave-one-out: train and the two items that are held out, so they are those of the log."""
    split = trained / "elsewhere"
    split.mkdir()
    split_log(trained / "data/download/log.parquet", split, Split(strategy="leave_one_out", min_user_count=1))
    shutil.copyfile(split / "items.parquet", trained / "data/split/items.parquet")
    write_params(trained, SETTINGS | {"split_folder": "elsewhere"})
    write_model(trained)
    whole, some = run("--k", "3"), run("--k", "3", "--user", "5", "--user", "77")
    (trained / "data/download/log.parquet").unlink()
    divide(split, parts)
    opened = []
    monkeypatch.setattr(SplitSource, "_open", lambda self, number: opened.append(number) or opens(self, number))
    assert run("--k", "3", "--user", "5", "--user", "77", "--user", "nobody").equals(some)
    assert set(opened) == {1 + zlib.crc32(user) % parts for user in (b"5", b"77")}
    said = capsys.readouterr().err
    assert "note: no data/download/log.parquet: histories are those of elsewhere, up to the last target" in said
    assert "note: users that elsewhere does not hold: 'nobody'" in said
    if parts == 1:
        found = run("--k", "3")
    else:
        monkeypatch.setattr(scoring, "CHUNK_EVENTS", 300)
        execute(["recommend", "--k", "3", "--out", "lists"])
        assert len(list(Path("lists").glob("*.parquet"))) > parts
        found = pl.read_parquet("lists/*.parquet")
        with pytest.raises(StageError, match=r"--part: found 1/2, allowed without a log: I/3, as elsewhere has 3"):
            execute(["recommend", "--part", "1/2", "--out", "others"])
    order = ["user_id", "rank"]
    assert found.drop("score").sort(order).equals(whole.drop("score").sort(order))


opens = SplitSource._open
