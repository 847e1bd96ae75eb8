"""params.yaml of an older version brought to this one's keys: the user's values, comments and lines stay as they are.

The text is edited line by line, by the places that a YAML parser gives; it is not dumped anew.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import MappingNode, Node

from bitladder.errors import UserError

__all__ = ["merge_params"]

Key = tuple[str, ...]


@dataclass(frozen=True)
class _Entry:
    """A key of a file and what lies under it; `flow`: whether it stands within braces."""

    key: Node
    value: Node
    flow: bool

    @property
    def last_line(self) -> int:
        """The last line that is the entry's own: not those of comments after it."""
        if isinstance(self.value, MappingNode) and not self.value.flow_style and self.value.value:
            key, value = self.value.value[-1]
            return _Entry(key, value, False).last_line
        end = self.value.end_mark
        return int(max(self.key.start_mark.line, end.line - (end.column == 0)))


class _File:
    """The text of a params.yaml, with its keys' places."""

    def __init__(self, text: str, what: str) -> None:
        self.text, self.lines = text, text.splitlines(keepends=True)
        try:
            root = YAML().compose(text)
        except YAMLError as error:
            raise UserError(f"{what}: not YAML ({' '.join(str(error).split())[:200]})") from None
        if not isinstance(root, MappingNode):
            raise UserError(f"{what}: holds no keys")
        self.entries = dict(_walk(root, ()))

    def value(self, key: Key) -> str:
        """Give what stands for a key's value, as it is written."""
        node = self.entries[key].value
        return self.text[node.start_mark.index : node.end_mark.index].strip()

    def comment(self, key: Key) -> tuple[int, int]:
        """Give from where to where the comment at the end of a key's line reaches; nowhere within braces."""
        entry = self.entries[key]
        is_block = isinstance(entry.value, MappingNode) and not entry.value.flow_style
        start = entry.key.end_mark.index + 1 if is_block else entry.value.end_mark.index
        end = self.text.find("\n", start) if "\n" in self.text[start:] else len(self.text)
        return (start, end) if self.text[start:end].lstrip().startswith("#") else (start, start)

    def block(self, key: Key) -> list[str]:
        """Give the lines of a key, with the comments right above it."""
        entry = self.entries[key]
        first = entry.key.start_mark.line
        while first and self.lines[first - 1].lstrip().startswith("#"):
            first -= 1
        return self.lines[first : entry.last_line + 1]


def merge_params(own: str, base: str, new: str, renamed: Mapping[str, str], values: Mapping[str, str]) -> str:
    """Bring a params.yaml to another version's keys.

    Args:
        own: the user's.
        base: as the older version wrote it.
        new: as this version writes it.
        renamed: new names of keys, such as `qat.patience`, by their old ones.
        values: new values by old ones, for what names something of bitladder's own.

    Returns: the text. Raises UserError, in one line, where a key that is no more has a value of the user's.

    """
    for old, name in renamed.items():
        own, base = (_rename(text, tuple(old.split(".")), tuple(name.split("."))) for text in (own, base))
    mine, before, after = _File(own, "params.yaml"), _File(base, "base"), _File(new, "new")
    for key in [key for key in before.entries if key not in after.entries]:
        if key in mine.entries:  # a block that went took along what was in it
            mine = _remove(mine, key, before)
    for key in [key for key in after.entries if key not in before.entries]:
        if key not in mine.entries and (key[:-1] in mine.entries or len(key) == 1):  # a new block brings what is in it
            mine = _insert(mine, key, after)
    mine = _File(_edited(mine.text, list(_comments(mine, before, after))), "params.yaml")
    edits = [
        (entry.value.start_mark.index, entry.value.end_mark.index, values[entry.value.value])
        for entry in mine.entries.values()
        if isinstance(entry.value.value, str) and entry.value.value in values
    ]
    return _edited(mine.text, edits)


def _walk(node: MappingNode, above: Key) -> Iterator[tuple[Key, _Entry]]:
    for key, value in node.value:
        path = (*above, str(key.value))
        yield path, _Entry(key, value, bool(node.flow_style))
        if isinstance(value, MappingNode):
            yield from _walk(value, path)


def _rename(text: str, old: Key, name: Key) -> str:
    """Give a key another name, in the same block or in another."""
    file = _File(text, "params.yaml")
    if old not in file.entries or name in file.entries:
        return text
    entry = file.entries[old]
    if old[:-1] == name[:-1]:
        return _edited(text, [(entry.key.start_mark.index, entry.key.end_mark.index, name[-1])])
    parent = file.entries.get(name[:-1])
    if parent is None or entry.flow or not isinstance(parent.value, MappingNode) or parent.value.flow_style:
        raise UserError(f"params.yaml: {'.'.join(old)} is {'.'.join(name)} now; write it there, and run this again")
    lines = [line.replace(old[-1], name[-1], 1) for line in file.block(old)[-1:]]
    kept = [line for line in file.lines if line not in file.block(old)]
    moved = _File("".join(kept), "params.yaml")
    return _inserted(moved, name, lines).text


def _remove(mine: _File, key: Key, before: _File) -> _File:
    """Take out a key that is no more, if its value is the one that it came with."""
    if mine.value(key) != before.value(key):
        raise UserError(
            f"params.yaml: {'.'.join(key)}: there is no such key any more, and yours is {mine.value(key)[:60]}; see the"
            " changelog for what takes its place, take the key out, and run this again"
        )
    entry = mine.entries[key]
    if entry.flow:
        end = entry.value.end_mark.index
        rest = mine.text[end:].lstrip()
        if rest.startswith(","):
            end = mine.text.index(",", end) + 1
            end += len(mine.text[end:]) - len(mine.text[end:].lstrip(" "))
        return _File(_edited(mine.text, [(entry.key.start_mark.index, end, "")]), "params.yaml")
    lines = [*mine.lines[: entry.key.start_mark.line], *mine.lines[entry.last_line + 1 :]]
    return _File("".join(lines), "params.yaml")


def _insert(mine: _File, key: Key, after: _File) -> _File:
    """Put in a new key as this version writes it, comments and all, after the one that it follows there."""
    parent = mine.entries.get(key[:-1])
    if parent is not None and isinstance(parent.value, MappingNode) and parent.value.flow_style:
        end = parent.value.end_mark.index - 1
        comma = ", " if parent.value.value else ""
        return _File(_edited(mine.text, [(end, end, f"{comma}{key[-1]}: {after.value(key)}")]), "params.yaml")
    lines = after.block(key)
    if len(key) == 1 and isinstance(after.entries[key].value, MappingNode):
        lines = ["\n", *lines]  # blocks stand apart
    return _inserted(mine, key, lines, after)


def _inserted(mine: _File, key: Key, lines: list[str], after: _File | None = None) -> _File:
    """Put lines in after the key before it in `after`; without one, at the end of its block."""
    siblings = [one for one in mine.entries if one[:-1] == key[:-1]]
    if after is not None:
        order = [one for one in after.entries if one[:-1] == key[:-1]]
        earlier = [one for one in order[: order.index(key)] if one in mine.entries]
        siblings = earlier or siblings[:0]
    parent = mine.entries.get(key[:-1])
    at = mine.entries[siblings[-1]].last_line + 1 if siblings else parent.key.start_mark.line + 1 if parent else 0
    if not siblings and not parent:  # before all others, but below the file's own comment
        at = next(iter(mine.entries.values())).key.start_mark.line
    before = mine.lines[:at]
    if before and not before[-1].endswith("\n"):
        before[-1] += "\n"
    return _File("".join([*before, *lines, *mine.lines[at:]]), "params.yaml")


def _comments(mine: _File, before: _File, after: _File) -> Iterator[tuple[int, int, str]]:
    """Give the edits that bring comments to this version's, where the user has left them as they came."""
    for key in [key for key in mine.entries if key in before.entries and key in after.entries]:
        (start, end), old, new = mine.comment(key), before.comment(key), after.comment(key)
        shown, came, comes = mine.text[start:end], before.text[slice(*old)], after.text[slice(*new)]
        alone = not mine.text[end:].partition("\n")[0].strip()  # nothing else follows on the line
        if shown.strip() == came.strip() != comes.strip() and comes and alone:
            yield start, end, comes


def _edited(text: str, edits: list[tuple[int, int, str]]) -> str:
    for start, end, put in sorted(edits, reverse=True):
        text = text[:start] + put + text[end:]
    return text
