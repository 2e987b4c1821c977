"""The code that a stage depends on: followed through cutrec, whole for the other packages."""

from pathlib import Path

import pytest

from cutrec.workflow.source_code import reached, source_files

FILES = {
    "stage.py": "from cutrec.a import f\nimport json",
    "cutrec/__init__.py": "",
    "cutrec/a.py": "def f():\n    from cutrec.deep import b\n    from cutrec import config",
    "cutrec/deep/__init__.py": "",
    "cutrec/deep/b.py": "import cutrec.a\nif TYPE_CHECKING:\n    import cutrec.types",
    "cutrec/types.py": "",
    "cutrec/unused.py": "",
    "cutrec/config.py": "import rec_eval\nfrom cutrec.nested import x\nfrom cutrec.deep.c import y",
    "cutrec/nested.py": "",
    "cutrec/deep/c.py": "",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr("cutrec.workflow.source_code._folder", lambda package: tmp_path / package)
    return tmp_path


def test_imports_are_followed_but_not_those_for_types_and_not_those_of_settings(folder: Path):
    modules, packages = reached(folder / "stage.py")
    assert sorted(modules) == ["cutrec.a", "cutrec.config", "cutrec.deep.b", "cutrec.nested"]
    assert modules["cutrec.deep.b"] == folder / "cutrec/deep/b.py"
    assert packages == set()


def test_training_reads_the_kernels_and_no_reporting():
    code = source_files(Path(source_files.__code__.co_filename).with_name("train.py"))
    for name in ("cutrec.workflow.ranking", "rec_models/config.py", "cce_kernels/api.py", "rec_eval/", "rec_data/"):
        assert any(module.startswith(name) for module in code), name
    assert not [name for name in code if name.startswith(("cutrec.reporting", "cutrec.commands", "pipelines"))]
    assert all(path.is_file() for path in code.values())
