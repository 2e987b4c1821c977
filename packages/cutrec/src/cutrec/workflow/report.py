"""Write the page that explains a run to a reader who was not there."""

from pathlib import Path

from cutrec.config_point import Config
from cutrec.outputs import atomic_folder, unchanged
from cutrec.paths import STAGES
from cutrec.reporting import results_file
from cutrec.reporting.limits import limits
from cutrec.reporting.model_card import model_card
from cutrec.reporting.page import draw, write_page
from cutrec.reporting.run_outputs import RunOutputs, read_outputs
from cutrec.workflow.item_names import item_titles


def report(config: Config, data: Path, out: Path, *, root: Path) -> RunOutputs:
    """Write ``report.html``, which needs no other file, its pictures, and other files into the folder `out`.

    It reads the outputs of the other stages in the folder `data`, which it returns, and the file that
    ``report.item_names`` names, whose relative path starts from `root`. ``results.csv`` has the schema of
    `cutrec.reporting.results_file`, and ``model_card.md`` is the card of training with the metrics of the test. This
    imports no torch: the stage ``evaluate`` has measured everything already.
    """
    with atomic_folder(out) as folder, unchanged(*(data / name for name in STAGES if name != "report")):
        run = read_outputs(config, data)
        titles = None if run.details is None else item_titles(config, shown_items(run), root=root)
        draw(run, folder)
        pictures = {path.stem: path.read_bytes() for path in sorted(folder.glob("*.png"))}
        (folder / "report.html").write_text(write_page(run, pictures, titles), encoding="utf-8")
        card = model_card(
            run.config,
            run.split,
            run.training,
            remarks=limits(run),
            intervals=run.details["intervals"] if run.details else (),
        )
        (folder / "model_card.md").write_text(card, encoding="utf-8")
        results = results_file.of_run(run.config, run.training, run.evaluation, **results_file.versions())
        results_file.write(folder / "results.csv", results)
    return run


def shown_items(run: RunOutputs) -> set[object]:
    """The ids of the items of the example users."""
    users = run.details["examples"] if run.details else []
    return {item for user in users for item in (*user["history"], user["target"], *user["recommended"])}
