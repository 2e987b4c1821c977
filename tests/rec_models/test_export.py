import pytest
import torch

from rec_models.export import export
from rec_models.inference import encode


def test_an_exported_encoder_scores_alike_and_is_left_as_it_was(make_encoder, tmp_path):
    encoder = make_encoder("sasrec").float()
    encoder.autocast_dtype = torch.bfloat16  # as on a GPU; the program computes in float32
    before = encoder.autocast_dtype, encoder.lookup, encoder.training, encoder.item_table.data_ptr()
    export(encoder, tmp_path / "new" / "encoder.pt2")
    assert (encoder.autocast_dtype, encoder.lookup, encoder.training, encoder.item_table.data_ptr()) == before
    (tmp_path / "new" / "encoder.pt2").rename(tmp_path / "encoder.pt2")
    (tmp_path / "new").rmdir()
    assert [path.name for path in tmp_path.iterdir()] == ["encoder.pt2"]
    encoder.autocast_dtype = None
    program = torch.export.load(tmp_path / "encoder.pt2").module()
    histories = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 10]]
    inputs = torch.nn.utils.rnn.pad_sequence(
        [torch.tensor(history) for history in [*histories, [0] * 6]], batch_first=True
    )[:3]
    for rows in (slice(0, 3), slice(1, 2)):  # any number of histories
        part = histories[rows]
        vectors, scores = program(inputs[rows], torch.tensor([len(history) for history in part]))
        expected = encode(encoder, part)
        torch.testing.assert_close(vectors, expected)
        torch.testing.assert_close(scores, expected @ encoder.item_table.T)


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
