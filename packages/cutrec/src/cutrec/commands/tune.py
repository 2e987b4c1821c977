"""Search better settings for the log in data/split, and write the best ones into params.yaml as a preset.

The first trial has the settings that training would decide by itself, so the result is never worse on validation. Keys
that params.yaml or -S state stay as they are; those that are ``auto``, or have their default, are searched. Settings
that do not fit into memory are not tried.

If a search was stopped or killed, the same command goes on with it, for as many minutes again, and replaces the preset
that it wrote before. Several processes that are started at once share the trials of a search.

The preset holds all settings of training of the best trial: what was searched, what ``auto`` became, and what
params.yaml or -S state. So it trains the same model later, whatever the defaults are then. It does not hold the seed.

Examples:
    uv run cutrec tune --minutes 60 --name shop
    uv run dvc exp run -S preset=shop        # then train with it
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace

from cutrec.arguments import positive_float, positive_int
from cutrec.config import PRESET_KEYS, from_mapping, read_yaml, refuse_contradictions
from cutrec.config_point import Config
from cutrec.errors import StageError
from cutrec.nested import as_yaml, changed
from cutrec.outputs import read_json, write_json
from cutrec.paths import DATA, PARAMS, SPLIT, search_folder
from cutrec.presets import is_as_recorded, refuse_preset_name, write_preset
from cutrec.reporting.text_table import render

if TYPE_CHECKING:
    from cutrec.workflow.tune_result import Tried, Tuning

RECORD = "preset.json"
"""The file in the folder of a search with the preset that it wrote."""
SHOWN = 5
"""Trials in the table, beside the defaults."""


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options."""
    text = "how long this start may take; a trial that is then in training goes on at the next start (default: 30)"
    parser.add_argument("--minutes", type=positive_float, default=30.0, help=text)
    text = "most trials of the search, including those of earlier starts (default: 30)"
    parser.add_argument("--trials", type=positive_int, default=30, help=text)
    parser.add_argument("--name", default="tuned", help="of the preset (default: tuned)")
    parser.add_argument("--overwrite", action="store_true", help="replace a preset that this search did not write")
    text = "processes; with several GPUs they take turns (default: 1)"
    parser.add_argument("--jobs", type=positive_int, default=1, help=text)
    text = "auto (the default) takes a GPU if there is one"
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help=text)
    text = "change of params.yaml for the search: model=bert4rec, batch_size=256, ...; may be repeated"
    parser.add_argument("-S", dest="changes", action="append", metavar="KEY=VALUE", help=text)


def run(options: Namespace) -> None:
    """Read params.yaml, search, write the preset and say what was found."""
    refuse_preset_name(PARAMS, options.name, overwrite=True)
    config = read_point(options.changes or [])
    refuse_other_split(config)
    if find_spec("optuna") is None:
        raise StageError("cutrec tune: found no optuna, allowed: uv pip install 'cutrec[tune]'")

    from cutrec.workflow.recommend import choose_device
    from cutrec.workflow.tune import tune
    from cutrec.workflow.tune_result import preset_of

    choose_device(options.device)

    def may_replace(search: Path) -> bool:
        return options.overwrite or is_as_recorded(PARAMS, options.name, search / RECORD)

    def refuse_taken_name(search: Path) -> None:
        refuse_preset_name(PARAMS, options.name, overwrite=may_replace(search))

    settings = {name: options[name] for name in ("trials", "minutes", "jobs", "device")}
    found = tune(config, Path(config.split_folder), search_folder(), **settings, begin=refuse_taken_name)
    print(table_of(found))
    print()
    if read_point(options.changes or []) != config:
        raise StageError(
            f"{PARAMS}: found other settings than at the start, allowed: the same ones; restore them and run this "
            f"again, the search is kept in {found.folder}"
        )
    preset = preset_of(found.space, found.best.settings)
    write_preset(PARAMS, options.name, preset, overwrite=may_replace(found.folder))
    write_json(found.folder / RECORD, {options.name: preset})
    print(sentence(found))
    if found.left:
        text = f"The time was too short for {found.left} of {options.trials} trials"
        print(f"{text}; the same command goes on with them.")
    print(f"Use it: uv run dvc exp run -S preset={options.name}")


def read_point(changes: list[str]) -> Config:
    """The point of params.yaml with some settings of training changed.

    Raises:
        ConfigError: naming the key, what was found and what is allowed.
    """
    point = from_mapping(changed(read_yaml(PARAMS), changes, (*PRESET_KEYS, "preset", "seed")))
    refuse_contradictions(point)
    return point


def refuse_other_split(config: Config) -> None:
    """Refuse to search if there is no split, or if it is one of another log.

    Raises:
        StageError: naming the command that makes the split.
    """
    cure = "allowed: the split of the current point, which `dvc repro split` makes"
    split = Path(config.split_folder)
    if not (split / "items.parquet").is_file():
        raise StageError(f"{split}: found no split, {cure}")
    if split != SPLIT:  # made elsewhere, of a log that is not here
        return
    if (known := read_json(DATA / "download" / "summary.json")["dataset"]) != config.dataset:
        raise StageError(f"{SPLIT}: found the split of {known}, dataset is {config.dataset}, {cure}")


def table_of(found: Tuning) -> str:
    """The best trials and the defaults."""
    shown = found.tried[:SHOWN]
    if found.default is not None and found.default not in shown:
        shown = [*shown, found.default]
    rows = [_row(found, trial) for trial in shown]
    return render(("trial", "NDCG@10", "epochs", "seconds", "settings"), rows, left=5)


def _row(found: Tuning, trial: Tried) -> tuple[str, ...]:
    name = "the defaults" if trial.number == 1 else str(trial.number)
    if trial.state != "complete":
        name += f" ({trial.state})"
    usual = found.space.settings(found.space.first)
    changes = {key: value for key, value in trial.settings.items() if trial.number == 1 or usual.get(key) != value}
    settings = " ".join(f"{key}={as_yaml(value)}" for key, value in changes.items())
    return name, f"{trial.ndcg:.4f}", str(trial.epochs), f"{trial.seconds:.0f}", settings


def sentence(found: Tuning) -> str:
    """What the search gained, on which users, and how sure that is."""
    beside = f"validation NDCG@10 {found.best.ndcg:.4f}"
    if found.default is None:
        return (
            f"The best of {len(found.tried)} trials: {beside}. The defaults: {found.not_tried.get(1, 'not validated')}."
        )
    if found.gain is None:
        return (
            f"None of {len(found.tried)} trials is better than the defaults: {beside}. The preset holds the defaults."
        )
    gain = found.gain
    text = (
        f"The best of {len(found.tried)} trials: {beside}, {gain.ndcg / found.default.ndcg:+.1%} over the defaults "
        f"({gain.ndcg:.4f} with a standard error of {gain.standard_error:.4f} over {gain.users:,} validation users)."
        if found.default.ndcg
        else f"The best of {len(found.tried)} trials: {beside}; the defaults: 0."
    )
    if gain.is_noise:
        return f"{text} That is within the noise: below two standard errors."
    return f"{text} On other users the gain is usually smaller, because the best trial was chosen on these."
