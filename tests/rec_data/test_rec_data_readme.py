"""The README's example runs."""

import re
from pathlib import Path

from rec_data.sources.synthetic import TWINS

README = Path(__file__).parents[2] / "packages" / "rec-data" / "README.md"


def test_example_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(found) == 1
    names = {}
    exec(found[0], names)
    assert (tmp_path / "split" / "test.parquet").exists()
    assert names["batch"].inputs.shape[0] > 0


def test_estimates_of_the_twins_are_told():
    text = README.read_text(encoding="utf-8")
    told = re.findall(r"^\| `(\w+)` \| ([a-z_, ]+) \|$", text.partition("| twin | estimated |")[2], flags=re.MULTILINE)
    assert dict(told) == {name: ", ".join(shape.estimated) for name, shape in TWINS.items()}
