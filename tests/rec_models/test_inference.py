import dataclasses
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from rec_models.config import BatchSettings, LossSettings, TrainingSettings
from rec_models.errors import CheckpointError
from rec_models.inference import encode, load, recommend
from rec_models.training import tensor_file
from rec_models.training.checkpoint import ModelCheckpoint
from rec_models.training.devices import autocast_dtype
from tests.old_model import write_old_model


@pytest.fixture
def saved(tmp_path, make_encoder, model_name):
    encoder = make_encoder(model_name).float()
    checkpoint = ModelCheckpoint(
        model=encoder.settings,
        loss=LossSettings(loss="gbce", num_negatives=4),
        training=TrainingSettings(),
        num_items=encoder.num_items,
        epoch=3,
        metrics={"ndcg@10": 0.25},
        weights=encoder.state_dict(),
    )
    checkpoint.save(tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors", encoder, checkpoint


def test_a_checkpoint_holds_everything(saved):
    path, encoder, checkpoint = saved
    read = ModelCheckpoint.read(path)
    assert (read.model, read.loss, read.training) == (checkpoint.model, checkpoint.loss, checkpoint.training)
    assert (read.num_items, read.epoch, read.metrics) == (20, 3, {"ndcg@10": 0.25})
    loaded = load(path)
    assert loaded.settings == encoder.settings
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    histories = [[1, 2, 3], [4]]
    assert torch.equal(encode(loaded, histories), encode(encoder, histories))


@pytest.mark.parametrize("model_name", ["bert4rec"])
def test_planning_and_using_a_model_load_neither_lightning_nor_the_compiler(saved):
    """They take three seconds, most of the time of one user's list on the command line."""
    code = (
        "import sys, rec_models.planning; from rec_models.inference import encode, load; "
        "encode(load(sys.argv[1]), [[1]]); "
        "print([name for name in ('lightning', 'torch._dynamo', 'sympy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(saved[0])], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_checkpoint_says_what_a_batch_held(saved):
    path, _, checkpoint = saved
    assert ModelCheckpoint.read(path).batching is None
    batching = BatchSettings(batch_size=256, window=10)
    dataclasses.replace(checkpoint, batching=batching).save(path)
    assert ModelCheckpoint.read(path).batching == batching


def test_a_model_of_version_0_1_is_read(saved, tmp_path):
    path, encoder, checkpoint = saved
    payload = write_old_model(checkpoint, tmp_path / "model.ckpt")
    read = ModelCheckpoint.read(tmp_path / "model.ckpt")
    assert vars(read) | {"weights": {}} == vars(ModelCheckpoint.read(path)) | {"weights": {}}
    assert torch.equal(encode(load(tmp_path / "model.ckpt"), [[1, 2, 3]]), encode(encoder, [[1, 2, 3]]))
    del payload["model"]["mask_prob"]  # a setting that came later has its default
    torch.save(payload, tmp_path / "model.ckpt")
    assert ModelCheckpoint.read(tmp_path / "model.ckpt").model == checkpoint.model


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda header: header.update(model='{"colour": "red"}'), "colour: found 'red', Unexpected keyword argument"),
        (lambda header: header.update(loss='{"loss": "guess"}'), "loss: found 'guess', allowed: "),
        (lambda header: header.pop("epoch"), "'epoch'"),
    ],
    ids=["unknown setting", "unknown value", "missing entry"],
)
def test_a_checkpoint_of_another_version_is_refused_in_one_line(saved, change, said):
    path, _, checkpoint = saved
    header = checkpoint._metadata()
    change(header)
    save_file(checkpoint.weights, path, header)
    with pytest.raises(CheckpointError, match=f"of another version of rec_models: .*{said}") as caught:
        load(path)
    assert "\n" not in str(caught.value)


def test_ranking_computes_in_the_precision_it_is_told(make_encoder, model_name):
    encoder = make_encoder(model_name).float()
    histories = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 10]]
    exact = encode(encoder, histories)
    with torch.autocast("cpu", torch.bfloat16):
        expected = encode(encoder, histories)
    encoder.autocast_dtype = torch.bfloat16
    found = encode(encoder, histories)
    assert torch.equal(found, expected)
    assert found.dtype == torch.float32
    assert not torch.equal(found, exact)
    assert (found - exact).norm() < 0.05 * exact.norm()
    assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize(
    ("precision", "device", "expected"),
    [
        ("bf16-mixed", "cuda", torch.bfloat16),
        ("16-mixed", "cuda:1", torch.float16),
        ("32-true", "cuda", None),
        ("bf16-mixed", "cpu", None),
    ],
)
def test_a_gpu_ranks_in_the_precision_of_training(precision, device, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(major=9))
    assert autocast_dtype(precision, torch.device(device)) == expected


def test_a_cpu_ranks_in_float32_whatever_the_model_was_trained_in(saved):
    path, _, checkpoint = saved
    assert checkpoint.training.precision == "bf16-mixed"
    assert load(path).autocast_dtype is None


def test_nothing_else_is_left_beside_a_checkpoint(saved):
    path, _, checkpoint = saved
    checkpoint.save(path)
    assert [entry.name for entry in path.parent.iterdir()] == ["model.safetensors"]


def test_what_is_no_checkpoint_is_refused(saved, tmp_path):
    with pytest.raises(FileNotFoundError, match="no such checkpoint"):
        load(tmp_path / "nothing")
    torch.save({"format": "another/1"}, tmp_path / "state")
    with pytest.raises(CheckpointError, match=r"found format 'another/1', allowed: rec_models\.model/1"):
        load(tmp_path / "state")
    save_file({}, tmp_path / "tensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"found format 'pt', allowed: rec_models\.model/2"):
        load(tmp_path / "tensors")
    whole = saved[0].read_bytes()
    for content in (b"PK broken", b"broken", b"", whole[:-1], whole[:100]):
        (tmp_path / "broken").write_bytes(content)
        with pytest.raises(CheckpointError, match=r"damaged, or no (checkpoint|model)") as caught:
            load(tmp_path / "broken")
        assert "\n" not in str(caught.value)


def test_weights_of_another_network_are_refused_in_one_line(saved):
    path, _, checkpoint = saved
    dataclasses.replace(checkpoint, num_items=checkpoint.num_items + 1).save(path)
    with pytest.raises(CheckpointError, match="its weights are not those of its settings: Error") as caught:
        load(path)
    assert "\n" not in str(caught.value)


def test_histories_of_any_length_are_encoded_in_batches(saved):
    _, encoder, _ = saved
    histories = [[1, 2, 3], [4], list(range(20)), [7, 7]]
    together = encode(encoder, histories, batch_size=3)
    alone = torch.cat([encode(encoder, [history[-6:]]) for history in histories])
    torch.testing.assert_close(together, alone)
    assert encode(encoder, []).shape == (0, 8)


@pytest.mark.parametrize(
    ("histories", "message"),
    [
        ([[1], []], "histories: found an empty history at index 1, allowed: one item or more"),
        ([[1], [3, 20]], "histories: found item 20 in the history at index 1, allowed: 0 to 19"),
        ([[-1]], "histories: found item -1 in the history at index 0, allowed: 0 to 19"),
        ([[-1, *range(1, 9)]], "histories: found item -1 in the history at index 0, allowed: 0 to 19"),
    ],
)
def test_a_wrong_history_is_named(make_encoder, histories, message):
    with pytest.raises(ValueError, match=message):
        encode(make_encoder(), histories)


NO_IDS = [
    ([3, 14], "found 3 at index 0"),
    ([[1], [3.0, 1.5]], r"found \[3.0, 1.5\] at index 1"),
    (["3"], "found '3' at index 0"),
    ([["3"]], r"found \['3'\] at index 0"),
    ([[1], None], "found None at index 1"),
    ([[True]], r"found \[True\] at index 0"),
    ([[[1]]], r"found \[\[1\]\] at index 0"),
    ([[2**70]], r"found \[1180591620717411303424\] at index 0"),
]


@pytest.mark.parametrize("unknown", ["raise", "skip"])
@pytest.mark.parametrize(("histories", "message"), NO_IDS)
def test_a_history_that_holds_no_ids_is_named(make_encoder, histories, message, unknown):
    expected = f"histories: {message}, allowed: a list of whole item ids"
    for rank in (encode, lambda *args: recommend(*args, 2, unknown=unknown)):
        with pytest.raises(ValueError, match=expected) as error:
            rank(make_encoder(), histories)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("histories", [None, "314", 3, {0: [1]}])
def test_histories_that_are_no_list_are_refused(make_encoder, histories):
    for unknown in ("raise", "skip"):
        with pytest.raises(ValueError, match=r"histories: found .*, allowed: a list of histories"):
            recommend(make_encoder(), histories, 2, unknown=unknown)
    with pytest.raises(ValueError, match=r"histories: found .*, allowed: a list of histories"):
        encode(make_encoder(), histories)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.int64])
def test_histories_may_be_arrays_of_whole_numbers(make_encoder, dtype):
    encoder, lists = make_encoder(), [[1, 2, 3], [4]]
    expected = recommend(encoder, lists, 3)
    for unknown in ("raise", "skip"):
        found = recommend(encoder, [np.array(history, dtype) for history in lists], np.int64(3), unknown=unknown)
        assert torch.equal(found.items, expected.items)
        found = recommend(encoder, [torch.from_numpy(np.array(history, dtype)) for history in lists], 3)
        assert torch.equal(found.items, expected.items)


def test_an_encoder_in_train_mode_ranks_nothing(make_encoder):
    encoder = make_encoder(dropout=0.5).train()
    for rank in (encode, lambda *args: recommend(*args, 2)):
        with pytest.raises(ValueError, match=r"encoder: found train mode, allowed: eval mode \(encoder.eval\(\)\)"):
            rank(encoder, [[1, 2]])


@pytest.mark.parametrize("batch_size", [0, 2.5])
def test_a_wrong_batch_size_is_refused(make_encoder, batch_size):
    with pytest.raises(ValueError, match=f"batch_size: found {batch_size}, allowed: a whole number from 1"):
        encode(make_encoder(), [[1, 2]], batch_size=batch_size)


@pytest.mark.parametrize("device", ["tpu", "cuda", "cuda:9", "xla"])
def test_a_device_that_is_not_there_is_named(saved, monkeypatch, device):
    path, _, _ = saved
    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("this machine has it")
    with pytest.raises(ValueError, match=f"device: found '{device}', allowed: a device that torch finds here") as error:
        load(path, device)
    assert not isinstance(error.value, CheckpointError)
    assert "\n" not in str(error.value)


def test_memory_that_runs_out_is_no_damage(saved, monkeypatch):
    def hungry(*args, **options):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes.")

    monkeypatch.setattr(tensor_file, "safe_open", hungry)
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        load(saved[0])


def test_recommendations_are_the_best_unseen_items(saved):
    _, encoder, _ = saved
    histories = [[1, 2, 3], [4]]
    scores = encode(encoder, histories) @ encoder.item_table.T
    best = recommend(encoder, histories, 5)
    for row, history in enumerate(histories):
        order = [item for item in scores[row].argsort(descending=True).tolist() if item not in history]
        assert best.items[row].tolist() == order[:5]
        torch.testing.assert_close(best.scores[row], scores[row][order[:5]])
    seen_too = recommend(encoder, histories, 20, filter_seen=False)
    assert seen_too.items[0].tolist() == scores[0].argsort(descending=True).tolist()


def test_places_without_an_item_say_so(saved):
    _, encoder, _ = saved
    best = recommend(encoder, [list(range(18))], 4)  # longer than max_seq_len: all of it counts as seen
    assert set(best.items[0].tolist()) == {18, 19, -1}
    assert best.scores[0, 2:].tolist() == [-torch.inf, -torch.inf]


@pytest.mark.parametrize("k", [21, 0, 2.5, True, None])
def test_k_outside_the_catalogue_is_refused(make_encoder, k):
    with pytest.raises(ValueError, match=f"k: found {k}, allowed: a whole number from 1 to 20, the size of the cat"):
        recommend(make_encoder(), [[1]], k)


def test_unknown_items_are_counted_and_skipped_on_request(saved):
    _, encoder, _ = saved
    with pytest.warns(UserWarning, match=r"histories: 3 unknown items are skipped: 20, -1"):
        best = recommend(encoder, [[20, 1, 2], [-1, 20], [4]], 3, unknown="skip")
    expected = recommend(encoder, [[1, 2], [4]], 3)
    assert torch.equal(best.items[[0, 2]], expected.items)
    assert torch.equal(best.scores[[0, 2]], expected.scores)
    assert best.items[1].tolist() == [-1, -1, -1]
    assert best.scores[1].tolist() == [-torch.inf] * 3


def test_without_unknown_items_nothing_is_said(saved, recwarn):
    _, encoder, _ = saved
    best = recommend(encoder, [[1, 2]], 3, unknown="skip")
    assert torch.equal(best.items, recommend(encoder, [[1, 2]], 3).items)
    assert not recwarn.list


def test_another_way_with_unknown_items_is_refused(make_encoder):
    with pytest.raises(ValueError, match=r"unknown: found 'ignore', allowed: raise \| skip"):
        recommend(make_encoder(), [[1]], 3, unknown="ignore")


def test_the_lines_of_the_readme_run(tmp_path, monkeypatch, make_encoder):
    encoder = make_encoder("sasrec", num_items=100).float()
    settings = {"loss": LossSettings(loss="cce"), "training": TrainingSettings(), "epoch": 1, "metrics": {}}
    checkpoint = ModelCheckpoint(model=encoder.settings, num_items=100, weights=encoder.state_dict(), **settings)
    checkpoint.save(tmp_path / "data" / "train" / "model.safetensors")
    monkeypatch.chdir(tmp_path)
    readme = (Path(__file__).parents[2] / "packages/rec-models/README.md").read_text()
    section = readme.split("## Use a trained model")[1].split("\n## ")[0]
    names: dict = {}
    for block in re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL):
        exec(block, names)
    assert names["items"].shape == names["scores"].shape == (2, 10)
    assert names["vectors"].shape == (1, encoder.settings.hidden)
    torch.testing.assert_close(names["exported"], names["vectors"])
