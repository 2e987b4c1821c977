"""params.yaml: the shipped file parses, the grid is the paper's, and every wrong input gets one clear line."""

from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from cutrec.config import (
    PRESET_KEYS,
    batch_settings,
    from_mapping,
    load,
    loss_settings,
    model_settings,
    preset_values,
    read_yaml,
    refuse_contradictions,
    training_settings,
)
from cutrec.config_point import AUTO_KEYS, NO_PRESET, Config, as_written, settled
from cutrec.errors import ConfigError
from cutrec.nested import flatten, nest
from rec_models.config import Backbone

ROOT = Path(__file__).parents[2]

SHIPPED = read_yaml(ROOT / "params.yaml")


def test_the_shipped_file_holds_every_default_and_nothing_else():
    assert load(ROOT / "params.yaml") == Config(undecided=AUTO_KEYS)


def test_the_shipped_file_writes_out_every_key():
    own = {key: value for key, value in SHIPPED.items() if key not in ("grid", "presets")}
    assert set(flatten(own)) == set(as_written(Config()))


def test_auto_is_no_value_until_it_is_settled():
    point = from_mapping({"loss": "auto", "train": {"window": None, "learning_rate": "auto", "patience": 3}})
    assert point.undecided == ("loss", "train.learning_rate")
    written = as_written(point)
    assert [written[key] for key in ("loss", "train.learning_rate", "train.window")] == ["auto", "auto", None]
    for settings in (model_settings, loss_settings, training_settings, batch_settings):
        with pytest.raises(ConfigError, match=r"loss, train.learning_rate: found auto, allowed: values"):
            settings(point)
    point = settled(point, {"loss": "gbce", "train.learning_rate": 0.1})
    assert (point.undecided, loss_settings(point).loss) == ((), "gbce")
    assert (point.train.learning_rate, point.train.patience) == (0.1, 3)


def test_setting_a_key_through_dvc_changes_that_line_alone(tmp_path: Path):
    from dvc.utils.hydra import apply_overrides

    copy = tmp_path / "params.yaml"
    copy.write_text((ROOT / "params.yaml").read_text())
    apply_overrides(copy, ["loss=cce"])
    before, after = (ROOT / "params.yaml").read_text().splitlines(), copy.read_text().splitlines()
    changed = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    assert [(old.split("#")[0].strip(), new.split("#")[0].strip()) for old, new in changed] == [
        ("loss: auto", "loss: cce")
    ]


def test_every_preset_parses_and_decides_its_keys():
    assert SHIPPED["presets"][NO_PRESET] == {}
    for name, preset in SHIPPED["presets"].items():
        point = from_mapping({**SHIPPED, "preset": name})
        assert point.preset == name
        for key, value in preset_values(name, preset).items():
            found: Any = point
            for part in key.split("."):
                found = getattr(found, part)
            assert found == value


def test_a_stage_that_reads_what_a_preset_sets_runs_again_when_the_preset_changes():
    stages = read_yaml(ROOT / "dvc.yaml")["stages"]
    for name, stage in stages.items():
        reads = {key.split(".")[0] for key in stage["params"]} & set(PRESET_KEYS)
        assert ({"preset", "presets.${preset}"} <= set(stage["params"])) == bool(reads), name


WIDE = {"presets": {"none": {}, "wide": {"batch_size": 64, "backbone": {"hidden": 256, "heads": 4}}}}


def test_a_preset_leaves_the_other_keys_alone():
    point = from_mapping({**WIDE, "preset": "wide", "loss": "ce", "backbone": {"dropout": 0.3, "hidden": "auto"}})
    assert (point.batch_size, point.loss) == (64, "ce")
    assert point.backbone == Backbone(hidden=256, heads=4, dropout=0.3)
    assert from_mapping(WIDE) == Config()


def test_a_preset_decides_what_is_auto_and_may_leave_it_so():
    presets = {"presets": {"part": {"train": {"window": None}, "loss": "auto"}}, "preset": "part"}
    point = from_mapping({**presets, "loss": "auto", "train": {"window": "auto", "patience": "auto"}})
    assert point.undecided == ("loss", "train.patience")


def test_a_key_may_say_what_the_preset_says():
    assert from_mapping({**WIDE, "preset": "wide", "batch_size": 64}).batch_size == 64


def test_a_third_value_is_refused_with_the_key_that_would_change_the_preset():
    with pytest.raises(ConfigError) as caught:
        from_mapping({**WIDE, "preset": "wide", "backbone": {"hidden": 128}})
    assert str(caught.value) == (
        "backbone.hidden: found 128 with preset=wide, which sets 256, allowed: 'auto' (the default: the preset then "
        "decides); to change the preset, set presets.wide.backbone.hidden=128"
    )


@pytest.mark.parametrize(
    ("presets", "says"),
    [
        ({"other": {}}, "preset: found 'mine', allowed: none, other"),
        ({"mine": {"dataset": "demo"}}, "presets.mine.dataset: a preset sets what training reads: model, loss"),
        ({"mine": {"backbone": {"width": 3}}}, "presets.mine.backbone.width: unknown key"),
        ({"mine": {"batch_size": 0}}, "presets.mine.batch_size: found 0, allowed: a whole number from 1"),
        ({"mine": 3}, "presets.mine: found 3, allowed: a section of keys of params.yaml"),
        ([], "presets: found [], allowed: a section of presets by name"),
    ],
)
def test_wrong_presets_are_named(presets: Any, says: str):
    with pytest.raises(ConfigError) as caught:
        from_mapping({"preset": "mine", "presets": presets})
    assert str(caught.value).startswith(says)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"dataset": None}, "dataset: found None, allowed: a text"),
        ({"dataset": " "}, "dataset: found ' ', allowed: a name or a path"),
        ({"loss": "cce_negative"}, "loss: found 'cce_negative', allowed: ce | ce_neg | cce | cce_neg | bce"),
        ({"model": "gru4rec"}, "model: found 'gru4rec', allowed: sasrec | bert4rec"),
        ({"batch_size": "x"}, "batch_size: found 'x', allowed: a whole number from 1 to 1000000, or auto"),
        ({"backbone": {"heads": "auto"}}, "backbone.heads: found 'auto', allowed: a whole number from 1 to 1000"),
        ({"undecided": ["loss"]}, "undecided: unknown key"),
        ({"los": "ce"}, "los: unknown key (did you mean loss?), allowed: dataset, model, loss"),
        ({"train": {"epochs": 3}}, "train.epochs: unknown key (did you mean train.max_epochs?)"),
        ({"learning_rate": 0.1}, "learning_rate: unknown key (did you mean train.learning_rate?)"),
        ({"train": {"learningrate": 0.1}}, "train.learningrate: unknown key (did you mean train.learning_rate?)"),
        ({"train": {"lr": 0.1}}, "train.lr: unknown key (did you mean train.learning_rate?)"),
        ({"lr": 0.1}, "lr: unknown key (did you mean train.learning_rate?)"),
        ({"trian": {}}, "trian: unknown key (did you mean train?)"),
        ({"train": {"zzz": 1}}, "train.zzz: unknown key, allowed: train.max_epochs, train.patience"),
        ({"train": 3}, "train: found 3, allowed: a section with the keys max_epochs"),
        ({"train": None}, "train: found None, allowed: a section"),
        ({"batch_size": "128"}, "batch_size: found '128', allowed: a whole number"),
        ({"batch_size": 12.5}, "batch_size: found 12.5, allowed: a whole number"),
        ({"batch_size": True}, "batch_size: found True, allowed: a whole number"),
        ({"batch_size": None}, "batch_size: found None, allowed: a whole number"),
        ({"batch_size": 0}, "batch_size: found 0, allowed: a whole number from 1"),
        ({"max_seq_len": 1}, "max_seq_len: found 1, allowed: a whole number from 2"),
        ({"num_negatives": -5}, "num_negatives: found -5, allowed: a whole number from 1"),
        ({"seed": -1}, "seed: found -1, allowed: a whole number from 0"),
        ({"paper_faithful": "yes"}, "paper_faithful: found 'yes', allowed: true or false"),
        ({"impl": "cuda"}, "impl: found 'cuda', allowed: auto | triton | reference"),
        ({"negatives": {"sharing": "row"}}, "negatives.sharing: found 'row', allowed: none | tile | batch"),
        ({"negatives": {"alpha": -1.0}}, "negatives.alpha: found -1.0, allowed: a finite number from 0"),
        ({"negatives": {"tile_tokens": 4096}}, "negatives.tile_tokens: found 4096, allowed: a whole number from 1 to"),
        ({"dataset": date(2024, 1, 1)}, "dataset: found datetime.date(2024, 1, 1), allowed: a text"),
        ({"loss": True}, "loss: found True, allowed: ce | ce_neg"),
        ({"losses": {"gbce": None}}, "losses.gbce: found None, allowed: a section with the keys t"),
        ({"split": {"test_fraction": 1.0}}, "split.test_fraction: found 1.0, allowed: a number between 0 and 1"),
        (
            {"split": {"min_item_count": "five"}},
            "split.min_item_count: found 'five', allowed: a whole number from 1 to 1000000000 or",
        ),
        ({"split": {"test_from": "soon"}}, "split.test_from: found 'soon', allowed: a date such as 2024-01-31"),
        ({"split": {"test_from": -1}}, "split.test_from: found -1, allowed: a whole number from 0 or a text or null"),
        ({"split": {"strategy": "leave_one_out", "test_from": 5}}, "split: found {'strategy': 'leave_one_out', 'test"),
        (
            {"split": {"strategy": "temporal", "test_fraction": 0.1, "target": "last", "holdout": 2}},
            "split: found {'strategy': 'temporal', 'holdout': 2}, allowed: holdout 1 with strategy temporal, or",
        ),
        (
            {"split": {"strategy": "leave_one_out", "validation": "time", "validation_users": 0.05}},
            "split: found {'strategy': 'leave_one_out', 'validation': 'time'}, allowed: validation users with strategy",
        ),
        ({"row_data": "twin"}, "row_data: found 'twin' with row=none, allowed: real; dataset=twin:NAME reads"),
        ({"split": {"target": "all"}}, "split.target: found 'all', allowed: last | first | random"),
        ({"split": {"min_user_count": 0}}, "split.min_user_count: found 0, allowed: a whole number from 1 to"),
        ({"split": {"strategy": "random"}}, "split.strategy: found 'random', allowed: temporal | leave_one_out"),
        ({"backbone": {"hidden": 65}}, "backbone.hidden: found 65 with backbone.heads=2, allowed: a multiple of 2"),
        ({"backbone": {"dropout": 1.0}}, "backbone.dropout: found 1.0, allowed: a number from 0 to below 1"),
        ({"losses": {"gbce": {"t": 1.5}}}, "losses.gbce.t: found 1.5, allowed: a number from 0 to 1"),
        ({"losses": {"sce": {"buckets": 0}}}, "losses.sce.buckets: found 0, allowed: a whole number from 1"),
        ({"train": {"learning_rate": "fast"}}, "train.learning_rate: found 'fast', allowed: a finite number above 0"),
        ({"train": {"window": 0}}, "train.window: found 0, allowed: a whole number from 1 to 1000000 or null"),
        ({"train": {"precision": "fp8"}}, "train.precision: found 'fp8', allowed: bf16-mixed | 16-mixed | 32-true"),
        ({"train": {"learning_rate": float("inf")}}, "train.learning_rate: found inf, allowed: a finite number"),
        ({"train": {"weight_decay": float("inf")}}, "train.weight_decay: found inf, allowed: a finite number from 0"),
        ({"negatives": {"alpha": float("nan")}}, "negatives.alpha: found nan, allowed: a finite number from 0"),
        ({"evaluate": {"k": []}}, "evaluate.k: found [], allowed: a list with 10 in it"),
        ({"evaluate": {"k": [10, "20"]}}, "evaluate.k: found [10, '20'], allowed: a list, each entry a whole number"),
        ({"evaluate": {"k": [1, 5]}}, "evaluate.k: found [1, 5], allowed: a list with 10 in it"),
        ({"evaluate": {"k": [10, 10]}}, "evaluate.k: found [10, 10], allowed: a list without repeats"),
        ({"evaluate": {"k": [0, 10]}}, "evaluate.k: found [0, 10], allowed: a list, each entry a whole number from 1"),
        ({"download": {"min_rating": "high"}}, "download.min_rating: found 'high', allowed: a finite number or null"),
        ({"download": {"columns": {"user": "id", "item": "id"}}}, "download.columns: found {'user': 'id', 'item'"),
    ],
)
def test_wrong_values_are_named_with_what_is_allowed(values: dict, says: str):
    with pytest.raises(ConfigError) as caught:
        from_mapping(values)
    assert str(caught.value).startswith(says)
    assert "\n" not in str(caught.value)


NUMBERS = [
    *(key for key, value in as_written(Config()).items() if type(value) in (int, float)),
    "train.window", "split.min_item_count", "split.min_user_count", "evaluate.k", "download.min_rating",
]  # fmt: skip


@pytest.mark.parametrize("key", NUMBERS)
def test_no_number_is_so_large_that_something_fails_later(key: str):
    """Whole numbers have an upper limit, and so have numbers that training computes with; all are finite."""
    usual = as_written(Config())[key]
    enormous = [2**63 - 1, 2**63, 10**11, 10**20, 10**400, 1e308, float("inf"), float("-inf"), float("nan")]
    for value in enormous if key != "download.min_rating" else enormous[-3:]:
        with pytest.raises(ConfigError) as caught:
            from_mapping(nest({key: [10, value] if key == "evaluate.k" else value}))
        assert str(caught.value).startswith(f"{key}: found ")
        assert ", allowed: " in str(caught.value)
        assert "\n" not in str(caught.value)
    for value in (5e-324, 1e-320, -0.0):
        if isinstance(usual, float) and value >= 0:
            with suppress(ConfigError):  # a share above 0 is none at 0
                assert as_written(from_mapping(nest({key: value})))[key] == value


LAZY, RECORDED = {"optimizer": "adam_lazy"}, {"cuda_graphs": True}


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"train": {"window": 100}}, "train.window: found 100, allowed: null or 1 to max_seq_len = 64"),
        (
            {"loss": "cce", "train": LAZY},
            "train.optimizer: found 'adam_lazy' with loss=cce, allowed: adam | adam_bf16 | adam_rowwise",
        ),
        (
            {"train": {**LAZY, "weight_decay": 0.1}},
            "train.weight_decay: found 0.1 with train.optimizer=adam_lazy, allowed: 0",
        ),
        (
            {"train": {**RECORDED, "accumulate": 2}},
            "train.accumulate: found 2 with train.cuda_graphs=True, allowed: 1",
        ),
        (
            {"loss": "ce", "train": {"table": "sharded"}},
            "train.table: found 'sharded' with loss=ce, allowed: auto | replicated",
        ),
        (
            {"train": {"table": "sharded", "precision": "16-mixed"}},
            "train.precision: found '16-mixed' with train.table=sharded, allowed: bf16-mixed | 32-true",
        ),
        (
            {"train": {"table": "sharded", "devices": 65}},
            "train.devices: found 65 with train.table=sharded, allowed: up to 64",
        ),
        ({"loss": "ce", "train": RECORDED}, "train.cuda_graphs: found True with loss=ce, allowed: auto | False"),
        (
            {"loss": "cce", "impl": "reference", "train": RECORDED},
            "train.cuda_graphs: found True with impl=reference, allowed: auto | False",
        ),
    ],
)
def test_keys_that_do_not_go_together_are_refused_before_any_stage(values: dict, says: str, tmp_path: Path):
    from ruamel.yaml import YAML

    with (tmp_path / "params.yaml").open("w") as file:
        YAML(typ="safe").dump(values, file)
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "params.yaml")
    assert str(caught.value) == says


def test_a_preset_is_looked_at_as_a_whole():
    for preset, holds in (({"max_seq_len": 200}, True), ({"batch_size": 2}, False)):
        point = from_mapping({"preset": "x", "presets": {"x": preset}, "train": {"window": 100}})
        if holds:
            refuse_contradictions(point)
        else:
            with pytest.raises(ConfigError, match=r"train.window: found 100, allowed: null or 1 to max_seq_len = 64"):
                refuse_contradictions(point)


def test_the_presets_go_together():
    for name in SHIPPED["presets"]:
        refuse_contradictions(from_mapping({**SHIPPED, "preset": name}))


def test_whole_numbers_serve_as_numbers():
    assert from_mapping({"train": {"weight_decay": 0}}).train.weight_decay == 0.0


def test_the_last_parts_of_keys_are_unique():
    """Contradictions name settings by them: `cutrec.config_messages.full_names`."""
    keys = as_written(Config())
    assert len({key.rpartition(".")[2] for key in keys}) == len(keys)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "allowed: a folder in a checkout of CutRec, where `uv run cutrec reset` brings back"),
        ("loss: [ce", "not valid YAML"),
        ("- loss", "found list, allowed: a mapping of keys to values"),
        ("", "found NoneType, allowed: a mapping of keys to values"),
        ("loss: ce\nloss: cce\n", "not valid YAML"),
    ],
)
def test_unreadable_files_get_one_line(tmp_path: Path, text: str | None, says: str):
    path = tmp_path / "params.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=says) as caught:
        load(path)
    assert "\n" not in str(caught.value)


def test_the_module_imports_no_torch():
    import subprocess
    import sys

    code = "import sys, cutrec.config as p; p.load(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_an_unquoted_date_is_a_moment():
    """YAML reads it as a date, where DVC's ``-S`` writes a text."""
    assert from_mapping({"split": {"test_from": date(2011, 9, 1)}}).split.test_from == "2011-09-01"
