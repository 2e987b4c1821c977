"""The example of the package's README runs as it is printed."""

import re
from pathlib import Path


def test_example():
    text = (Path(__file__).parents[2] / "packages/rec-eval/README.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    names: dict[str, object] = {}
    exec(example, names)
    assert names["lists"].ids.shape == (1000, 100)
    assert set(names["model"].summary()) == set(names["popular"].summary())
