"""The grid: the paper's tables row by row, its settings in every point, names that DVC takes, contradictions named."""

import csv
import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from cutrec.config import from_mapping, preset_values, read_yaml
from cutrec.config_point import Config
from cutrec.config_rows import rows_of
from cutrec.errors import ConfigError
from cutrec.nested import merged, parse_overrides
from cutrec.reporting.standard_settings import PAPER_NETWORK
from pipelines.paper import points
from pipelines.paper.points import distinct, experiment_name, overrides, search_points, table_points
from rec_data.config import Download, Split
from rec_eval.config import Evaluate
from rec_models.config import LOSSES, Backbone, Losses, Negatives, Sce, Train
from tests.small_log import ROOT

SHIPPED = read_yaml(ROOT / "params.yaml")


def test_the_grid_is_the_papers_tables_row_by_row():
    with (ROOT / "pipelines/reference/paper_tables.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 92
    in_csv = [
        (
            int(row["table"]),
            *(row[key] for key in ("model", "loss", "sampling", "dataset")),
            int(row["batch_size"]),
            int(row["max_seq_len"]),
            row["num_negatives"],
        )
        for row in rows
    ]
    in_grid = [
        (
            point.table,
            point.params.model,
            point.params.loss,
            point.params.negatives.sampling if LOSSES[point.params.loss].sampled else "",
            point.params.dataset,
            point.params.batch_size,
            point.params.max_seq_len,
            "" if "num_negatives" not in point.decided else str(point.params.num_negatives),
        )
        for point in table_points(SHIPPED)
        if point.printed
    ]
    assert in_grid == in_csv


def test_tables_1_to_9_have_a_row_of_a_public_log_beside_the_papers():
    further = [point for point in table_points(SHIPPED) if not point.printed]
    assert [(point.table, point.dataset) for point in further] == [(table, "completejourney") for table in range(1, 10)]
    sizes = {(point.params.batch_size, point.params.max_seq_len) for point in further}
    negatives = {point.params.num_negatives for point in further if "num_negatives" in point.decided}
    assert (len(sizes), len(negatives)) == (1, 1)  # the losses differ, and nothing else
    assert from_mapping({**SHIPPED, "row": "4/completejourney"}).dataset == "completejourney"


def papers_point(row: dict[str, str]) -> Config:
    """A row of paper_tables.csv as the paper trains it, field by field."""
    model, loss = row["model"], row["loss"]
    size = {"batch_size": int(row["batch_size"]), "max_seq_len": int(row["max_seq_len"])}
    chosen = size | ({"num_negatives": int(row["num_negatives"])} if row["num_negatives"] else {})
    network = {"hidden": 320} if model == "bert4rec" else {"hidden": 256, **PAPER_NETWORK}
    negatives = Negatives(sampling=row["sampling"], sharing="none") if row["sampling"] else Negatives()
    buckets = int(2 * (size["batch_size"] * size["max_seq_len"]) ** 0.5)
    sce = Sce(buckets=buckets, bucket_size_x=buckets, bucket_size_y=512, mix_x=True)
    return Config(
        dataset=row["dataset"], model=model, loss=loss, seed=42, **chosen, negatives=negatives,
        download=Download(ties="row_order"),
        split=Split(strategy="temporal", test_fraction=0.1, validation_users=0.05),
        backbone=Backbone(blocks=2, heads=2, dropout=0.1, mask_prob=0.15, **network),
        losses=Losses(sce=sce) if loss == "sce" else Losses(),
        train=Train(max_epochs=20, patience=4, learning_rate=1e-3, weight_decay=1e-5 if model == "bert4rec" else 0.0),
        evaluate=Evaluate(filter_seen=True, reference="test_input"),
    )  # fmt: skip


@pytest.mark.parametrize("table", range(1, 16))
def test_a_row_by_name_is_the_papers_point(table: int):
    with (ROOT / "pipelines/reference/paper_tables.csv").open() as file:
        printed = [row for row in csv.DictReader(file) if int(row["table"]) == table]
    rows = [row for row in rows_of(SHIPPED["grid"]) if row.table == table and row.printed]
    assert all(row.name.startswith(f"{table}/") for row in rows)
    assert len(printed) == len(rows)
    for row, line in zip(rows, printed, strict=True):
        found = from_mapping({**SHIPPED, "row": row.name})
        assert set(found.undecided) <= {"num_negatives"}  # where the loss draws none
        expected = dataclasses.replace(papers_point(line), row=row.name)
        assert dataclasses.replace(found, undecided=()) == expected
        twin = from_mapping({**SHIPPED, "row": row.name, "row_data": "twin@0.5"})
        assert twin.dataset == f"twin:{line['dataset']}@0.5"


def test_two_rows_repeat_a_point_and_every_other_name_is_unique():
    every = table_points(SHIPPED)
    assert len({point.name for point in every if point.printed}) == 90
    assert len({point.name for point in every}) == len(distinct(every)) == 90 + 9


def test_every_point_has_the_papers_settings():
    for point in table_points(SHIPPED):
        found = point.params
        for key, value in preset_values("paper", SHIPPED["presets"][f"paper_{found.model}"]).items():
            holder = found
            for part in key.split("."):
                holder = getattr(holder, part)
            assert holder == value, key
        assert found.backbone.hidden == {"sasrec": 256, "bert4rec": 320}[found.model]
        assert (found.evaluate.reference, found.split.strategy, found.seed) == ("test_input", "temporal", 42)
        assert found.download.ties == "row_order"  # as the paper's code sorts
        assert found.negatives.sharing == "none" or point.params.loss in ("ce", "cce", "sce")


def test_sce_has_the_papers_number_of_buckets():
    sizes = {
        (point.params.batch_size, point.params.max_seq_len): point.params.losses.sce
        for point in table_points(SHIPPED, [7])
    }
    found = sizes[256, 720]
    assert (found.buckets, found.bucket_size_x, found.bucket_size_y) == (858, 858, 512)  # int(2 sqrt(184,320))


def test_what_the_paper_derives_follows_overrides_of_what_it_derives_from():
    extra = parse_overrides(["batch_size=64", "max_seq_len=64"])
    (point,) = table_points(SHIPPED, [7], datasets=["gowalla"], extra=extra)[:1]
    assert (point.params.losses.sce.buckets, point.params.losses.sce.bucket_size_x) == (128, 128)
    fixed = parse_overrides(["batch_size=64", "losses.sce.buckets=9"])
    assert table_points(SHIPPED, [7], datasets=["gowalla"], extra=fixed)[0].params.losses.sce.buckets == 9
    (point,) = table_points(SHIPPED, [4], datasets=["gowalla"], extra={"model": "bert4rec"})
    assert (point.params.backbone.hidden, point.params.train.weight_decay) == (320, 1e-5)
    (point,) = table_points(SHIPPED, [3], datasets=["gowalla"], extra={"loss": "sce"})
    assert point.params.losses.sce.buckets == int(2 * (1024 * 320) ** 0.5)
    (point,) = table_points(SHIPPED, [3], datasets=["gowalla"], sharing="batch", extra={"loss": "cce_neg"})
    assert point.params.negatives.sharing == "batch"


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({}, "sasrec-cce_neg-uniform-none-gowalla-1024x320-n511"),
        ({"twin": True}, "sasrec-cce_neg-uniform-none-twin_gowalla-1024x320-n511"),
        ({"twin": 0.01}, "sasrec-cce_neg-uniform-none-twin_gowalla_0.01-1024x320-n511"),
        ({"extra": {"row_data": "twin"}}, "sasrec-cce_neg-uniform-none-twin_gowalla-1024x320-n511"),
        ({"sharing": "tile"}, "sasrec-cce_neg-uniform-tile-gowalla-1024x320-n511"),
        ({"paper_faithful": True}, "sasrec-cce_neg-uniform-none-gowalla-1024x320-n511-faithful"),
    ],
)
def test_names_say_what_a_point_is(options: dict, name: str):
    (point,) = table_points(SHIPPED, [4], datasets=["gowalla"], **options)
    assert point.name == name
    git = subprocess.run(["git", "check-ref-format", f"refs/exps/00/{name}"], check=False)
    assert git.returncode == 0


@pytest.mark.parametrize("dataset", ["/my logs/a..b.parquet", "twin:beauty@1e-3", "x.lock~^?*[\\"])
def test_names_of_any_data_set_suit_git(dataset: str):
    name = experiment_name(from_mapping({"dataset": dataset}))
    git = subprocess.run(["git", "check-ref-format", f"refs/exps/00/{name}"], check=False)
    assert git.returncode == 0, name


def test_overrides_make_the_same_point_again():
    own = {"grid": SHIPPED["grid"], "presets": SHIPPED["presets"]}
    for point in distinct(table_points(SHIPPED, twin=True, sharing="tile")):
        again = from_mapping(merged(own, parse_overrides(overrides(point))))
        assert again == point.params


def test_values_that_an_edited_file_sets_change_no_point():
    edited = merged(SHIPPED, {"dataset": "mine.csv", "batch_size": 32, "train": {"max_epochs": 2}})
    (point,) = table_points(edited, [4], datasets=["beauty"], twin=True)
    (usual,) = table_points(SHIPPED, [4], datasets=["beauty"], twin=True)
    assert point.name == usual.name
    assert from_mapping(merged(edited, parse_overrides(overrides(point)))) == usual.params


def test_extra_values_go_over_everything():
    extra = parse_overrides(["seed=7", "train.max_epochs=1", "evaluate.k=[10,5]", "download.mirror=null"])
    (point,) = table_points(SHIPPED, [3], datasets=["beauty"], extra=extra)
    assert (point.params.seed, point.params.train.max_epochs, point.params.train.patience) == (7, 1, 4)
    assert point.params.evaluate.k == (10, 5)
    assert {"evaluate.k=[10,5]", "download.mirror=null", "seed=7"} <= set(overrides(point))
    assert point.name == "sasrec-cce-beauty-1024x32-seed_7-max_epochs_1-k_10_5_-mirror_null"
    (other,) = table_points(SHIPPED, [3], datasets=["beauty"], extra=parse_overrides(["batch_size=8"]))
    assert other.name == "sasrec-cce-beauty-8x32"


def test_the_search_grid_is_every_size_with_every_other():
    found = search_points(SHIPPED, model="sasrec", loss="cce_neg", dataset="beauty")
    assert len({point.name for point in found}) == len(found) == 7 * 6 * 8
    assert {point.params.num_negatives for point in found} == {32, 64, 128, 256, 512, 1024, 1512, 2048}
    assert len(search_points(SHIPPED, model="bert4rec", loss="cce", dataset="beauty")) == 7 * 6
    sizes = {point.params.losses.sce for point in search_points(SHIPPED, model="sasrec", loss="sce", dataset="zvuk")}
    assert {size.bucket_size_y for size in sizes} == {256, 512, 1024}
    assert {point.params.batch_size for point in found} == {16, 32, 64, 128, 256, 512, 1024}


@pytest.mark.parametrize("line", ["gowalla", "gowalla 512", "gowalla 512x256 many", "gowalla 512x256 511 1"])
def test_a_line_of_another_form_is_named(line: str):
    grid = {**SHIPPED["grid"], "tables": {3: {"model": "sasrec", "loss": "ce", "points": [line]}}}
    with pytest.raises(ConfigError, match=rf"grid.tables.3: found '{line}', allowed: DATASET BATCHxLENGTH"):
        table_points({**SHIPPED, "grid": grid})


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"tables": [16]}, "table: found 16, allowed: 1, 2, 3"),
        ({"tables": [8], "datasets": ["zvuk"]}, "dataset: found 'zvuk', allowed in these tables: gowalla, beauty, mov"),
        (
            {"sharing": "tile", "paper_faithful": True},
            "negatives.sharing: found 'tile' with row=2/megamarket, allowed: none with paper_faithful=true",
        ),
        (
            {"tables": [11], "extra": {"train": {"weight_decay": 0.0}}},
            "train.weight_decay: found 0.0 with row=11/megamarket, which sets 1e-05 in place of the default 0.0",
        ),
        (
            {"extra": {"backbone": {"hidden": 255}}},
            "backbone.hidden: found 255 with backbone.heads=2, allowed: a multiple",
        ),
        ({"extra": {"batch": 1}}, "batch: unknown key (did you mean batch_size?)"),
        ({"extra": {"model": "gru"}}, "model: found 'gru', allowed: sasrec | bert4rec"),
        ({"extra": {"batch_size": "a"}}, "batch_size: found 'a', allowed: a whole number"),
    ],
)
def test_what_cannot_be_is_one_line(arguments: dict, says: str):
    with pytest.raises(ConfigError) as caught:
        table_points(SHIPPED, **arguments)
    assert str(caught.value).startswith(says)
    assert "\n" not in str(caught.value)


def test_two_points_of_one_name_are_refused():
    one, *_ = table_points(SHIPPED, [3])
    params = dataclasses.replace(one.params, backbone=dataclasses.replace(one.params.backbone, dropout=0.5))
    other = dataclasses.replace(one, params=params)
    with pytest.raises(ConfigError, match=r"two points are named .*: they differ in backbone.dropout=0.5"):
        distinct([one, other])


def test_a_file_without_a_grid_is_named(tmp_path: Path):
    (tmp_path / "params.yaml").write_text("grid:\n  1: {}\n")
    with pytest.raises(ConfigError, match="grid: allowed: a section with settings, search and tables"):
        points.load(tmp_path / "params.yaml")


def test_the_module_imports_no_torch():
    code = "import sys, pipelines.paper.points as p; p.table_points(p.load()); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
