"""Train a model further on the events of new days, in a fraction of the time of training again.

Items keep their places in the model and new ones follow them, so stored lists and indexes stay valid. Of the events in
--log those that are later than the model's log are used; it is the one in ``download/`` beside the folder of the model.
The result is a folder with ``download/`` (the log with the new events), ``split/`` and ``train/`` (the new model). The
folder is replaced as a whole, so --out may be the one of the model: then the next day's command is the same.

Examples:
    uv run cutrec update --log new_days.parquet                      # data/train -> data/update
    uv run cutrec update --model data/update --log next_day.parquet --out data/update
"""

from jsonargparse import ArgumentParser, Namespace

from cutrec.arguments import local_file, local_path
from cutrec.nested import parse_overrides
from cutrec.outputs import read_json
from cutrec.paths import MODEL, UPDATE, checkpoint_folder, live_checkout


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options."""
    text = f"folder or file of a model, with its log beside it (default: {MODEL.parent})"
    parser.add_argument("--model", type=local_file, default=MODEL.parent, help=text)
    text = "the new events: a path, folder, glob or address of parquet or CSV files"
    parser.add_argument("--log", type=local_path, required=True, help=text)
    text = f"folder of the results (default: {UPDATE})"
    parser.add_argument("--out", type=local_file, default=UPDATE, help=text)
    text = "change of params.yaml: download.columns.user=..., train.max_epochs=..., ...; may be repeated"
    parser.add_argument("-S", dest="changes", action="append", metavar="KEY=VALUE", help=text)


def run(options: Namespace) -> None:
    """Update the model and say what the new events were."""
    from cutrec.recommending.folders import of_model, run_update
    from cutrec.recommending.log_form import LogForm
    from cutrec.workflow.fetch import refuse_no_file

    refuse_no_file("--log", options.log, root=live_checkout())
    model = of_model(options.model, "--model")
    form = LogForm.beside(model)
    later = form.of_new_days(options.log, None, parse_overrides(options.changes or []))
    events, new_items = run_update(options.log, form, later, model, options.out, checkpoint_folder(), prefix="--")
    if not events.new:
        print(f"{options.out}: no new events, so the model is that of {model}, bit for bit")
        return
    metrics = read_json(options.out / "train" / "metrics.json")
    users = f"{events.users:,} users ({events.users - events.known_users:,} of them new)"
    print(
        f"{options.out}: {events.new:,} new events of {users}, {new_items:,} new items; "
        f"{metrics['epochs']} epochs, validation NDCG@10 {metrics['validation_ndcg@10']:.4f}"
    )
