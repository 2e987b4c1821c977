"""``python -m pipelines.plan``: points of the paper's tables planned, wrong arguments refused in one line."""

import pytest

from pipelines import plan
from tests.small_log import ROOT


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("--table 99", "table: found 99, allowed: 1, 2"),
        ("--gpu 0 --table 1", "--gpu: found 0, allowed: a number above 0"),
        ("--gpu much", "gpu"),
        ("--refit no.csv", "no.csv: no such file"),
        ("--table 1 -S loss=cee", "loss: found 'cee'"),
        ("--model bert4rec", "--model: allowed with --search; -S model=... changes a point"),
        ("--table 1 --loss ce", "--loss: allowed with --search; -S loss=... changes a point"),
        ("--sharing tile", "--sharing: allowed with --table or --search; -S negatives.sharing=... changes a point"),
        ("--faithful", "--faithful: allowed with --table or --search; -S paper_faithful=... changes a point"),
        ("--table 1 --search", "not allowed with argument"),
        ("--table 1 --page x.md", "--page: allowed with --check"),
        ("--search --dataset beauty --dataset zvuk", "--dataset: found 2 with --search, allowed: one"),
    ],
)
def test_wrong_arguments_are_one_line(arguments: str, says: str):
    with pytest.raises(ValueError, match=r".") as caught:
        plan.main(arguments.split())
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_point_of_params_can_be_changed_and_planned_on_several_data_sets(capsys: pytest.CaptureFixture[str]):
    sizes = ["-S", "batch_size=128", "-S", "max_seq_len=64", "-S", "num_negatives=3"]
    plan.main(["--dataset", "beauty", "--dataset", "twin:gowalla@0.5", "-S", "loss=ce", *sizes])
    printed = capsys.readouterr().out
    assert "| sasrec-ce-beauty-128x64           | 176,450 |" in printed
    assert "| sasrec-ce-twin_gowalla_0.5-128x64 | 154,481 |" in printed
    assert "note: -S num_negatives=3 changes nothing in 2 of 2 points" in printed
    plan.main(["--dataset", "gowalla"])
    assert "| sasrec-cce_neg-uniform-tile-gowalla-256x200-n2048 |" in capsys.readouterr().out


def test_points_that_do_not_fit_are_marked(capsys: pytest.CaptureFixture[str]):
    plan.main(["--table", "1", "--dataset", "beauty", "--dataset", "movielens_20m", "--gpu", "8"])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| sasrec")]
    assert [("NO" in line, line.split("|")[1].strip()) for line in lines] == [
        (True, "sasrec-ce-beauty-1024x32"),
        (False, "sasrec-ce-movielens_20m-256x512"),
    ]
