"""The pages of the documentation, and the commands in them."""

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path, *languages: str) -> list[str]:
    """The blocks of code of a page in some languages."""
    fence = rf"^```(?:{'|'.join(languages)})\n(.*?)^```"
    return re.findall(fence, page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def commands(page: Path, *languages: str) -> list[str]:
    """The lines of these blocks, continued ones as one, without comments."""
    return commands_in("\n".join(blocks(page, *languages)))


def commands_in(block: str) -> list[str]:
    """The lines of a block, continued ones as one, without comments."""
    text = block.replace("\\\n", " ")
    return [line for line in (line.split("  #")[0].strip() for line in text.splitlines()) if line]


def overrides(command: str) -> list[str]:
    """The settings that a command changes."""
    words = shlex.split(command)
    return [words[place + 1] for place, word in enumerate(words) if word == "-S"]
