"""A release in the text of a stack's config file. An edit changes it alone; parsing only finds and checks it.

Indentation, quotes, comments, line endings and everything that another tool wrote stay as they are. Text that cannot be
edited safely is refused with its line number.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from modelworks.errors import ModelworksError
from modelworks.settings import RELEASES_KEY, Release

_BREAK = re.compile(r"\r\n|\n|\r")
_PLAIN = re.compile(r"(?!(?:y|n|yes|no|on|off|true|false|null)\Z)[a-z][a-z0-9-]*")
"""Names that no version of YAML reads as another type."""
_ESCAPED = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ud800-\udfff]")
"""Characters that JSON leaves as they are and YAML does not."""
Pair = tuple[Node, Any]
"""A key and its value."""


@dataclass(frozen=True)
class Edit:
    """A part of a text, and what replaces it."""

    start: int
    end: int
    text: str


def with_release(text: str, model: str, release: Release, *, source: str) -> str:
    """The text of a stack's config file, with `release` as what `model` serves.

    Args:
        text: The file's, with its own line endings.
        model: Name of the model.
        release: The release.
        source: Where the text comes from, for messages.

    Returns:
        The edited text; the same text if it already has that release.

    Raises:
        ModelworksError: It is not a stack's config file, or cannot be edited without a change to something else.
    """
    before = _parse(text, source)
    if not isinstance(before, dict) or not isinstance(before.get("config"), dict):
        raise ModelworksError(f"{source} has no mapping `config`", fix="It must be a stack's config file.")
    wanted = release.model_dump(exclude_none=True)
    now = before["config"].get(RELEASES_KEY)
    if isinstance(now, dict) and now.get(model) == wanted:
        return text
    editor = _Editor(text, model, wanted, now.get(model) if isinstance(now, dict) else None, source)
    edited = _apply(text, editor.edits(YAML(typ="safe", pure=True).compose(text)))
    after = copy.deepcopy(before)
    after["config"][RELEASES_KEY] = {**(now if isinstance(now, dict) else {}), model: wanted}
    try:
        same = _parse(edited, source) == after
    except ModelworksError:  # such as an alias whose anchor was in what is replaced
        same = False
    if not same:
        editor.refuse("the release of MODEL cannot be written without a change to another value")
    return edited


def _parse(text: str, source: str) -> Any:
    try:
        return YAML(typ="safe", pure=True).load(text)
    except (YAMLError, ValueError) as error:
        raise ModelworksError(f"{source} is not YAML: {error}") from error


def _apply(text: str, edits: Iterator[Edit]) -> str:
    for edit in sorted(edits, key=lambda each: -each.start):
        text = text[: edit.start] + edit.text + text[edit.end :]
    return text


@dataclass
class _Editor:
    """One edit: where it is, for its messages, and how this file writes things."""

    text: str
    model: str
    wanted: Mapping[str, Any]
    now: Any
    """The release so far, parsed."""
    source: str
    line: int = 1
    """Where the release is, or would be."""

    def edits(self, root: Node) -> Iterator[Edit]:
        """The edits that write the release."""
        key, config = _pair(root, "config")
        found = _pairs(config).get(RELEASES_KEY)
        self.line = _line_of(found[0] if found else key)
        if found is None:
            yield self._first_release(root, config)
            return
        key, releases = found
        if _is_alias(found):
            self.refuse("the releases are an alias (`*…`)")
        elif _is_null(releases):
            yield self._instead_of_null(key, releases, "")
            yield self._insert(self._line_end(key.end_mark.index), [_column(key) + _step(root, config)])
        elif not isinstance(releases, MappingNode):
            self.refuse("the releases are not a mapping of models")
        elif not (entry := _pairs(releases).get(self.model)):
            yield self._new_entry(releases)
        else:
            self.line = _line_of(entry[0])
            yield from self._entry(*entry)

    def refuse(self, why: str) -> NoReturn:
        """Refuse the text.

        Raises:
            ModelworksError: Always.
        """
        raise ModelworksError(
            f"{self.source}, line {self.line}: {why.replace('MODEL', self.model)}; the file is unchanged",
            fix=f"Write this under {RELEASES_KEY} by hand: {self._new_line()}",
        )

    # -- A model that has no release yet ---------------------------------------------------------------------------
    def _first_release(self, root: Node, config: MappingNode) -> Edit:
        if config.flow_style:
            self.refuse("`config` is in flow style (`{…}`)")
        indent = _column(config.value[0][0])
        head = f"{' ' * indent}{RELEASES_KEY}:"
        return self._insert(self._end(config.value[-1]), [indent + _step(root, config)], head=head)

    def _new_entry(self, releases: MappingNode) -> Edit:
        if not releases.flow_style:
            return self._insert(self._end(releases.value[-1]), [_column(releases.value[0][0])])
        if not releases.value:
            end = releases.end_mark.index - 1
            return Edit(_without_blanks(self.text, end), end, self._new_line())
        return self._after(releases.value[-1], self._new_line())

    def _new_line(self) -> str:
        name = self.model if _PLAIN.fullmatch(self.model) else json.dumps(self.model)
        return f"{name}: {self._flow()}"

    def _flow(self) -> str:
        return "{" + ", ".join(f"{name}: {_quoted(value)}" for name, value in self.wanted.items()) + "}"

    # -- A model that has one --------------------------------------------------------------------------------------
    def _entry(self, key: Node, value: Node) -> Iterator[Edit]:
        if _is_alias((key, value)):
            self.refuse("the release of MODEL is an alias (`*…`)")
        elif _is_null(value):
            yield self._instead_of_null(key, value, f" {self._flow()}")
        elif not isinstance(value, MappingNode) or not value.value:
            yield Edit(value.start_mark.index, value.end_mark.index, self._flow())
        else:
            yield from self._fields(value)

    def _fields(self, entry: MappingNode) -> Iterator[Edit]:
        there = _pairs(entry)
        if any(_is_alias(pair) for pair in there.values()):
            self.refuse("the release of MODEL has an alias (`*…`) in it")
        for number, (key, value) in enumerate(entry.value):
            if key.value not in self.wanted:
                yield self._removal(entry, number)
            elif self.now[key.value] != self.wanted[key.value]:
                yield Edit(value.start_mark.index, value.end_mark.index, _quoted(self.wanted[key.value]))
        missing = [name for name in self.wanted if name not in there]
        if not missing:
            return
        added = [f"{name}: {_quoted(self.wanted[name])}" for name in missing]
        last = next(pair for pair in reversed(entry.value) if pair[0].value in self.wanted)
        if entry.flow_style:
            yield self._after(last, ", ".join(added))
        else:
            indent = " " * _column(entry.value[0][0])
            yield self._lines(self._end(last), [indent + each for each in added])

    def _removal(self, entry: MappingNode, number: int) -> Edit:
        key, value = entry.value[number]
        if not entry.flow_style:
            start = key.start_mark.index - _column(key)
            return Edit(start, self._end((key, value)), "")
        if number:
            start, end = entry.value[number - 1][1].end_mark.index, value.end_mark.index
        else:
            start, end = key.start_mark.index, entry.value[1][0].start_mark.index
        if "#" in self.text[start : value.start_mark.index]:
            self.refuse("a comment is in the part of MODEL's release that would be removed")
        return Edit(start, end, "")

    def _instead_of_null(self, key: Node, null: Node, text: str) -> Edit:
        after_colon = self.text.index(":", key.end_mark.index) + 1
        # The parser places a value that is not there at the next one that is.
        return Edit(after_colon, null.end_mark.index if null.value else after_colon, text)

    # -- Places ----------------------------------------------------------------------------------------------------
    def _after(self, pair: Pair, text: str) -> Edit:
        if _is_alias(pair):
            self.refuse("an alias (`*…`) is where the release of MODEL would be added")
        end = pair[1].end_mark.index
        return Edit(end, end, f", {text}")

    def _insert(self, at: int, columns: Sequence[int], head: str = "") -> Edit:
        return self._lines(at, [*filter(None, [head]), *(" " * each + self._new_line() for each in columns)])

    def _lines(self, at: int, lines: Sequence[str]) -> Edit:
        found = _BREAK.search(self.text)
        newline = found.group() if found else "\n"
        first = "" if not at or self.text[at - 1] in "\r\n" else newline
        return Edit(at, at, first + "".join(line + newline for line in lines))

    def _end(self, pair: Pair) -> int:
        """Where the line after a pair begins."""
        key, value = pair
        if _is_alias(pair) or _is_null(value):
            return self._line_end(key.end_mark.index)
        if isinstance(value, MappingNode) and not value.flow_style:
            return self._end(value.value[-1])
        if isinstance(value, SequenceNode) and not value.flow_style:
            last = value.value[-1]
            return self._end((key if last.start_mark.index < value.start_mark.index else last, last))
        at = int(value.end_mark.index)
        block = isinstance(value, ScalarNode) and value.style in {"|", ">"}
        return at if block and self.text[at - 1] in "\r\n" else self._line_end(at)

    def _line_end(self, at: int) -> int:
        found = _BREAK.search(self.text, at)
        return found.end() if found else len(self.text)


# -- Nodes -----------------------------------------------------------------------------------------------------------
def _pairs(mapping: Node) -> dict[str, Pair]:
    return {key.value: (key, value) for key, value in mapping.value if isinstance(key, ScalarNode)}


def _pair(mapping: Node, name: str) -> Pair:
    return _pairs(mapping)[name]


def _is_alias(pair: Pair) -> bool:
    """Whether the value is an alias: its node is that of its anchor, which comes earlier."""
    key, value = pair
    return bool(value.start_mark.index < key.start_mark.index)


def _is_null(node: Node) -> bool:
    return isinstance(node, ScalarNode) and node.tag == "tag:yaml.org,2002:null"


def _column(node: Node) -> int:
    return int(node.start_mark.column)


def _line_of(node: Node) -> int:
    return int(node.start_mark.line) + 1


def _step(root: Node, config: Node) -> int:
    """How far this file indents."""
    return max(_column(config.value[0][0]) - _column(root.value[0][0]), 1)


def _without_blanks(text: str, at: int) -> int:
    """The start of the blanks before `at`."""
    return len(text[:at].rstrip(" \t"))


def _quoted(value: Any) -> str:
    if not isinstance(value, str):
        return str(value)
    return _ESCAPED.sub(lambda found: f"\\u{ord(found.group()):04x}", json.dumps(value, ensure_ascii=False))
