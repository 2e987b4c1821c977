"""The first command of the README keeps its promises: the demo, as shipped, from nothing."""

import json
import time

import pytest

from tests.e2e.conftest import ROOT, Clone

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_the_demo_beats_popularity_within_three_minutes(clone: Clone):
    (clone.root / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    started = time.monotonic()
    clone.run("env --unset=OMP_NUM_THREADS uv run dvc repro")
    seconds = time.monotonic() - started
    metrics = json.loads((clone.root / "data/evaluate/metrics.json").read_text())
    assert metrics["ndcg@10"] >= 3 * metrics["popularity"]["ndcg@10"]
    assert metrics["popularity"]["ndcg@10"] > 0
    assert seconds < 180
