"""The notebooks run from beginning to end, in an empty folder, with one epoch per training."""

import re

import pytest

from tests.docs.pages import ROOT

NOTEBOOKS = sorted((ROOT / "docs/notebooks").glob("*.ipynb"))


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(notebook, tmp_path):
    import nbformat
    from nbclient import NotebookClient

    cells = nbformat.read(notebook, as_version=4)
    assert not any(cell.get("outputs") for cell in cells.cells), "committed with outputs"
    for cell in cells.cells:
        cell.source = re.sub(r'"max_epochs": \d+', '"max_epochs": 1', cell.source)
    NotebookClient(cells, timeout=500, resources={"metadata": {"path": str(tmp_path)}}).execute()
