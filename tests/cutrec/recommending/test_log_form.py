"""The form of a log: names of what is returned, settings that are written and read, errors in the words of Python."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from cutrec import Recommender
from cutrec.config_point import Config
from cutrec.errors import StageError
from cutrec.outputs import write_json
from cutrec.recommending.asked import events
from cutrec.recommending.frames import Index
from cutrec.recommending.log_form import ARGUMENTS, FORM, LogForm
from rec_data.stated import stated, stated_as
from tests.small_log import small_log, write_params

LOG = pl.DataFrame({"u": [1], "i": ["a"], "t": [1], "kind": ["buy"]}, schema_overrides={"u": pl.UInt16})
COLUMNS = {"user": "u", "item": "i", "timestamp": "t"}


def test_a_form_is_read_as_it_was_written(tmp_path: Path):
    keys = {"download.events.column": "kind", "download.events.keep": ["buy"], "train": {"max_epochs": 3}, "seed": 7}
    form = LogForm.of(LOG, COLUMNS, keys)
    assert (form.frame, form.user, form.item, form.user_type) == ("polars", "u", "i", "uint16")
    assert (form.config.train.max_epochs, form.config.seed, form.config.download.events.keep) == (3, 7, ("buy",))
    write_json(tmp_path / FORM, form.as_json())
    assert LogForm.beside(tmp_path) == form
    write_json(tmp_path / FORM, {**form.as_json(), "later": 1})
    with pytest.raises(StageError, match=r"recommender.json: found another form .*later"):
        LogForm.beside(tmp_path)


def test_numbers_of_numpy_and_paths_are_settings_too(tmp_path: Path):
    keys = {"batch_size": np.int64(32), "train.learning_rate": np.float32(0.5), "report.item_names": tmp_path}
    form = LogForm.of(LOG, COLUMNS, keys)
    assert (form.config.batch_size, form.config.train.learning_rate) == (32, 0.5)
    write_json(tmp_path / FORM, form.as_json())
    assert LogForm.beside(tmp_path).config.report.item_names == str(tmp_path)


def test_two_names_of_one_column_are_refused():
    same = {"download": {"columns": {"user": "u"}}}
    assert LogForm.of(LOG, COLUMNS, same) == LogForm.of(LOG, COLUMNS, {})
    with pytest.raises(StageError, match=r"^download\.columns\.user: found 'w' with 'u' in columns, allowed: one"):
        LogForm.of(LOG, COLUMNS, {"download.columns.user": "w"})


def test_beside_the_model_of_a_checkout_its_params_say_the_form(tmp_path: Path):
    assert LogForm.beside(tmp_path / "data/train") == LogForm(Config())
    write_params(tmp_path, {"download.columns.user": "visitor", "download.ties": "row_order"})
    form = LogForm.beside(tmp_path / "data/train")
    assert (form.user, form.item, form.config.download.ties) == ("visitor", "item_id", "row_order")


def test_positions_and_names_that_are_taken_get_the_usual_names(tmp_path: Path):
    taken = small_log().rename({"user_id": "rank", "item_id": "score"})
    form = LogForm.of(taken, {"user": "rank", "item": "score"}, {})
    assert (form.user, form.item) == ("user_id", "item_id")
    small_log().write_csv(tmp_path / "log.csv", include_header=False)
    columns = {"user": 1, "item": 2, "timestamp": 3}
    tiny = {"max_seq_len": 8, "train": {"max_epochs": 1}}
    model = Recommender.fit(tmp_path / "log.csv", columns=columns, download={"format": {"header": False}}, **tiny)
    assert model.recommend([3], k=2).columns == ["user_id", "item_id", "rank", "score"]
    assert len(model.recommend(histories=small_log().head(5), k=2))


@pytest.mark.parametrize(
    ("settings", "options", "arguments"),
    [
        ({"download.columns.user": "who"}, "-S download.columns.user=who", 'columns={"user": "who"}'),
        ({"download.columns.user": "Who is"}, "-S 'download.columns.user=Who is'", 'columns={"user": "Who is"}'),
        ({"download.columns.timestamp": None}, "-S download.columns.timestamp=null", 'columns={"timestamp": None}'),
        (
            {"download.format.header": False, "download.columns.user": 1, "download.columns.item": 2},
            "-S download.format.header=false -S download.columns.user=1 -S download.columns.item=2",
            'columns={"user": 1, "item": 2}, download={"format": {"header": False}}',
        ),
        ({"download.null_values": []}, "-S 'download.null_values=[]'", 'download={"null_values": []}'),
        ({"split.min_item_count": 1}, "-S split.min_item_count=1", 'split={"min_item_count": 1}'),
    ],
)
def test_messages_state_settings_as_the_caller_does(settings: dict[str, Any], options: str, arguments: str):
    assert stated(settings) == options
    with stated_as(ARGUMENTS):
        assert stated(settings) == arguments
    assert stated(settings) == options


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"split": {"min_item_count": 999}}, 'allowed: a smaller one (split={"min_item_count": 1} keeps all)'),
        (
            {"download": {"events": {"column": "kind"}}},
            'download={"events": {"column": "event", "keep": ["purchase"]}}',
        ),
        ({"train": {"compile": 3}}, "train.compile: found 3, allowed: True or False"),
        ({"max_seq_len": 8, "train.window": 9}, "train.window: found 9, allowed: None or 1 to max_seq_len = 8"),
        ({"preset": "sparse"}, "preset: found 'sparse', but presets and rows belong to the params.yaml of a checkout"),
        ({"row": "4/gowalla"}, "row: found '4/gowalla', but presets and rows belong to the params.yaml of a checkout"),
        ({"report": {"item_names": "none.csv"}}, "report.item_names '"),
    ],
)
def test_no_stage_of_fit_names_options_of_the_command_line(settings: dict[str, Any], says: str):
    with pytest.raises(ValueError, match=re.escape(says)) as caught:
        Recommender.fit(small_log(), **settings)
    assert "-S " not in str(caught.value)


def test_notes_are_in_the_words_of_python(capsys: pytest.CaptureFixture[str]):
    log = pl.concat([small_log()] * 2)
    Recommender.fit(
        log, max_seq_len=8, loss="cce", train={"max_epochs": 1, "patience": 1}, download={"min_rating": None}
    )
    said = capsys.readouterr().err
    assert 'download={"duplicates": "drop"} keeps one of each' in said
    assert 'train={"max_epochs": 2} trains longer' in said
    assert "backbone.scale_embeddings: True, because" in said
    assert "=true" not in said
    assert "-S " not in said


@pytest.mark.parametrize(
    ("kind", "cure"),
    [
        ("pandas", 'histories=frame.rename(columns={"movieId": "i"})'),
        ("polars", 'histories=frame.rename({"movieId": "i"})'),
        ("pyarrow", 'histories=frame.rename_columns({"movieId": "i"})'),
    ],
)
def test_a_column_of_histories_with_another_name_is_renamed_in_the_words_of_its_library(kind: str, cure: str):
    form, frame = LogForm.of(LOG, COLUMNS, {}), LOG.rename({"i": "movieId"})
    histories = {"pandas": frame.to_pandas, "polars": lambda: frame, "pyarrow": frame.to_arrow}[kind]()
    items = Index(pa.array(["a"]))
    with pytest.raises(StageError, match=re.escape("has no column 'i' (for item_id); its columns are: ")) as caught:
        events(histories, items, form)
    assert cure in str(caught.value)


def test_the_file_of_item_names_is_found_from_every_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    form = LogForm.of(LOG, COLUMNS, {"report.item_names": "items.csv"})
    assert form.config.report.item_names == str(tmp_path / "items.csv")
    write_params(tmp_path, {"report.item_names": "items.csv"})
    monkeypatch.chdir("/")
    assert LogForm.beside(tmp_path / "data/train").config.report.item_names == str(tmp_path / "items.csv")
