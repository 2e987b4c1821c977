"""A wrong command line is one line."""

import pytest

from cutrec.arguments import make_parser, parse, positive_int
from cutrec.errors import UsageError


@pytest.mark.parametrize(
    "arguments", [["--k", "0"], ["--k", "two"], ["--k", "-1"], ["--k", "1000001"], ["--kk", "1"], ["more"]]
)
def test_a_wrong_command_line_is_one_line(arguments: list[str]):
    parser = make_parser("Do ``something``.")
    parser.add_argument("--k", type=positive_int, default=10)
    assert parser.description == "Do something."
    assert parse(parser, ["--k", "007"]).k == 7
    with pytest.raises(
        UsageError, match=r"^(--k: found .*, allowed: 1 to 1,000,000|unrecognized .*); --help lists the opt"
    ):
        parse(parser, arguments)
