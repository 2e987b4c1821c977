"""Stage ``source``: the identity of the raw log, so that a changed file at the same path is read again.

Reads ``dataset`` and ``download`` of params.yaml; writes ``data/source/fingerprint.json``, which the stage ``download``
depends on. It always runs, and takes the time that hashing the files takes.
"""

from cutrec import config
from cutrec.checksums import write_checksums
from cutrec.outputs import atomic_folder, write_json
from cutrec.paths import DATA, live_checkout
from pipelines import stage


def main(settings: config.Config) -> None:
    """Compute the fingerprint of the log that ``dataset`` names."""
    from cutrec.workflow.fetch import identify

    with atomic_folder(DATA / "source") as out:
        write_json(out / "fingerprint.json", identify(settings, root=live_checkout()))
        write_checksums(out)


if __name__ == "__main__":
    stage.run("source", str(__doc__), main)
