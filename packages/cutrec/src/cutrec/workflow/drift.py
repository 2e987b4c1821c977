"""What `cutrec drift` compares: the logs that paths name, and the scores of a model from window to window."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutrec.checksums import verified
from cutrec.config import from_mapping
from cutrec.errors import StageError
from cutrec.nested import changed
from cutrec.paths import LOG, live_checkout
from rec_data.drift import Compared

if TYPE_CHECKING:
    import pyarrow as pa

    from rec_models.encoders import Encoder

SAMPLED_USERS = 2_000
"""Of a window, whose scores are compared."""


def log_of(which: str, name: str, folder: Path, values: dict[str, Any], changes: Sequence[str]) -> Path:
    """The log that a path names, as one parquet.

    A log of the stage download is used as it is: its file, or a folder that holds it, such as a checkout. Everything
    else is read as ``dataset`` of params.yaml, with ``download`` of the values and the changes, into the folder.

    Raises:
        ValueError: there is no such log, or it cannot be read; the message begins with `which` of the two it is.
    """
    config = from_mapping(changed({**values, "dataset": name}, list(changes), ("download",)))
    try:
        place = Path(name)
        for path in (place, place / LOG.name, place / LOG.parent.name / LOG.name, place / LOG):
            if path.name == LOG.name and path.with_name("summary.json").is_file() and path.is_file():
                return verified(path)
        from cutrec.workflow.fetch import fetch, refuse_no_file

        refuse_no_file(which, name, root=live_checkout())
        out = folder / LOG.name
        folder.mkdir()
        fetch(config, out, root=live_checkout())
    except ValueError as error:
        raise StageError(f"{which}: {str(error).removeprefix(f'{which}: ')}") from error
    return out


def score_changes(compared: Compared, encoder: Encoder, items: pa.Array, *, tie_seed: int | None) -> list[float]:
    """How much the best score of a user changes from window to window, for some users of each window.

    The scores are those after the histories up to the end of the window, of the users with the smallest hashes of their
    ids, at most `SAMPLED_USERS`. The list has a value for each window but the first; NaN where a window has no scores.
    """
    import numpy as np
    import polars as pl

    from cutrec.workflow.ranking import scoring_catalogue
    from cutrec.workflow.recommendations import ranked_batches
    from rec_data.drift import largest_gap
    from rec_data.schema import TIMESTAMP, USER
    from rec_data.sequences.histories import table_histories
    from rec_data.sequences.parts import hash_ids_of

    catalogue = scoring_catalogue(encoder)
    found = []
    for begin, end in compared.spans:
        active = compared.events.filter(pl.col(TIMESTAMP).is_between(begin, end))
        users = active.select(pl.col(USER).unique()).collect(engine="streaming")[USER].sort()
        chosen = users[np.argsort(hash_ids_of(users.to_arrow()), kind="stable")[:SAMPLED_USERS]]
        past = compared.events.filter(pl.col(TIMESTAMP) <= end)
        rows = past.join(chosen.to_frame().lazy(), on=USER, how="semi", maintain_order="left")
        histories = table_histories(rows.collect(engine="streaming").to_arrow(), items, tie_seed=tie_seed)
        ranked = ranked_batches(
            encoder, histories.store, 1, batch_users=1024, filter_seen=False, title="score", catalogue=catalogue
        )
        scores = [lists.scores[:, 0].cpu().numpy() for _, lists in ranked]
        found.append(np.sort(np.concatenate(scores)) if scores else np.empty(0))
    return [
        largest_gap(one, other) if len(one) and len(other) else math.nan for one, other in itertools.pairwise(found)
    ]
