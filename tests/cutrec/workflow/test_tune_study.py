"""The trials of a search: claimed by one process at a time, counted over all, and resumed after a kill."""

from pathlib import Path

import numpy as np
import pytest

from cutrec.config import from_mapping
from cutrec.config_point import AUTO_KEYS
from cutrec.decide import Facts
from cutrec.nested import nest
from cutrec.workflow.tune_space import Settings, Space, space_of
from cutrec.workflow.tune_study import MOST_STARTS, Claim, Study


@pytest.fixture
def space() -> Space:
    facts = Facts.of(500, np.tile(np.array([4, 8, 12]), 50))
    return space_of(from_mapping(nest(dict.fromkeys(AUTO_KEYS, "auto"))), facts)


def fits(_: Settings) -> None:
    return None


def claimed(study: Study, most: int = 100) -> Claim:
    claim = study.claim(most, fits)
    assert claim is not None
    return claim


def finish(study: Study, claim: Claim, ndcg: float) -> None:
    study.complete(claim.trial, ndcg)
    claim.lock.release()


def test_processes_share_trials_and_their_number(tmp_path: Path, space: Space):
    """Two objects hold locks against each other as two processes do."""
    one, other = Study(tmp_path, space), Study(tmp_path, space)
    first, second = claimed(one), claimed(other)
    assert (first.number, second.number) == (1, 2)
    assert first.settings == space.settings(space.first) != second.settings
    assert other.claim(2, fits) is None
    finish(one, first, 0.1)
    assert claimed(one, most=3).number == 3
    assert [trial.number + 1 for trial in other.trials] == [1, 2, 3]


def test_a_killed_process_leaves_its_trial_to_the_next(tmp_path: Path, space: Space):
    killed = Study(tmp_path, space)
    before = claimed(killed)
    before.trial.report(0.2, 1)
    before.trial.set_user_attr("seconds", 1.5)
    before.lock.release()  # as the operating system does
    after = claimed(Study(tmp_path, space), most=1)
    assert (after.number, after.settings, after.reported, after.seconds) == (1, before.settings, {1}, 1.5)


def test_a_trial_that_always_kills_its_process_fails(tmp_path: Path, space: Space):
    for _ in range(MOST_STARTS):
        claim = claimed(Study(tmp_path, space))
        assert claim.number == 1
        claim.lock.release()
    assert claimed(study := Study(tmp_path, space)).number == 2
    assert study.reasons == {1: "its process was killed 3 times in epoch 1"}


def test_a_trial_that_is_stopped_in_time_can_be_started_any_number_of_times(tmp_path: Path, space: Space):
    for _ in range(MOST_STARTS + 2):
        claim = claimed(study := Study(tmp_path, space))
        assert claim.number == 1
        study.pause(claim.trial)
        claim.lock.release()


def test_a_line_that_a_kill_cut_off_is_dropped(tmp_path: Path, space: Space):
    study = Study(tmp_path, space)
    finish(study, claimed(study), 0.3)
    journal = tmp_path / "journal.log"
    whole = journal.read_bytes()
    journal.write_bytes(whole + whole[-60:-20])
    again = Study(tmp_path, space)
    finish(again, claimed(again), 0.4)
    assert [trial.value for trial in Study(tmp_path, space).trials] == [0.3, 0.4]
    assert journal.read_bytes().startswith(whole)


def test_proposals_depend_on_the_results_and_not_on_interruptions(tmp_path: Path, space: Space):
    def search(folder: Path, *, restart: bool) -> list[Settings]:
        study, found = Study(folder, space), []
        for number in range(10):
            claim = claimed(study)
            if restart:
                claim.lock.release()
                study = Study(folder, space)
                claim = claimed(study)
            found.append(claim.settings)
            finish(study, claim, 1 / (1 + number % 5))
        return found

    assert search(tmp_path / "a", restart=False) == search(tmp_path / "b", restart=True)


def test_what_does_not_fit_is_skipped_and_not_counted(tmp_path: Path, space: Space):
    def too_large(settings: Settings) -> str | None:
        return "needs 9 GiB of 8, as predicted" if settings["backbone.hidden"] > 128 else None

    study = Study(tmp_path, space)
    claims = []
    while (claim := study.claim(4, too_large)) is not None:
        claims.append(claim)
        finish(study, claim, 0.1)
    assert len(claims) == len(study.trials) == 4
    assert {claim.settings["backbone.hidden"] for claim in claims} <= {64, 128}
    assert set(study.reasons.values()) == {"needs 9 GiB of 8, as predicted"}
    assert 1 in study.reasons  # the defaults, 256 wide
    assert Study(tmp_path / "none", space).claim(4, lambda _: "too large") is None
