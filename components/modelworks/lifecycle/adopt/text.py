"""The text of an adopted project: its steps as functions, and the definitions of a script as a file of its own."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from modelworks.lifecycle.adopt.code import (
    READERS,
    Code,
    Edit,
    Module,
    called,
    calls_of,
    edited,
    file_of,
    named,
    place_of,
    quoted,
    relative,
    too_large,
)
from modelworks.lifecycle.adopt.reading import Flow
from modelworks.lifecycle.adopt.rows import Sample
from modelworks.lifecycle.adopt.steps import Step

RESERVED = {
    "load", "train", "spec", "load_model", "OnColumns", "OneColumn", "BaselineGate", "Card", "ChampionGate",
    "DataSource", "Feature", "Fitted", "ModelSpec", "Service", "Split", "TrainingData", "pa",
}  # fmt: skip
"""Names that `model.py` has for other things."""
ON_COLUMNS = '''"""Parts of the model between its rows and scikit-learn's own."""

from __future__ import annotations

from sklearn.base import BaseEstimator, TransformerMixin


class OnColumns(TransformerMixin, BaseEstimator):
    """Changes these columns by a transformer that is fitted, and leaves the others."""

    def __init__(self, transformer, columns):
        self.transformer = transformer
        self.columns = columns

    def fit(self, X, y=None):
        return self

    def __sklearn_is_fitted__(self):
        return True

    def transform(self, X):
        X = X.copy()
        X[self.columns] = self.transformer.transform(X[self.columns])
        return X


class OneColumn(TransformerMixin, BaseEstimator):
    """Gives one column of the rows by itself, as a model of text takes it."""

    def __init__(self, name):
        self.name = name

    def fit(self, X, y=None):
        return self

    def __sklearn_is_fitted__(self):
        return True

    def transform(self, X):
        return X[self.name]
'''


@dataclass
class _Scope(Module):
    """Where the names of a step are looked up: its module, and the steps beside it."""

    def __init__(self, module: Module, steps: Sequence[Step]) -> None:
        super().__init__(module.path, module.text, module.tree, module.root, module.cells, module.numbers)
        made = {s.targets[0]: s.value for s in steps if len(s.targets) == 1 and s.value is not None}
        self.constants = {**module.constants, **made}
        self.imports = module.imports
        self.is_script = module.is_script


@dataclass
class Text:
    """Steps as Python, and what must stand above them."""

    code: Code
    imports: dict[str, None] = field(default_factory=dict)
    """Import statements."""
    parts: dict[Path, str] = field(default_factory=dict)
    """Files with the definitions of scripts."""
    points: list[str] = field(default_factory=list)
    _wanted: dict[Path, set[str]] = field(default_factory=dict)

    def body(self, steps: Sequence[Step], local: Iterable[str] = (), rows: Path | None = None) -> list[str]:
        """Steps as lines of a function, with what they name imported, and files found beside the code.

        Args:
            steps: The steps.
            local: Names that the function has besides.
            rows: A file to read instead of the first one that the steps read.
        """
        known = {name for each in steps for name in each.makes} | set(local)
        paths = self._paths(steps)
        lines: list[str] = []
        for step in steps:
            edits: list[Edit] = [*paths.get(id(step), ())]
            if rows and (
                call := next((each for each in calls_of(step.tree) if called(each) in READERS and each.args), None)
            ):
                edits, rows = [(call.args[0], self._place(rows)), *edits], None
            names = {name: self._name(name, step) for name in step.needs - known - {"__file__"}}
            edits += [
                (node, names[node.id])
                for node in ast.walk(step.tree)
                if isinstance(node, ast.Name) and names.get(node.id, node.id) != node.id
            ]
            lines += edited(step.text, edits).splitlines()
        return lines

    def _paths(self, steps: Sequence[Step]) -> dict[int, list[Edit]]:
        """Paths of the steps as they must read in `model.py`, by step."""
        at = {id(node): step for step in steps for node in ast.walk(step.tree)}
        found: dict[int, list[Edit]] = {}
        for step in steps:
            scope = _Scope(step.module, steps)
            waiting: list[ast.AST] = [step.tree]
            while waiting:
                node = waiting.pop()
                got = named(node, scope, self.code) if isinstance(node, ast.expr) else None
                path = file_of(got, self.code, step.module) if got and got.text else None
                if (
                    got
                    and path
                    and path.suffix != ".py"
                    and (path.is_file() or (got.by_file and "__file__" in ast.unparse(node)))
                ):
                    if got.by_file and "__file__" not in ast.unparse(node):
                        continue  # a name that holds a path already
                    aim, target = (node, path) if got.whole or got.by_file else (got.node, None)
                    target = target or file_of(got._replace(text=got.node_text), self.code, step.module)
                    if target and id(aim) in at:
                        found.setdefault(id(at[id(aim)]), []).append((aim, self._place(target)))
                        continue
                waiting += ast.iter_child_nodes(node)
        return found

    def _place(self, path: Path) -> str:
        """A file beside `model.py`, or one that is too large to be there."""
        if path.is_file() and too_large(path):
            return quoted(str(path))
        below = place_of(path, self.code.root).as_posix()
        self.imports.setdefault("from pathlib import Path")
        return "Path(__file__).parent" + (f" / {quoted(below)}" if below != "." else "")

    def _name(self, name: str, step: Step) -> str:
        """Import a name, and return how it is called here."""
        module = step.module
        at = self.code.find(name, module)
        here = f"own_{name}" if name in RESERVED else name
        if at and at[0].is_script:
            if at[1] in at[0].definitions:
                self._wanted.setdefault(at[0].path, set()).add(at[1])
                self._import(f".{parts_name(at[0])}", at[1], here)
                return here
            if at[1] in at[0].constants:
                self._wanted.setdefault(at[0].path, set()).add(at[1])
                self._import(f".{parts_name(at[0])}", at[1], here)
                return here
        elif at:
            self._import(f".{at[0].name}", at[1], here)
            return here
        imported = module.imports.get(name)
        if imported and imported.path is None:
            if imported.statement.startswith("from ."):
                self.points.append(f"{step.where}: {imported.statement!r} names a file that is not there")
            self.imports.setdefault(imported.statement)
        elif imported and imported.path:
            dots, names = relative(imported.path, Path("model.py"))
            self._import(dots + ".".join(names[:-1]), names[-1] if names else "", here)
        else:
            self.points.append(f"{step.where}: {name} is not known here: it is made by a step that was not followed")
        return here

    def _import(self, module: str, name: str, here: str) -> None:
        self.imports.setdefault(f"from {module} import {name}" + (f" as {here}" if here != name else ""))

    # -- The definitions of scripts ----------------------------------------------------------------------------------
    def write_parts(self) -> None:
        """The files of `parts`: definitions of scripts, whose import would do all their work."""
        for path, names in self._wanted.items():
            module = self.code.at(path)
            if module:
                self.parts[Path(f"{parts_name(module)}.py")] = self._part(module, names)

    def _part(self, module: Module, names: set[str]) -> str:
        kept: dict[int, str] = {}
        inner = Text(self.code)
        waiting, seen = sorted(names), set(names)
        while waiting:
            name = waiting.pop()
            node = module.definitions.get(name) or next((
                each for each in reversed(module.tree.body)
                if isinstance(each, ast.Assign | ast.AnnAssign) and name in _assigned(each)
            ), None)  # fmt: skip
            if node is None:
                continue
            first = min([node.lineno, *(each.lineno for each in getattr(node, "decorator_list", []))])
            lines = module.text.splitlines()[first - 1 : node.end_lineno]
            step = Step("\n".join(lines), module, module.where(first))
            if any(called(each) in READERS for each in calls_of(node)) and not isinstance(
                node, ast.FunctionDef | ast.ClassDef
            ):
                self.points.append(
                    f"{step.where}: {name} is read where it is defined: hand it to the function that uses it"
                )
            edits = inner._paths([step]).get(id(step), [])
            kept[first] = edited(step.text, edits)
            used = {each.id for each in ast.walk(node) if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Load)}
            for each in sorted(used):
                if each in module.definitions or each in module.constants:
                    waiting += [each] if each not in seen else []
                    seen.add(each)
                elif each in module.imports:
                    inner._name(each, step)
        self.points += inner.points
        head = f'"""Functions and classes of {module.path}, without what it does when it is imported."""'
        imports = "\n".join(sorted_imports(inner.imports))
        blocks = [kept[each] for each in sorted(kept)]
        text = ""
        for number, block in enumerate(blocks):
            is_line = not block.lstrip().startswith(("def ", "class ", "@", "async "))
            before_line = number and not blocks[number - 1].lstrip().startswith(("def ", "class ", "@", "async "))
            text += (
                "\n" if is_line and (before_line or not number) else "\n\n\n" if number or imports else "\n"
            ) + block
        return f"{head}\n\n{imports}\n{text}\n".replace("\n\n\n\n", "\n\n\n")


def parts_name(module: Module) -> str:
    """The module of the definitions of a script."""
    stem = re.sub(r"\W", "_", module.path.stem)
    return f"{'_' if stem[:1].isdigit() else ''}{stem}_parts"


def _assigned(node: ast.Assign | ast.AnnAssign) -> set[str]:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    return {each.id for each in targets if isinstance(each, ast.Name)}


def sorted_imports(statements: Iterable[str]) -> list[str]:
    """Imports in the order that people keep: Python's own and libraries, then the project's; one line a module."""
    whole: dict[str, list[str]] = {}
    for each in statements:
        module, _, name = each.partition(" import ")
        whole.setdefault(module if name else each, []).extend([name] if name else [])
    lines = [f"{module} import {', '.join(sorted(set(names)))}" if names else module for module, names in whole.items()]
    return sorted(lines, key=lambda each: (each.startswith("from ."), each.startswith("from "), each.lower()))


def without_idle_imports(page: str, statements: Iterable[str]) -> str:
    """A module without those imports whose names it does not use."""
    used = {each.id for each in ast.walk(ast.parse(page)) if isinstance(each, ast.Name)}
    needed = [
        each
        for each in statements
        for node in ast.parse(each).body
        if isinstance(node, ast.Import | ast.ImportFrom)
        and any((name.asname or name.name).partition(".")[0] in used or name.name == "*" for name in node.names)
    ]
    for line in sorted_imports(statements):
        names = [each for each in needed if each.partition(" import ")[0] == line.partition(" import ")[0]]
        new = sorted_imports(names)
        page = page.replace(f"\n{line}\n", f"\n{new[0]}\n" if new else "\n", 1)
    return page


# -- The functions of model.py ---------------------------------------------------------------------------------------
def load_lines(flow: Flow, text: Text, rows: Path | None) -> list[str]:
    """The steps that make rows."""
    chance = any(re.search(r"random|sample\(|shuffle", each.text) for each in flow.load if ".seed(" not in each.text)
    lines = text.body([each for each in flow.load if chance or ".seed(" not in each.text], (), rows)
    known = {name for each in flow.load for name in each.makes}
    flow.x, flow.y = (text.body([Step(each, flow.module, flow.where)], known)[0] for each in (flow.x, flow.y))
    return lines


def returned_rows(flow: Flow, sample: Sample, target: str, time: str) -> str:
    """The rows, as `load` returns them."""
    x, array = flow.x, sample.array
    if sample.series:
        x = f"{x}.rename({quoted(sample.features[0])}).to_frame()"
    elif array:
        x = f'pd.DataFrame({x}).add_prefix("x")'
    x = f"{x}.rename(columns=str)" if sample.renamed else x
    given = {target: flow.y} if flow.y not in {f"{flow.x}[{target!r}]", f"{flow.x}.{target}"} or array else {}
    given |= {time: f"{flow.limit[2]}[{quoted(time)}]"} if time else {}
    if not given:
        return x
    if all(each.isidentifier() for each in given):
        return f"{x}.assign({', '.join(f'{name}={value}' for name, value in given.items())})"
    return f"{x}.assign(**{{{', '.join(f'{quoted(name)}: {value}' for name, value in given.items())}}})"


def train_lines(flow: Flow, text: Text, column: str = "") -> list[str]:
    """The steps that train, and what they return.

    Args:
        flow: The steps.
        text: Their writer.
        column: The one column that the model takes by itself, if it takes no table.
    """
    lines = []
    order = ("data.x", "data.y", "data.rows", "data.x_validation", "data.y_validation")
    given = dict(sorted(flow.given.items(), key=lambda each: (order.index(each[1]), each[0])))
    for is_other in (False, True):
        of_part = {name: value for name, value in given.items() if ("_validation" in value) == is_other}
        if of_part:
            values = [f"{v}[{quoted(column)}]" if column and v.startswith("data.x") else v for v in of_part.values()]
            lines.append(f"{', '.join(of_part)} = {', '.join(values)}")
    result = flow.result
    if not result.isidentifier():
        [result] = text.body([Step(result.replace("\n", " "), flow.module, flow.where)], {"data", *_made(flow)})
    lines += text.body(flow.train, flow.given)
    if flow.native == "xgboost":
        return [*lines, f'return Fitted(artifacts={{"model.ubj": bytes({result}.save_raw("ubj"))}}, loader=load_model)']
    if flow.native:
        return [
            *lines,
            f'return Fitted(artifacts={{"model.txt": {result}.model_to_string().encode()}}, loader=load_model)',
        ]
    if not flow.transformers and not column:
        return [*lines, f"return {result}"]
    parts = [f"OnColumns({name}, {columns})" if columns else name for name, columns in flow.transformers]
    if column:
        parts.insert(0, f"OneColumn({quoted(column)})")
        text.imports.setdefault("from .on_columns import OneColumn")
    text.imports.setdefault("from sklearn.pipeline import make_pipeline")
    if any(columns for _, columns in flow.transformers):
        text.imports.setdefault("from .on_columns import OnColumns")
    return [*lines, "# What callers send is changed as the rows were that it was trained on.",
            f"return make_pipeline({', '.join([*parts, result])})"]  # fmt: skip


def _made(flow: Flow) -> set[str]:
    return {name for each in flow.train for name in each.makes} | set(flow.given)


def native_serving(flow: Flow) -> str:
    """The file that loads a native booster."""
    softmax = any("multi:softmax" in each.text for each in flow.train) or any(
        "multi:softmax" in each.text for each in flow.load
    )
    if flow.native == "xgboost":
        change = '\n    booster.set_param({"objective": "multi:softprob"})' if softmax else ""
        made, answer = 'xgboost.Booster(model_file=folder / "model.ubj")', f"booster.predict({flow.feed})"
    else:
        change, made, answer = "", 'lightgbm.Booster(model_file=folder / "model.txt")', "booster.predict(rows)"
    return f'''"""The model as the server loads it, once: this file travels in the bundle."""

from __future__ import annotations

from pathlib import Path

import {flow.native}


def load_model(folder: Path):
    """A function from rows to probabilities, or to values; `folder` holds the booster that `train` returned."""
    booster = {made}{change}

    def predict(rows):
        return {answer}

    return predict
'''
