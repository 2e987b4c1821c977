"""A wrong command line is one line."""

import pytest

from cutrec.arguments import make_parser, parse, positive_int, share
from cutrec.errors import UsageError


@pytest.mark.parametrize(
    "arguments",
    [["--k", "0"], ["--k", "two"], ["--k", "-1"], ["--k", "1000001"], ["--kk", "1"], ["more"], ["--ba", "2"]],
)
def test_a_wrong_command_line_is_one_line(arguments: list[str]):
    parser = make_parser("Do ``something``.")
    parser.add_argument("--k", type=positive_int, default=10)
    parser.add_argument("--batch-users", type=positive_int, default=10)
    assert parser.description == "Do something."
    assert parse(parser, ["--k", "007"]).k == 7
    with pytest.raises(
        UsageError, match=r"^(--k: found .*, allowed: 1 to 1,000,000|unrecognized .*); --help lists the opt"
    ):
        parse(parser, arguments)


def test_a_share_lies_between_0_and_1():
    parser = make_parser("Do something.")
    parser.add_argument("--level", type=share, default=0.9)
    assert parse(parser, ["--level", "0.95"]).level == 0.95
    for value in ("0", "1", "95", "nan", "x"):
        with pytest.raises(UsageError, match=f"--level: found {value}, allowed: a number between 0 and 1"):
            parse(parser, ["--level", value])
