import numpy as np
import pytest
import torch

from rec_models import export as module
from rec_models.export import export
from rec_models.inference import encode

HISTORIES = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 10]]
BATCHES = [(HISTORIES, 6), (HISTORIES[:2], 3), (HISTORIES[1:2], 1), (HISTORIES[1:2], 6)]
"""Some histories, and the columns L that they are given in; max_seq_len is 6."""


def assert_agrees(program, encoder):
    """A program gives the vectors and scores of its encoder for any number of histories and columns, to 1e-5."""
    for histories, columns in BATCHES:
        items = np.zeros((len(histories), columns), np.int64)
        for row, history in enumerate(histories):
            items[row, : len(history)] = history
        vectors, scores = program(items, np.array([len(history) for history in histories]))
        expected = encode(encoder, histories)
        torch.testing.assert_close(torch.as_tensor(vectors), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(torch.as_tensor(scores), expected @ encoder.item_table.T, rtol=1e-5, atol=1e-5)


def test_an_exported_encoder_scores_alike_and_is_left_as_it_was(make_encoder, model_name, tmp_path):
    encoder = make_encoder(model_name).float()
    encoder.autocast_dtype = torch.bfloat16  # as on a GPU; the program computes in float32
    before = encoder.autocast_dtype, encoder.lookup, encoder.training, encoder.item_table.data_ptr()
    export(encoder, tmp_path / "new" / "encoder.pt2")
    assert (encoder.autocast_dtype, encoder.lookup, encoder.training, encoder.item_table.data_ptr()) == before
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["encoder.pt2"]
    encoder.autocast_dtype = None
    program = torch.export.load(tmp_path / "new" / "encoder.pt2").module()
    assert_agrees(lambda items, lengths: program(torch.tensor(items), torch.tensor(lengths)), encoder)


@pytest.mark.parametrize("model_name", ["bert4rec"])  # tests/docs/test_models.py exports the other network
def test_an_onnx_model_scores_alike_in_onnxruntime(make_encoder, model_name, tmp_path, capfd):
    onnxruntime = pytest.importorskip("onnxruntime")  # it is no dependency of the package
    encoder = make_encoder(model_name).float()
    encoder.catalogue = "5f3a"
    export(encoder, tmp_path / "encoder.onnx", "onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["encoder.onnx"]
    assert capfd.readouterr() == ("", "")
    session = onnxruntime.InferenceSession(tmp_path / "encoder.onnx", providers=["CPUExecutionProvider"])
    assert [put.name for put in (*session.get_inputs(), *session.get_outputs())] == [
        "items", "lengths", "vectors", "scores",
    ]  # fmt: skip
    assert session.get_modelmeta().custom_metadata_map == {"catalogue": "5f3a"}
    assert_agrees(lambda items, lengths: session.run(None, {"items": items, "lengths": lengths}), encoder)


def test_onnx_without_its_packages_is_refused_before_the_work(make_encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"format: found onnx without onnxscript, allowed: .*rec-models\[onnx\]"):
        export(make_encoder("sasrec").float(), tmp_path / "encoder.onnx", "onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "says"),
    [("folder", "path: found .*folder, a folder, allowed: a file"), ("file/encoder.pt2", "path: found .*, allowed: ")],
)
def test_a_place_that_cannot_be_written_is_refused_before_the_work(make_encoder, tmp_path, monkeypatch, name, says):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    monkeypatch.setattr(torch.export, "export", lambda *arguments, **options: pytest.fail("it was traced"))
    with pytest.raises(ValueError, match=says):
        export(make_encoder("sasrec").float(), tmp_path / name)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder"]


def test_an_export_that_fails_leaves_nothing(make_encoder, tmp_path, monkeypatch):
    def break_off(program, path, **options):
        path.write_bytes(b"half")
        raise RuntimeError("no space")

    monkeypatch.setattr(torch.export, "export", lambda *arguments, **options: None)
    monkeypatch.setattr(torch.export, "save", break_off)
    with pytest.raises(RuntimeError, match="no space"):
        export(make_encoder("sasrec").float(), tmp_path / "encoder.pt2")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("catalogue", [None, "5f3a"])
def test_the_program_says_which_catalogue_it_ranks(make_encoder, tmp_path, catalogue):
    encoder = make_encoder("sasrec").float()
    encoder.catalogue = catalogue
    export(encoder, tmp_path / "encoder.pt2")
    extra = {"catalogue": ""}
    torch.export.load(tmp_path / "encoder.pt2", extra_files=extra)
    assert extra == {"catalogue": catalogue or ""}
