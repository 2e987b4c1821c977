from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rec_models.training.logging import ResultsFolder

ROWS = [
    {"epoch": 1, "step": 10, "train_loss": 2.5, "tokens": 100, "validation_ndcg@10": 0.25},
    {"epoch": 2, "step": 20, "train_loss": 1.5, "tokens": 100, "validation_ndcg@10": 0.5},
]


def test_every_row_is_logged_once(tmp_path):
    folder = ResultsFolder(tmp_path / "out")
    for count in (1, 2, 2):
        folder.write_history(ROWS[:count])
    log = EventAccumulator(str(tmp_path / "out" / "tensorboard")).Reload()
    assert set(log.Tags()["scalars"]) == {"train/loss", "train/tokens", "validation/ndcg_at_10"}
    assert [(point.step, point.value) for point in log.Scalars("validation/ndcg_at_10")] == [(1, 0.25), (2, 0.5)]
    assert (tmp_path / "out" / "history.csv").read_text().splitlines() == [
        "epoch,step,train_loss,tokens,validation_ndcg@10",
        "1,10,2.5,100,0.25",
        "2,20,1.5,100,0.5",
    ]


def test_a_resumed_run_logs_what_came_before(tmp_path):
    ResultsFolder(tmp_path).write_history(ROWS)
    log = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [point.step for point in log.Scalars("train/loss")] == [1, 2]


def test_a_second_run_into_one_folder_leaves_its_own_curves_alone(tmp_path):
    ResultsFolder(tmp_path).write_history(ROWS)
    again = ResultsFolder(tmp_path)
    for count in (1, 2):
        again.write_history([{**row, "train_loss": row["train_loss"] + 1} for row in ROWS[:count]])
    log = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(point.step, point.value) for point in log.Scalars("train/loss")] == [(1, 3.5), (2, 2.5)]


def test_the_model_is_copied_whole(tmp_path):
    (tmp_path / "best-3.ckpt").write_bytes(b"weights")
    folder = ResultsFolder(tmp_path / "out")
    folder.write_history([])
    folder.take_model(tmp_path / "best-3.ckpt")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model.ckpt"]
    assert (tmp_path / "out" / "model.ckpt").read_bytes() == b"weights"
