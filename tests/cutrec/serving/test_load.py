"""The benchmark finds the rate at which the p99 of a server doubles."""

import asyncio
import importlib
from pathlib import Path
from typing import Any

import pytest

SCRIPTS = Path(__file__).parents[3] / "packages/cutrec/benchmarks"


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module("serve_load")


@pytest.mark.parametrize("most", [110.0, 300.0, 900.0])
def test_the_rate_is_the_highest_one_whose_p99_has_not_doubled(load: Any, monkeypatch: pytest.MonkeyPatch, most: float):
    """Also if one measurement in three is disturbed by something else."""
    measured: list[float] = []

    async def times(port: int, bodies: list[bytes], rate: float, seconds: float) -> list[float]:
        measured.append(rate)
        await asyncio.sleep(0)
        return [0.5 if rate > most or len(measured) % 3 == 2 else 0.01 + rate / 1e6] * int(rate * seconds)

    monkeypatch.setattr(load, "open_loop", times)
    lone, rate, p99 = load.growing(0, [b""], 100.0, 1.0)
    assert most / 1.25 < rate <= most
    assert (lone, p99) == pytest.approx((0.0101, 0.01 + rate / 1e6))
