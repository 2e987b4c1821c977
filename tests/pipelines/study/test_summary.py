"""Tables, presets and a picture made of rows of the study."""

import json
import re
from pathlib import Path

import pytest

from cutrec import config
from cutrec.config import read_yaml
from cutrec.reporting import results_file as results
from pipelines.study import runs, tables
from pipelines.study.summary import MARKS, summarise, with_accuracy
from pipelines.study.tables import Spread, published, spread
from pipelines.study.trials import SAMPLING_POINTS, SEARCHES, Trial
from tests.small_log import ROOT


def test_a_spread_is_mean_and_sample_deviation():
    assert spread([]) is None
    assert spread([0.5]) == Spread(0.5, 0.0, 1)
    assert spread([1.0, 2.0, 3.0]) == Spread(2.0, 1.0, 3)
    assert str(Spread(0.18, 0.001, 3)) == "0.1800 +- 0.0010"
    assert str(Spread(0.18, 0.001, 2)) == "0.1800 +- 0.0010 (2 seeds)"


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        (("ml_1m", "sasrec", "cce", 512), 0.1821),  # the better of two
        (("ml_1m", "sasrec", "cce_neg", 3000), 0.1857),
        (("ml_1m", "sasrec", "cce_neg", 512), None),
        (("ml_1m", "sasrec", "bce", 512), 0.1341),
        (("ml_1m", "sasrec", "gbce", 256), 0.1726),
        (("ml_1m", "bert4rec", "cce", 512), 0.1618),
        (("toys", "sasrec", "cce_neg", 2048), 0.0374),
        (("beauty", "sasrec", "cce", 512), None),
    ],
)
def test_published_numbers_are_found_by_data_set_and_loss(asked: tuple[str, str, str, int], found: float | None):
    known = published(*asked)
    assert (known and known[0]) == found


def rows_of_a_study() -> list[dict[str, object]]:
    """ML-1M searched: the first candidate wins; cce has its three seeds, and a part of the trade-off is there."""
    search = SEARCHES[0]
    rows: list[dict[str, object]] = []

    def add(trial: Trial, **values: object) -> None:
        named = {"kind": trial.kind, "dataset": trial.dataset, "contender": trial.contender, "seed": trial.seed}
        machine = {"device": "cpu: test", "status": "ok", "precision": "32-true", "peak_memory_gib": 0.5}
        rows.append({**named, "settings": json.loads(trial.settings), **machine, **values})

    for contender in search.contenders:
        for place, settings in enumerate(search.settings(contender)):
            trial = Trial.of("search", "ml_1m", contender, settings, 0)
            add(trial, validation_ndcg_at_10=0.2 - place / 100)
    best = search.settings("cce")[0]
    found = {"recall_at_10": 0.3, "coverage_at_10": 0.5, "validation_ndcg_at_10": 0.2}
    for seed, ndcg in zip((1, 2, 3), (0.18, 0.19, 0.2), strict=True):
        add(Trial.of("final", "ml_1m", "cce", best, seed), ndcg_at_10=ndcg, **found)
    for name, point in list(SAMPLING_POINTS.items())[:4]:
        add(Trial.of("time", "ml_1m", name, best | point, 0), step_ms=2.0 + len(name), step_ms_p10=1.5)
        if name != "cce":
            add(Trial.of("final", "ml_1m", name, best | point, 1), ndcg_at_10=0.17, **found)
    return rows


def cells(page: str) -> str:
    """A page without the spaces that align its columns."""
    return re.sub(" *\\| *", "|", page)


def test_tables_results_presets_and_a_picture_come_of_rows(tmp_path: Path):
    paths = {path.name: path for path in summarise(rows_of_a_study(), tmp_path)}
    assert set(paths) == {
        *(f"{table}.{kind}" for table in ("accuracy", "trade_off") for kind in ("md", "csv")),
        "results.csv",
        "presets.yaml",
        "trade_off.png",
    }
    accuracy = paths["accuracy.md"].read_text().splitlines()
    assert len(accuracy) == 2 + len(SEARCHES[0].contenders)
    assert "0.1900 +- 0.0100" in accuracy[2]
    assert "|0.1821|antklen/sasrec-bert4rec-recsys23 README|yes|" in cells(accuracy[2])
    assert paths["trade_off.md"].read_text().count("0.1700 (one seed)") == 3
    assert [row.ndcg_at_10 for row in results.read(paths["results.csv"])] == [0.18, 0.19, 0.2]
    presets = read_yaml(paths["presets.yaml"])
    assert set(presets) == {f"ml_1m_{name}".replace(" ", "_") for name in SEARCHES[0].contenders}
    for name in presets:
        point = config.from_mapping({"preset": name, "presets": presets})
        assert point.max_seq_len == 200
    assert paths["trade_off.png"].read_bytes().startswith(b"\x89PNG")


def test_a_point_without_a_time_is_named_below_the_table(tmp_path: Path):
    rows = rows_of_a_study()
    dropped = next(row for row in rows if row["kind"] == "time" and row["contender"] == "none 256")
    summarise([row for row in rows if row is not dropped], tmp_path)
    said = (tmp_path / "trade_off.md").read_text()
    assert "Not timed, so not in the picture: ml_1m, none 256.\n" in said
    assert "|ml_1m|none 256|||0.1700 (one seed)|" in cells(said)


def test_the_committed_pages_are_those_of_the_committed_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pipelines.study.summary.draw", lambda table, path, machine: path)
    page = tmp_path / "accuracy.md"
    page.write_text(f"# A page\n\n{MARKS[0]}\nold\n{MARKS[1]}\n\nThe rest.\n")
    for path in summarise(runs.read(ROOT / "results/study.jsonl"), tmp_path / "study", page):
        if path.suffix != ".png" and path != page:
            assert path.read_text() == (ROOT / "results/study" / path.name).read_text(), path.name
    text = page.read_text()
    assert text.startswith(f"# A page\n\n{MARKS[0]}\n| data set ")
    assert text.endswith(f"|\n{MARKS[1]}\n\nThe rest.\n")
    table = text.removeprefix("# A page\n\n").removesuffix("\n\nThe rest.\n")
    assert table in (ROOT / "docs/accuracy.md").read_text()


def test_a_page_without_a_place_for_the_table_is_refused():
    with pytest.raises(ValueError, match="--page: found no line '<!-- accuracy"):
        with_accuracy("# A page\n", [])


NOT_OF_THE_STUDY = ("none", "paper", "plain", "sparse", "dense", "long", "yambda")


def test_the_presets_are_what_the_study_chose():
    """Those of the same name in params.yaml; when the study is run again, its presets have to be copied there."""
    there = read_yaml(ROOT / "params.yaml")["presets"]
    chosen = tables.presets(runs.read(ROOT / "results/study.jsonl"))
    assert chosen == {name: there[name] for name in there if name.split("_")[0] not in NOT_OF_THE_STUDY}


def test_a_search_that_failed_says_so(tmp_path: Path):
    rows = [row for row in rows_of_a_study() if row["kind"] == "search" and row["contender"] == "cce"]
    summarise([{**row, "status": "failed", "validation_ndcg_at_10": None} for row in rows], tmp_path)
    assert (tmp_path / "accuracy.md").read_text() == "Failed: ml_1m cce, all of 7 trials.\n"
    assert "Not begun: ml_1m, the search of cce failed.\n" in (tmp_path / "trade_off.md").read_text()


def test_without_rows_the_tables_say_so(tmp_path: Path):
    paths = summarise([], tmp_path)
    assert (tmp_path / "accuracy.md").read_text() == "Nothing has been run yet.\n"
    assert tables.accuracy_table([]) == []
    assert all(path.exists() for path in paths)


def test_a_search_with_fewer_trials_than_planned_says_how_many(tmp_path: Path):
    rows = [row for row in rows_of_a_study() if row["kind"] == "search" and row["contender"] in ("cce", "bce 1")]
    summarise(rows[:1] + [row for row in rows if row["contender"] == "bce 1"], tmp_path)
    accuracy = (tmp_path / "accuracy.md").read_text()
    assert "|ml_1m|bce 1|" in cells(accuracy)
    assert accuracy.endswith("|\n\nNot complete: ml_1m cce, 1 of 7 trials.\n")
    assert "Not begun: ml_1m waits for the search of cce, 1 of 7 trials.\n" in (tmp_path / "trade_off.md").read_text()
    summarise(rows, tmp_path)
    assert "Not begun: ml_1m, none of 13 points.\n" in (tmp_path / "trade_off.md").read_text()
