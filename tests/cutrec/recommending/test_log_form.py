"""The form of a log: names of what is returned, settings that are written and read, errors in the words of Python."""

import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from cutrec import Recommender
from cutrec.config import Config
from cutrec.errors import StageError
from cutrec.outputs import write_json
from cutrec.recommending.log_form import FORM, LogForm, as_arguments
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
        ({"--item-column": "movieId"}, "--item-column movieId", "rename the column movieId"),
    ],
)
def test_messages_state_settings_as_the_caller_does(settings: dict[str, Any], options: str, arguments: str):
    assert stated(settings) == options
    with stated_as(as_arguments):
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
    ],
)
def test_no_stage_of_fit_names_options_of_the_command_line(settings: dict[str, Any], says: str):
    with pytest.raises(ValueError, match=re.escape(says)) as caught:
        Recommender.fit(small_log(), **settings)
    assert "-S " not in str(caught.value)
