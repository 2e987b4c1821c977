"""The last lines of a run: its result, where the report is, and the next command."""

import shlex
from pathlib import Path

from cutrec.reporting.run_outputs import RunOutputs


def summary(run: RunOutputs, page: Path, experiment: str | None = None) -> list[str]:
    """The lines to print when the report of a run is written to `page`.

    Args:
        run: the outputs of the run.
        page: the report.
        experiment: the name of a queued experiment, whose outputs are not in the checkout yet; None for other runs.
    """
    training, evaluation = run.training, run.evaluation
    if run.details is None:
        cost = f"an epoch took {training['epoch_seconds']:.2f} s and {training['peak_memory_gib']:.2f} GiB"
        lines = [f"Result: {cost}; a synthetic log has no accuracy"]
    else:
        popularity = evaluation["popularity"]["ndcg@10"]
        users = f"{evaluation['users']:,} test users"
        lines = [f"Result: NDCG@10 {evaluation['ndcg@10']:.4f}, by popularity {popularity:.4f}, over {users}"]
    if experiment is not None:
        return [*lines, f"Next: uv run dvc exp apply {experiment}, which brings its model and {page} into data/"]
    lines.append(f"Report: {page}")
    if run.details is not None:
        user = shlex.quote(str(run.details["examples"][0]["user"]))
        lines.append("Next: uv run cutrec recommend --user" + (f"={user}" if user.startswith("-") else f" {user}"))
    return lines
