"""Record the first hour of a new user in docs/first-hour.md: commands as typed, their time, and their output, trimmed.

    uv run python docs/first_hour.py [--out PAGE]

The commands run one after the other in a new folder: the checkout as a zip (`git archive`), a shop's log as CSV, a
report, the list of one customer, Python, a second loss, and a comparison. A command that fails ends the recording.
"""

from __future__ import annotations

import argparse
import csv
import datetime as dt
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from rec_data.sources.demo import generate

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/first-hour.md"
LINES = 12  # of a command's output that are kept at its end, unless its step says how many
KEPT = re.compile(r", because |^note: ")  # lines that are kept wherever they stand
HIDDEN = {"VIRTUAL_ENV", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "OMP_NUM_THREADS"}
HEAD = """\
# The first hour, recorded

What a new user types and sees, from a downloaded zip to a comparison of two losses on a log of their own.
`docs/first_hour.py` ran these commands and wrote this page{when}. The times include everything that a command did.
Packages came from uv's cache, so that nothing was downloaded. Long outputs are trimmed (`...`).

Machine: {machine}.
"""
SHOP = """\
from cutrec import Recommender

model = Recommender.load("data/train")
print(model.recommend(users=["CUST-0007"], k=3))
print(model.recommend(histories={"new customer": ["SKU-100560", "SKU-100561"]}, k=3))
print(model.similar_items("SKU-100560", k=3))
"""


@dataclass(frozen=True)
class Step:
    """A command, and the sentence that introduces it."""

    says: str
    types: str
    lines: int = LINES


STEPS = [
    Step("Unpack the zip and install uv.", "unzip -q ../cutrec.zip && pip install --quiet uv && export UV_NO_DEV=1"),
    Step("Run the demo. The first `uv run` creates the environment.", "uv run dvc repro"),
    Step(
        "Experiments need git, because DVC records each of them as a commit. A zip is set up to work without git.",
        "git init --quiet && uv run dvc config core.no_scm false && git add --all && git commit --quiet -m start",
    ),
    Step("Look at the first lines of the shop's log.", "head -n 4 ../shop.csv"),
    Step(
        "Describe the log.",
        "uv run cutrec describe -S dataset=../shop.csv -S download.columns.user=customer "
        "-S download.columns.item=article -S download.columns.timestamp=bought_at",
        lines=20,
    ),
    Step(
        "Train on the log, rank, and write the report.",
        "uv run dvc exp run --name first -S dataset=../shop.csv -S download.columns.user=customer "
        "-S download.columns.item=article -S download.columns.timestamp=bought_at",
    ),
    Step("Print the list of one customer.", "uv run cutrec recommend --user CUST-0007 --k 5"),
    Step("Do the same from Python.", "cat shop.py && uv run python shop.py", lines=40),
    Step("Train with a second loss.", "uv run dvc exp run --name second -S loss=cce_neg -S num_negatives=256"),
    Step("Compare both runs, customer by customer.", "uv run cutrec compare first second", lines=20),
    Step("Bring the committed settings back.", "uv run cutrec reset"),
]


def write_shop(path: Path) -> None:
    """Write the events of the demo as a shop would export them: ids are texts, times are ISO 8601."""
    log = generate(seed=7)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["customer", "article", "bought_at"])
        for user, item, seconds in zip(log["user_id"], log["item_id"], log["timestamp"], strict=True):
            when = dt.datetime.fromtimestamp(int(seconds), tz=dt.UTC).strftime("%Y-%m-%d %H:%M:%S")
            writer.writerow([f"CUST-{user:04}", f"SKU-{item:04}", when])


def run(command: str, folder: Path) -> tuple[str, float]:
    """Run a command in a shell; what it printed, and seconds.

    Raises:
        SystemExit: the command failed.
    """
    environment = {name: value for name, value in os.environ.items() if name not in HIDDEN}
    environment |= {
        "DVC_NO_ANALYTICS": "1",
        "UV_NO_DEV": "1",
        "COLUMNS": "110",
        "PIP_ROOT_USER_ACTION": "ignore",
        "GIT_CONFIG_GLOBAL": str(folder.parent / "gitconfig"),
    }
    started = time.monotonic()
    done = subprocess.run(  # noqa: S603
        ["bash", "-c", command],  # noqa: S607
        cwd=folder, env=environment, text=True, check=False,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{command}: found exit status {done.returncode}\n{done.stdout}")
    return done.stdout, time.monotonic() - started


def trimmed(printed: str, folder: Path, most: int) -> str:
    """What matters of an output, without progress bars, colours and the name of the temporary folder."""
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", printed)
    lines = [line.rsplit("\r", 1)[-1].rstrip() for line in text.replace("\r\n", "\n").split("\n")]
    lines = [line.replace(str(folder.parent), "~") for line in lines if line]
    if len(lines) <= most:
        return "\n".join(lines)
    kept = [line for line in lines[:-most] if KEPT.search(line)]
    return "\n".join(["...", *kept, *(["..."] if kept else []), *lines[-most:]])


def time_of(seconds: float) -> str:
    """Seconds, from a minute on with minutes."""
    return f"{seconds:.1f} s" if seconds < 60 else f"{seconds // 60:.0f} min {seconds % 60:.0f} s"


def machine() -> str:
    """Where this ran."""
    cpu = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), flags=re.MULTILINE)
    cores = len(os.sched_getaffinity(0))
    return f"{cpu[1] if cpu else platform.processor()}, {cores} cores, no GPU; Python {platform.python_version()}"


def record(out: Path) -> None:
    """Run all steps and write the page."""
    parts = [HEAD.format(when=f" on {dt.date.today():%Y-%m-%d}", machine=machine())]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "cutrec"
        folder.mkdir()
        archive = ["git", "archive", "--format=zip", "--output", f"{temporary}/cutrec.zip", "HEAD"]
        subprocess.run(archive, cwd=ROOT, check=True)  # noqa: S603
        (folder.parent / "gitconfig").write_text("[user]\n    name = you\n    email = you@localhost\n")
        write_shop(folder.parent / "shop.csv")
        total = 0.0
        for number, step in enumerate(STEPS):
            if number == 1:
                (folder / "shop.py").write_text(SHOP)
            printed, seconds = run(step.types, folder)
            total += seconds
            print(f"{time_of(seconds):>12}  {step.types}", file=sys.stderr, flush=True)
            shown = trimmed(printed, folder, step.lines)
            block = "\n".join(["```text", f"$ {step.types}", *([shown] if shown else []), "```"])
            parts.append(f"{step.says} ({time_of(seconds)})\n\n{block}\n")
    parts.append(f"All commands together took {time_of(total)}.\n")
    out.write_text("\n".join(parts), encoding="utf-8")


def main() -> None:
    """Record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=PAGE, help="the page to write (default: docs/first-hour.md)")
    record(parser.parse_args().out)


if __name__ == "__main__":
    main()
