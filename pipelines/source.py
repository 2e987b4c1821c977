"""Stage ``source``: the identity of the raw log and of the table of titles, so that changed files are read again.

Reads ``dataset``, ``download`` and ``report`` of params.yaml; writes ``data/source/fingerprint.json``, which the stage
``download`` depends on, and ``data/source/item_names.json``, which the stage ``report`` depends on. It always runs, and
takes the time that hashing the files takes. ``data/source/row.json`` has what ``row`` decides about the log and its
split, so that rows of one data set share both.
"""

import sys

from cutrec import config
from cutrec.checksums import write_checksums
from cutrec.config_point import Config, as_written
from cutrec.config_rows import NO_ROW
from cutrec.nested import as_yaml
from cutrec.outputs import atomic_folder, write_json
from cutrec.paths import DATA, PARAMS, live_checkout
from pipelines import stage


def main(settings: Config) -> None:
    """Compute the fingerprints of the log that ``dataset`` names and of the file that ``report.item_names`` names."""
    from cutrec.workflow import fetch, item_names

    with atomic_folder(DATA / "source") as out:
        write_json(out / "fingerprint.json", fetch.identify(settings, root=live_checkout()))
        write_json(out / "item_names.json", item_names.identify(settings, root=live_checkout()))
        write_json(out / "row.json", _decided_by_row(settings))
        write_checksums(out)


def _decided_by_row(settings: Config) -> dict[str, object]:
    """What the stages ``download`` and ``split`` read, if a row decides it; notes what was set beside the row."""
    if settings.row == NO_ROW:
        return {}
    if beside := config.set_beside_row(config.read_yaml(PARAMS)):
        listed = ", ".join(f"{key}={as_yaml(value)}" for key, value in beside.items())
        print(f"note: beside row={settings.row}: {listed}", file=sys.stderr)
    values = as_written(settings)
    read = ("dataset", "download.", "evaluate.filter_seen", "paper_faithful", "seed", "split.")
    return {key: value for key, value in values.items() if key.startswith(read)}


if __name__ == "__main__":
    stage.run("source", str(__doc__), main)
