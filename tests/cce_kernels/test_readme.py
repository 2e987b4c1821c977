"""The first example of the package's README runs as it is printed, and its links lead somewhere."""

import re
from pathlib import Path

README = Path(__file__).parents[2] / "packages/cce-kernels/README.md"


def test_the_example_runs():
    block, *_ = re.findall(r"^```python\n(.*?)^```", README.read_text(), flags=re.MULTILINE | re.DOTALL)
    names = {}
    exec(block, names)
    assert names["loss"].isfinite()
    assert names["weight"].grad.isfinite().all()


def test_the_files_it_names_exist():
    for link in re.findall(r"\]\(([^)#]+)\)", README.read_text()):
        assert (README.parent / link).exists(), link
