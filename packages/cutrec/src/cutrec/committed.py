"""params.yaml as git has it committed, and how the one in the working tree differs from it."""

import subprocess
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from cutrec.errors import StageError
from cutrec.nested import as_yaml, flatten
from cutrec.paths import PARAMS

_ABSENT = "absent"
_COPY = "allowed: a clone, or take the file from the downloaded archive again"


def committed_params() -> bytes:
    """The content of params.yaml in git's current commit, with the line ends of a file that git checks out.

    Raises:
        StageError: git is not installed, the current folder is in no git repository, or no commit holds the file.
    """
    try:
        return git("cat-file", "--filters", f"HEAD:./{PARAMS}").stdout
    except FileNotFoundError:
        raise StageError(f"{PARAMS}: git is not installed, which holds the committed parameters; {_COPY}") from None
    except subprocess.CalledProcessError as error:
        reason = error.stderr.decode(errors="replace").partition("\n")[0]
        raise StageError(f"{PARAMS}: git has no committed version of it ({reason}); {_COPY}") from None


def unstage() -> None:
    """Take back what is staged of the restored params.yaml in the index of git.

    Raises:
        StageError: git cannot write its index.
    """
    try:
        git("reset", "--quiet", "--", str(PARAMS))
    except subprocess.CalledProcessError as error:
        reason = error.stderr.decode(errors="replace").partition("\n")[0]
        lock = Path(git("rev-parse", "--git-path", "index.lock").stdout.decode().strip())
        cure = f"; when no other git command is running here, remove {lock} and run this again"
        raise StageError(
            f"{PARAMS} is restored, but git cannot take back what is staged of it ({reason})"
            + (cure if lock.exists() else "")
        ) from None


def differences(found: bytes, wanted: bytes) -> dict[str, tuple[str, str]]:
    """The values of the dotted keys that differ, as YAML: found and wanted; one entry if a file is no mapping.

    Presets that are found only do not count.
    """
    found_values, wanted_values = _values(found), _values(wanted)
    if found_values is None or wanted_values is None:
        return {} if found == wanted else {str(PARAMS): ("not valid YAML", "as committed")}
    for name in uncommitted_presets(found, wanted):
        del found_values["presets"][name]
    before, after = flatten(found_values), flatten(wanted_values)
    return {
        key: (_shown(before, key), _shown(after, key))
        for key in dict.fromkeys([*after, *before])
        if _shown(before, key) != _shown(after, key)
    }


def uncommitted_presets(found: bytes, committed: bytes) -> dict[str, Any]:
    """The presets of a params.yaml by name that the committed one does not have."""
    presets, known = ((_values(content) or {}).get("presets") for content in (found, committed))
    if not isinstance(presets, dict):
        return {}
    return {name: preset for name, preset in presets.items() if name not in (known or {}) and isinstance(preset, dict)}


def changed_keys() -> list[str]:
    """The keys in which params.yaml differs from the committed one; none if that cannot be known."""
    try:
        return list(differences(PARAMS.read_bytes(), committed_params()))
    except (StageError, OSError):
        return []


def git(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Run git in the current folder.

    Raises:
        FileNotFoundError: git is not installed.
        CalledProcessError: it fails; ``stderr`` says why.
    """
    return subprocess.run(["git", *arguments], capture_output=True, check=True)  # noqa: S603, S607


def _values(content: bytes) -> dict[str, Any] | None:
    try:
        values = YAML(typ="safe").load(content)
    except (YAMLError, ValueError):
        return None
    return values if isinstance(values, dict) else None


def _shown(flat: dict[str, Any], key: str) -> str:
    return as_yaml(flat[key]) if key in flat else _ABSENT
