"""How a stage of the pipeline runs as a process."""

from collections.abc import Callable
from typing import NoReturn

from cutrec.arguments import make_parser, parse
from cutrec.config import Config, load
from cutrec.console import run_and_exit


def run(name: str, description: str, main: Callable[[Config], None]) -> NoReturn:
    """Run a stage with the settings of params.yaml and end the process. It takes no argument except ``--help``."""

    def checked() -> None:
        parse(make_parser(description, prog=f"python -m pipelines.{name}"), None)
        main(load())

    run_and_exit(checked)
