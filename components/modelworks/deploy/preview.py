"""The changes of a preview, read from the engine's JSON: as Markdown, as text, as JSON."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from typing import Any, Final

from modelworks import contract

SECRET: Final = "[secret]"  # noqa: S105 (what is shown in a secret's place)
UNKNOWN: Final = "known after apply"

_SECRET_MARK: Final = "4dabf18193072939515e22adb298388d"  # noqa: S105 (the key that marks a secret in a state)
_UNKNOWN_MARKS: Final = frozenset(
    # What stands for an unknown string, number, list, ... in the engine's JSON (its plugin protocol).
    {
        "04da6b54-80e4-46f7-96ec-b56ff0331ba9",
        "1c4a061d-8072-4f0a-a4cb-0ff528b18fe7",
        "3eeb2bf0-c639-47a8-9e75-3b44932eb421",
        "6a19a0b0-7e62-4c92-b797-7f8e31da9cc2",
        "030794c1-ac77-496b-92df-f27374a8bd58",
        "e48ece36-62e2-4504-bad9-02848725956a",
        "dd056dcd-154b-4c76-9bd3-c8f88648b5ff",
    }
)
_ACTIONS: Final = {
    "create": "create",
    "update": "update",
    "delete": "delete",
    "replace": "replace",
    "create-replacement": "replace",
    "delete-replaced": "replace",
    "import": "import",
    "import-replacement": "replace",
}
_ORDER: Final = ("replace", "delete", "update", "create", "import")
_DONE: Final = {
    "replace": "replaced",
    "delete": "deleted",
    "update": "changed",
    "create": "created",
    "import": "imported",
}
_STATEFUL: Final = re.compile(
    r"^aws:(s3/bucket(V2)?:|dynamodb/table:|kms/key:|kinesis/stream:|ecr/repository:|efs/fileSystem:|sqs/queue:"
    r"|rds/|docdb/|elasticache/|secretsmanager/secret:|ssm/parameter:|cloudwatch/logGroup:|cognito/userPool:|ebs/volume:)"
    r"|^kubernetes:(core/v1:(PersistentVolumeClaim|PersistentVolume|Namespace|Secret)|apps/v1:StatefulSet)$"
)
_WIDTH: Final = 72
_LONGEST: Final = 60_000
"""GitHub takes a comment of up to 65,536 characters."""
_LONGEST_PROBLEMS: Final = 20_000


@dataclass(frozen=True)
class Difference:
    """One property that changes."""

    path: str
    old: str | None
    new: str | None


@dataclass(frozen=True)
class Change:
    """One resource that changes."""

    action: str
    """`create`, `update`, `replace`, `delete` or `import`."""
    type: str
    name: str
    urn: str
    stateful: bool
    """Whether it holds data that its replacement or deletion loses."""
    forced_by: tuple[str, ...]
    """The properties that make it a replacement."""
    differences: tuple[Difference, ...]

    @property
    def dangerous(self) -> bool:
        """Whether data may be lost."""
        return self.stateful and self.action in {"replace", "delete"}


@dataclass(frozen=True)
class Preview:
    """The changes that an update of one environment would make."""

    environment: str
    changes: tuple[Change, ...]
    unchanged: int
    problems: tuple[str, ...]
    """Refusals of policies, then errors, then warnings, of the engine and the program."""
    overrides: tuple[str, ...] = ()
    """Releases in spite of refused gates: model, reason and person, a sentence each."""

    @classmethod
    def read(cls, environment: str, text: str) -> Preview:
        """From the output of `pulumi preview --json`.

        Raises:
            ValueError: It is not JSON: the engine did not come as far as a preview.
        """
        found = json.loads(text[max(text.find("{"), 0) :])
        by_urn: dict[str, dict[str, Any]] = {}
        for step in found.get("steps") or []:
            if (action := _ACTIONS.get(step["op"])) is not None:
                known = by_urn.setdefault(step["urn"], {"action": action, "step": step})
                if action == "replace" or known["action"] == "replace":
                    known["action"] = "replace"
                    known["step"] = {**known["step"], **{key: value for key, value in step.items() if value}}
        changes = [_change(urn, known["action"], known["step"]) for urn, known in by_urn.items()]
        changes.sort(key=lambda change: (_ORDER.index(change.action), not change.stateful, change.type, change.name))
        problems = [
            diagnostic["message"].strip()
            for diagnostic in sorted(found.get("diagnostics") or [], key=_urgency)
            if diagnostic.get("severity") in {"error", "warning"} and diagnostic.get("message", "").strip()
        ]
        if found.get("error"):
            problems.append(str(found["error"]).strip())
        unchanged = (found.get("changeSummary") or {}).get("same", 0)
        overrides = dict.fromkeys(each for each in problems if contract.OVERRIDDEN in each)
        problems = [each for each in dict.fromkeys(problems) if each not in overrides]
        told = tuple(each.removeprefix("warning: ") for each in overrides)
        return cls(environment, tuple(changes), unchanged, tuple(problems), told)

    def counts(self) -> dict[str, int]:
        """How many resources see each action; actions that do not happen are left out."""
        counts = {action: sum(change.action == action for change in self.changes) for action in _ORDER}
        return {action: count for action, count in counts.items() if count}

    def facts(self) -> dict[str, Any]:
        """The same for `--json`."""
        return {
            "environment": self.environment,
            "summary": {**self.counts(), "unchanged": self.unchanged},
            "changes": [{**asdict(change), "dangerous": change.dangerous} for change in self.changes],
            "overrides": list(self.overrides),
            "problems": list(self.problems),
        }

    def markdown(self, *, failed: bool = False) -> str:
        """A table for a pull request: problems first, then replacements and deletions, in bold where they lose data.

        Rows that a comment has no place for are left out from its end, and counted.

        Args:
            failed: The engine did not come to its end, so that nobody may take what is there for all there is.
        """
        lines = [f"### Preview of `{self.environment}`", ""]
        if failed:
            lines += ["> :x: **The preview failed. What is below is not all of it, and nothing to approve.**", ""]
        told = ", ".join(f"{count} {_DONE[action]}" for action, count in self.counts().items())
        if told or not failed:
            lines += [f"{told or 'No changes'}; {self.unchanged} unchanged.", ""]
        if danger := [change for change in self.changes if change.dangerous]:
            names = ", ".join(f"`{change.name}`" for change in danger)
            lines += [f"> :warning: **Data may be lost: {names}.** Read these rows before you approve.", ""]
        if self.overrides:
            lines += [*(f"> :warning: **{_text(each)}**" for each in self.overrides), ""]
        if self.problems:
            shown, left = _fitting([each.replace("```", "'''") for each in self.problems], _LONGEST_PROBLEMS)
            lines += ["<details open><summary>Errors and warnings</summary>", "", "```text", *shown, "```"]
            lines += [*([_left_out(left, "errors and warnings")] if left else []), "", "</details>", ""]
        if self.changes:
            lines += ["| | resource | type | what |", "|---|---|---|---|"]
            room = _LONGEST - sum(len(line) + 1 for line in lines)
            shown, left = _fitting([_row(change) for change in self.changes], room)
            lines += [*shown, "", *([_left_out(left, "changes"), ""] if left else [])]
        return "\n".join(lines)


def _urgency(diagnostic: dict[str, Any]) -> int:
    """0 for what a policy refuses, then errors, then the rest."""
    if "[mandatory]" in diagnostic.get("message", ""):
        return 0
    return 1 if diagnostic.get("severity") == "error" else 2


def _fitting(lines: list[str], room: int) -> tuple[list[str], int]:
    """The first of some lines, as many as there is room for, and how many are left out. One that is longer is cut."""
    shown: list[str] = []
    for line in lines:
        room -= len(line) + 1
        if room < 0:
            break
        shown.append(line)
    if lines and not shown:
        shown = [f"{lines[0][:_LONGEST_PROBLEMS]} (cut)"]
    return shown, len(lines) - len(shown)


def _left_out(number: int, what: str) -> str:
    return f"> :warning: **{number} {what} are left out: a comment has no place for them.** The log of the job has all."


def _change(urn: str, action: str, step: dict[str, Any]) -> Change:
    kind, name = urn.split("::")[2].rpartition("$")[2], urn.split("::", 3)[3]
    old, new = step.get("oldState") or {}, step.get("newState") or {}
    forced = tuple(step.get("replaceReasons") or ())
    detailed = step.get("detailedDiff") or {}
    differences: list[Difference] = []
    if action in {"update", "replace"}:
        if detailed:
            forced = forced or tuple(path for path, how in detailed.items() if "replace" in how.get("kind", ""))
            for path, how in detailed.items():
                side = "inputs" if how.get("inputDiff", True) else "outputs"
                before = _at(old.get(side) or {}, path)
                differences.append(Difference(path, _shown(before), _shown(_at(new.get("inputs") or {}, path))))
        else:
            before, after = old.get("inputs") or {}, new.get("inputs") or {}
            differences = _deep("", before, after)
            seen = {re.split(r"[.\[]", difference.path)[0] for difference in differences}
            for key in step.get("diffReasons") or ():  # two secrets look the same here, but the engine knows better
                if key not in seen:
                    differences.append(Difference(key, _shown(before.get(key)), _shown(after.get(key))))
    return Change(action, kind, name, urn, bool(_STATEFUL.search(kind)), forced, tuple(differences))


def _deep(path: str, old: Any, new: Any) -> list[Difference]:
    if old == new:
        return []
    both = isinstance(old, dict) and isinstance(new, dict) and _SECRET_MARK not in old and _SECRET_MARK not in new
    if not both:
        return [Difference(path, _shown(old), _shown(new))]
    found = []
    for key in sorted({*old, *new} - {"__defaults"}):
        found += _deep(f"{path}.{key}" if path else key, old.get(key), new.get(key))
    return found


def _at(value: Any, path: str) -> Any:
    for part in re.findall(r"\[\"([^\"]+)\"\]|\[(\d+)\]|([^.\[\]]+)", path):
        key = part[0] or part[2]
        if isinstance(value, dict) and key:
            if _SECRET_MARK in value:
                return SECRET
            value = value.get(key)
        elif isinstance(value, list) and part[1]:
            value = value[int(part[1])] if int(part[1]) < len(value) else None
        else:
            return SECRET if value == SECRET else None
    return value


def _shown(value: Any) -> str | None:
    if value is None:
        return None
    value = _masked(value)
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _WIDTH else f"{text[: _WIDTH - 1]}…"


def _masked(value: Any) -> Any:
    if isinstance(value, dict):
        if _SECRET_MARK in value:
            return SECRET
        return {key: _masked(inner) for key, inner in value.items() if key != "__defaults"}
    if isinstance(value, list):
        return [_masked(inner) for inner in value]
    return UNKNOWN if isinstance(value, str) and value in _UNKNOWN_MARKS else value


def _row(change: Change) -> str:
    parts = []
    for difference in change.differences:
        force = " (forces it)" if difference.path in change.forced_by else ""
        old, new = _cell(difference.old), _cell(difference.new)
        parts.append(f"`{_plain(difference.path)}`: {old} → {new}{force}")
    action, name = change.action, f"`{_plain(change.name)}`"
    if change.dangerous:
        action, name = f"**{action}**", f"**{name}**"
    return f"| {action} | {name} | `{_plain(change.type)}` | {'<br>'.join(parts)} |"


def _text(sentence: str) -> str:
    """A sentence of the program as text of a document: it cannot be more than that."""
    return re.sub(r"([\\`*_\[\]<>|])", r"\\\1", re.sub(r"\s+", " ", sentence))


def _cell(text: str | None) -> str:
    return "*none*" if text is None else f"`{_plain(text)}`"


def _plain(text: str) -> str:
    """`text` so that it stays inside one code span of one table cell."""
    return re.sub(r"\s+", " ", text).replace("`", "'").replace("|", "\\|")
