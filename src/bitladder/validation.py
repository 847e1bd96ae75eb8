"""What pydantic finds wrong with a file of keys, in one line that a user can act on."""

import difflib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

__all__ = ["one_line"]

BRANCH = re.compile(r"\[key\]|bool|(literal|list)\[.*\]", re.DOTALL)
"""What pydantic puts into the path of a value that may be of several types; no key of the file."""


def one_line(error: ValidationError, model: type[BaseModel]) -> str:
    """Name the key that is wrong first, what is wrong with it, and how many others are.

    An unknown key comes before one that is missing, as it may be that one misspelt. Of a value that may be of several
    types the one is told of which more is right: a list with a wrong item is meant to be a list.
    """
    errors = sorted(error.errors(include_url=False), key=lambda one: one["type"] != "extra_forbidden")
    parts = _parts(errors[0]["loc"])
    same = [one for one in errors if _parts(one["loc"])[: len(parts)] == parts]
    first = max(same, key=lambda one: len(_parts(one["loc"])))
    parts = _parts(first["loc"])
    key = ".".join(part if part.isprintable() and part.strip() else repr(part) for part in parts)
    texts = [one["msg"].removeprefix("Value error, ") for one in same if _parts(one["loc"]) == parts]
    text = ", or ".join([texts[0], *(one.removeprefix("Input should be ") for one in texts[1:])])
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(parts[-1], _known(model, parts[:-1]), 1)
        text = f"unknown key; is it {near[0]}? See" if near else "unknown key; see"
        text += " the comments in params.yaml for the keys there are"
    elif first["type"] == "missing":
        text = "missing; it has no default"
    elif "input" in first and isinstance(first["input"], str | int | float | None):
        text = f"{text[0].lower()}{text[1:]}, not {first['input']!r}"
    others = len(errors) - len(same)
    more = f" (and {others} more)" if others else ""
    return f"{key}: {text}{more}" if key else f"{text}{more}"


def _parts(loc: tuple[int | str, ...]) -> tuple[str, ...]:
    return tuple(str(part) for part in loc if not BRANCH.fullmatch(str(part)))


def _known(model: type[BaseModel], parts: tuple[str, ...]) -> list[str]:
    """Give the keys that a block may have, by the path to it."""
    schema = model.model_json_schema()
    blocks: list[Mapping[str, Any]] = [schema]
    for part in ("", *parts):
        blocks = [inner for one in blocks for inner in _resolved(schema, _inner(one, part) if part else one)]
    return [key for one in blocks for key in one.get("properties", {})]


def _inner(block: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = block.get("properties", {}).get(key, block.get("additionalProperties"))
    return found if isinstance(found, Mapping) else {}


def _resolved(schema: Mapping[str, Any], node: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Give what a node of a JSON schema stands for: itself, or each of its alternatives."""
    if "$ref" in node:
        yield from _resolved(schema, schema["$defs"][node["$ref"].rpartition("/")[2]])
    elif "anyOf" in node:
        for one in node["anyOf"]:
            yield from _resolved(schema, one)
    else:
        yield node
