"""What the tests of both losses share: where kernels run, and how cases are chosen."""

import itertools
import random
from dataclasses import replace
from typing import Any, TypeVar

import pytest
import torch

INTERPRETED = pytest.mark.skipif(
    torch.cuda.is_available(), reason="the interpreter is switched on only where there is no GPU"
)
DEVICES = [pytest.param("cuda", marks=pytest.mark.gpu), pytest.param("cpu", marks=INTERPRETED)]
MOST_INTERPRETED = 1_000
"""Tokens that tests compute in the interpreter, which takes milliseconds for each."""

Case = TypeVar("Case")


def pairwise(choices: dict[str, list[Any]], base: Case) -> list[Case]:
    """Cases such that every two choices of different fields of the dataclass `base` meet in one (greedy)."""
    fields = list(choices)
    pairs = list(itertools.combinations(range(len(fields)), 2))
    missing = {
        (a, x, b, y) for a, b in pairs for x in range(len(choices[fields[a]])) for y in range(len(choices[fields[b]]))
    }
    generator = random.Random(0)
    cases = []
    while missing:
        seed = min(missing)  # every case settles at least this pair; of some, the one that settles most is taken
        best: list[int] = []
        best_gain = 0
        for _ in range(60):
            pick = [generator.randrange(len(choices[name])) for name in fields]
            pick[seed[0]], pick[seed[2]] = seed[1], seed[3]
            gain = sum((a, pick[a], b, pick[b]) in missing for a, b in pairs)
            if gain > best_gain:
                best, best_gain = pick, gain
        missing -= {(a, best[a], b, best[b]) for a, b in pairs}
        cases.append(replace(base, **{name: choices[name][i] for name, i in zip(fields, best, strict=True)}))
    return cases


class Record(torch.utils._python_dispatch.TorchDispatchMode):
    """Keeps the calls of this package's operators, with what they returned."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, operator, types, arguments=(), options=None):
        result = operator(*arguments, **(options or {}))
        if operator.namespace == "cce_kernels":
            self.calls.append((operator, arguments, result))
        return result
