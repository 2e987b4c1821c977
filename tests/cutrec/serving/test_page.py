"""The commands of docs/serve.md."""

import json
import shlex
from pathlib import Path

from cutrec.arguments import make_parser, parse
from cutrec.cli import COMMANDS, execute
from tests.docs.pages import ROOT, blocks, commands

PAGE = ROOT / "docs/serve.md"


def test_the_commands_of_the_page_run(serving, folder: Path, tmp_path: Path, monkeypatch):
    (tmp_path / "model").symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    lines = [shlex.split(line) for line in commands(PAGE, "bash")]
    asked = 0
    with serving() as client:
        for words in lines:
            if words[0] == "curl":
                path, body = words[1].removeprefix("http://127.0.0.1:8000"), words[words.index("-d") + 1]
                answer = client.post(path, content=body, headers={"content-type": "application/json"})
                assert answer.status_code == 200, body
                asked += 1
            elif words[:3] == ["uv", "run", "cutrec"]:
                name, options = words[3], words[4:]
                parser = make_parser("")
                COMMANDS[name].add_arguments(parser)
                parse(parser, options)  # a server would not end
                if name == "index":
                    execute([name, *options])
    assert asked == 3
    assert {words[3] for words in lines if words[0] == "uv"} == {"serve", "index"}
    with serving(index=tmp_path / "index") as client:
        shown = json.loads(blocks(PAGE, "json")[0])
        first = next(words[words.index("-d") + 1] for words in lines if words[0] == "curl")
        assert client.post("/recommend", json=json.loads(first)).json().keys() == shown.keys()
