"""Export a model as a program that runs without CutRec: with PyTorch alone, or with ONNX Runtime.

The program takes items [B, L], whole numbers that are rows of the model's items.parquet, oldest first, each history at
the left of its row, and lengths [B]. It returns vectors [B, D] and the scores [B, V] of the whole catalogue, for any B
and for any L up to max_seq_len. ONNX needs the extra: uv pip install 'cutrec[onnx]'.

Examples:
    uv run cutrec export --out encoder.pt2
    uv run cutrec export --model data/train --out encoder.onnx
"""

from __future__ import annotations

from jsonargparse import ArgumentParser, Namespace

from cutrec.arguments import local_file
from cutrec.console import prepare_output_file
from cutrec.errors import StageError
from cutrec.paths import MODEL, existing_model

ONNX = ".onnx"


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options."""
    text = f"the folder of a model, or its file with items.parquet beside it (default: {MODEL.parent})"
    parser.add_argument("--model", type=local_file, default=MODEL.parent, help=text)
    parser.add_argument("--out", type=local_file, help="the file to write")
    text = f"torch (a torch.export program) or onnx (default: by the name of --out, onnx if it ends in {ONNX})"
    parser.add_argument("--format", choices=("torch", "onnx"), help=text)


def run(options: Namespace) -> None:
    """Check the options, load the model and export it."""
    if (out := options.out) is None:
        raise StageError(f"--out: found none, allowed: the file to write, such as encoder{ONNX}")
    model = existing_model(options.model)
    prepare_output_file("--out", out)

    import torch

    from cutrec.workflow.recommend import load_model
    from rec_models.export import Format, export

    encoder, items = load_model(model, torch.device("cpu"))
    chosen: Format = options.format or ("onnx" if out.suffix == ONNX else "torch")
    export(encoder, out, chosen)
    print(f"{out}: {model} for {chosen}, histories of 1 to {encoder.settings.max_seq_len} of {len(items):,} items")
