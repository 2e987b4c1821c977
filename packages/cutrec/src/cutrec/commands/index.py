"""Build an approximate index of the items, for `cutrec serve` with catalogues of many millions.

Measures how much of the exact lists the index finds, for users of the log beside the model, and stores that with the
index. A server shows it in /ready and /metrics. Needs the extra cutrec[ann].

Examples:
    uv run cutrec index --model model --out model/index
    uv run cutrec serve --model model --index model/index
"""

from jsonargparse import ArgumentParser, Namespace

from cutrec.arguments import local_file, positive_int, share
from cutrec.console import prepare_output_folder
from cutrec.paths import DATA, MODEL, model_folder

OUT = DATA / "index"


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options."""
    text = f"folder or file of a model (default: {MODEL.parent})"
    parser.add_argument("--model", type=local_file, default=MODEL.parent, help=text)
    parser.add_argument("--out", type=local_file, default=OUT, help=f"folder of the index (default: {OUT})")
    text = "least recall@10 against the exact lists; a search keeps as many candidates as that needs (default: 0.98)"
    parser.add_argument("--recall", type=share, default=0.98, help=text)
    text = "users of the log whose lists are compared (default: 1000)"
    parser.add_argument("--histories", type=positive_int, default=1000, help=text)


def run(options: Namespace) -> None:
    """Load the model, build its index and say what it finds."""
    model_folder(options.model)
    prepare_output_folder("--out", options.out)

    from cutrec.recommender import Recommender
    from cutrec.serving.build_index import build

    found = build(
        Recommender.load(options.model, device="cpu"),
        options.out,
        recall=options.recall,
        histories=options.histories,
    )
    print(
        f"{options.out}: {found['items']:,} items, recall@{found['k']} {found['recall']:.4f} over "
        f"{found['histories']:,} users, {found['milliseconds_per_list']} ms per list"
    )
