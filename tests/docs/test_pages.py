"""What the pages say can be done: settings that exist, examples that run."""

import pytest

from cutrec import config
from tests.docs.pages import PAGES, ROOT, blocks, commands, overrides

GIVEN = sorted(
    {
        tuple(overrides(command))
        for page in PAGES
        for command in commands(page, "bash", "sh")
        if "-S" in command and "pipelines" not in command
    }
)


@pytest.mark.parametrize("settings", GIVEN, ids=" ".join)
def test_settings_of_a_page_are_accepted(settings: tuple[str, ...], tmp_path):
    """As DVC reads them, and as the stages check them."""
    from dvc.utils.hydra import apply_overrides, get_hydra_sweeps

    for changes in get_hydra_sweeps({"params.yaml": list(settings)}):
        path = tmp_path / "params.yaml"
        path.write_text((ROOT / "params.yaml").read_text(encoding="utf-8"))
        apply_overrides(path, changes["params.yaml"])
        config.load(path)


def test_the_example_of_the_kernels_runs():
    (block,) = blocks(ROOT / "docs/kernels.md", "python")
    names: dict = {}
    exec(block, names)
    assert names["weight"].grad.isfinite().all()
