"""Markdown tables that are also readable in a terminal."""

from collections.abc import Sequence

from tabulate import tabulate


def render(header: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> str:
    """A markdown table with aligned columns: the first `left` of them to the left, the others to the right."""
    alignment = ["left" if place < left else "right" for place in range(len(header))]
    return str(tabulate(rows, header, tablefmt="pipe", colalign=alignment, disable_numparse=True))


def number(value: float | None, digits: int = 3) -> str:
    """A number with so many significant digits and no exponent; an empty cell for None."""
    if value is None:
        return ""
    if value == 0:
        return "0"
    text = f"{value:.{digits}g}"
    if "e" in text or abs(value) >= 10 ** (digits - 1):
        return f"{value:,.0f}" if abs(value) >= 1 else f"{value:.6f}"
    return text
