"""What the study runs: every trial is a valid point, the searches are fair, and nothing is run before its time."""

import json

import pytest

from cutrec.config import loss_settings, model_settings, training_settings
from cutrec.errors import ConfigError
from pipelines.study.trials import (
    FINAL_SEEDS,
    KINDS,
    SAMPLING_POINTS,
    SEARCHES,
    Search,
    Trial,
    chosen,
    pending,
)

DATASETS = [search.dataset for search in SEARCHES]


def done(trial: Trial, **values: object) -> dict[str, object]:
    settings = json.loads(trial.settings)
    return {"kind": trial.kind, "dataset": trial.dataset, "settings": settings, "seed": trial.seed, **values}


def complete(score: dict[int, float]) -> list[dict[str, object]]:
    """Rows of all searches; the candidate at a place has this score, the others 0.1."""
    return [
        done(
            Trial.of("search", search.dataset, contender, settings, 0),
            validation_ndcg_at_10=score.get(place, 0.1),
            status="ok",
        )
        for search in SEARCHES
        for contender in search.contenders
        for place, settings in enumerate(search.settings(contender))
    ]


def test_every_trial_is_a_point_that_can_be_trained():
    rows = complete({0: 0.5})
    trials = pending([], KINDS, DATASETS) + pending(rows, KINDS, DATASETS)
    assert len({trial.key for trial in trials}) == len(trials)
    for trial in trials:
        point = trial.point
        loss = loss_settings(point)
        assert loss.loss == json.loads(trial.settings)["loss"]
        model_settings(point)
        training_settings(point)
        assert (point.dataset, point.seed) == (trial.dataset, trial.seed)
        assert point.train.window is None or point.train.window <= point.max_seq_len
        if point.loss == "bce":
            assert loss.sharing == "none"  # one negative for 64 tokens would teach nothing


def test_every_contender_of_a_data_set_gets_as_many_different_trials():
    for search in SEARCHES:
        for contender in search.contenders:
            assert len({json.dumps(settings) for settings in search.settings(contender)}) == len(search.candidates)


def test_kinds_data_sets_and_contenders_narrow_the_plan():
    trials = pending(complete({0: 0.5}), ["final"], ["toys"], ["cce"])
    assert {(trial.kind, trial.dataset, trial.contender) for trial in trials} == {("final", "toys", "cce")}
    assert pending([], ["search"], ["toys"], ["tile 256"]) == []


def test_a_contender_keeps_what_it_fixes():
    search = Search("d", {"loss": "ce"}, {"a": {"loss": "cce"}}, ({"loss": "bce", "backbone.heads": 1},))
    assert search.settings("a") == [{"loss": "cce", "backbone.heads": 1}]


def test_searching_comes_first_and_alone():
    trials = pending([], KINDS, DATASETS)
    assert {trial.kind for trial in trials} == {"search"}
    assert [trial.dataset for trial in trials][:5] == ["ml_1m"] * 5
    assert [trial.contender for trial in trials][:5] == list(SEARCHES[0].contenders)  # all losses evenly


def test_a_finished_search_sends_its_best_candidate_to_the_finals():
    rows = complete({2: 0.3, 4: 0.4})
    trials = pending(rows, ["final"], ["ml_1m"])
    search = SEARCHES[0]
    for contender in search.contenders:
        assert chosen(rows, search, contender) == search.settings(contender)[4]
    finals = [trial for trial in trials if trial.contender in search.contenders and trial.contender != "cce"]
    assert {trial.seed for trial in finals} == set(FINAL_SEEDS)
    best = json.loads(next(trial for trial in trials if trial.contender == "gbce 256").settings)
    assert best == search.settings("gbce 256")[4]


def test_an_unfinished_search_sends_nobody():
    rows = complete({0: 0.3})
    missing = next(row for row in rows if row["dataset"] == "toys")
    rows.remove(missing)
    assert [trial.kind for trial in pending(rows, KINDS, ["toys"])][:1] == ["search"]
    contender = next(name for name in SEARCHES[1].contenders if missing["settings"] in SEARCHES[1].settings(name))
    assert chosen(rows, SEARCHES[1], contender) is None


def test_a_failed_trial_is_left_to_run_and_never_wins():
    rows = complete({})
    for row in rows[1:]:
        if row["dataset"] == "ml_1m":
            row.update(status="failed")
            del row["validation_ndcg_at_10"]
    left = pending(rows, ["search"], DATASETS)
    assert len(left) == sum(len(SEARCHES[0].settings(name)) for name in SEARCHES[0].contenders) - 1
    assert chosen(rows, SEARCHES[0], next(iter(SEARCHES[0].contenders))) == rows[0]["settings"]


def test_a_failure_does_not_hide_a_success():
    rows = complete({0: 0.3})
    failed = {**rows[0], "status": "failed", "validation_ndcg_at_10": None}
    for there in ([failed, *rows], [*rows, failed]):
        assert chosen(there, SEARCHES[0], "cce") == rows[0]["settings"]


def test_nothing_is_chosen_where_every_trial_failed():
    rows = [{**row, "status": "failed", "validation_ndcg_at_10": None} for row in complete({})]
    assert chosen(rows, SEARCHES[0], "cce") is None
    assert {trial.kind for trial in pending(rows, KINDS, DATASETS)} == {"search"}


def test_a_setting_of_two_names_is_trained_once():
    rows = complete({0: 0.4})
    keys = [trial.key for trial in pending(rows, ["final"], ["ml_1m"])]
    assert len(keys) == len(set(keys))
    seeds = len(FINAL_SEEDS)
    assert len(keys) == seeds * (len(SEARCHES[0].contenders) + len(SAMPLING_POINTS) - 1)  # both hold cce


def test_what_is_there_is_not_run_again():
    rows = complete({0: 0.4})
    first = pending(rows, KINDS, DATASETS)[0]
    assert first not in pending([*rows, done(first, status="ok")], KINDS, DATASETS)


def test_a_trial_of_an_unknown_key_is_refused():
    with pytest.raises(ConfigError, match=r"backbone\.widht: unknown key"):
        _ = Trial.of("search", "d", "c", {"backbone.widht": 3}, 0).point
