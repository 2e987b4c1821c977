"""What `cutrec serve` refuses before it loads a model."""

import socket
from pathlib import Path

import pytest

from cutrec.cli import execute
from cutrec.errors import StageError

OTHERS = "which other machines reach, allowed: 127.0.0.1, or a key in CUTREC_API_KEY, or --without-key"


@pytest.mark.parametrize(
    ("options", "key", "message"),
    [
        (["--host", "0.0.0.0"], None, f"--host: found 0.0.0.0, {OTHERS}"),
        (["--host", "::"], None, f"--host: found ::, {OTHERS}"),
        (["--host", "example.org"], None, f"--host: found example.org, {OTHERS}"),
        ([], "", "CUTREC_API_KEY: found a key that is empty"),
        ([], "a\nb", "CUTREC_API_KEY: found a key that is empty or not of printable ASCII"),
        (["--port", "65536"], None, "--port: found 65536, allowed: 0 to 65,535"),
        (["--max-k", "0"], None, "--max-k: found 0, allowed: 1 to"),
        *[
            ([*options, "--model", "none"], key, "--model: found no none/model.safetensors, allowed: ")
            for options, key in (
                (["--host", "127.0.0.1"], None),
                (["--host", "::1"], None),
                (["--host", "localhost"], None),
                (["--host", "0.0.0.0"], "secret"),
                (["--host", "0.0.0.0", "--without-key"], None),
            )
        ],
    ],
)
def test_a_wrong_start_is_one_line(options, key, message, tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CUTREC_API_KEY", raising=False)
    if key is not None:
        monkeypatch.setenv("CUTREC_API_KEY", key)
    with pytest.raises(StageError) as error:
        execute(["serve", *options])
    assert str(error.value).startswith(message)


@pytest.mark.parametrize("host", ["127.0.0.1", "192.0.2.1"], ids=["taken", "of-another-machine"])
def test_an_address_that_cannot_be_taken_is_one_line(host: str, tmp_path: Path):
    (tmp_path / "model.safetensors").touch()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StageError) as error:
            execute(["serve", "--model", str(tmp_path), "--host", host, "--without-key", "--port", str(port)])
    assert str(error.value).startswith(f"--host, --port: found {host} and {port}, where nothing can listen (")
    assert "\n" not in str(error.value)
