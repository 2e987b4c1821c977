"""Markdown tables that are also readable in a terminal."""

from cutrec.reporting.text_table import number, render


def test_tables_are_aligned():
    assert render(("a", "b"), [["x", "10"], ["yy", "1"]]) == (
        "| a   |   b |\n|:----|----:|\n| x   |  10 |\n| yy  |   1 |"
    )
    assert [number(value) for value in (None, 0, 0.01234, 1.5, 1234.5, 12345678.0)] == [
        "", "0", "0.0123", "1.5", "1,234", "12,345,678",
    ]  # fmt: skip
