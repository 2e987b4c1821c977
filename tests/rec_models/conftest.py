import importlib.util
import os
import sys
from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():  # kernels then run in Triton's interpreter; it must be asked for before any import
    os.environ.setdefault("TRITON_INTERPRET", "1")
SCRIPT = Path(__file__).with_name("tiny_run.py")


def _load_tiny_run():
    spec = importlib.util.spec_from_file_location("tiny_run", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["tiny_run"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def tiny():
    return _load_tiny_run()


@pytest.fixture(scope="session")
def tiny_script():
    return SCRIPT


@pytest.fixture(params=["sasrec", "bert4rec"])
def model_name(request):
    return request.param


@pytest.fixture
def folders(tmp_path):
    return {"out": tmp_path / "out", "checkpoints": tmp_path / "checkpoints"}


@pytest.fixture(scope="session")
def pack():
    """From a list of histories to items [T], offsets [B + 1] and their layout."""
    from rec_models.encoders.packing import layout_of

    def packed(histories):
        lengths = torch.tensor([len(history) for history in histories])
        items = torch.tensor([item for history in histories for item in history])
        return items, torch.cat((torch.zeros(1, dtype=torch.int64), lengths.cumsum(0))), layout_of(lengths)

    return packed


@pytest.fixture
def make_encoder():
    from rec_models.config import ModelSettings
    from rec_models.encoders import build_encoder

    def make(model="sasrec", *, num_items=20, seed=0, **settings):
        torch.manual_seed(seed)
        options = {"hidden": 8, "heads": 2, "blocks": 2, "max_seq_len": 6, "dropout": 0.0} | settings
        encoder = build_encoder(ModelSettings(model=model, **options), num_items).double()
        for parameter in encoder.parameters():  # larger than at the start of training: differences would show
            torch.nn.init.normal_(parameter, std=0.5)
        return encoder.eval()

    return make
