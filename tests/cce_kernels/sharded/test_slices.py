"""Partial results of slices of a table on one device, merged: the loss and the gradients of the whole table."""

from dataclasses import replace

import pytest
import torch
from kernel_cases import DEVICES, INTERPRETED
from sharded_cases import ALLOWED, CASES, FP32, KERNEL_CASES, SMALL, Case, call, compare, expected_of, in_slices, whole

from cce_kernels.sampled import triton_impl


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_reference_in_slices_is_the_loss_of_the_whole(case, ranks):
    assert worst(case, ranks, use_triton=False) < 1e-12


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("case", "ranks"), KERNEL_CASES, ids=str)
def test_the_kernels_in_slices_are_the_loss_of_the_whole(case, ranks, device, bf16_of_hardware):
    assert worst(case, ranks, use_triton=True, device=device) < ALLOWED[case.dtype]


@pytest.mark.parametrize("use_triton", [pytest.param(True, marks=INTERPRETED), False])
@pytest.mark.parametrize("case", [Case(dtype=FP32, items=70), Case("uniform", dtype=FP32, **SMALL)], ids=str)
def test_row_0_is_not_taken_for_a_target_that_is_elsewhere(case, use_triton):
    """Row 0 of every slice scores above all others: masked out as the target, it would be missed."""
    inputs = whole(case)
    inputs["targets"].copy_(torch.where(inputs["targets"] < 0, inputs["targets"], 5))
    direction = inputs["hidden"].sum(0)
    inputs["weight"][::32] += 3 * direction / direction.norm()  # the first row of each of two slices
    assert worst(case, 2, use_triton=use_triton, inputs=inputs) < ALLOWED[FP32]


@INTERPRETED
def test_stored_draws_of_groups_are_not_read_by_token(monkeypatch):
    """A group has a row of stored draws; a token's number would be an address past their end."""
    original, seen = triton_impl.launch_draw_keys, []

    def launch(call, out, num_negatives, first, rows, **options):
        seen.append(call.own_counts is None or rows <= len(call.own_counts))
        original(call, out, num_negatives, first, rows, **options)

    monkeypatch.setattr(triton_impl, "launch_draw_keys", launch)
    case = Case("uniform", dtype=FP32, deterministic=True, **SMALL)
    assert worst(case, 2, use_triton=True) < ALLOWED[FP32]
    assert seen
    assert all(seen)


def test_the_size_of_the_catalogue_is_not_that_of_a_slice():
    """log(V - 1) corrects the softmax, and V - 1 scales the positive term of gBCE: a slice has a third of the rows."""
    for case in (Case("uniform", negatives=3), Case("uniform", "gbce", negatives=3)):
        inputs = whole(case)
        (_, _, (found, *_)), *_ = in_slices(case, inputs, 3, use_triton=False)
        narrow = replace(case, items=case.items // 3)
        own = {name: x[: narrow.items] if name in ("weight", "counts") else x for name, x in inputs.items()}
        own["targets"] = inputs["targets"].clamp(max=narrow.items - 1)
        assert float((found - call(narrow, own)[0]).abs()) > 1e-3
        assert float((found - call(case, inputs)[0]).abs()) < 1e-12


def worst(case, ranks, use_triton, device="cpu", inputs=None):
    """The largest difference of any slice from the reference in float64, of inputs as products see them."""
    inputs = whole(case, device) if inputs is None else inputs
    expected = expected_of(case, inputs)
    return max(compare(*part, expected) for part in in_slices(case, inputs, ranks, use_triton))
