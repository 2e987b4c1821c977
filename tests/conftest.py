"""How the suite runs: as a whole on several processes; a chosen part of it, or the tests of a GPU, in one."""

import os

import pytest

MOST_PROCESSES = 4  # each holds torch and, in the end-to-end tests, a clone with an environment

# Tests start Python often, and without its cache an import of torch takes 15 s.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Spread the whole suite over processes, unless `-n` says otherwise. Without pytest-xdist, one does it."""
    if hasattr(config, "workerinput"):
        return  # one of the processes itself
    whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS and "not gpu" in config.option.markexpr
    if whole and getattr(config.option, "numprocesses", 0) is None and not config.option.usepdb:
        config.option.numprocesses = min(os.cpu_count() or 1, MOST_PROCESSES)
        config.option.dist = "loadgroup"  # test by test, and those of one `xdist_group` in one process
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # one process per core


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Where there is no GPU, its tests are skipped, before their fixtures ask for one."""
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where processes share the tests, the slow ones start first, so that none is left alone at the end."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: item.get_closest_marker("slow") is None)
