"""Check the language of what users read: documents, docstrings, help texts, errors and their fixes.

    python docs/prose.py [FILE ...]     # exits with 1 if a text breaks a rule; `make lint` runs it

The rules, and the files that are exempt, are data: `prose.toml` in the same folder.
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RULES = Path(__file__).with_suffix(".toml")

_FEWEST_WORDS = 3
"""A shorter string in code is a name, a key or a command."""


@dataclass(frozen=True)
class Text:
    """A paragraph, with the line on which each of its characters stands."""

    words: str
    lines: tuple[int, ...]


@dataclass(frozen=True)
class Rule:
    """A form to avoid."""

    name: str
    pattern: re.Pattern[str]
    better: str
    unless: re.Pattern[str] | None
    """Matches the words before it, in the same sentence, where the form is right."""


@dataclass(frozen=True)
class Finding:
    """A text that breaks a rule."""

    line: int
    phrase: str
    rule: str
    better: str


@dataclass(frozen=True)
class Style:
    """All rules, and which files they hold for."""

    include: tuple[str, ...]
    exclude: tuple[str, ...]
    longest: int
    rules: tuple[Rule, ...]


def main(arguments: Sequence[str]) -> int:
    """Print all findings; returns the exit code."""
    style = read_style(RULES)
    files = [Path(name).resolve() for name in arguments] or checked_files(ROOT, style)
    count = 0
    for path in files:
        name = path.relative_to(ROOT).as_posix()
        for finding in check(path, style):
            print(f"{name}:{finding.line}: {finding.phrase!r}: {finding.rule}: {finding.better}")
            count += 1
    if count:
        print(f"{count} to reword; the rules are in {RULES.relative_to(ROOT)}", file=sys.stderr)
    return int(count > 0)


def read_style(path: Path) -> Style:
    """The rules in a file."""
    data = tomllib.loads(path.read_text(encoding="utf-8"))
    return Style(
        tuple(data["include"]),
        tuple(skip["files"] for skip in data["exclude"]),
        data["longest_sentence"],
        tuple(_rule(facts) for facts in data["rule"]),
    )


def _rule(facts: dict[str, Any]) -> Rule:
    unless = facts.get("unless_after")
    return Rule(
        facts["name"],
        re.compile(facts["pattern"], re.IGNORECASE | re.MULTILINE),
        facts["better"],
        re.compile(unless + r"\s*$", re.IGNORECASE) if unless else None,
    )


def checked_files(root: Path, style: Style) -> list[Path]:
    """Every file that the rules hold for."""
    excluded = {path for pattern in style.exclude for path in root.glob(pattern)}
    return sorted({path for pattern in style.include for path in root.glob(pattern)} - excluded)


def check(path: Path, style: Style) -> list[Finding]:
    """The findings in a file, by line."""
    source = path.read_text(encoding="utf-8")
    of_kind = {".py": texts_of_python, ".md": texts_of_markdown}.get(path.suffix, texts_of_makefile)
    return sorted(
        (finding for text in of_kind(source) for finding in findings(text, style)), key=lambda finding: finding.line
    )


def findings(text: Text, style: Style) -> Iterator[Finding]:
    """The findings in one paragraph."""
    rules = [rule for rule in style.rules if rule.pattern.search(text.words)]
    for start, sentence in _sentences(text.words):
        line = text.lines[start]
        # A semicolon or a colon gives a reader a place to rest, and inline code is a name.
        count = max(
            len(re.findall(r"\w[\w'/.-]*", part)) for part in re.split(r"[;:]\s", sentence.replace("`code`", ""))
        )
        if count > style.longest:
            phrase = " ".join(sentence.split()[:6]) + " …"
            yield Finding(line, phrase, "long-sentence", f"{count} words; split it, {style.longest} at most")
        for rule in rules:
            for match in rule.pattern.finditer(sentence):
                if rule.unless is None or not rule.unless.search(sentence[: match.start()]):
                    yield Finding(text.lines[start + match.start()], match[0].strip(), rule.name, rule.better)


def _sentences(words: str) -> Iterator[tuple[int, str]]:
    """Each sentence, and where it starts."""
    start = 0
    for end in re.finditer(r"[.!?](?=\s+[\w\"'`*(\[…])|\n|$", words):
        sentence = words[start : end.end()]
        if sentence.strip():
            yield start + len(sentence) - len(sentence.lstrip()), sentence.strip()
        start = end.end()


# -- Markdown --------------------------------------------------------------------------------------------------------
_CODE = re.compile(r"`+[^`]*`+")
_LINK = re.compile(r"!?\[([^\]]*)\]\([^)]*\)")
_BLOCK = re.compile(r"\s*(?:[-*+]|\d+\.|#+|>|!!!|\?\?\?)\s")


def texts_of_markdown(source: str, first: int = 1) -> Iterator[Text]:
    """Paragraphs, list items and table cells; code is left out, and an inline one is the word `code`."""
    paragraph: list[tuple[int, str]] = []
    fence, comment = "", False
    for number, raw in enumerate(source.splitlines(), start=first):
        line = raw.strip()
        if fence or line.startswith(("```", "~~~")):
            fence = "" if fence and line.startswith(fence) else fence or line[:3]
            line = ""
        if comment or line.startswith("<!--"):
            comment, line = "-->" not in line, ""
        if line.startswith("|"):
            yield from _joined(paragraph)
            paragraph = []
            for cell in line.strip("|").split(" | "):
                yield from _joined([(number, cell)])
        elif not line or _BLOCK.match(raw):
            yield from _joined(paragraph)
            paragraph = [(number, _BLOCK.sub("", raw))] if line else []
        else:
            paragraph.append((number, line))
    yield from _joined(paragraph)


def _joined(paragraph: Sequence[tuple[int, str]]) -> Iterator[Text]:
    characters, numbers = "", []
    for number, line in paragraph:
        characters += line.strip() + " "
        numbers += [number] * (len(line.strip()) + 1)
    if characters.strip():
        yield _plain(characters, numbers)


def _plain(characters: str, numbers: Sequence[int]) -> Text:
    """Without markup: what is left of a link is its text, of code the word `code`."""
    for pattern, group in ((_CODE, None), (_LINK, 1)):
        kept, lines, position = "", [], 0
        for match in pattern.finditer(characters):
            words = match[group] if group else "`code`"
            kept += characters[position : match.start()] + words
            lines += [*numbers[position : match.start()], *[numbers[match.start()]] * len(words)]
            position = match.end()
        characters, numbers = kept + characters[position:], [*lines, *numbers[position:]]
    return Text(characters, tuple(numbers))


# -- Python ----------------------------------------------------------------------------------------------------------
def texts_of_python(source: str) -> Iterator[Text]:
    """Docstrings, and every string that reads as a sentence: help, errors, fixes, what is printed."""
    nodes = list(ast.walk(ast.parse(source)))
    inner = {id(part) for node in nodes if isinstance(node, ast.JoinedStr) for part in node.values}
    docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    for node in nodes:
        match node:
            case ast.Constant(value=str(text)) if id(node) in docstrings:
                yield from _docstring(text, node.lineno)
            case ast.Constant(value=str(text)) if id(node) not in inner:
                yield from _message(text, node.lineno)
            case ast.JoinedStr(values=parts):
                yield from _message("".join(_shown(part) for part in parts), node.lineno)


def _shown(part: ast.expr) -> str:
    return str(part.value) if isinstance(part, ast.Constant) else "`code`"


def _docstring(text: str, line: int) -> Iterator[Text]:
    """Its paragraphs, without indented examples; a name and a colon begin a paragraph below `Args:` and `Raises:`."""
    lines = text.split("\n")
    last = lines[-1] if len(lines) > 1 else "."
    outer = min((len(raw) - len(raw.lstrip()) for raw in lines[1:] if raw.strip()), default=0)
    outer = outer if last.strip() else len(last)  # the closing quotes stand where the text is indented to
    prose, section = [], False
    for index, raw in enumerate(lines):
        bare = raw if index == 0 else raw[outer:]
        if re.match(r"(Args|Raises|Returns|Yields|Attributes):$", bare):
            section, bare = True, ""
        elif section and re.match(r" {4}[\w.*]+: ", bare):
            prose.append("")
            line -= 1
            bare = bare.partition(": ")[2]
        elif not section and bare.startswith("    "):
            bare = ""
        prose.append(bare)
    yield from texts_of_markdown("\n".join(prose), line)


def _message(text: str, line: int) -> Iterator[Text]:
    if len(text.split()) >= _FEWEST_WORDS and not re.match(r"\s*(?:[#<{(\[^\\]|import |--)", text):
        yield from ((_plain(words, [line] * len(words))) for words in text.split("\n") if words.strip())


# -- Makefile --------------------------------------------------------------------------------------------------------
def texts_of_makefile(source: str) -> Iterator[Text]:
    """The texts that `make help` shows."""
    for number, line in enumerate(source.splitlines(), start=1):
        if match := re.match(r"\w+:.*## (.*)", line):
            yield Text(match[1], (number,) * len(match[1]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
