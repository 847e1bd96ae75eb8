"""The documentation: README is short, the site builds, and its reference pages have all that is in the code."""

import html
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from pydantic import BaseModel, Field
from ruamel.yaml import YAML
from typer.testing import CliRunner

from bitladder import params, records
from bitladder.commands.cli import app
from bitladder.socs import all_socs
from support import ROOT

COMMANDS = typer.main.get_command(app).commands


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT / "src")}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def page(site):
    """Give a function that reads a page as a reader does: without tags, each block on a line."""

    def read(name: str) -> str:
        text = (site / name).read_text("utf-8").partition("<article")[2].partition("</article>")[0]
        return html.unescape(re.sub(r"<[^>]+>", "", text))

    return read


def test_readme_is_one_screen():
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 150


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_at_the_root_lead_to_files(name):
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", (ROOT / name).read_text("utf-8"))
    assert links and not [link for link in links if not (ROOT / link).is_file()]


def test_the_site_loads_nothing_from_other_hosts(site):
    pages = [*site.rglob("*.html")]
    loaded = [found for path in pages for found in re.findall(r"<(?:script|link|img)\b[^>]*>", path.read_text("utf-8"))]
    assert len(pages) > 15 and loaded
    assert not [tag for tag in loaded if re.search(r"(src|href)=[\"']?(https?:)?//", tag)]


def test_every_key_of_params_yaml_has_its_row_and_comment(page):
    text = page("reference/params.html")
    values = YAML(typ="safe").load((ROOT / "params.yaml").read_text("utf-8"))
    values["ladder"] = {f"RUNG.{key}": bits for key, bits in values["ladder"]["tiny"].items()}
    names = [*values, *(f"{block}.{key}" for block, keys in values.items() if isinstance(keys, dict) for key in keys)]
    assert not [name for name in names if f"\n{name}\n" not in text]
    assert "\ngoals.max_drop\nnumber from 0 or null\nrequired\nof the metric against FP32, in the metric's" in text
    assert "SoCs of target.socs on which a rung must hold the goals too" in text
    assert "ladder.<rung>.ptq" in text


def test_every_field_of_the_schema_has_a_row_with_a_meaning(page):
    rows = re.findall(r"\n\n([\w.]+)\n(.*)\n(.*)\n(.*)\n", page("reference/params.html"))
    assert not [key for key, _, _, meaning in rows if not meaning]
    blocks = [one for one in vars(params).values() if isinstance(one, type) and issubclass(one, BaseModel)]
    fields = {name for block in blocks for name in block.model_fields}
    assert len(fields) > 50 and fields <= {key.rpartition(".")[2] for key, *_ in rows}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_on_its_page_with_its_options(page, name):
    section = page("reference/commands.html").partition(f"\n{name}¶\n")[2]
    assert section.lstrip().startswith(f"bitladder {name} ")
    own, command = " ".join(section.partition("¶")[0].split()), COMMANDS[name]
    assert " ".join(command.help.partition("\n\n")[0].replace("`", "").split()) in own
    shown = [one.opts[0] if one.opts[0].startswith("-") else one.metavar for one in command.params]
    assert not [word for word in shown if word not in own]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_what_a_man_page_has(name):
    said = CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "80"}).stdout
    assert "Exit code: 0" in said and "Example" in said and f" bitladder {name}" in said.partition("Example")[2]
    assert COMMANDS[name].rich_help_panel
    assert max(map(len, said.splitlines())) <= 80


def test_every_soc_is_on_its_page(page):
    text = page("reference/socs.html")
    assert not [name for soc in all_socs().values() for name in (soc.name, *soc.aliases) if name not in text]
    assert "bitladder socs --probe NAME repeats it" in text


def test_every_key_of_a_metrics_file_has_a_row_with_a_meaning(page):
    text = page("reference/records.html")
    public = [getattr(records, name) for name in records.__all__]
    models = [one for one in public if isinstance(one, type) and issubclass(one, BaseModel) and one.model_fields]
    for model in models:
        section = text.partition(f"\n{model.__name__}¶\n")[2].partition("¶")[0]
        rows = dict(re.findall(r"\n\n(\w+)\n.*\n(.*)\n", section))
        assert rows.keys() - {"key"} == model.model_fields.keys() and all(rows.values()), model


def test_records_are_told_from_their_types():
    from schema_tables import keys_of

    class Inner(BaseModel):
        """What is inside."""

        bits: int = Field(ge=2, description="of the weights")

    class Outer(BaseModel):
        """A record."""

        chosen: str | None = Field(description="the rung")
        layers: dict[str, Inner] = {}
        tries: list[Inner]

    found = {key.path: (key.values, key.meaning) for key in keys_of(Outer.model_json_schema())}
    assert found["chosen"] == ("text or `null`", "the rung")
    assert found["layers.LAYER.bits"] == found["tries[].bits"] == ("integer from 2", "of the weights")
    linked = [key.values for key in keys_of(Outer.model_json_schema(), frozenset({"Inner"}))]
    assert linked == ["text or `null`", "names with [Inner](#inner)", "list of [Inner](#inner)"]


class Tree(BaseModel):
    """A record that holds others of its kind."""

    name: str
    below: list["Tree"] = []


def test_a_record_may_hold_its_own_kind():
    from schema_tables import keys_of

    found = [(key.path, key.values) for key in keys_of(Tree.model_json_schema(), frozenset({"Tree"}))]
    assert found == [("name", "text"), ("below", "list of [Tree](#tree)")]
