"""The page says what was measured, stands by itself, and says so for twins, paper-faithful runs and odd logs too."""

import csv
import dataclasses
import json
import re
import shlex
import subprocess
from collections.abc import Callable
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, settings
from hypothesis import given as for_all
from hypothesis import strategies as some
from matplotlib.figure import Figure
from ruamel.yaml import YAML

from cutrec.config import from_mapping, read_yaml
from cutrec.config_point import AUTO_KEYS, Config, Report, as_written, settled
from cutrec.decide import write_decisions
from cutrec.environment import Code, read_code
from cutrec.nested import merged, nest
from cutrec.reporting import figures, page, results_file, tables
from cutrec.reporting.details import Rankings, write_details
from cutrec.reporting.page import steps
from cutrec.reporting.run_outputs import RunOutputs, read_outputs
from cutrec.workflow.report import report
from rec_data.raw.titles import Titles
from rec_eval import Baseline, LogCounts, evaluate
from rec_eval.config import Evaluate
from tests.cutrec.reporting.test_details import RANKED, make_rankings

LOG = LogCounts(np.array([3, 3, 2, 1, 1]), 4)
PICTURES = {
    "loss", "validation", "ndcg", "recall", "coverage", "surprisal", "by_history", "by_popularity", "concentration",
    "long_tail",
}  # fmt: skip
TRAINING = {
    "best_epoch": 2,
    "epochs": 3,
    "unread_share": 0.0,
    "validation_ndcg@10": 0.25,
    "epoch_seconds": 1.5,
    "whole_epoch_seconds": 1.75,
    "peak_memory_gib": 0.25,
    "peak_memory_kind": "peak resident memory of the process",
    "waited_share": 0.004,
    "tokens_per_second": 12345,
    "device": "cpu: of a test",
    "precision": "32-true",
}
DEFAULT = Config(undecided=AUTO_KEYS)
SPLIT = {
    "strategy": "temporal",
    "test_fraction": 0.1,
    "future_share": 0.1001,
    "boundary_share": 0.0001,
    "ties": "shuffle",
    "tied_interactions": 540,
    "duplicate_interactions": 0,
    "copies_of_every_row": 1,
    "dates_only": False,
    "filtered": {"users": 1200, "items": 5, "interactions": 59990},
    "log": {"users": 1200, "items": 5, "interactions": 60000},
    "train": {"users": 1000, "interactions": 54321},
    "test": {"users": 4, "interactions": 16, "unreachable_targets": 7, "targets_unseen_in_train": 3},
    "dropped": {"items_below_min_count": 12, "users_below_min_count": 0},
    "boundary_time": 1_700_000_000_000,
    "timestamp_unit": "ms",
}
Make = Callable[..., RunOutputs]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Write the outputs of the stages before the report, and read them as the report does."""
    monkeypatch.chdir(tmp_path)
    data = tmp_path / "data"

    def write(config: Config | None = None, *, twin: bool = False, rankings: Rankings | None = None) -> RunOutputs:
        folder = data / "evaluate" / "details"
        for name in ("source", "download", "split", "train", "evaluate/details"):
            (data / name).mkdir(parents=True, exist_ok=True)
        evaluation: dict[str, Any] = {"users": 4, "rank_seconds": 2.0, "users_per_second": 2.0, "device": "cpu"}
        if not twin:
            rankings = rankings or make_rankings()
            write_details(rankings, folder)
            model, popular = (
                {key: value for key, value in rankings.results[name].summary().items() if key.endswith("@10")}
                for name in ("model", "popularity")
            )
            evaluation = {**model, "popularity": popular, **evaluation}
        contents = {
            "source/fingerprint.json": {"kind": "file", "files": [{"path": "/logs/a.csv", "sha256": "5f3a"}]},
            "download/summary.json": {"rows": 60000},
            "split/summary.json": SPLIT,
            "train/metrics.json": TRAINING,
            "evaluate/metrics.json": evaluation,
            "evaluate/details/memory.json": {"peak_gib": 0.5, "kind": "peak of a test"},
        }
        for name, values in contents.items():
            (data / name).write_text(json.dumps(values))
        write_decisions(data / "train/settings.yaml", [])
        with (data / "train" / "history.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["epoch", "train_loss", "train_seconds", "validation_seconds", "validation_ndcg@10"])
            writer.writerows([[1, 3.0, 40.0, 1.0, 0.1], [2, 2.0, 40.0, 1.0, 0.25], [3, 1.5, 40.0, 1.0, 0.2]])
        return dataclasses.replace(read_outputs(config or DEFAULT, data), code=Code("abc123", []))

    return write


def html_of(run: RunOutputs) -> str:
    return page.write_page(run, dict.fromkeys(PICTURES, b"PNG"))


class Text(HTMLParser):
    """What a reader of the page sees, and whether every tag is closed in its turn."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(html)
        assert self.open == []
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)


def test_the_page_needs_no_other_file(make: Make):
    html = html_of(make())
    sources = re.findall(r'(?:src|href)="([^"]*)"', html)
    assert sum(source.startswith("data:image/png;base64,UE5H") for source in sources) == len(PICTURES)
    assert all(source.startswith(("data:", "#")) for source in sources)
    assert "url(" not in html
    for anchor in (source[1:] for source in sources if source.startswith("#")):
        assert f'id="{anchor}"' in html


def test_the_headline_compares_with_popularity(make: Make):
    run = make()
    evaluation = {**run.evaluation, "ndcg@10": 0.5, "popularity": {**run.evaluation["popularity"], "ndcg@10": 0.1}}
    assert run.details is not None
    text = Text(html_of(dataclasses.replace(run, evaluation=evaluation))).text
    assert "NDCG@10 is 0.5000, 5.0 times that of the ranking by popularity (0.1000), over 4 test users." in text
    assert re.search(r"by \+0\.\d{4} \(95% interval of too few users; permutation test: p = [\d.]+, 4 users\)", text)
    for row in (*run.details["intervals"], *run.details["comparison"]):
        row |= {"low": "0.1", "high": "0.6"}
    text = Text(html_of(dataclasses.replace(run, evaluation=evaluation))).text
    result = r"NDCG@10 is 0\.5000 \(95% interval 0\.1000 to 0\.6000\)"
    assert re.search(rf"{result}, 5\.0 times that of the ranking by popularity \(0\.1000\), over 4 test users\.", text)
    assert "For 75 of 100 users, the item that they chose next is among the first ten recommended; with" in text
    assert re.search(r"differs from that of popularity by \+0\.\d{4} \(95% interval \+0\.1000 to \+0\.6000; ", text)
    evaluation["popularity"]["ndcg@10"] = 0.0  # no division
    text = Text(html_of(dataclasses.replace(run, evaluation=evaluation))).text
    assert re.search(rf"{result}, over 4 test users\.", text)


@pytest.mark.parametrize(
    ("hits", "popular", "said"),
    [
        (0.5, 0.25, ("50 of 100", "25")),
        (0.012, 0.007, ("12 of 1,000", "7")),
        (0.0002, 0.0, ("2 of 10,000", "0")),
        (0.0, 0.0, ("0 of 100", "0")),
    ],
)
def test_hits_are_counted_among_as_many_users_as_show_them(
    make: Make, hits: float, popular: float, said: tuple[str, str]
):
    run = make()
    evaluation = {**run.evaluation, "hitrate@10": hits}
    evaluation["popularity"] = {**run.evaluation["popularity"], "hitrate@10": popular}
    _, text = tables.headline(dataclasses.replace(run, evaluation=evaluation))
    assert text.startswith(f"For {said[0]} users, ")
    assert text.endswith(f", for {said[1]}.")


def test_every_section_is_there_with_its_numbers(make: Make):
    text = Text(html_of(make(dataclasses.replace(Config(), evaluate=Evaluate(k=(1, 10)))))).text
    assert "Recall model 0.2500 too few users 0.7500 too few users" in text  # @1, then @10
    assert "what users chose 5.2 2" in text  # mean and median popularity of what was chosen
    assert "ann hit: rank 1 history a b target d 2 times in training recommended d c" in text
    assert "cid miss: not among the first 10 history 2 earlier, then b c d a b c d a b c target e 1 times" in text
    assert "training, all epochs with start, validation and checkpoints 5.2 s" in text  # 3 epochs of 1.75 s
    assert "per epoch, with its share of start, validation and checkpoints 1.75 s" in text
    assert "peak memory of ranking 0.50 GiB (peak of a test)" in text
    assert "the log as read 1,200 5 60,000 50.0" in text
    assert "split.boundary 2023-11-14 22:13:20+00:00" in text
    assert "dropped: items below min count 12" in text
    assert "dropped: users below" not in text
    assert "files.1.sha256 5f3a" in text
    assert "the model is from epoch 2, the best by validation NDCG@10 (0.2500)" in text


def test_targets_that_no_list_can_hold_are_counted():
    text = "4 users are tested; 7 of their targets are in the user's own history, which no list repeats; 3 of their "
    assert tables.reachable(Config(), SPLIT) == f"{text}targets never occur in training. These count as misses."
    plain = {**SPLIT, "test": {"users": 4, "unreachable_targets": 0, "targets_unseen_in_train": 0}}
    assert tables.reachable(Config(), plain) == "4 users are tested."


def test_what_limits_the_result_is_a_chip_that_leads_to_its_explanation_and_cure(make: Make):
    run = make()
    split = {**run.split, "tied_interactions": 59_990, "dates_only": True}
    html = html_of(dataclasses.replace(run, split=split, training={**TRAINING, "unread_share": 0.4}))
    text = Text(html).text
    chips = re.findall(r'<li><a href="#([^"]+)" title="([^"]+)">([^<]+)</a></li>', html)
    assert {"repeats", "ties", "unread"} <= {name for name, _, _ in chips}
    for name, title, chip in chips:
        note = Text(re.search(rf'<p class="note" id="{name}">.*?</p>', html).group()).text
        assert note.startswith(f"{unescape(chip)}. ")
        assert note.lower().endswith(f"{unescape(title)}.".lower())
    assert text.index("Ties in time: 100% of events") < text.index("59,990 of 59,990 interactions (100.0%) share")
    command = "uv run dvc exp run -S evaluate.filter_seen=false -S train.window=32"
    assert command in text[text.index("What to do next Train again with settings that help: ") :]
    assert "split.tied_interactions 59,990" in text
    assert "split.future_share 0.1001" in text


def test_a_page_without_remarks_says_so(make: Make, monkeypatch: pytest.MonkeyPatch):
    assert "is known to limit this result" not in html_of(make())
    monkeypatch.setattr(page, "limits", lambda run: [])
    assert "is known to limit this result" in html_of(make())


def test_the_next_commands_carry_the_settings_of_the_run(make: Make):
    run = make(dataclasses.replace(settled(DEFAULT, {"loss": "cce"}), dataset="/my logs/a.csv"))
    commands = dict(page.next_steps(run, []))
    dataset = "-S 'dataset=\"/my logs/a.csv\"'"
    *_, compared = commands.values()
    assert compared.splitlines() == [
        f"uv run dvc exp run --name cce {dataset} -S loss=cce",
        f"uv run dvc exp run --name cce_neg {dataset} -S loss=cce_neg",
        "uv run cutrec compare cce cce_neg",
    ]
    assert "uv run cutrec recommend --user=ann" in commands.values()
    odd = make(dataclasses.replace(DEFAULT, dataset="${x}"))  # no -S carries it
    *_, compared = dict(page.next_steps(odd, [])).values()
    assert compared.splitlines()[1] == "uv run dvc exp run --name cce -S loss=cce"


def test_titles_stand_beside_the_ids_of_items(make: Make):
    point = dataclasses.replace(Config(), report=Report(item_names="items.csv"))
    titles = Titles({"a": "Apple <pie>", "d": "Donut"}, missing=3, repeated=1)
    html = page.write_page(make(point), {}, titles)
    text = Text(html).text
    assert "history Apple <pie> a b target Donut d 2 times in training recommended Donut d c" in text
    assert "Titles are those of items.csv; 3 items have none; 1 items have several, of which the first" in text


def test_settings_that_were_decided_from_the_log_are_shown_with_their_reasons(make: Make, tmp_path: Path):
    assert "decided from the log" not in html_of(make(Config()))
    reason = "the exact softmax over 11,924 items is affordable"
    decided = {"loss": {"value": "cce", "reason": reason}, "train.window": {"value": None, "reason": "short"}}
    text = Text(html_of(dataclasses.replace(make(), decided=decided))).text
    assert f"Settings decided from the log key value reason loss cce {reason} train.window null short" in text


def test_a_twin_reports_no_accuracy(make: Make, tmp_path: Path):
    run = make(dataclasses.replace(Config(), dataset="twin:zvuk@0.1"), twin=True)
    page.draw(run, tmp_path)
    assert {path.name for path in tmp_path.glob("*.png")} == {"loss.png", "seconds.png"}
    text = Text(page.write_page(run, {"loss": b"PNG"})).text
    assert "sasrec with cce_neg on twin:zvuk@0.1" in text
    assert "Synthetic log: no accuracy" in text
    assert "nothing to learn: no accuracy is reported" in text
    for word in ("NDCG@10 is", "Hit rate", "Surprisal count", "best by validation", "0.2500", "misses"):
        assert word not in text


def test_what_changes_the_meaning_of_a_number_is_said(make: Make):
    how = Evaluate(filter_seen=False, reference="test_input")
    text = Text(html_of(make(dataclasses.replace(Config(), paper_faithful=True, evaluate=how)))).text
    assert "Defects of the paper's code" in text
    assert "Items of a user's own history are ranked too (evaluate.filter_seen)." in text
    assert "Surprisal count in the histories of the test users (evaluate.reference)" in text
    usual = tables.measured(Config())
    assert "are left out of the lists" in usual
    assert "count in the training log" in usual


def test_settings_that_differ_stand_before_all_of_them(make: Make):
    text = Text(html_of(make(settled(DEFAULT, {"loss": "cce", "backbone.hidden": 32})))).text
    assert (
        "Settings that differ from the defaults key value default loss cce auto backbone.hidden 32 auto All settings"
        in text
    )
    assert "train.patience 4" in text
    assert "evaluate.k 1, 5, 10, 20, 100" in text
    assert "All settings have their defaults." in Text(html_of(make())).text


def test_the_commands_give_the_run_again():
    assert steps(DEFAULT, Code("abc", [])) == [("", "git checkout abc"), ("", "uv run dvc repro")]
    point = dataclasses.replace(
        DEFAULT, dataset="/my logs/a.csv", paper_faithful=True, preset="wide", evaluate=Evaluate(k=(1, 10))
    )
    assert steps(point, Code("", [])) == [
        ("", "uv run dvc exp run -S 'dataset=\"/my logs/a.csv\"' -S paper_faithful=true -S 'evaluate.k=[1,10]'")
    ]
    ((_, long),) = steps(dataclasses.replace(point, dataset="a" * 80), Code("", []))
    assert long.split(" \\\n    ")[1:] == [f"-S dataset={'a' * 80}", "-S paper_faithful=true", "-S 'evaluate.k=[1,10]'"]


def given(shown: list[tuple[str, str]], folder: Path) -> dict[str, Any]:
    """The parameters after the steps of a page: what DVC makes of its command, or the lines for params.yaml."""
    from dvc.utils.cli_parse import to_path_overrides
    from dvc.utils.hydra import apply_overrides

    *lines, (_, command) = shown
    with (folder / "params.yaml").open("w") as file:
        YAML(typ="safe").dump(json.loads(json.dumps(nest(as_written(DEFAULT)))), file)
    words = shlex.split(command.replace(" \\\n", " "))
    assert words[:5] == ["uv", "run", "dvc", "exp", "run"]
    assert set(words[5::2]) <= {"-S"}
    for name, overrides in to_path_overrides(words[6::2]).items():
        apply_overrides(folder / name, overrides)
    written = [YAML(typ="safe").load(text) for _, text in lines]
    return merged(read_yaml(folder / "params.yaml"), *written)


ODD = [
    "spring, a=b [1].csv", "user,id", "арт", "2024", "{a}", "it's", '"', "#", ": ", "null", "True", "1e5", "~", " a",
    "a ", "${x}", "$x", "a\\", "a\\'\"", "\\${x}", "a\nb", "\x85", "", "-", "- a", "a:", ".5", ".inf", "0x1f", "[",
    "b;c", "*", "&a", "!t", "%", "@", "`", "yes", "2024-01-31", "choice(1,2)", "é", "😀", "params.yaml:x=1",
]  # fmt: skip
NAMES = some.one_of(some.sampled_from(ODD), some.text(some.characters(codec="utf-8"), max_size=12))


@settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(["demo", *ODD[:4]], 0.001, 1e300)
@for_all(some.lists(NAMES, min_size=5, max_size=5, unique=True), some.floats(1e-300, 1.0), some.floats(-1e300, 1e300))
def test_the_commands_carry_every_name(tmp_path: Path, names: list[str], rate: float, rating: float):
    """Through DVC's own parser, whatever files and columns are called."""
    dataset, user, item, mirror, timestamp = names
    columns = {"user": user, "item": item, "timestamp": timestamp}
    point = from_mapping(
        {
            "dataset": f"x{dataset}" if not dataset.strip() else dataset,
            "download": {"columns": columns, "mirror": mirror, "min_rating": rating},
            "train": {"learning_rate": rate},
            "evaluate": {"k": [10, 3]},
            "loss": "auto",
        }
    )
    assert from_mapping(given(steps(point, Code("", [])), tmp_path)) == point


def test_code_that_differs_from_its_revision_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Make):
    run = make()
    assert read_code() == Code("", [], "the page was not written in a git checkout")
    assert "The revision of the code is unknown: git is gone." in html_of(
        dataclasses.replace(run, code=Code("", [], "git is gone"))
    )
    for name in ("code.py", "params.yaml", "dvc.lock"):
        (tmp_path / name).write_text("1")
    identity = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    for command in (["init", "-q"], ["add", "."], [*identity, "commit", "-qm", "first"]):
        subprocess.run(["git", *command], check=True)
    clean = read_code()
    assert re.fullmatch("[0-9a-f]{40}", clean.revision)
    for name in ("params.yaml", "dvc.lock", "data/train/metrics.json"):
        (tmp_path / name).write_text("2")  # what a run itself changes
    assert read_code() == clean
    (tmp_path / "code.py").write_text("2")
    assert read_code() == clean._replace(changed=["code.py"])
    changed = dataclasses.replace(run, code=Code("abc", ["code.py"]))
    assert "These files differed from that revision: code.py." in html_of(changed)


def test_ids_of_the_log_are_text_and_no_markup(make: Make):
    names = ["<script>alert(1)</script>", '"><b>', "c", "d", "e"]
    html = html_of(make(rankings=make_rankings(item_names=names)))
    assert "<script" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    Text(html)


def test_days_and_metrics_beyond_accuracy_are_shown_where_there_are_any(make: Make, tmp_path: Path):
    run = make()
    text = Text(html_of(run)).text
    assert "Days from the user's last event to the target" not in text
    assert "Unexpectedness" not in text
    rankings = make_rankings(days=np.array([0, 3, 3, 40]))
    baseline = Baseline(RANKED["popularity"], rankings.counts)
    results = {
        name: evaluate(ids, rankings.targets, [1, 10], LOG, baseline=baseline, groups=np.array([0, 0, 1, 1, -1]))
        for name, ids in RANKED.items()
    }
    run = make(rankings=dataclasses.replace(rankings, results=results))
    page.draw(run, tmp_path)
    assert (tmp_path / "by_days.png").is_file()
    text = Text(html_of(run)).text
    assert "Days from the user's last event to the target segment users NDCG@10" in text
    assert "list k Coverage Surprisal Unexpectedness Serendipity Diversity model 1" in text
    assert "Diversity share of pairs of items in the list that are of different groups" in text


def test_one_test_user_is_enough_for_a_page(make: Make, tmp_path: Path):
    run = make(rankings=make_rankings(users=1))
    page.draw(run, tmp_path)
    text = Text(html_of(run)).text
    assert "(95% interval of too few users; permutation test: p = 0.5, 1 users)" in text
    assert "NDCG model 1.0000 too few users 1.0000 too few users" in text


def test_the_report_is_the_page_its_pictures_and_its_results(make: Make, tmp_path: Path):
    make()
    (tmp_path / "items.csv").write_text("id,title\na,Apple\n")
    point = dataclasses.replace(DEFAULT, report=Report(item_names="items.csv"))
    report(point, tmp_path / "data", tmp_path / "report", root=tmp_path)
    written = {path.name: path.read_bytes() for path in (tmp_path / "report").iterdir()}
    assert set(written) == {"report.html", "results.csv", "model_card.md", *(f"{name}.png" for name in PICTURES)}
    kinds = [row.kind for row in results_file.read(tmp_path / "report" / "results.csv")]
    assert kinds == ["training", "accuracy"]
    assert all(image.startswith(b"\x89PNG") for name, image in written.items() if name.endswith(".png"))
    assert b"sasrec with cce_neg on demo" in written["report.html"]
    assert b"Apple <small>a</small>" in written["report.html"]
    assert b"4 items have none" in written["report.html"]
    assert b"test, by popularity" in written["model_card.md"]


@pytest.mark.parametrize(("epochs", "ticks"), [(1, [1]), (2, [1, 2]), (3, [1, 2, 3])])
def test_epochs_are_whole_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epochs: int, ticks: list[int]):
    drawn: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, path: drawn.append(self) or save(self, path))
    row = {"train_loss": 2.0, "validation_ndcg@10": 0.1, "train_seconds": 1.0}
    history = [{"epoch": float(epoch + 1), **row} for epoch in range(epochs)]
    figures.draw_training(history, 1, tmp_path)
    assert len(drawn) == 2
    for axes in (axes for figure in drawn for axes in figure.axes):
        low, high = axes.get_xlim()
        assert [tick for tick in axes.get_xticks() if low <= tick <= high] == ticks
