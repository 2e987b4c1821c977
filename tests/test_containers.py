"""The Dockerfiles and compose.yaml, without an engine: what they copy is there, and what they run as."""

import re
import shlex
from fnmatch import fnmatch
from pathlib import Path

import pytest

from cutrec.config import read_yaml

ROOT = Path(__file__).parents[1]
DOCKERFILES = {path.name: path for path in sorted(ROOT.glob("Dockerfile*"))}


def instructions(path: Path) -> list[tuple[str, list[str]]]:
    """The instructions of a Dockerfile with their words."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.lstrip().startswith("#")]
    text = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(line.split()[0], shlex.split(line)[1:]) for line in text.splitlines() if line.strip()]


def is_ignored(name: str) -> bool:
    """Whether .dockerignore leaves a path out; the last pattern that matches decides."""
    ignored = False
    for pattern in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        plain = pattern.removeprefix("!").removeprefix("**/")
        if plain and not plain.startswith("#") and (fnmatch(name, plain) or name.startswith(f"{plain}/")):
            ignored = not pattern.startswith("!")
    return ignored


@pytest.mark.parametrize("name", DOCKERFILES)
def test_what_is_copied_is_in_the_repository_and_nothing_runs_as_root(name: str):
    found = instructions(DOCKERFILES[name])
    sources = [word for what, words in found if what == "COPY" and not any("--from" in word for word in words)
               for word in words[:-1] if not word.startswith("--")]  # fmt: skip
    assert sources
    for source in sources:
        assert (ROOT / source).exists(), source
        assert not is_ignored(source), source
    users = [words[0] for what, words in found[-10:] if what == "USER"]
    assert users
    assert users[-1] not in ("root", "0")
    made = " ".join(word for what, words in found if what == "RUN" for word in words)
    assert "useradd --create-home --uid" in made


def test_the_image_that_serves_tells_whether_it_is_well():
    found = dict(instructions(DOCKERFILES["Dockerfile.serve"]))  # the last one of each kind
    assert "http://127.0.0.1:8000/health" in " ".join(found["HEALTHCHECK"])
    assert found["EXPOSE"] == ["8000"]
    assert [word.strip("[],") for word in found["ENTRYPOINT"]] == [
        "cutrec", "serve", "--model", "/model", "--host", "0.0.0.0",
    ]  # fmt: skip


def test_compose_builds_these_files_and_opens_a_port_to_this_machine_alone():
    services = read_yaml(ROOT / "compose.yaml")["services"]
    builds = [service["build"] for service in services.values()]
    named = {build["dockerfile"] if isinstance(build, dict) else "Dockerfile" for build in builds}
    assert named == set(DOCKERFILES)
    serve = services["serve"]
    assert all(port.startswith("127.0.0.1:") for port in serve["ports"])
    assert serve["volumes"] == ["./data/train:/model:ro"]
    assert serve["read_only"] is True
