"""What must be in git and what must not."""

import re
import subprocess
from pathlib import Path

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
    assert not [name for name in tracked() if name == "uv.lock" or name.endswith((".parquet", ".ckpt", ".arrow"))]
    assert "://" not in (ROOT / "requirements.lock").read_text()
