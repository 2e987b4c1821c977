"""The generated pages hold every key and every command."""

import importlib.util
import re
from types import ModuleType

import pytest

from cutrec import cli
from cutrec.config_point import Config, as_written
from tests.docs.pages import ROOT


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reference", ROOT / "docs/_hooks/reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_key_has_a_row_with_what_it_allows(reference):
    page = reference.settings()
    rows = dict(re.findall(r"^\| `([\w.]+)` \| (.*) \|$", page, flags=re.MULTILINE))
    keys = set(as_written(Config()))
    assert keys <= set(rows)
    assert all(rows[key].split(" | ")[0].strip() for key in keys)
    assert "`sasrec` \\| `bert4rec`" in rows["model"]
    assert "`1.0`" in rows["negatives.alpha"]


def test_every_command_has_its_help(reference):
    page = reference.commands()
    for name in cli.COMMANDS:
        assert f"usage: cutrec [options] {name} " in page
    for module in reference.MODULES:
        assert f"usage: python -m {module.removesuffix('.__main__')}" in page


def test_tables_are_of_the_measured_files(reference):
    gpus = reference.gpus()
    for row in reference.rows_of("gpus.csv"):
        assert f"| {row['gpu']} |" in gpus
    assert reference.tiles().count("\n| sm_") > 0
    assert "log-sum-exp" in reference.glossary()
