"""What must be in git and what must not."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

from dvc.repo import Repo
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from scmrepo.git import Git
from scmrepo.noscm import NoSCM

ROOT = Path(__file__).parents[1]


def tracked() -> set[str]:
    """Files that git tracks: what a clone has. A file that is only lying here does not count."""
    command = ["git", "ls-files"]
    return set(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines())


def test_the_demos_record_is_there():
    assert {"dvc.lock", "data/train/metrics.json", "data/evaluate/metrics.json"} <= tracked()


def test_every_link_of_a_page_leads_somewhere():
    files = tracked()
    folders = {str(parent) for name in files for parent in Path(name).parents}
    for page in (name for name in files if name.endswith(".md")):
        for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", (ROOT / page).read_text()):
            if "://" not in link:
                target = (ROOT / page).parent.joinpath(link).resolve().relative_to(ROOT)
                assert str(target) in files | folders, f"{page}: {link}"


def test_no_lock_with_addresses_and_no_data():
    data = (".parquet", ".ckpt", ".safetensors", ".arrow")
    assert not [name for name in tracked() if name == "uv.lock" or name.endswith(data)]
    assert "://" not in (ROOT / "requirements.lock").read_text()


def test_an_archive_runs_without_git_and_a_clone_with_it(tmp_path: Path):
    """`git archive`, as GitHub's downloads do, fills in a line of .dvc/config."""
    clone, archive = tmp_path / "clone", tmp_path / "archive"
    for name in (".dvc/config", ".gitattributes"):
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, clone / name)
    archive.mkdir()
    commit = "git init -q && git add -A && git -c user.name=t -c user.email=t@t commit -qm x"
    subprocess.run(f"{commit} && git archive HEAD | tar -x -C {archive}", shell=True, cwd=clone, check=True)
    for folder, kind in ((clone, Git), (archive, NoSCM)):
        with Repo(folder) as repo:
            assert isinstance(repo.scm, kind)


def declared(table: dict, extras: set[str]) -> list[Requirement]:
    """What a package needs, its named extras included."""
    project = table["project"]
    chosen = [line for extra in extras for line in project.get("optional-dependencies", {}).get(extra, [])]
    return [Requirement(line) for line in [*project.get("dependencies", []), *chosen]]


def test_requirements_lock_holds_every_dependency():
    """`make lock` was run after the last change of a dependency."""
    locked = dict(re.findall(r"^([\w.-]+)==([^ ;\\]+)", (ROOT / "requirements.lock").read_text(), flags=re.MULTILINE))
    packages = {path.parent.name: tomllib.loads(path.read_text()) for path in ROOT.glob("packages/*/pyproject.toml")}
    needed = declared(tomllib.loads((ROOT / "pyproject.toml").read_text()), set())
    own = [requirement for requirement in needed if requirement.name in packages]
    for requirement in own:
        needed += declared(packages[requirement.name], requirement.extras)
    for requirement in needed:
        if requirement.name not in packages:
            version = locked.get(canonicalize_name(requirement.name))
            assert version is not None, requirement
            assert requirement.specifier.contains(version, prereleases=True), requirement


def test_the_packages_are_released_in_one_version():
    tables = {path.parent.name: tomllib.loads(path.read_text()) for path in ROOT.glob("packages/*/pyproject.toml")}
    versions = {table["project"]["version"] for table in tables.values()}
    assert len(versions) == 1
    (version,) = versions
    assert f"version: {version}\n" in (ROOT / "CITATION.cff").read_text()
    for table in tables.values():
        assert table["project"]["readme"] == "README.md"
        for requirement in declared(table, set()):
            if requirement.name in tables:
                assert str(requirement.specifier) == f"~={version}"
