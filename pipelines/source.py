"""Stage ``source``: the identity of the raw log, so that a file replaced at the same path is read anew.

    python -m pipelines.source

It always runs, takes as long as hashing the files does, and writes ``data/source/fingerprint.json``, which ``download``
depends on.
"""

from __future__ import annotations

from cutrec import config
from cutrec.workflow import outputs as stage


def main() -> None:
    """Fingerprint the log that ``dataset`` names."""
    point = config.load()

    from rec_data.sources.fetch import fingerprint

    with stage.output(stage.DATA / "source") as out:
        identity = fingerprint(point.dataset, root=stage.checkout(), mirror=stage.mirror(point))
        stage.write_json(out / "fingerprint.json", identity)


if __name__ == "__main__":
    stage.run(main)
