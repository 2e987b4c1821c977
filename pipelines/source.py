"""Stage ``source``: the identity of the raw log and of the table of titles, so that changed files are read again.

Reads ``dataset``, ``download`` and ``report`` of params.yaml; writes ``data/source/fingerprint.json``, which the stage
``download`` depends on, and ``data/source/item_names.json``, which the stage ``report`` depends on. It always runs, and
takes the time that hashing the files takes.
"""

from cutrec import config
from cutrec.checksums import write_checksums
from cutrec.outputs import atomic_folder, write_json
from cutrec.paths import DATA, live_checkout
from pipelines import stage


def main(settings: config.Config) -> None:
    """Compute the fingerprints of the log that ``dataset`` names and of the file that ``report.item_names`` names."""
    from cutrec.workflow import fetch, item_names

    with atomic_folder(DATA / "source") as out:
        write_json(out / "fingerprint.json", fetch.identify(settings, root=live_checkout()))
        write_json(out / "item_names.json", item_names.identify(settings, root=live_checkout()))
        write_checksums(out)


if __name__ == "__main__":
    stage.run("source", str(__doc__), main)
