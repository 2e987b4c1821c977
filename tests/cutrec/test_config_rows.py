"""Rows of the paper's tables by name: what they decide beside other keys. tests/pipelines/paper compares every row."""

from pathlib import Path
from typing import Any

import pytest

from cutrec.config import from_mapping, load, read_yaml, set_beside_row
from cutrec.errors import ConfigError
from cutrec.nested import merged, nest
from tests.small_log import ROOT

SHIPPED = read_yaml(ROOT / "params.yaml")


def with_row(name: str, **changes: Any) -> dict[str, Any]:
    return merged(SHIPPED, {"row": name}, nest(changes))


def test_what_is_set_beside_a_row_stays_and_is_told():
    values = with_row("7/gowalla-512x256", **{"batch_size": 64, "max_seq_len": 64, "train.max_epochs": 1, "seed": 7})
    found = from_mapping(values)
    assert (found.loss, found.dataset, found.batch_size, found.train.max_epochs, found.train.patience) == (
        "sce", "gowalla", 64, 1, 4,
    )  # fmt: skip
    assert found.losses.sce.buckets == 128  # 2 sqrt(64 x 64), as the paper derives it
    assert set_beside_row(values) == {
        "batch_size": 64, "max_seq_len": 64, "seed": 7, "train.max_epochs": 1,
        "losses.sce.buckets": 128, "losses.sce.bucket_size_x": 128,
    }  # fmt: skip
    assert set_beside_row(with_row("4/gowalla", row_data="twin", paper_faithful=True)) == {}
    assert set_beside_row(with_row("none", batch_size=64)) == {}


def test_a_row_itself_can_be_changed():
    found = from_mapping(with_row("4/gowalla", **{"grid.settings.negatives.sharing": "tile"}))
    assert found.negatives.sharing == "tile"
    found = from_mapping(with_row("4/gowalla", **{"presets.paper_sasrec.backbone.dropout": 0.3}))
    assert found.backbone.dropout == 0.3


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"row": "4/netflix"}, "row: found '4/netflix', allowed: 4/megamarket, 4/zvuk, 4/30music, 4/gowalla, 4/bea"),
        ({"row": "5/zvuk"}, "row: found '5/zvuk', allowed: 5/megamarket-1024x32, 5/megamarket-5120x320, 5/zvuk-1"),
        ({"row": "gowalla"}, "row: found 'gowalla', allowed: none, or TABLE/DATASET such as 4/gowalla"),
        ({"row": "4/gowalla", "preset": "ml_1m_cce"}, "preset: found 'ml_1m_cce' with row=4/gowalla, allowed: none"),
        ({"row": "4/gowalla", "row_data": "fake"}, "row_data: found 'fake', allowed: real | twin | twin@SCALE"),
        ({"row": "4/gowalla", "row_data": "twin@0"}, "row_data: found 'twin@0': scale '0'; allowed: a positive number"),
        ({"row": "4/gowalla", "row_data": "twin@1e9"}, "row_data: found 'twin@1e9': scale '1e9' makes"),
        (
            {"row": "4/gowalla", "paper_faithful": True, "grid.settings.negatives.sharing": "tile"},
            "negatives.sharing: found 'tile' with row=4/gowalla, allowed: none with paper_faithful=true",
        ),
        (
            {"row": "4/gowalla", "paper_faithful": True, "negatives.sharing": "batch"},
            "negatives.sharing: found 'batch' with row=4/gowalla, allowed: none with paper_faithful=true",
        ),
    ],
)
def test_what_cannot_be_is_one_line(changes: dict[str, Any], says: str):
    with pytest.raises(ConfigError) as caught:
        from_mapping(merged(SHIPPED, nest(changes)))
    assert str(caught.value).startswith(says)
    assert "\n" not in str(caught.value)


def test_without_tables_there_are_no_rows():
    with pytest.raises(ConfigError, match="row: found '4/gowalla', allowed here: none"):
        from_mapping({"row": "4/gowalla"})


@pytest.mark.parametrize("flag", ["row=4/gowalla", "row=3/30music", "row=5/gowalla-512x256"])
def test_dvc_takes_a_row_without_quotes(flag: str, tmp_path: Path):
    from dvc.utils.hydra import apply_overrides

    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    apply_overrides(tmp_path / "params.yaml", [flag, "row_data=twin@0.001"])
    found = load(tmp_path / "params.yaml")
    assert (found.row, found.model) == (flag.partition("=")[2], "sasrec")
    assert found.dataset == f"twin:{found.row.partition('/')[2].partition('-')[0]}@0.001"


def test_dvc_queues_several_rows_at_once():
    from dvc.utils.hydra import get_hydra_sweeps

    swept = get_hydra_sweeps({"params.yaml": ["row=4/gowalla,4/beauty"]})
    assert [sweep["params.yaml"] for sweep in swept] == [["row=4/gowalla"], ["row=4/beauty"]]
