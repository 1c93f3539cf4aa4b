"""The start of a model project from code that is there: what can be read of it is stated, the rest is marked.

The files stay as they are laid out. Two things of them change, because a run imports a project as a package of its own
and from another folder: imports of each other become relative, and files that the code names are found beside it.
"""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelworks._files import write_whole
from modelworks.errors import ModelworksError
from modelworks.lifecycle.child_process import environment_of_child
from modelworks.lifecycle.lockfile import package_of
from modelworks.lifecycle.model_project import MAX_BYTES, source_files
from modelworks.lifecycle.scaffold import TEMPLATES, new_folder

if TYPE_CHECKING:
    import pandas as pd

READERS = {"read_csv": ".csv", "read_parquet": ".parquet", "read_feather": ".feather", "read_json": ".json"}
_ESTIMATOR = re.compile(r"Pipeline|make_pipeline|\w*(Classifier|Regressor|Regression(CV)?|SVC|SVR|Ridge|Lasso|NB)")
_RUNS = {"fit", "fit_transform", "predict", "dump", "savefig", "show", *READERS}
"""Calls that a module makes when it is imported, if it is a script."""
MARK = "TODO"
MOST_CATEGORIES = 20
"""Different texts up to which a column is one of categories."""
SAMPLE_ROWS = 100_000


@dataclass(frozen=True)
class Adopted:
    """A project that was made of another."""

    folder: Path
    derived: dict[str, str]
    """Facts that were read of the code and the data, by name."""
    open: list[str]
    """Open points, each with file and line."""


@dataclass
class _Module:
    path: Path
    """Relative to the project."""
    text: str
    tree: ast.Module
    problems: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return ".".join(self.path.with_suffix("").parts)

    @property
    def is_script(self) -> bool:
        """Whether importing it does its work."""
        return any(_called(node) in _RUNS for each in self.tree.body if not _guards(each) for node in _top(each))

    @property
    def functions(self) -> list[ast.FunctionDef]:
        return [] if self.is_script else [each for each in self.tree.body if isinstance(each, ast.FunctionDef)]


def adopt(source: Path, name: str, into: Path, data: Path | None = None, target: str = "") -> Adopted:
    """Make a model project of a folder or file with an estimator or a plain function.

    Args:
        source: The folder, or a Python file in one.
        name: Of the model.
        into: Folder to make the project in.
        data: A file with rows. Default: the one that the code reads.
        target: The column to predict. Default: the target of the code that is there.

    Raises:
        ModelworksError: The name is no model's, there is no code or no data, or the target is not clear.
    """
    folder = new_folder(name, into)
    root = (source if source.is_dir() else source.parent).resolve()
    if not source.exists():
        raise ModelworksError(f"there is no {source}", fix="Name the folder of the project, or a Python file of it.")
    modules = _read(root, None if source.is_dir() else source.resolve())
    if not modules:
        raise ModelworksError(
            f"{source} holds no Python file",
            fix="Name the folder of the code. A notebook is exported with `jupyter nbconvert`.",
        )
    named = {path for module in modules for _, path in _named_files(module, root)}
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=_made(into)) as scratch:
        copy = Path(scratch) / folder.name
        _lay_out(copy, modules, named, root)
        found = _Found.of(modules)
        rows = data.resolve() if data else _rows_file(root, modules)
        place = rows
        if rows and not _is_too_large(rows) and not found.load:
            place = rows.relative_to(root) if rows.is_relative_to(root) else Path(rows.name)
            _copy_file(rows, copy / place)
        table = _table(copy, found, rows, [path for path in sorted(named) if _is_too_large(path)])
        column = target or _target(modules, table)
        read = tuple(path.relative_to(root).as_posix() for path in sorted(named - {rows}))
        text, derived = _model_py(name, found, table, column, place, read)
        write_whole(copy / "model.py", text)
        if found.predict:
            write_whole(copy / "serving.py", _serving_py(found))
        test = (TEMPLATES / "test_model.py.txt").read_text(encoding="utf-8")
        write_whole(copy / "test_model.py", test.replace("__NAME__", name))
        copy.rename(folder)
    problems = [f"{folder / problem}" for module in modules for problem in module.problems]
    return Adopted(folder, derived, [*problems, *_marked(folder)])


def _lay_out(copy: Path, modules: list[_Module], named: set[Path], root: Path) -> None:
    """Write the code, as it must read in a model project, and the files that it names."""
    for module in modules:
        text = _rewritten(module, root)
        module.problems += _left_out(module, text, root)
        write_whole(copy / module.path, text)
    for path in sorted(named):
        if not _is_too_large(path):
            _copy_file(path, copy / path.relative_to(root))


def _copy_file(path: Path, copy: Path) -> None:
    copy.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, copy)


def _marked(folder: Path) -> list[str]:
    """The points that the new files leave open, each with file and line."""
    return [
        f"{path}:{number}: {line.partition(MARK)[2].strip(': ')}"
        for path in (folder / "model.py", folder / "serving.py")
        if path.is_file()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if MARK in line
    ]


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


# -- The code that is there ------------------------------------------------------------------------------------------
def _read(root: Path, only: Path | None) -> list[_Module]:
    """The Python files of a project, or one of them and those that it imports."""
    wanted = [only] if only else [path for path in source_files(root) if path.suffix == ".py" and path.is_file()]
    found: dict[Path, _Module] = {}
    while wanted:
        path = wanted.pop(0)
        if path in found or path.name in {"setup.py", "noxfile.py"}:
            continue
        try:
            text = path.read_text(encoding="utf-8")
            found[path] = _Module(path.relative_to(root), text, ast.parse(text))
        except (SyntaxError, UnicodeDecodeError) as error:
            raise ModelworksError(f"{path}: {error}", fix="Correct it, or move it elsewhere.") from error
        if only:
            wanted += [root / each for _, each in _imports(found[path], root)]
    return [found[path] for path in sorted(found)]


def _imports(module: _Module, root: Path) -> Iterator[tuple[ast.stmt, Path]]:
    """Absolute imports of other files of the project, each with the file or folder."""
    for node in ast.walk(module.tree):
        names = [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
        names += [each.name for each in node.names] if isinstance(node, ast.Import) else []
        for name in filter(None, names):
            if path := _resolve(name, module, root):
                yield node, path  # type: ignore[misc]


def _resolve(name: str, module: _Module, root: Path) -> Path | None:
    """The file of the project that an absolute import means, relative to the project."""
    for base in dict.fromkeys([(root / module.path).parent, root, root / "src"]):
        path = base.joinpath(*name.split("."))
        for each in (path.with_suffix(".py"), path / "__init__.py"):
            if each.is_file() and each != root / module.path:
                return each.relative_to(root)
        if path.is_dir() and any(path.glob("*.py")):
            return path.relative_to(root)
    return None


def _relative(target: Path, module: _Module) -> tuple[str, list[str]]:
    """The dots, and the names after them, by which a module imports another file."""
    parts = [*target.with_suffix("").parts] if target.suffix else [*target.parts]
    parts = parts[:-1] if parts and parts[-1] == "__init__" else parts
    here = [*module.path.parent.parts]
    pairs = zip(here, parts, strict=False)
    shared = next((n for n, (one, other) in enumerate(pairs) if one != other), min(len(here), len(parts)))
    return "." * (len(here) - shared + 1), parts[shared:]


def _rewritten(module: _Module, root: Path) -> str:
    lines = module.text.splitlines(keepends=True)
    edits: list[tuple[int, int, int, str]] = []
    for node, path in _imports(module, root):
        dots, names = _relative(path, module)
        if isinstance(node, ast.ImportFrom):
            start = node.col_offset + len("from ")
            edits.append((node.lineno, start, start + len(node.module or ""), dots + ".".join(names)))
        elif isinstance(node, ast.Import) and len(node.names) == 1 and len(names) > 0:
            [each] = node.names
            if "." in each.name and not each.asname:
                module.problems.append(
                    f"{module.path}:{node.lineno}: write `from {dots} import ...`: {each.name} is beside it"
                )
                continue
            of = dots + ".".join(names[:-1])
            end = node.col_offset + len(f"import {each.name}")
            edits.append((node.lineno, node.col_offset, end, f"from {of} import {names[-1]}"))
        else:
            module.problems.append(f"{module.path}:{node.lineno}: import each module by itself, with a dot")
    placed = False
    for named, path in _named_files(module, root):
        if named.lineno == named.end_lineno:
            new = f"str(_PROJECT / {_quoted(path.relative_to(root).as_posix())})"
            edits.append((named.lineno, named.col_offset, named.end_col_offset or 0, new))
            placed = True
    for line, start, end, new in sorted(edits, reverse=True):
        raw = lines[line - 1].encode()
        lines[line - 1] = (raw[:start] + new.encode() + raw[end:]).decode()
    if placed:
        up = f"parents[{len(module.path.parts) - 1}]" if len(module.path.parts) > 1 else "parent"
        first = next((n for n in module.tree.body if not _is_head(n)), module.tree.body[-1])
        above = min([first.lineno, *(each.lineno for each in getattr(first, "decorator_list", []))])
        lines.insert(above - 1, f"from pathlib import Path as _Path\n\n_PROJECT = _Path(__file__).{up}\n\n")
    return "".join(lines)


def _left_out(module: _Module, text: str, root: Path) -> Iterator[str]:
    """Files that the code names and that are too large for a project, each by the line of the rewritten text."""
    for named, path in _named_files(module, root):
        if _is_too_large(path):
            name = path.relative_to(root).as_posix()
            lines = (number for number, line in enumerate(text.splitlines(), 1) if _quoted(name) in line)
            yield (
                f"{module.path}:{next(lines, named.lineno)}: {name} is left out: {_too_large(path)} Have `load` fetch "
                f"it, or give the whole path, {path}, if no server reads it"
            )


def _is_too_large(path: Path) -> bool:
    return path.stat().st_size > MAX_BYTES


def _too_large(path: Path) -> str:
    return f"it holds {path.stat().st_size / 1e6:.0f} MB, and a project up to {MAX_BYTES / 1e6:.0f} MB."


def _is_head(node: ast.stmt) -> bool:
    """Whether a statement stays above what is inserted: the docstring and imports."""
    docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return docstring or isinstance(node, ast.Import | ast.ImportFrom)


def _named_files(module: _Module, root: Path) -> Iterator[tuple[ast.expr, Path]]:
    """Expressions that are the path of a file of the project, relative to it or to the module."""
    waiting: list[ast.AST] = [module.tree]
    while waiting:
        node = waiting.pop()
        text = _path_of(node)
        found = None
        if text and len(text) < 200 and "\0" not in text and not Path(text).is_absolute():
            paths = [(base / text).resolve() for base in (root, (root / module.path).parent)]
            found = next((each for each in paths if each.is_file() and each.is_relative_to(root)), None)
        if found is None:
            waiting += ast.iter_child_nodes(node)
        elif found.suffix != ".py":
            yield node, found  # type: ignore[misc]


def _path_of(node: ast.AST) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and "\n" not in node.value:
        return node.value
    if isinstance(node, ast.Call) and _called(node) == "join" and node.args and not node.keywords:
        parts = [each.value for each in node.args if isinstance(each, ast.Constant) and isinstance(each.value, str)]
        return str(Path(*parts)) if len(parts) == len(node.args) else ""
    return ""


def _called(node: ast.AST) -> str:
    """The last name of what a call calls."""
    function = node.func if isinstance(node, ast.Call) else None
    return str(getattr(function, "attr", "") or getattr(function, "id", ""))


def _guards(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and "__name__" in ast.dump(node.test)


def _top(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes that run when a statement does: not the bodies of functions."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
        return
    yield node
    for each in ast.iter_child_nodes(node):
        yield from _top(each)


# -- What is found in it ---------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class _Found:
    """Functions of the project, each as module and name."""

    load: tuple[str, str] | None = None
    build: tuple[str, str] | None = None
    fit: tuple[str, str] | None = None
    predict: tuple[str, str] | None = None
    expression: str = ""
    """An estimator that a script makes, of names of libraries alone."""
    imports: tuple[str, ...] = ()
    """The imports of those names."""
    libraries: frozenset[str] = frozenset()
    own_code: bool = False
    """Whether a model may hold functions or classes of the project."""

    @staticmethod
    def of(modules: list[_Module]) -> _Found:
        found: dict[str, Any] = {}
        for module in modules:
            for function in module.functions:
                calls = {_called(node) for node in ast.walk(function)}
                given = len(function.args.args) - len(function.args.defaults) + len(function.args.posonlyargs)
                place = (module.name, function.name)
                makes = any(_ESTIMATOR.fullmatch(each) for each in calls)
                if not given and calls & READERS.keys():
                    found.setdefault("load", place)
                elif not given and makes and "fit" not in calls:
                    found.setdefault("build", place)
                elif given == 2 and "fit" in calls:
                    found.setdefault("fit", place)
                elif given == 1 and function.name.startswith(("predict", "score", "infer")):
                    found.setdefault("predict", place)
        if not {"build", "fit"} & found.keys():
            found |= _expression(modules)
        if {"build", "fit", "expression"} & found.keys():
            found.pop("predict", None)
        names = {name for module in modules for name in _libraries(module)}
        text = "\n".join(module.text for module in modules)
        classes = any(isinstance(node, ast.ClassDef) for module in modules for node in module.tree.body)
        own = "predict" in found or "FunctionTransformer" in text or (classes and not names & {"xgboost", "lightgbm"})
        return _Found(**found, libraries=frozenset(names), own_code=own)


def _libraries(module: _Module) -> Iterator[str]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from (each.name.partition(".")[0] for each in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            yield node.module.partition(".")[0]


def _expression(modules: list[_Module]) -> dict[str, Any]:
    """An estimator that a script makes of names of libraries alone, with their imports."""
    for module in modules:
        imported: dict[str, str] = {}
        for node in module.tree.body:
            if isinstance(node, ast.Import | ast.ImportFrom) and not getattr(node, "level", 0):
                for each in node.names:
                    one = type(node)(**{**vars(node), "names": [each]})
                    imported[(each.asname or each.name).partition(".")[0]] = ast.unparse(one)
        for node in module.tree.body:
            value = node.value if isinstance(node, ast.Assign) else None
            while isinstance(value, ast.Call) and _called(value) == "fit" and isinstance(value.func, ast.Attribute):
                value = value.func.value
            if not isinstance(value, ast.Call) or not _ESTIMATOR.fullmatch(_called(value)):
                continue
            names = {each.id for each in ast.walk(value) if isinstance(each, ast.Name)}
            if names <= imported.keys():
                needed = tuple(sorted({imported[each] for each in names}))
                return {"expression": ast.unparse(value), "imports": needed}
    return {}


# -- The data --------------------------------------------------------------------------------------------------------
def _rows_file(root: Path, modules: list[_Module]) -> Path | None:
    """The file that the code reads rows from, or the only one of the kind."""
    for module in modules:
        places = {id(node): path for node, path in _named_files(module, root)}
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Call) and _called(node) in READERS and node.args and id(node.args[0]) in places:
                return places[id(node.args[0])]
    found = [path for path in source_files(root) if path.suffix in {".csv", ".parquet"} and path.parent == root]
    return found[0] if len(found) == 1 else None


_LOAD = """
import sys
from importlib import import_module
from types import ModuleType
package = ModuleType("adopted")
package.__path__ = [sys.argv[1]]
sys.modules["adopted"] = package
frame = getattr(import_module("adopted." + sys.argv[2]), sys.argv[3])()
frame.head(int(sys.argv[5])).to_parquet(sys.argv[4])
"""


def _table(copy: Path, found: _Found, rows: Path | None, left_out: list[Path]) -> pd.DataFrame:
    """Rows to read types and limits of: what the project's own function returns, or the file."""
    import pandas as pd  # only where rows are at hand

    if found.load:
        with tempfile.TemporaryDirectory(prefix="modelworks-sample-") as scratch:
            out = Path(scratch) / "rows.parquet"
            argv = [sys.executable, "-P", "-c", _LOAD, str(copy.resolve()), *found.load, str(out), str(SAMPLE_ROWS)]
            done = subprocess.run(
                argv, cwd=scratch, env=environment_of_child(Path(scratch)), capture_output=True, text=True, check=False
            )
            if done.returncode:
                last = done.stderr.strip().splitlines()[-1:]
                large = " ".join(f"It has no {path}: {_too_large(path)}" for path in left_out)
                raise ModelworksError(
                    f"{found.load[0]}.{found.load[1]}() of the project does not return rows: {''.join(last)}",
                    fix=f"{large} Give the whole path."
                    if large
                    else "Correct it, or name a file with rows: --data FILE.",
                )
            return pd.read_parquet(out)
    if rows is None or not rows.is_file():
        raise ModelworksError(
            "no file with rows was found: the code reads none that is there",
            fix="Name one: --data FILE, CSV or Parquet.",
        )
    return getattr(pd, _reader(rows))(rows).head(SAMPLE_ROWS)


def _reader(rows: Path) -> str:
    """The function of pandas that reads a file of that name."""
    return next((name for name, suffix in READERS.items() if suffix == rows.suffix), "read_csv")


def _target(modules: list[_Module], table: pd.DataFrame) -> str:
    """The column that is the target of the code."""
    found = [name for module in modules for name in _targets(module) if name in table.columns]
    if not found:
        found = [name for name in ("target", "label", "y", "class") if name in table.columns]
    if not found:
        raise ModelworksError(
            f"which column is to be predicted is not clear; there is {', '.join(map(str, table.columns))}",
            fix="Name it: --target COLUMN.",
        )
    return found[0]


def _targets(module: _Module) -> Iterator[str]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call):
            first = node.args[0] if node.args else None
            if _called(node) == "pop" and isinstance(first, ast.Constant):
                yield str(first.value)
            if len(node.args) == 2 and _called(node).startswith(("fit", "train")):
                yield from _column(node.args[1])
            if _called(node) == "drop":
                given = [each.value for each in node.keywords if each.arg == "columns"] or node.args[:1]
                yield from (str(each.value) for each in given for each in _constants(each))
        elif isinstance(node, ast.Assign) and any(getattr(each, "id", "") in {"y", "target"} for each in node.targets):
            yield from _column(node.value)


def _column(node: ast.expr) -> Iterator[str]:
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
        yield str(node.slice.value)


def _constants(node: ast.expr) -> list[ast.Constant]:
    every = [node] if isinstance(node, ast.Constant) else getattr(node, "elts", [])
    return [each for each in every if isinstance(each, ast.Constant)] if len(every) == 1 else []


# -- What is written -------------------------------------------------------------------------------------------------
def _model_py(
    name: str, found: _Found, table: pd.DataFrame, target: str, rows: Path | None, read: tuple[str, ...]
) -> tuple[str, dict[str, str]]:
    if target not in table.columns:
        raise ModelworksError(
            f"there is no column {target!r}: there is {', '.join(map(str, table.columns))}",
            fix="Name another: --target.",
        )
    kind, classes = _kind(table[target])
    features = {str(column): _feature(table[column]) for column in table.columns if column != target}
    left_out = {column: why for column, (text, why) in features.items() if not text}
    kept = {column: text for column, (text, _) in features.items() if text}
    booster = next((each for each in ("xgboost", "lightgbm") if each in found.libraries), "")
    numeric = all("string" not in text and "boolean" not in text for text in kept.values())
    how = "matrix" if booster and numeric else "frame"
    derived = {
        "rows": f"{found.load[0]}.{found.load[1]}()" if found.load else str(rows),
        "target": f"{target} ({kind}{', ' + repr(classes) if classes else ''})",
        "features": ", ".join(kept) + (f"; left out: {', '.join(left_out)}" if left_out else ""),
        "model": _model_text(found) or "not found",
    }
    values = {
        "__NAME__": name,
        "__IMPORTS__": "\n".join(_import_lines(found)),
        "__LOAD__": _load_text(found, rows),
        "__TRAIN__": _train_text(found, how, kind),
        "__KIND__": kind,
        "__CLASSES__": _classes_text(kind, classes),
        "__TARGET__": _quoted(target),
        "__INPUT__": how,
        "__FEATURES__": "\n".join(f"        {text}" for text in kept.values()),
        "__LEFT_OUT__": "".join(
            f"        # {MARK}: {column!r} is left out: {why}\n" for column, why in left_out.items()
        ),
        "__SERVICE__": _service_text(found, booster, kind, read),
        "__METRIC__": {"binary": "auc", "multiclass": "accuracy", "regression": "mae"}[kind],
    }
    text = (TEMPLATES / "adopted.py.tmpl").read_text(encoding="utf-8")
    for mark, value in values.items():
        text = text.replace(mark, value)
    return re.sub(r"\n{4,}", "\n\n\n", text), derived


def _classes_text(kind: str, classes: tuple[Any, ...]) -> str:
    if not classes:
        return ""
    stated = ", ".join(_quoted(each) if isinstance(each, str) else repr(each) for each in classes)
    return f"\n    classes=({stated})," + (f"  # {MARK}: (negative, positive)" if kind == "binary" else "")


def _kind(column: pd.Series[Any]) -> tuple[str, tuple[Any, ...]]:
    values = sorted(column.dropna().unique().tolist(), key=str)
    if len(values) == 2:
        return "binary", tuple(values)
    whole = all(isinstance(each, bool | int | str) for each in values)
    if whole and len(values) <= MOST_CATEGORIES:
        return "multiclass", tuple(sorted(values) if not isinstance(values[0], str) else values)
    return "regression", ()


def _feature(column: pd.Series[Any]) -> tuple[str, str]:
    """A feature as Python, or nothing and the reason."""
    import pandas as pd  # only where rows are at hand

    name, present = _quoted(str(column.name)), column.dropna()
    missing = ", nullable=True" if len(present) < len(column) else ""
    if not len(present):
        return "", "it is empty"
    example = present.iloc[0]
    if pd.api.types.is_bool_dtype(present.infer_objects()):
        return f'Feature(name={name}, type="boolean"{missing}, example={bool(example)}),', ""
    if pd.api.types.is_numeric_dtype(present):
        low, high = _limits(float(present.min()), float(present.max()))
        whole = pd.api.types.is_integer_dtype(present) and not missing
        kind, shown = ("integer", int(example)) if whole else ("number", float(example))
        limits = f"minimum={_number(low)}, maximum={_number(high)}"
        return f'Feature(name={name}, type="{kind}", {limits}{missing}, example={shown!r}),', ""
    if pd.api.types.is_datetime64_any_dtype(present):
        return (
            "",
            "a moment is no feature; compute a number in load, such as the hour, or name it in data.prediction_time",
        )
    if not all(isinstance(each, str) for each in present):
        return "", f"it holds {type(example).__name__}; make it numbers or text in load, one column a value"
    texts = sorted(set(present))
    if len(texts) <= MOST_CATEGORIES:
        categories = f"({', '.join(map(_quoted, texts))},)"
        return f'Feature(name={name}, type="string", categories={categories}{missing}, example={_quoted(example)}),', ""
    if len(texts) == len(present):
        return "", "every row has another text, like a name or a key"
    return f'Feature(name={name}, type="string"{missing}, example={_quoted(example[:50])}),', ""


def _limits(low: float, high: float) -> tuple[float, float]:
    """The range of a sample, widened by its width on either side and rounded; not below 0 where nothing is."""
    width = (high - low) or abs(high) or 1.0
    wide = [float(f"{each:.0e}") for each in (low - width, high + width)]
    return (0.0 if low >= 0 else min(wide[0], low)), max(wide[1], high)


def _number(value: float) -> str:
    return str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _model_text(found: _Found) -> str:
    place = found.build or found.fit or found.predict
    return f"{place[0]}.{place[1]}" if place else found.expression


def _import_lines(found: _Found) -> list[str]:
    places = [place for place in (found.load, found.build, found.fit) if place]
    mine = [f"from .{module} import {name}" for module, name in places]
    return [*(["from .serving import load_model"] if found.predict else []), *sorted(mine)]


def _load_text(found: _Found, rows: Path | None) -> str:
    if found.load:
        return f"    return {found.load[1]}()"
    assert rows is not None  # noqa: S101 - without rows there is no table
    where = _quoted(str(rows)) if rows.is_absolute() else f"Path(__file__).parent / {_quoted(rows.as_posix())}"
    return f"    return pd.{_reader(rows)}({where})"


def _train_text(found: _Found, how: str, kind: str) -> str:
    if found.build:
        return f"    return {found.build[1]}().fit(data.x, data.y)"
    if found.fit:
        return f"    return {found.fit[1]}(data.x, data.y)"
    if found.predict:
        return "    return Fitted(loader=load_model)"
    if found.expression:
        lines = "\n".join(f"    {each}" for each in found.imports)
        return f"{lines}\n\n    return {found.expression}.fit(data.x, data.y)"
    return (
        f"    # {MARK}: return an estimator that is fitted on data.x ({how}) and data.y: none was found\n"
        f'    raise NotImplementedError("state how the {kind} model is trained")'
    )


def _service_text(found: _Found, booster: str, kind: str, read: tuple[str, ...]) -> str:
    options = []
    if booster:
        ending = "Regressor" if kind == "regression" else "Classifier"
        main = {"xgboost": f"xgboost.sklearn.XGB{ending}", "lightgbm": f"lightgbm.sklearn.LGBM{ending}"}[booster]
        core = {"xgboost": "xgboost.core.Booster", "lightgbm": "lightgbm.basic.Booster"}[booster]
        package = package_of(booster) if find_spec(booster) else booster
        options += [f'trusted=("{main}", "{core}")', f'packages=("{package}",)']
    if found.own_code:
        options.append("trusted_code=True")
        if found.predict and read:
            options.append(f"files=({', '.join(map(_quoted, read))},)")
    return f"\n    service=Service({', '.join(options)})," if options else ""


def _serving_py(found: _Found) -> str:
    assert found.predict  # noqa: S101 - the caller asked
    module, name = found.predict
    return f'''"""The model as the server loads it, once: this file and what it imports travel in the bundle."""

from pathlib import Path

from .{module} import {name}


def load_model(folder: Path):
    """The function that answers: rows as a DataFrame to values, or to probabilities [rows, classes].

    `folder` holds the files that `train` returned as artifacts.
    """
    return {name}
'''
