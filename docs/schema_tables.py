"""Tables of the keys that a pydantic model takes, from its JSON schema."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Key", "keys_of", "table"]

Schema = Mapping[str, Any]

NAMES = {"ladder": "RUNG", "layers": "LAYER", "per_soc": "SOC"}
"""What the user's own keys of a mapping are called; NAME where it is not listed."""

LIMITS = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to", "exclusiveMaximum": "below"}


@dataclass(frozen=True)
class Key:
    """One key: its path, which values it takes, its default (None: it must be given), and what it means.

    `meaning` is the key's own description, `summary` what the model that it holds says of itself.
    """

    path: str
    values: str
    default: str | None
    meaning: str
    summary: str


def keys_of(schema: Schema, linked: frozenset[str] = frozenset()) -> Iterator[Key]:
    """Give every key of a model and of the models in it, but for those that are `linked`: they have their own table."""
    defs = schema.get("$defs", {})
    own = defs[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema  # a model that holds itself
    return _keys(own, defs, linked, "")


def table(columns: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """Give a Markdown table of Markdown cells, in which `<` and `|` are only themselves."""
    lines = [columns, tuple("---" for _ in columns), *(tuple(map(_cell, row)) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    text = " ".join(text.replace("|", "\\|").split())
    return re.sub(r"`[^`]*`|<", lambda found: "&lt;" if found[0] == "<" else found[0], text)


def _keys(model: Schema, defs: Schema, linked: frozenset[str], prefix: str) -> Iterator[Key]:
    for name, schema in model.get("properties", {}).items():
        path, given = prefix + name, schema.get("default")
        inner = dict(_models(path, name, schema, defs, linked))
        summary = next((one.get("description", "") for one in inner.values()), "").split("\n\n")[0]
        shown = given if isinstance(given, str) else json.dumps(given)
        shown = "" if isinstance(given, dict) and given else shown  # the keys below show their own
        required = name in model.get("required", ()) or "default" not in schema
        default = None if required else shown
        yield Key(path, _values(schema, defs, linked), default, schema.get("description", ""), summary)
        for below, one in inner.items():
            yield from _keys(one, defs, linked, f"{below}.")


def _models(path: str, name: str, schema: Schema, defs: Schema, linked: frozenset[str]) -> Iterator[tuple[str, Schema]]:
    """Give the models that a key holds, by the path under which their keys stand."""
    if "$ref" in schema:
        kind = schema["$ref"].rpartition("/")[2]
        if kind not in linked:
            yield path, defs[kind]
    for one in schema.get("anyOf", ()):
        yield from _models(path, name, one, defs, linked)
    if below := _below(schema):
        yield from _models(f"{path}.{NAMES.get(name, 'NAME')}", "", below, defs, linked)
    if "items" in schema:
        yield from _models(f"{path}[]", "", schema["items"], defs, linked)


def _values(schema: Schema, defs: Schema, linked: frozenset[str]) -> str:
    """Say which values a key takes."""
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_values(one, defs, linked) for one in schema["anyOf"]))
    if "$ref" in schema:
        kind = schema["$ref"].rpartition("/")[2]
        return f"[{kind}](#{kind.lower()})" if kind in linked else "keys below"
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return ", ".join(f"`{one}`" for one in schema["enum"])
    kind = schema.get("type", "any")
    if kind == "array":
        return f"list of {_values(schema['items'], defs, linked)}" if "items" in schema else "list"
    if kind == "object":
        below = _below(schema)
        return f"names with {_values(below, defs, linked)}" if below else "names with any value"
    words = {"string": "text", "boolean": "`true`, `false`", "null": "`null`"}.get(kind, kind)
    limits = [f"{word} {schema[limit]}" for limit, word in LIMITS.items() if limit in schema]
    return " ".join([schema.get("format", words), *limits])


def _below(schema: Schema) -> Schema | None:
    """Give the schema of a mapping's values, where it has one."""
    below = schema.get("additionalProperties") or next(iter(schema.get("patternProperties", {}).values()), None)
    return below if isinstance(below, dict) else None
