"""The README's example runs."""

import re
from pathlib import Path

README = Path(__file__).parents[2] / "packages" / "rec-data" / "README.md"


def test_example_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(found) == 1
    names = {}
    exec(found[0], names)
    assert (tmp_path / "split" / "test.parquet").exists()
    assert names["batch"].items.numel() > 0
