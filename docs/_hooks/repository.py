"""Pages and pictures of the repository outside docs/ take part in the site, under repository/, and links lead there.

A page is written for readers of the repository: its links are relative to its own place there. A link to a page or a
picture that git tracks leads to its copy in the site; one to another file or a folder becomes its name, as code.
"""

from __future__ import annotations

import posixpath
import re
import subprocess
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
FOLDER = "repository"
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s#]+)(#[^)\s]*)?\)")
FENCE = re.compile(r"(^```.*?^```|`[^`\n]*`)", flags=re.MULTILINE | re.DOTALL)


def tracked() -> list[str]:
    """Files that git tracks, or all files where there is no git, as in an unpacked archive."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S607
    if listed.returncode == 0:
        return listed.stdout.splitlines()
    return [str(path.relative_to(ROOT)) for path in ROOT.rglob("*") if path.is_file() and ".venv" not in path.parts]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages and pictures."""
    for name in tracked():
        path = PurePosixPath(name)
        shown = path.suffix in (".md", ".png") and path.parts[0] in ("packages", "pipelines", "results")
        if (shown or name in ("CONTRIBUTING.md", "CHANGELOG.md", "README.md")) and (ROOT / name).is_file():
            files.append(File.generated(config, f"{FOLDER}/{name}", abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files, **_: Any) -> str:
    """Make the links of a page lead to their copies."""
    source = page.file.src_uri
    inside = PurePosixPath(source).is_relative_to(FOLDER)
    here = posixpath.dirname(source.removeprefix(f"{FOLDER}/") if inside else f"docs/{source}")

    def follow(match: re.Match[str]) -> str:
        picture, text, target, anchor = match[1], match[2], match[3], match[4] or ""
        if "://" in target or target.startswith(("mailto:", "/")):
            return match[0]
        wanted = posixpath.normpath(posixpath.join(here, target))
        copy = wanted.removeprefix("docs/") if wanted.startswith("docs/") else f"{FOLDER}/{wanted}"
        if files.get_file_from_path(copy) is None:
            return match[0] if not (ROOT / wanted).exists() else f"`{wanted}`"
        return f"{picture}[{text}]({posixpath.relpath(copy, posixpath.dirname(source) or '.')}{anchor})"

    parts = FENCE.split(markdown)  # odd ones are code
    return "".join(part if place % 2 else LINK.sub(follow, part) for place, part in enumerate(parts))
