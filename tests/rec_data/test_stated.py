"""Settings in messages: what is shown can be typed."""

import shlex

import pytest
from dvc.utils.hydra import to_hydra_overrides

from rec_data.stated import Form, as_options, stated, stated_as, stated_value


@pytest.mark.parametrize(
    "value",
    [None, True, 7, 0.05, "ID", "user name", "Käufer", "a=b", "x{1}", "null", "nan", "~", "'", 'a\\"b',
     "%d.%m.%Y %H:%M", [], ["Kauf (Web)", "a,b", "Käufe"]],
    ids=str,
)  # fmt: skip
def test_options_have_the_same_value_for_the_shell_and_dvc(value: object):
    option, word = shlex.split(as_options({"download.columns.user": value}))
    [override] = to_hydra_overrides([word])
    assert option == "-S"
    assert (override.key_or_group, override.value()) == ("download.columns.user", value)


def test_options_of_a_command_are_quoted_for_the_shell():
    assert shlex.split(as_options({"--user-column": "Kunden Nr"})) == ["--user-column", "Kunden Nr"]


def test_another_form_holds_for_a_block():
    with stated_as(Form(lambda settings: str(sorted(settings)), repr)):
        assert (stated({"b": 1, "a": 2}), stated_value(None)) == ("['a', 'b']", "None")
    assert (stated({"a": 2}), stated_value(None), stated_value(True)) == ("-S a=2", "null", "true")
