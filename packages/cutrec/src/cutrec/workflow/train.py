"""Train a model on a split."""

import shutil
import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from importlib.util import find_spec
from pathlib import Path

from cutrec.checksums import write_checksums
from cutrec.config import batch_settings, contradiction, loss_settings, model_settings, training_settings
from cutrec.config_point import Config
from cutrec.console import is_first_process
from cutrec.decide import decide, write_decisions
from cutrec.decide_update import SCHEDULE
from cutrec.errors import StageError
from cutrec.outputs import atomic_folder, read_json, unchanged, write_json
from cutrec.paths import SETTINGS, live_checkout
from cutrec.reporting.model_card import CARD, model_card
from cutrec.reporting.remarks import Remark, no_gain, training_remarks
from cutrec.stores import read_store
from cutrec.workflow import training_inputs as inputs
from cutrec.workflow.checkpoints import run_folder
from cutrec.workflow.initial import decide_further, first_weights, read_start, start_model
from cutrec.workflow.run_hash import run_hash
from rec_models.errors import SettingsError, TrainingError
from rec_models.training.loop import OnEpoch, fit
from rec_models.training.result import FitResult
from rec_models.training.trackers import Tracker


def train(
    config: Config,
    split: Path,
    out: Path,
    *,
    checkpoints: Path,
    confirm: Callable[[], None] = lambda: None,
    on_epoch: OnEpoch | None = None,
) -> None:
    """Decide the settings that are ``auto`` and train, or resume the training that was interrupted.

    Writes ``model.safetensors`` (the epoch of the best validation NDCG@10), ``items.parquet`` (the catalogue that it
    ranks: a model and its ids stay together), ``settings.yaml`` (what was decided, and why), ``history.csv`` (one row
    per epoch), ``metrics.json``, ``README.md`` (the model card), ``tensorboard/`` and the checksums. If another process
    trains the same, this one waits for it and takes its model.

    Args:
        config: the model, the loss and the training loop.
        split: the folder that `cutrec.workflow.split.split` wrote.
        out: the folder for the results.
        checkpoints: the folder for the states of runs. Each run has a folder of its own there, named by the hash of its
            settings, its split and its code. Of a complete run it is removed when another one starts.
        confirm: called when training is complete; if it raises, there are no results and the next call resumes.
        on_epoch: see `rec_models.training.loop.fit`.

    Raises:
        ConfigError: settings contradict each other, what was decided, the model of ``train.init_from``, or the GPUs and
            processes that there are.
        StageError: a file of the split or that model is missing, nobody validates, training failed, or another process
            replaced the split or that model while it was read.
    """
    first = is_first_process()  # the others keep no results and no locks
    tracker = tracker_of(config)
    with ExitStack() as places:
        start = start_model(config)
        with unchanged(split, *([] if start is None else [start.parent])):
            catalogue, train_store, validation_store, counts, facts, new = inputs.read_split(
                split, config.train.sequences
            )
            config = inputs.without_address(config, train_store)
            if start is None:
                build, (config, decisions) = None, decide(config, facts)
            else:
                initial, histories = read_start(config, start), read_store(split, "train")
                config, decisions = decide_further(config, initial, facts, histories, new)
                build = first_weights(initial, catalogue.names, histories)
            state = checkpoints / run_hash(config, split, start=start)
            if first:
                for decision in decisions:
                    if start is None or decision.key in SCHEDULE:  # the others are the model's
                        print(decision, file=sys.stderr)
                places.enter_context(run_folder(checkpoints, state.name))
            place: AbstractContextManager[Path | str] = atomic_folder(out) if first else tempfile.TemporaryDirectory()
            folder = Path(places.enter_context(place))
            about = read_json(split / "summary.json") if (split / "summary.json").is_file() else {}
            shutil.copyfile(catalogue.path, folder / "items.parquet")
            write_decisions(folder / SETTINGS.name, decisions)
        try:
            result = fit(
                model=model_settings(config),
                loss=loss_settings(config),
                training=training_settings(config),
                num_items=len(counts),
                train_batches=inputs.make_batches(config, train_store, len(counts), new),
                validate=inputs.make_validation(config, validation_store),
                out=folder,
                checkpoint_dir=state,
                item_counts=counts,
                batching=batch_settings(config),
                catalogue=catalogue.hash,
                log=about.get("log_sha256"),
                on_epoch=on_epoch,
                tracker=tracker,
                build=build,
            )
        except TrainingError as error:
            if error.on_every_rank and not first:
                sys.exit(1)
            raise StageError(str(error)) from error
        except SettingsError as error:
            raise contradiction(error) from error
        metrics = summary(config, result, facts.unread(config))
        remarks: list[Remark] = []
        if result.is_first_rank and not config.dataset.startswith("twin:"):
            remarks = training_remarks(config.train, config.max_seq_len, metrics, len(validation_store))
            model, popularity = result.metrics["ndcg@10"], inputs.popularity_ndcg(config, validation_store, counts)
            if model <= popularity:
                unreachable = inputs.unreachable_share(config, validation_store)
                updated = start is not None
                remarks = [no_gain("validation", model, popularity, unreachable, updated=updated), *remarks]
            for remark in remarks:
                print(f"note: {remark.line}", file=sys.stderr)
        write_json(folder / "metrics.json", metrics)
        (folder / CARD).write_text(model_card(config, about, metrics, remarks=remarks), encoding="utf-8")
        write_checksums(folder)
        if first:
            confirm()


def tracker_of(config: Config) -> Tracker | None:
    """The tracker that ``train.tracker`` names, if any; its files are in the checkout, or in the current folder.

    Raises:
        StageError: its library is not installed.
    """
    name = config.train.tracker
    if name == "none":
        return None
    if find_spec(name) is None:
        cure = f"none, or uv pip install 'cutrec[{name}]'"
        raise StageError(f"train.tracker: found {name}, which is not installed here, allowed: {cure}")
    return Tracker(name, live_checkout())


def summary(config: Config, result: FitResult, unread_share: float | None = None) -> dict[str, object]:
    """The metrics of a training run that ``dvc metrics`` shows; a synthetic log has no accuracy.

    `unread_share` is the share of the training interactions that no example contains; None if it is not known.
    """
    accuracy = {} if config.dataset.startswith("twin:") else result.metrics
    accuracy = {name: value for name, value in accuracy.items() if name.endswith("@10")}  # history.csv has all
    return {
        "train_loss": round(result.train_loss, 6),
        "best_epoch": result.best_epoch,
        "epochs": result.epochs,
        **({} if unread_share is None else {"unread_share": round(unread_share, 4)}),
        **{f"validation_{name}": round(value, 6) for name, value in accuracy.items()},
        "epoch_seconds": round(result.epoch_seconds, 3),
        "whole_epoch_seconds": round(result.whole_epoch_seconds, 3),
        "peak_memory_gib": round(result.peak_memory_gib, 3),
        "loop_peak_memory_gib": round(result.loop_peak_memory_gib, 3),
        "peak_memory_kind": result.peak_memory_kind,
        "waited_share": round(result.waited_share, 4),
        "tokens_per_second": round(result.tokens_per_second),
        "device": result.device,
        "precision": result.precision,
    }
