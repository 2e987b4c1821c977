"""The suite's own rules."""

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("marked", [False, True])
def test_tests_of_a_gpu_are_skipped_where_there_is_none(there, marked, monkeypatch):
    spec = spec_from_file_location("conftest_of_the_root", Path(__file__).with_name("conftest.py"))
    conftest = module_from_spec(spec)
    spec.loader.exec_module(conftest)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    item = SimpleNamespace(get_closest_marker=lambda name: marked if name == "gpu" else None)
    if marked and not there:
        with pytest.raises(pytest.skip.Exception, match="needs a CUDA device"):
            conftest.pytest_runtest_setup(item)
    else:
        conftest.pytest_runtest_setup(item)
