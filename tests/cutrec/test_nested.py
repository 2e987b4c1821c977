"""Settings between their forms: nested, dotted, and as ``-S`` takes them."""

import pytest

from cutrec.errors import ConfigError
from cutrec.nested import as_yaml, flatten, merged, nest, parse_overrides


def test_nested_and_dotted_are_the_same():
    flat = {"a": 1, "b.c": 2, "b.d.e": [3]}
    assert nest(flat) == {"a": 1, "b": {"c": 2, "d": {"e": [3]}}}
    assert flatten(nest(flat)) == flat


def test_the_entries_of_a_list_of_sections_are_numbered():
    assert flatten({"files": [{"name": "a"}, {"name": "b"}]}) == {"files.1.name": "a", "files.2.name": "b"}


def test_the_last_mapping_lies_on_top():
    below = {"a": {"b": 1, "c": 2}, "d": 3}
    assert merged(below, {"a": {"c": 4}, "d": {"e": 5}}) == {"a": {"b": 1, "c": 4}, "d": {"e": 5}}
    assert below == {"a": {"b": 1, "c": 2}, "d": 3}


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        1,
        0.0003,
        1e-5,
        "twin:beauty@0.5",
        [1, 5, 10],
        "123",
        "null",
        "a: b",
        " a",
        "it's",
        'a\\"',
        "a\nb",
        "é",
    ],
)
def test_what_is_written_for_a_command_line_is_read_again(value: object):
    assert parse_overrides([f"a.b={as_yaml(value)}"]) == {"a": {"b": value}}


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        (["seed"], "-S: found 'seed', allowed: KEY=VALUE"),
        (["=7"], "-S: found '=7', allowed: KEY=VALUE"),
        (["seed=[1"], r"-S: found 'seed=\[1', allowed: KEY=VALUE with a value that is YAML"),
        (["seed=1", "seed.x=2"], "-S: seed.x: found it beside a value of 'seed', allowed: one of the two"),
    ],
)
def test_an_override_that_cannot_be_read_is_named(texts: list[str], says: str):
    with pytest.raises(ConfigError, match=says):
        parse_overrides(texts)


@pytest.mark.parametrize("form", ["%Y%m%d", "%d.%m.%Y %H:%M", "%Y-%m-%dT%H:%M:%S%.f"])
def test_formats_of_times_need_no_quotes_of_yaml(form: str):
    assert parse_overrides([f"a={form}"]) == {"a": form}
