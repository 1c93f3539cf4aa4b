"""The code of a project that is to be adopted, read and never run: modules, notebooks, and the files that they name."""

from __future__ import annotations

import ast
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from modelworks.errors import ModelworksError
from modelworks.lifecycle.model_project import MAX_BYTES, source_files

READERS = {"read_csv": ".csv", "read_table": ".tsv", "read_parquet": ".parquet", "read_feather": ".feather"}
READERS |= {"read_json": ".json", "read_excel": ".xlsx", "read_pickle": ".pkl"}
"""Functions of pandas that read rows, each with the files that it reads."""
WORK = {"fit", "fit_transform", "predict", "dump", "savefig", "show", *READERS}
"""Calls that a module makes when it is imported, if it is a script."""
_SAME = {"resolve", "absolute", "as_posix", "expanduser", "abspath", "realpath", "normpath", "fspath", "str"}
"""Calls that give the path that they are given."""

TAKEN = {"model.py", "serving.py", "on_columns.py", "test_model.py"}
"""Files that adopting writes."""
Definition = ast.FunctionDef | ast.ClassDef


class Imported(NamedTuple):
    """A name that a module imports."""

    statement: str
    """The import of that name alone, as the module would write it."""
    path: Path | None
    """The file or folder of the project that it is or comes from, relative to the project."""
    name: str
    """The name there; empty: the module itself."""


@dataclass(eq=False)
class Module:
    """A Python file, or the code cells of a notebook one after the other."""

    path: Path
    """Relative to the project."""
    text: str
    tree: ast.Module
    root: Path
    cells: tuple[int, ...] = ()
    """A notebook's: the line at which each cell begins."""
    numbers: tuple[int, ...] = ()
    """The number of each of those cells, from 1."""

    @property
    def name(self) -> str:
        """The module's name, with dots."""
        parts = moved(self.path).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    @cached_property
    def is_script(self) -> bool:
        """Whether importing it does its work."""
        if self.cells or not all(each.isidentifier() for each in self.path.with_suffix("").parts):
            return True  # a notebook, or a file that no import can name
        return any(called(node) in WORK for each in self.tree.body if not guards(each) for node in _top(each))

    @cached_property
    def definitions(self) -> dict[str, Definition]:
        """Functions and classes, by name."""
        return {each.name: each for each in self.tree.body if isinstance(each, ast.FunctionDef | ast.ClassDef)}

    @cached_property
    def constants(self) -> dict[str, ast.expr]:
        """Values of the names that are assigned at the top, the last of each."""
        found: dict[str, ast.expr] = {}
        for each in self.tree.body:
            if isinstance(each, ast.Assign) and len(each.targets) == 1 and isinstance(each.targets[0], ast.Name):
                found[each.targets[0].id] = each.value
            elif isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name) and each.value:
                found[each.target.id] = each.value
        return found

    @cached_property
    def imports(self) -> dict[str, Imported]:
        """Imports, wherever in the module, by the name that each gets."""
        found: dict[str, Imported] = {}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                for each in node.names:
                    path = resolve(each.name, self)
                    if path and each.asname is None and "." in each.name:
                        path = resolve(each.name.partition(".")[0], self)
                    text = f"import {each.name}" + (f" as {each.asname}" if each.asname else "")
                    found[each.asname or each.name.partition(".")[0]] = Imported(text, path, "")
            elif isinstance(node, ast.ImportFrom) and node.module != "__future__":
                found |= self._imported_from(node)
        return found

    def _imported_from(self, node: ast.ImportFrom) -> dict[str, Imported]:
        found: dict[str, Imported] = {}
        base = self.path.parts[:-1][: len(self.path.parts) - node.level] if node.level else ()
        for each in node.names:
            name = each.asname or each.name
            module = "." * node.level + (node.module or "")
            text = f"from {module} import {each.name}" + (f" as {each.asname}" if each.asname else "")
            if node.level:
                folder = Path(*base, *(node.module.split(".") if node.module else ()))
                path = _file_or_folder(self.root, folder / each.name) or _file_or_folder(self.root, folder)
            else:
                path = resolve(f"{node.module}.{each.name}", self) or resolve(node.module or "", self)
            itself = path is not None and PurePath(path).with_suffix("").name == each.name
            found[name] = Imported(text, path, "" if itself else each.name)
        return found

    @cached_property
    def stars(self) -> list[Path]:
        """Files of the project of which everything is imported."""
        return [each.path for each in self.imports.values() if each.name == "*" and each.path]

    def where(self, line: int) -> str:
        """A line as people find it: of a notebook the cell, and the line in it."""
        place = self.root / self.path
        if not self.cells:
            return f"{place}:{line}"
        at = max(number for number, first in enumerate(self.cells) if first <= max(line, 1))
        return f"{place}:cell {self.numbers[at]}:{line - self.cells[at] + 1}"


@dataclass
class Code:
    """All modules of a project."""

    root: Path
    modules: list[Module]
    problems: list[str] = field(default_factory=list)

    def at(self, path: Path | None) -> Module | None:
        """The module of a file or of a package's folder."""
        wanted = {path, path / "__init__.py"} if path else set()
        return next((each for each in self.modules if each.path in wanted), None)

    def find(self, name: str, module: Module, depth: int = 0) -> tuple[Module, str] | None:
        """The module of the project that makes a name, and the name that it has there."""
        if name in module.definitions or (name in module.constants and name not in module.imports):
            return module, name
        if depth > 8:
            return None
        imported = module.imports.get(name)
        if imported and imported.path and imported.name and (other := self.at(imported.path)):
            return self.find(imported.name, other, depth + 1)
        for each in module.stars:
            if (other := self.at(each)) and (found := self.find(name, other, depth + 1)):
                return found
        return None

    def function(self, call: ast.AST, module: Module) -> tuple[Module, Definition] | None:
        """The function or class of the project that a call means."""
        if not isinstance(call, ast.Call):
            return None
        target: ast.expr = call.func
        if isinstance(target, ast.Name) and (found := self.find(target.id, module)):
            definition = found[0].definitions.get(found[1])
            return (found[0], definition) if definition else None
        if isinstance(target, ast.Attribute) and (other := self.module_of(target.value, module)):
            definition = other.definitions.get(target.attr)
            return (other, definition) if definition else None
        return None

    def module_of(self, node: ast.expr, module: Module) -> Module | None:
        """The module of the project that a name or a dotted name means."""
        dotted = ast.unparse(node) if isinstance(node, ast.Name | ast.Attribute) else ""
        if not dotted:
            return None
        imported = module.imports.get(dotted)
        if imported and imported.path and not imported.name:
            return self.at(imported.path)
        return self.at(resolve(dotted, module)) if dotted.partition(".")[0] in module.imports else None


# -- Reading ---------------------------------------------------------------------------------------------------------
def read_code(root: Path, only: Path | None) -> Code:
    """The Python files and notebooks of a project, or one of them and those that it imports.

    Raises:
        ModelworksError: A Python file, or the one notebook, cannot be read.
    """
    kinds = {".py", ".ipynb"}
    wanted = [only] if only else [path for path in source_files(root) if path.suffix in kinds and path.is_file()]
    one = len(wanted) == 1
    found: dict[Path, Module] = {}
    code = Code(root, [])
    while wanted:
        path = wanted.pop(0)
        if path in found or path.name in {"setup.py", "noxfile.py"}:
            continue
        try:
            found[path] = _module(path, root)
        except (SyntaxError, UnicodeDecodeError, ValueError, KeyError, AttributeError) as error:
            if path.suffix == ".ipynb" and not one:
                code.problems.append(f"{path}:1: it cannot be read, and is left out: {error}")
                continue
            raise ModelworksError(f"{path}: {error}", fix="Correct it, or move it elsewhere.") from error
        if only:
            wanted += [root / each for each in _files_of(found[path]) if each]
    code.modules = [found[path] for path in sorted(found)]
    return code


def _files_of(module: Module) -> Iterator[Path]:
    for each in module.imports.values():
        if each.path:
            file = each.path if each.path.suffix else each.path / "__init__.py"
            if (module.root / file).is_file():
                yield file
    # What a package imports for itself comes with the names that are imported of it.
    yield from (path for _, path in _absolute_imports(module) if path.suffix)


def _module(path: Path, root: Path) -> Module:
    text = path.read_text(encoding="utf-8-sig")  # some editors begin a file with a mark
    cells: tuple[int, ...] = ()
    numbers: tuple[int, ...] = ()
    if path.suffix == ".ipynb":
        text, cells, numbers = _notebook(json.loads(text))
    return Module(path.relative_to(root), text, ast.parse(text), root, cells, numbers)


def _notebook(facts: dict[str, Any]) -> tuple[str, tuple[int, ...], tuple[int, ...]]:
    """The code of a notebook: magics become comments, so that lines keep their numbers."""
    lines: list[str] = []
    starts, numbers = [], []
    for number, cell in enumerate(facts["cells"], 1):
        source = "".join(cell["source"])
        if cell["cell_type"] != "code" or re.match(r"%%(?!time|capture|prun)", source.lstrip()):
            continue
        starts.append(len(lines) + 1)
        numbers.append(number)
        for line in source.splitlines():
            is_magic = line.lstrip()[:1] in {"%", "!", "?"} or re.fullmatch(r"\s*[\w.]+\?+", line)
            shell = re.match(r"\s*\w+\s*=\s*[!%]", line)
            lines.append(f"# {line}" if is_magic or shell else line)
        lines.append("")
    return "\n".join(lines) + "\n", tuple(starts or [1]), tuple(numbers or [1])


def resolve(name: str, module: Module) -> Path | None:
    """The file or folder of the project that an absolute import means, relative to the project."""
    for base in dict.fromkeys([(module.root / module.path).parent, module.root, module.root / "src"]):
        found = _file_or_folder(module.root, base.joinpath(*name.split(".")).relative_to(module.root)) if name else None
        if found and found != module.path:
            return found
    return None


def _file_or_folder(root: Path, path: Path) -> Path | None:
    for each in (path.with_name(f"{path.name}.py") if path.name else path, path / "__init__.py"):
        if (root / each).is_file():
            return each
    return path if path.parts and (root / path).is_dir() and any((root / path).glob("*.py")) else None


# -- The files that code names ---------------------------------------------------------------------------------------
class Named(NamedTuple):
    """A path that an expression means."""

    text: str
    node: ast.expr
    """The expression that decides from where it is looked up: a part that is a relative text, or the whole."""
    node_text: str
    module: Module
    is_path: bool
    """Whether that is a `Path`, and no text."""
    by_file: bool
    """Whether it is found from `__file__`."""
    whole: bool
    """Whether it is made of texts alone."""


def named(node: ast.AST, module: Module, code: Code, depth: int = 0) -> Named | None:
    """The path that an expression means, if it can be read of the code."""
    if depth > 8 or not isinstance(node, ast.expr):
        return None
    more = partial(named, module=module, code=code, depth=depth + 1)
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and "\n" not in node.value:
        return Named(node.value, node, node.value, module, False, False, True)
    if isinstance(node, ast.Name):
        if node.id == "__file__":
            return Named(str(module.root / module.path), node, "", module, False, True, False)
        found = code.find(node.id, module)
        value = found[0].constants.get(found[1]) if found else None
        got = named(value, found[0], code, depth + 1) if found and value is not None else None
        return got._replace(whole=False) if got else None
    if isinstance(node, ast.Attribute):
        if node.attr == "parent":
            return _joined(node, [more(node.value)], "..", is_path=True)
        other = code.module_of(node.value, module)
        value = other.constants.get(node.attr) if other else None
        got = named(value, other, code, depth + 1) if other and value is not None else None
        return got._replace(whole=False) if got else None
    if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Attribute) and node.value.attr == "parents":
        ups = node.slice.value if isinstance(node.slice, ast.Constant) and isinstance(node.slice.value, int) else 0
        return _joined(node, [more(node.value.value)], "/".join([".."] * (ups + 1)), is_path=True)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div | ast.Add):
        parts = [more(node.left), more(node.right)]
        return _joined(node, parts, is_path=isinstance(node.op, ast.Div), glued=isinstance(node.op, ast.Add))
    if isinstance(node, ast.JoinedStr):
        values = [more(each.value if isinstance(each, ast.FormattedValue) else each) for each in node.values]
        return _joined(node, values, glued=True)
    return _named_by_call(node, more) if isinstance(node, ast.Call) else None


def _named_by_call(node: ast.Call, more: Any) -> Named | None:
    what = called(node)
    receiver = node.func.value if isinstance(node.func, ast.Attribute) else None
    if what in {"Path", "PurePath", "join"}:
        if receiver is not None and what == "join" and "path" not in ast.unparse(receiver):
            return None
        if not node.args:
            return Named(".", node, ".", None, True, False, True) if what == "Path" else None  # type: ignore[arg-type]
        return _joined(node, [more(each) for each in node.args], is_path=what != "join")
    if what == "joinpath" and receiver is not None:
        return _joined(node, [more(receiver), *(more(each) for each in node.args)], is_path=True)
    if what in {"cwd", "getcwd"}:
        return None
    if what == "dirname" and node.args:
        return _joined(node, [more(node.args[0])], "..")
    if what in _SAME and (node.args or receiver is not None):
        inner = node.args[0] if node.args else receiver
        return _joined(node, [more(inner)], is_path=what in {"resolve", "absolute", "expanduser"})
    if what in {"get", "getenv"} and len(node.args) == 2 and receiver is not None and "os" in ast.unparse(receiver):
        got = more(node.args[1])
        return got._replace(whole=False) if got else None
    return None


def _joined(
    node: ast.expr, parts: Sequence[Named | None], below: str = "", *, is_path: bool = False, glued: bool = False
) -> Named | None:
    if not parts or any(each is None for each in parts):
        return None
    known = [each for each in parts if each]
    text = "".join(each.text for each in known) if glued else str(Path(*(each.text for each in known), below))
    text, first = (text if glued else os.path.normpath(text)), known[0]
    if not glued and first.by_file and below == ".." and first.text.endswith(".py"):
        text = str(Path(first.text).parent)
    if all(each.whole for each in known):
        return Named(text, node, text, first.module, is_path, False, True)
    return first._replace(text=text, whole=False)


def file_of(found: Named, code: Code, module: Module) -> Path | None:
    """The file, or folder, that is meant: from the project, from the module, or the one with that name."""
    text = found.text
    if not text or len(text) > 300 or "\0" in text or "://" in text or "*" in text:
        return None
    at = found.module or module
    bases = [code.root, (code.root / at.path).parent, (code.root / module.path).parent]
    paths = [Path(text)] if Path(text).is_absolute() else [Path(os.path.normpath(base / text)) for base in bases]
    for each in paths:
        if each.exists() and (found.by_file or not Path(text).is_absolute()):
            return each
    if Path(text).suffix in READERS.values():
        same = [path for path in _files(code) if path.name == Path(text).name]
        return same[0] if len(same) == 1 else None
    return None


def _files(code: Code) -> list[Path]:
    return [path for path in source_files(code.root) if path.is_file() and not path.is_symlink()]


def named_files(module: Module, code: Code, tree: ast.AST | None = None) -> Iterator[tuple[ast.expr, Named, Path]]:
    """Expressions that mean a file that is there, the outermost ones: each with its path."""
    waiting: list[ast.AST] = [tree or module.tree]
    while waiting:
        node = waiting.pop()
        found = named(node, module, code)
        path = file_of(found, code, module) if found and found.text else None
        if path is None or not path.is_file() or path.suffix == ".py":
            waiting += ast.iter_child_nodes(node)
        elif found:
            yield node, found._replace(module=found.module or module), path  # type: ignore[misc]


def written_files(code: Code) -> dict[str, str]:
    """Names of tables that the code writes, each with file and line."""
    found = {}
    for module in code.modules:
        for call in calls_of(module.tree):
            path = named(call.args[0], module, code) if called(call).startswith("to_") and call.args else None
            if path and Path(path.text).suffix in READERS.values():
                found[Path(path.text).name] = module.where(call.lineno)
    return found


def place_of(path: Path, root: Path) -> Path:
    """The place of a file in the project that is made, relative to it."""
    return path.relative_to(root) if path.is_relative_to(root) else Path("data") / path.name


def moved(path: Path) -> Path:
    """The place of a Python file in the project that is made: `model.py` and what is beside it are ours."""
    return path.with_name(f"{path.stem}_code.py") if path.as_posix() in TAKEN else path


def too_large(path: Path) -> str:
    """Why a file has no place in a project; empty where it has."""
    size = path.stat().st_size
    if size <= MAX_BYTES:
        return ""
    return f"it holds {size / 1e6:.0f} MB, and a project up to {MAX_BYTES / 1e6:.0f} MB."


# -- The code as it must read in a model project ---------------------------------------------------------------------
Edit = tuple[ast.AST, str]
"""A node, and the text that takes its place."""


def edited(text: str, edits: Iterable[Edit]) -> str:
    """A text with nodes of it replaced; those inside of another that is replaced too are left."""
    raw = text.encode()
    starts = [0]
    for line in raw.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    spans = []
    for node, new in edits:
        first = starts[node.lineno - 1] + node.col_offset  # type: ignore[attr-defined]
        spans.append((first, starts[node.end_lineno - 1] + node.end_col_offset, new))  # type: ignore[attr-defined]
    end = len(raw) + 1
    outer = [one for one in spans if not any(a <= one[0] and one[1] <= b and (a, b) != one[:2] for a, b, _ in spans)]
    for first, last, new in sorted(set(outer), reverse=True):
        if last <= end:
            raw, end = raw[:first] + new.encode() + raw[last:], first
    return raw.decode()


def rewritten(module: Module, code: Code) -> str:
    """A module with relative imports of its project, and files found beside the code."""
    edits: list[Edit] = []
    for node, path in _absolute_imports(module):
        dots, names = relative(path, module.path)
        if isinstance(node, ast.ImportFrom):
            start = node.col_offset + len("from ")
            edits.append((_span(node.lineno, start, start + len(node.module or "")), dots + ".".join(names)))
        elif len(node.names) == 1 and names and ("." not in node.names[0].name or node.names[0].asname):
            [each] = node.names
            end = node.col_offset + len(f"import {each.name}")
            new = f"from {dots}{'.'.join(names[:-1])} import {names[-1]}"
            new += f" as {each.name}" if names[-1] != each.name.rpartition(".")[2] and not each.asname else ""
            edits.append((_span(node.lineno, node.col_offset, end), new))
        else:
            one = node.names[0].name
            code.problems.append(f"{module.where(node.lineno)}: write `from {dots} import ...`: {one} is beside it")
    edits += _of_moved(module)
    files = [(node, new) for other, node, new in file_edits(code) if other is module]
    if files:
        up = f"parents[{len(module.path.parts) - 1}]" if len(module.path.parts) > 1 else "parent"
        first = next((n for n in module.tree.body if not _is_head(n)), module.tree.body[-1])
        above = min([first.lineno, *(each.lineno for each in getattr(first, "decorator_list", []))])
        head = f"from pathlib import Path as _Path\n\n_PROJECT = _Path(__file__).{up}\n\n"
        edits.append((_span(above, 0, 0), head))
    return edited(module.text, [*edits, *files])


def _of_moved(module: Module) -> Iterator[Edit]:
    """Relative imports of a file that has another name in the project that is made."""
    for node in ast.walk(module.tree):
        if not isinstance(node, ast.ImportFrom) or node.level != len(module.path.parts):
            continue
        if node.module and moved(Path(f"{node.module}.py")).stem != node.module:
            start = node.col_offset + len("from ") + node.level
            yield _span(node.lineno, start, start + len(node.module)), moved(Path(f"{node.module}.py")).stem
        elif not node.module:
            for each in node.names:
                new = moved(Path(f"{each.name}.py")).stem
                if new != each.name:
                    yield each, f"{new} as {each.asname or each.name}"


def file_edits(code: Code) -> Iterator[tuple[Module, ast.expr, str]]:
    """Expressions of all modules that must be looked up from the project, each with what takes its place."""
    seen = set()
    for module in code.modules:
        for _, found, path in named_files(module, code):
            at = found.module or module
            if found.by_file or found.node in seen or (Path(found.text).is_absolute() and not found.whole):
                continue
            seen.add(found.node)
            target = path if found.whole else file_of(found._replace(text=found.node_text), code, module)
            if target is None or (not target.is_relative_to(code.root) and target.is_dir()):
                continue
            below = place_of(target, code.root).as_posix()
            new = f"_PROJECT / {quoted(below)}" if below != "." else "_PROJECT"
            yield at, found.node, new if found.is_path else f"str({new})"


def _absolute_imports(module: Module) -> Iterator[tuple[ast.Import | ast.ImportFrom, Path]]:
    """Imports of other files of the project that name them from the top, each with the file or folder."""
    for node in ast.walk(module.tree):
        names = [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
        names += [each.name for each in node.names] if isinstance(node, ast.Import) else []
        for name in filter(None, names):
            if path := resolve(name, module):
                yield node, path  # type: ignore[misc]


def relative(target: Path, importer: Path) -> tuple[str, list[str]]:
    """The dots, and the names after them, by which one file of a project imports another."""
    target = moved(target)
    parts = [*target.with_suffix("").parts] if target.suffix else [*target.parts]
    parts = parts[:-1] if parts and parts[-1] == "__init__" else parts
    here = [*importer.parent.parts]
    pairs = zip(here, parts, strict=False)
    shared = next((n for n, (one, other) in enumerate(pairs) if one != other), min(len(here), len(parts)))
    return "." * (len(here) - shared + 1), parts[shared:]


def _span(line: int, start: int, end: int) -> ast.AST:
    return ast.Pass(lineno=line, col_offset=start, end_lineno=line, end_col_offset=end)


def _is_head(node: ast.stmt) -> bool:
    """Whether a statement stays above what is inserted: the docstring and imports."""
    docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return docstring or isinstance(node, ast.Import | ast.ImportFrom)


# -- Small questions -------------------------------------------------------------------------------------------------
def called(node: ast.AST) -> str:
    """The last name of what a call calls."""
    function = node.func if isinstance(node, ast.Call) else None
    return str(getattr(function, "attr", "") or getattr(function, "id", ""))


def calls_of(node: ast.AST) -> Iterator[ast.Call]:
    """All calls in a node."""
    return (each for each in ast.walk(node) if isinstance(each, ast.Call))


def guards(node: ast.stmt) -> bool:
    """Whether it is `if __name__ == "__main__"`."""
    return isinstance(node, ast.If) and "__name__" in ast.dump(node.test)


def _top(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes that run when a statement does: not the bodies of functions."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
        return
    yield node
    for each in ast.iter_child_nodes(node):
        yield from _top(each)


def root_of(node: ast.AST) -> str:
    """The name that an attribute, a subscript or a call begins with."""
    while isinstance(node, ast.Attribute | ast.Subscript | ast.Call):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else ""


def quoted(text: str) -> str:
    """A text as Python."""
    return json.dumps(text, ensure_ascii=False)
