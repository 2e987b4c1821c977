"""Pages generated whenever the site is built: settings, commands, glossary, tables of GPUs, notebooks."""

from __future__ import annotations

import ast
import contextlib
import csv
import dataclasses
import importlib
import inspect
import io
import json
import os
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, get_type_hints

from pydantic import BeforeValidator, TypeAdapter

if TYPE_CHECKING:  # tests read the pages without mkdocs
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for each notebook."""
    from mkdocs.structure.files import File

    for notebook in sorted((ROOT / "docs/notebooks").glob("*.ipynb")):
        files.append(File.generated(config, f"notebooks/{notebook.stem}.md", content=page_of(notebook)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put what is generated in the place of comments such as ``<!-- generated: gpus -->``."""
    return re.sub(r"<!-- generated: (\w+) -->", lambda match: GENERATED[match[1]](), markdown)


def page_of(notebook: Path) -> str:
    """A notebook as a page: its texts and its code. Its file is in the site too."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    texts = ["".join(cell["source"]) for cell in cells]
    parts = [
        f"```python\n{text}\n```" if cell["cell_type"] == "code" else text
        for cell, text in zip(cells, texts, strict=True)
    ]
    parts.insert(1, f"[The notebook]({notebook.name}) itself.")
    return "\n\n".join(parts) + "\n"


# Settings


class Key(NamedTuple):
    """A key of params.yaml."""

    name: str
    allowed: str
    meaning: str


def settings() -> str:
    """The page of all keys, a table per section."""
    from cutrec import config

    schema = TypeAdapter(config.Config).json_schema()
    values = config.read_yaml(ROOT / "params.yaml")
    sections: dict[str, list[Key]] = {}
    for key in keys_of(config.Config, schema, schema.get("$defs", {}), ""):
        sections.setdefault(key.name.split(".")[0] if "." in key.name else "", []).append(key)
    lines: list[str] = []
    for section, keys in sections.items():
        lines += [f"\n## {section or 'Top level'}\n"]
        if section:
            lines += [f"{section_of(config.Config, section)}\n"]
        lines += ["| key | allowed | default | meaning |", "|---|---|---|---|"]
        for key in keys:
            default = shown(looked_up(values, key.name))
            lines.append(f"| `{key.name}` | {key.allowed} | {default} | {key.meaning} |")
    return "\n".join([*lines, "", presets(values)])


def keys_of(kind: Any, schema: dict[str, Any], shared: dict[str, Any], prefix: str) -> Iterator[Key]:
    """The keys of a settings class and of the classes in it."""
    from cutrec.config_point import AUTO_KEYS

    hints, said = get_type_hints(kind, include_extras=True), attribute_docs(kind)
    for field in dataclasses.fields(kind):
        described = schema["properties"][field.name]
        name = prefix + field.name
        if name == "undecided":  # of the program: the keys that are auto
            continue
        if dataclasses.is_dataclass(hints[field.name]):
            inner = shared[described["$ref"].rsplit("/", 1)[1]]
            yield from keys_of(hints[field.name], inner, shared, f"{name}.")
        else:
            names = registered(hints[field.name])
            choice = " \\| ".join(f"`{x}`" for x in names) if names else allowed(described, shared)
            auto = "`auto`, or " if name in AUTO_KEYS else ""
            yield Key(name, auto + choice, in_cell(said.get(field.name, "")))


def registered(hint: Any) -> list[str]:
    """The names that `rec_models.fields.one_of` allows, if a type is one of a registry's names."""
    for check in getattr(hint, "__metadata__", ()):
        if isinstance(check, BeforeValidator):
            return list(inspect.getclosurevars(check.func).nonlocals.get("names", []))
    return []


def attribute_docs(kind: Any) -> dict[str, str]:
    """The docstring or the comment behind each attribute of a class and its bases."""
    said: dict[str, str] = {}
    for base in reversed(kind.__mro__[:-1]):
        source = textwrap.dedent(inspect.getsource(base))
        body = ast.parse(source).body[0].body  # type: ignore[attr-defined]
        for place, statement in enumerate(body):
            if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                comment = re.search(r"  # (.*)$", source.splitlines()[statement.end_lineno - 1])  # type: ignore[operator]
                said[statement.target.id] = comment[1] if comment else ""
                follower = body[place + 1] if place + 1 < len(body) else None
                if isinstance(follower, ast.Expr) and isinstance(follower.value, ast.Constant):
                    said[statement.target.id] = inspect.cleandoc(str(follower.value.value))
    return said


def section_of(kind: Any, name: str) -> str:
    """The first sentence about a section."""
    return (
        inspect.cleandoc(str(get_type_hints(kind)[name].__doc__)).split("\n\n")[0].replace("\n", " ").replace("``", "`")
    )


def allowed(schema: dict[str, Any], shared: dict[str, Any]) -> str:
    """What a JSON schema allows, in a few words."""
    if "$ref" in schema:
        return allowed(shared[schema["$ref"].rsplit("/", 1)[1]], shared)
    if "anyOf" in schema:
        return ", or ".join(allowed(choice, shared) for choice in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        return " \\| ".join(f"`{choice}`" for choice in schema.get("enum", [schema.get("const")]))
    kind = schema.get("type")
    if kind in ("integer", "number"):
        low = schema.get("minimum", schema.get("exclusiveMinimum"))
        high = schema.get("maximum", schema.get("exclusiveMaximum"))
        words = ["whole number" if kind == "integer" else "number"]
        if low is not None:
            words.append(f"{'above' if 'exclusiveMinimum' in schema else 'from'} {low:,}")
        if high is not None:
            words.append(f"{'below' if 'exclusiveMaximum' in schema else 'to'} {high:,}")
        return " ".join(words)
    if kind == "array":
        return f"list of: {allowed(schema.get('items', {}), shared)}" if schema.get("items") else "list"
    return {"string": "text", "boolean": "`true` \\| `false`", "null": "`null`", None: "see params.yaml"}[kind]


def looked_up(values: dict[str, Any], name: str) -> Any:
    """The value of a dotted key."""
    found: Any = values
    for part in name.split("."):
        found = found[part]
    return found


def shown(value: Any) -> str:
    """A value as it is written in YAML."""
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def in_cell(text: str) -> str:
    """A docstring in a cell of a table."""
    text = " ".join(text.split()).replace("``", "`").replace("|", "\\|")
    return text[:1].upper() + text[1:]


def presets(values: dict[str, Any]) -> str:
    """The names of the presets, with what they set."""
    from cutrec.nested import flatten

    lines = ["## presets\n", "`-S preset=NAME` takes a whole set of keys.\n", "| preset | sets |", "|---|---|"]
    for name, preset in values["presets"].items():
        chosen = ", ".join(f"`{key}={value}`" for key, value in flatten(preset or {}).items())
        lines.append(f"| `{name}` | {chosen or 'nothing'} |")
    return "\n".join(lines) + "\n"


# Commands

MODULES = (
    "pipelines.plan",
    "pipelines.paper.grid",
    "pipelines.measure",
    "pipelines.paper.tables",
    "pipelines.study.__main__",
)


def commands() -> str:
    """The help of every command."""
    from cutrec import cli

    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))  # here: mkdocs takes back what a hook adds on import
    lines: list[str] = []
    helps = {f"cutrec {name}": (cli.execute, [name, "--help"]) for name in cli.COMMANDS}
    for module in MODULES:
        name = f"python -m {module.removesuffix('.__main__')}"
        helps[name] = (importlib.import_module(module).main, ["--help"])
    for name, (run, arguments) in helps.items():
        lines += [f"\n## `{name}`\n", "```text", help_of(run, arguments), "```"]
    return "\n".join(lines) + "\n"


def help_of(run: Any, arguments: list[str]) -> str:
    """What a command prints about itself."""
    printed, columns = io.StringIO(), os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "100"
    try:
        with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
            run(arguments)
    finally:
        os.environ.pop("COLUMNS") if columns is None else os.environ.update(COLUMNS=columns)
    return printed.getvalue().strip()


# Tables


def glossary() -> str:
    """The glossary of CONTRIBUTING.md."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    return text.split("## Glossary", 1)[1].split("\n## ", 1)[0]


def rows_of(name: str) -> list[dict[str, str]]:
    """A CSV of the kernels' benchmarks."""
    with (ROOT / "packages/cce-kernels/benchmarks/results" / name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def table(head: list[str], rows: list[list[str]]) -> str:
    """A table in markdown."""
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])


def gpus() -> str:
    """What runs on each GPU."""
    rows = []
    for row in rows_of("gpus.csv"):
        kernels = f"{row['fit']} of {row['kernels']}"
        path = "Triton kernels" if row["impl_auto"] == "triton" else "plain PyTorch"
        rows.append([
            row["gpu"], row["compute_capability"], row["shared_kib"], row["bf16"], path, kernels,
            "measured" if row["measured"] == "yes" else "compiled only",
        ])  # fmt: skip
    head = ["GPU", "compute capability", "shared memory of a block, KiB", "bf16", "`impl: auto` takes",
            "kernels that compile and fit", "state"]  # fmt: skip
    return table(head, rows)


def tiles() -> str:
    """The tiles of the products per architecture, dtype and width."""
    wanted = {"full_forward_kernel": "full, forward", "full_backward_kernel": "full, backward",
              "shared_forward_kernel": "sampled, tile, forward", "shared_backward_kernel": "sampled, tile, backward",
              "_filter_kernel": "top-k"}  # fmt: skip
    found: dict[tuple[str, str, str], dict[str, str]] = {}
    for row in rows_of("architectures.csv"):
        if row["kernel"] in wanted and int(row["architecture"]) >= 80:
            key = (row["architecture"], row["dtype"], row["D"])
            shared = int(row["shared_bytes"]) / 1024
            found.setdefault(key, {})[row["kernel"]] = f"{row['tiles']}, {row['warps']} warps, {shared:.0f} KiB"
    rows = [[f"sm_{a}", dtype, dim, *(cells.get(kernel, "PyTorch") for kernel in wanted)]
            for (a, dtype, dim), cells in found.items()]  # fmt: skip
    return table(["architecture", "dtype", "D", *wanted.values()], rows)


GENERATED = {"settings": settings, "commands": commands, "glossary": glossary, "gpus": gpus, "tiles": tiles}
