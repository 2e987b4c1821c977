"""How the suite runs: the fast tests on several processes, a chosen part of the suite in one."""

import os

import pytest

MOST_PROCESSES = 4  # each holds torch and, in the end-to-end tests, a clone with an environment

# Tests start Python often, and without its cache an import of torch takes 15 s.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Spread the fast suite over processes, unless `-n` says otherwise. Without pytest-xdist, one does it.

    The slow tests need `--dist loadfile` on the command line, which keeps the end-to-end story in one process.
    """
    if hasattr(config, "workerinput"):
        return  # one of the processes itself
    whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS and "not slow" in config.option.markexpr
    if whole and getattr(config.option, "numprocesses", 0) is None and not config.option.usepdb:
        config.option.numprocesses = min(os.cpu_count() or 1, MOST_PROCESSES)
        config.option.maxschedchunk = 1  # one by one: tests take from a millisecond to ten seconds
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # one process per core


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Where there is no GPU, its tests are skipped, before their fixtures ask for one."""
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")
