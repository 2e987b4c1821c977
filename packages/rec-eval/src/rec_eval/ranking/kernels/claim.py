"""PTX code that writes survivors from the registers in which the matrix product leaves its scores.

Triton's own atomics and stores first convert the layout of a tile through shared memory, even if nothing survives:
8,192 scores are exchanged for a handful of survivors. Here every thread checks its own scores, a few at a time, and
continues immediately if none of them survives.
"""

from __future__ import annotations

import triton.language as tl

PACK = tl.constexpr(8)
"""Scores per piece of code, whose atomics are in flight together."""


def _claim(pack: int) -> str:
    """Generate PTX for `pack` scores.

    Operands, each once per score: out (unused), score, floor, floor's id, item, number of items, capacity of a list,
    address of the list's counter, addresses of the list's scores and ids.
    """

    def operand(which: int, place: int) -> str:
        return f"${which * pack + place}"

    places = range(pack)
    lines = ["{", ".reg .pred %some, %tie, " + ", ".join(f"%k{i}" for i in places) + ";"]
    lines += [".reg .b64 %a;", ".reg .b32 " + ", ".join(f"%s{i}" for i in places) + ";"]
    for i in places:
        lines += [f"mov.b32 {operand(0, i)}, 0;", f"setp.ge.f32 %k{i}, {operand(1, i)}, {operand(2, i)};"]
    lines += ["mov.pred %some, %k0;", *(f"or.pred %some, %some, %k{i};" for i in places[1:]), "@!%some bra DONE;"]
    for i in places:  # inside the catalogue; an equal score needs a lower id
        lines += [f"setp.lt.and.s32 %k{i}, {operand(4, i)}, {operand(5, i)}, %k{i};"]
        lines += [f"setp.gt.f32 %tie, {operand(1, i)}, {operand(2, i)};"]
        lines += [f"setp.lt.or.s32 %tie, {operand(4, i)}, {operand(3, i)}, %tie;", f"and.pred %k{i}, %k{i}, %tie;"]
        lines += [f"@%k{i} atom.relaxed.gpu.global.add.u32 %s{i}, [{operand(7, i)}], 1;"]
    for i in places:
        lines += [f"setp.lt.and.u32 %k{i}, %s{i}, {operand(6, i)}, %k{i};"]
        lines += [f"mad.wide.u32 %a, %s{i}, 4, {operand(8, i)};", f"@%k{i} st.global.f32 [%a], {operand(1, i)};"]
        lines += [f"mad.wide.u32 %a, %s{i}, 4, {operand(9, i)};", f"@%k{i} st.global.u32 [%a], {operand(4, i)};"]
    return "\n".join([*lines, "DONE:", "}"])


CODE = tl.constexpr(_claim(PACK.value))
"""The code that `tl.inline_asm_elementwise` runs for every `PACK` scores of a tile."""
CONSTRAINTS = tl.constexpr(",".join(["=r"] * PACK.value + [kind for kind in "ffrrrrlll" for _ in range(PACK.value)]))
"""Types of its operands: floats, 32-bit integers, addresses."""
