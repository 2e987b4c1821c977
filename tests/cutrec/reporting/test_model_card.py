"""The model card says what is known, and only that."""

from cutrec.config_point import Config
from cutrec.reporting.model_card import model_card
from cutrec.reporting.remarks import Remark
from rec_data.config import Split

SPLIT = {
    "strategy": "temporal", "seed": 42, "timestamp_unit": "ms", "clock": True, "first_time": 1_600_000_000_000,
    "last_time": 1_600_950_400_000, "boundary_time": 1_600_864_000_000, "log_sha256": "5f3a",
    "filtered": {"users": 4_000, "items": 1_000, "interactions": 87_601},
    "train": {"users": 3_800, "interactions": 74_919},
}  # fmt: skip
TRAINING = {"best_epoch": 10, "epochs": 16, "validation_ndcg@10": 0.56396}
INTERVALS = [
    {"ranking": "model", "metric": "ndcg", "k": "10", "value": "0.5532", "low": "0.5208", "high": "0.5846"},
    {"ranking": "model", "metric": "ndcg", "k": "5", "value": "0.9", "low": "0.9", "high": "0.9"},
    {"ranking": "popularity", "metric": "ndcg", "k": "10", "value": "0.034", "low": "", "high": ""},
]


def test_a_card_has_data_metrics_settings_limits_and_use():
    point = Config(dataset="/home/me/visits.csv", max_seq_len=32)
    card = model_card(point, SPLIT, TRAINING, remarks=[Remark("x", "x", "data", "few users", "test more")])
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in card.splitlines() if line.startswith("|")]
    assert ["log", "`visits.csv`"] in rows  # without a folder of this machine
    assert ["interactions after filters", "87,601"] in rows
    assert ["days", "11, from 2020-09-13 to 2020-09-24 (UTC)"] in rows
    assert ["test begins", "2020-09-23 12:26:40+00:00"] in rows
    assert ["train", "3,800 users, 74,919 interactions"] in rows
    assert ["ndcg@10", "0.5640"] in rows
    assert "The model has not been tested" in card
    assert "epoch 10 of 16" in card
    assert "\nmax_seq_len: 32\n" in card
    assert "\ndataset:" not in card
    assert "- Few users: test more\n" in card
    assert "events until 2020-09-23" in card
    assert "Recommender.load(" in card


def test_a_tested_model_has_intervals_and_popularity_beside_it():
    card = model_card(Config(), SPLIT, TRAINING, intervals=INTERVALS)
    cells = [cell.strip() for cell in card.split("| ndcg@10")[1].splitlines()[0].split("|")[1:-1]]
    assert cells == ["0.5640", "0.5532 (0.5208 to 0.5846)", "0.0340"]
    assert "ndcg@5" not in card
    assert "not been tested" not in card


def test_what_is_not_known_is_left_out():
    whole = model_card(Config(), SPLIT, {"best_epoch": 3, "epochs": 3}, whole=True)
    assert "trained on all interactions" in whole
    assert "None were measured" in whole
    assert "events until 2020-09-24" in whole
    positions = model_card(Config(split=Split(strategy="leave_one_out")), SPLIT | {"clock": False}, TRAINING)
    assert "2020" not in positions
    assert model_card(Config(dataset="twin:beauty@0.01"), {}, TRAINING).startswith("# sasrec on twin:beauty@0.01\n")
