"""What mkdocs takes from elsewhere: reference pages from the code, and the Markdown files at the repository's root.

A page under reference/ has a line such as `<!-- made from the code: params -->`; what is made goes there.
"""

import re
from importlib import import_module
from importlib.resources import files as package_files
from inspect import cleandoc
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from schema_tables import keys_of, table

__all__ = ["on_files", "on_page_markdown"]

ROOT = Path(__file__).parents[1]

AT_ROOT = {"index.md": "README.md", "contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}

MARK = re.compile(r"<!-- made from the code: (\w+) -->")


def on_files(files: Any, config: Any) -> Any:
    """Add the files at the root as pages, with their links turned to where the pages are."""
    from mkdocs.structure.files import File

    for page, source in AT_ROOT.items():
        text = (ROOT / source).read_text("utf-8").replace("](docs/", "](")
        for other, path in AT_ROOT.items():
            text = text.replace(f"]({path}", f"]({other}")
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put what is made from the code in the place of its mark."""
    return MARK.sub(lambda mark: MADE[mark[1]](), markdown)


def params() -> str:
    """Give a section for each block of params.yaml."""
    from bitladder.params import Params

    comments = read_comments((ROOT / "params.yaml").read_text("utf-8"))
    sections: dict[str, list[tuple[str, ...]]] = {}
    for key in keys_of(Params.model_json_schema()):
        block = key.path.partition(".")[0]
        default = "required" if key.default is None else f"`{key.default}`" if key.default else ""
        row = (f"`{key.path}`", key.values, default, key.meaning or comments.get(key.path) or key.summary)
        sections.setdefault(block, []).append(row)
    columns = ("key", "value", "default", "meaning")
    return "\n\n".join(f"## {block}\n\n{table(columns, rows)}" for block, rows in sections.items())


def read_comments(text: str) -> dict[str, str]:
    """Give what the comments of params.yaml say of each key, by its path.

    A comment that goes on in the next line is in the same column. One that has lines of its own is said of all keys
    that follow it in the block.
    """
    found: dict[str, str] = {}
    parents: list[tuple[int, str]] = []
    said, heading, column = "", "", -1
    for line in text.splitlines():
        if comment := re.fullmatch(r"( *)# ?(.*)", line):
            if len(comment[1]) == column:
                found[said] += f" {comment[2]}"
            else:
                heading = comment[2]
        elif key := re.match(r"( *)([\w-]+):", line):
            depth = len(key[1])
            parents = [(indent, name) for indent, name in parents if indent < depth] + [(depth, key[2])]
            said = ".".join(name for _, name in parents)
            code, mark, words = line.partition(" # ")
            column = len(code) + 1 if mark else -1
            found[said] = f"{heading} {words}".strip()
        else:
            heading, column = "", -1
    return found


def records() -> str:
    """Give a section for each record: what the keys of a metrics file mean."""
    module = import_module("bitladder.records")
    models = {
        name: model
        for name, model in vars(module).items()
        if isinstance(model, type) and issubclass(model, BaseModel) and model.__module__ == module.__name__
    }
    public = {name: model for name, model in models.items() if not name.startswith("_") and model.model_fields}
    sections = []
    for name, model in public.items():
        keys = keys_of(model.model_json_schema(mode="serialization"), frozenset(public))
        rows = [(f"`{key.path}`", key.values, key.meaning or key.summary) for key in keys]
        sections.append(f"## {name}\n\n{cleandoc(model.__doc__ or '')}\n\n{table(('key', 'value', 'meaning'), rows)}")
    return "\n\n".join(sections)


def commands() -> str:
    """Give a section for each command: what `bitladder COMMAND --help` says."""
    import typer

    from bitladder.commands.cli import app

    group: Any = typer.main.get_command(app)
    sections, panel = [], None
    for name, command in group.commands.items():
        if command.rich_help_panel != panel:
            panel = command.rich_help_panel
            sections.append(f"## {panel}")
        context = typer.Context(command, info_name=f"bitladder {name}")
        listed = [one.get_help_record(context) for one in command.params]
        rows = [(f"`{words}`", text) for words, text in filter(None, listed)]
        usage = command.get_usage(context).removeprefix("Usage: ")
        arguments = table(("argument or option", "meaning"), rows)
        sections.append(f"### {name}\n\n    {usage}\n\n{command.help}\n\n{arguments}")
    return "\n\n".join([str(command.epilog), *sections])


def socs() -> str:
    """Give the table of SoCs, and where its figures are from."""
    from bitladder.socs import all_socs

    rows = [
        (f"`{soc.name}`", soc.arch, str(soc.soc_model), ", ".join(soc.takes), ", ".join(soc.aliases), soc.device or "")
        for soc in all_socs().values()
    ]
    columns = ("SoC", "Hexagon", "soc_model", "takes", "also called", "published latencies of")
    lines = re.findall(r"(?m)^# ?(.*)$", package_files("bitladder").joinpath("socs.yaml").read_text("utf-8"))
    source = re.sub(r"(?m)^  (?! )", "\n- ", "\n".join(lines)).replace("\n- ", "\n\n- ", 1)
    return f"{table(columns, rows)}\n\n## Where these figures are from\n\n{source}"


def _remedy(rule: Any) -> str:
    return f"{rule.remedy}; it changes {rule.changes}" if rule.changes else rule.remedy


def rules() -> str:
    """Give the rules of htp/, and what was measured of each."""
    import json

    from bitladder.htp.registry import RULES
    from bitladder.socs import find_soc

    said = [(f"`{rule.name}`", rule.effect, rule.where, rule.why, _remedy(rule)) for rule in RULES.values()]
    figures = json.loads((ROOT / "docs/npu_rules.json").read_text("utf-8"))
    rows = []
    for row in figures:
        ends = (row["before"], row["after"])
        db, size, ops = (
            " to ".join(format(end[key], form) if end else "refused" for end in ends)
            for key, form in (("sqnr_db", ".1f"), ("memory_bytes", ","), ("ops", "d"))
        )
        rows.append(
            (f"`{row['rule']}`", f"{row['soc']} ({find_soc(row['soc']).arch})", row["precision"], db, size, ops)
        )
    columns = ("rule", "SoC", "precision", "SQNR dB", "bytes of the context binary", "ops")
    first = table(("rule", "without repair", "where", "why", "repair"), said)
    return f"{first}\n\n## What was measured\n\n{MEASURED}\n\n{table(columns, rows)}"


MEASURED = (
    "Each rule's tiny network (`src/bitladder/htp/rules/`), as it is exported and as it is repaired: the NPU's outputs"
    " against the simulation's, on the emulator. `python benchmarks/npu_rules.py` measures it again."
)

MADE = {"params": params, "records": records, "commands": commands, "socs": socs, "rules": rules}
