"""The schema of results: what is written comes back, files survive kills and company, wrong cells are named."""

import csv
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cutrec.config import from_mapping
from cutrec.environment import environment, revision
from cutrec.errors import ResultsError
from cutrec.reporting.result import KEY
from cutrec.reporting.results_file import (
    COLUMNS,
    Result,
    append,
    done,
    merge,
    of_run,
    read,
    write,
)
from rec_models.training.devices import cpu_name
from tests.small_log import ROOT

POINT = from_mapping({"dataset": "twin:gowalla@0.5", "loss": "cce_neg", "num_negatives": 511})
MEASURED = Result.of(POINT, "training", device="H100", step_ms=3.25, steps_timed=30, note='a "quoted", note')


def test_what_is_written_comes_back(tmp_path: Path):
    path = tmp_path / "new" / "results.csv"
    whole = replace(MEASURED, paper_faithful=True, epoch_basis="extrapolated", ndcg_at_10=0.1 + 0.2)
    append(path, MEASURED)
    append(path, whole)
    assert read(path) == [MEASURED, whole]
    assert path.read_text().startswith("kind,dataset,twin,model,network,loss,sampling,sharing,num_negatives,")
    write(tmp_path / "whole.csv", [MEASURED, whole])
    assert (tmp_path / "whole.csv").read_text() == path.read_text()


@pytest.mark.parametrize("name", ["training.csv", "h100/training.csv", "study/results.csv"])
def test_committed_results_are_read_and_written_as_they_are(tmp_path: Path, name: str):
    committed = ROOT / "results" / name
    found = read(committed)
    assert len(found) == len(committed.read_text().splitlines()) - 1
    write(tmp_path / "again.csv", found)
    assert (tmp_path / "again.csv").read_text() == committed.read_text()


def test_a_point_fills_the_key_and_nothing_else():
    assert MEASURED.key == (
        "training", "gowalla", 0.5, "sasrec", "plain", "cce_neg", "uniform", "tile", 511, 128, 64, 64, 42, False,
        "bf16-mixed", "reference=train;ties=shuffle",
    )  # fmt: skip
    assert (Result.of(from_mapping({"dataset": "twin:beauty"}), "training", device="x").twin) == 1.0
    assert len(KEY) == 16


@pytest.mark.parametrize(
    ("overrides", "sampling", "sharing", "negatives"),
    [
        ({"loss": "cce"}, None, None, None),
        ({"loss": "sce"}, None, None, None),
        ({"loss": "bce", "num_negatives": 512}, "uniform", "tile", 1),
        ({"loss": "ce_neg", "negatives": {"sampling": "popularity"}}, "popularity", "tile", 512),
        ({"loss": "bce_neg", "paper_faithful": True}, "uniform", "none", 512),
    ],
)
def test_only_what_the_loss_uses_is_part_of_the_point(overrides: dict, sampling: str, sharing: str, negatives: int):
    result = Result.of(from_mapping(overrides), "accuracy", device="x")
    assert (result.sampling, result.sharing, result.num_negatives) == (sampling, sharing, negatives)


def test_options_with_blanks_between_them_are_read_as_those_with_semicolons(tmp_path: Path):
    path = tmp_path / "results.csv"
    append(path, replace(MEASURED, options="optimizer=adam_bf16 cuda_graphs=true"))
    append(path, replace(MEASURED, options="cuda_graphs=true;optimizer=adam_bf16"))
    one, other = read(path)
    assert one.key == other.key
    assert one.options == "cuda_graphs=true;optimizer=adam_bf16"


def test_a_line_that_was_broken_off_is_removed(tmp_path: Path):
    path = tmp_path / "results.csv"
    append(path, MEASURED)
    with path.open("a") as file:
        file.write("training,gowalla,0.5,sas")
    assert [result.seed for result in read(path)] == [42]
    append(path, replace(MEASURED, seed=7))
    assert [result.seed for result in read(path)] == [42, 7]


def test_several_writers_share_a_file(tmp_path: Path):
    path = tmp_path / "results.csv"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda seed: append(path, replace(MEASURED, seed=seed)), range(40)))
    assert sorted(result.seed for result in read(path)) == list(range(40))


def test_merging_keeps_the_last_of_each_point_and_device():
    old, new = replace(MEASURED, measured_at="2026-01-01T00:00:00Z"), replace(MEASURED, measured_at="2026-02-01")
    other = replace(old, device="A100")
    assert merge([[new, other], [old]]) == [new, other]
    assert merge([[MEASURED], [replace(MEASURED, step_ms=1.0)]]) == [replace(MEASURED, step_ms=1.0)]


def test_done_is_of_one_device(tmp_path: Path):
    path = tmp_path / "results.csv"
    assert done(path, "H100") == set()
    append(path, MEASURED)
    append(path, replace(MEASURED, device="A100", seed=1))
    assert done(path, "H100") == {MEASURED.key}


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ("3.25", "fast", "line 2: step_ms: found 'fast', allowed: a valid number"),
        ("false", "nay", "line 2: paper_faithful: found 'nay', allowed: a valid boolean"),
        ("training,", "timing,", "line 2: kind: found 'timing', allowed: 'training' or 'accuracy'"),
        (",128,", ",,", "line 2: batch_size: found '', allowed: a value"),
        (",128,", ",0,", "line 2: batch_size: found '0', allowed: greater than or equal to 1"),
        (",128,", ",128.5,", "line 2: batch_size: found '128.5', allowed: a valid integer"),
        ("gowalla,", ",", "line 2: dataset: found '', allowed: a value"),
        (",0.5,", ",0,", "line 2: twin: found '0', allowed: greater than 0"),
        ("3.25", "-3.25", "line 2: step_ms: found '-3.25', allowed: greater than or equal to 0"),
        ("3.25", "nan", "line 2: step_ms: found 'nan', allowed: a finite number"),
        ("3.25", "inf", "line 2: step_ms: found 'inf', allowed: a finite number"),
        (",30,", ",-30,", "line 2: steps_timed: found '-30', allowed: greater than or equal to 0"),
        ("8.5", "nan", "line 2: train_loss: found 'nan', allowed: a finite number"),
        ("0.125", "1.5", "line 2: ndcg_at_10: found '1.5', allowed: less than or equal to 1"),
        ("0.125", "nan", "line 2: ndcg_at_10: found 'nan', allowed: a finite number"),
        ("gowalla,", "gowalla,1,", f"line 2: found {len(COLUMNS) + 1} cells, allowed: {len(COLUMNS)}"),
        ("kind,", "kinds,", "columns: missing kind;"),
        (",note", "", "columns: missing note;"),
        (",note", ",note,kind", "columns: repeated kind;"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, before: str, after: str, says: str):
    path = tmp_path / "results.csv"
    append(path, replace(MEASURED, train_loss=8.5, ndcg_at_10=0.125))
    assert before in path.read_text()
    path.write_text(path.read_text().replace(before, after, 1))
    with pytest.raises(ResultsError) as caught:
        read(path)
    assert str(caught.value).startswith(str(path))
    assert says in str(caught.value)


def test_every_number_that_can_be_is_read(tmp_path: Path):
    path = tmp_path / "results.csv"
    edge = replace(MEASURED, seed=0, train_loss=-0.5, step_ms=0.0, wait_share=1.0, coverage_at_10=0.0, best_epoch=0)
    append(path, edge)
    assert read(path) == [edge]


def test_a_file_of_other_columns_is_not_appended_to(tmp_path: Path):
    path = tmp_path / "results.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(ResultsError, match="not a results file"):
        append(path, MEASURED)
    assert path.read_text() == "a,b\n1,2\n"


def test_columns_in_another_order_are_not_appended_to(tmp_path: Path):
    path = tmp_path / "results.csv"
    append(path, MEASURED)
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(row[::-1] for row in rows)
    with pytest.raises(ResultsError, match="columns: found another order"):
        append(path, MEASURED)
    assert read(path) == [MEASURED]


def test_a_run_gives_its_training_and_its_accuracy():
    training = {
        "device": "H100", "precision": "bf16-mixed", "epoch_seconds": 2.0, "whole_epoch_seconds": 2.5, "epochs": 4,
        "best_epoch": 3, "peak_memory_gib": 1.5,
    }  # fmt: skip
    evaluation = {"users": 9, "reference": "train", "ndcg@10": 0.5, "coverage@10": 0.25, "hit@10": 1, "popularity": {}}
    trained, accurate = of_run(POINT, training, evaluation, revision="abc")
    assert (trained.kind, trained.epoch_seconds, trained.peak_fit_gib, trained.revision) == ("training", 2, 1.5, "abc")
    assert (accurate.kind, accurate.ndcg_at_10, accurate.coverage_at_10, accurate.test_users) == (
        "accuracy",
        0.5,
        0.25,
        9,
    )
    assert of_run(POINT, training, {"users": 9}) == [replace(trained, revision=None)]


def test_the_environment_fills_fields_of_a_result(monkeypatch: pytest.MonkeyPatch):
    found = environment()
    assert set(found) <= set(COLUMNS)
    assert found["torch"]
    if not torch.cuda.is_available():
        assert found["device"] == cpu_name()  # as training names it
    assert Result.of(POINT, "training", **found).device == found["device"]
    monkeypatch.setenv("CUTREC_REVISION", "abc")
    assert revision() == "abc"
