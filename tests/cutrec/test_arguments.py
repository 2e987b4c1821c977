"""A wrong command line is one line."""

from pathlib import Path

import pytest

from cutrec.arguments import local_file, local_path, make_parser, parse, positive_int, share
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


def test_a_path_is_converted_to_one_from_the_root_of_the_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "params.yaml").write_text("")
    (tmp_path / "docs").mkdir()
    given = ["a.csv", "../a.csv", "/data/*.csv", "s3://bucket/a.csv", "-"]
    monkeypatch.chdir(tmp_path)
    assert [local_path(text) for text in given] == given
    monkeypatch.chdir(tmp_path / "docs")
    assert [local_path(text) for text in given] == ["docs/a.csv", "a.csv", *given[2:]]
    assert local_file(Path("data/default")) == Path("data/default")


def test_a_share_lies_between_0_and_1():
    parser = make_parser("Do something.")
    parser.add_argument("--level", type=share, default=0.9)
    assert parse(parser, ["--level", "0.95"]).level == 0.95
    for value in ("0", "1", "95", "nan", "x"):
        with pytest.raises(UsageError, match=f"--level: found {value}, allowed: a number between 0 and 1"):
            parse(parser, ["--level", value])
