"""A stranger's program, read: where it fits a model, which of its values are rows, and which steps train."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from modelworks.lifecycle.adopt.code import READERS, Code, Module, called, calls_of, root_of
from modelworks.lifecycle.adopt.program import FITS, TRAINS, Program, xy_of
from modelworks.lifecycle.adopt.steps import Step, leading_to

NATIVE = {"xgb": "xgboost", "xgboost": "xgboost", "lgb": "lightgbm", "lightgbm": "lightgbm"}
ESTIMATOR = re.compile(
    r"Pipeline|make_pipeline|\w*(Classifier|Regressor|Regression(CV)?|SVC|SVR|Ridge|RidgeCV|Lasso|LassoCV|ElasticNet(CV)?|NB|Perceptron)"
)
_TRANSFORMER = re.compile(
    r"\w*(Scaler|Encoder|Imputer|Transformer|Vectorizer|Binarizer|Normalizer|Discretizer|Features|Select\w+|PCA|SVD|Threshold)"
)
_DATA = re.compile(
    r"load_(?!model|dotenv|config|params)\w+|fetch_\w+|make_(classification|regression|blobs|moons|circles|friedman\d)"
)
"""Functions of libraries that make rows."""
_READ = frozenset(READERS) | {"read_sql", "read_sql_query", "read_sql_table"}
_PLAIN = {
    "mean", "median", "sum", "std", "var", "max", "min", "nunique", "unique", "tolist", "to_list", "to_dict", "keys",
    "quantile", "value_counts", "corr", "count", "item", "columns", "shape", "dtypes", "size", "empty", "ndim", "mode",
    "feature_names", "target_names", "len", "idxmax", "idxmin",
}  # fmt: skip
"""Facts about rows that are no rows themselves."""


@dataclass
class Flow:
    """The two halves of a program: its way to rows, and its way from them to a model."""

    module: Module
    load: list[Step] = field(default_factory=list)
    x: str = ""
    """The expression of the features, after those steps; of a notebook too, without what makes an array of them."""
    y: str = ""
    target: str = ""
    """Name of the target, where the code has it."""
    sources: tuple[str, ...] = ()
    """Columns that the target is computed of."""
    made: dict[str, str] = field(default_factory=dict)
    """Columns that the steps to load compute, each with file and line."""
    train: list[Step] = field(default_factory=list)
    given: dict[str, str] = field(default_factory=dict)
    """Names that the steps to train begin with, each with what it is."""
    result: str = ""
    transformers: list[tuple[str, str]] = field(default_factory=list)
    """Transformers before the model: each with its columns, if it does not take all."""
    native: str = ""
    feed: str = ""
    """A native booster's: the argument of `predict`, made of `rows`."""
    matrix: bool = False
    limit: tuple[str, ...] = ()
    """Column, first moment of the rows held out, and the rows, where the code divides by time."""
    where: str = ""
    points: list[str] = field(default_factory=list)

    @property
    def is_whole(self) -> bool:
        """Whether it trains too."""
        return bool(self.result)


class Site(NamedTuple):
    number: int
    call: ast.Call
    x: ast.expr
    y: ast.expr
    result: str
    native: str
    constructor: ast.Call | None
    """A native booster's: what makes its rows."""


class Reading:
    """Reads one program."""

    def __init__(self, code: Code, module: Module, function: ast.FunctionDef | None) -> None:
        self._code, self._module = code, module
        self._program = Program(code, module, function)
        self._steps = self._program.steps
        self._flow = Flow(module)
        self._path: list[int] = []
        self._kinds: set[str] = set()
        self._tainted: set[int] = set()

    def _sites(self) -> Iterator[Site]:
        for number, step in enumerate(self._steps):
            for call in calls_of(step.tree):
                given = {each.arg: each.value for each in call.keywords if each.arg}
                if called(call) == "fit" and isinstance(call.func, ast.Attribute):
                    x = call.args[0] if call.args else given.get("X", given.get("x"))
                    y = call.args[1] if len(call.args) > 1 else given.get("y")
                    if x is None or y is None or self._is_transformer(call.func.value, number):
                        continue
                    yield Site(number, call, x, y, self._name_of(step, call), "", None)
                elif called(call) == "train" and (library := NATIVE.get(root_of(call.func), "")):
                    rows = call.args[1] if len(call.args) > 1 else given.get("dtrain", given.get("train_set"))
                    made = self._rows_of(rows, number)
                    if made is None:
                        continue
                    of = {each.arg: each.value for each in made.keywords if each.arg}
                    y = made.args[1] if len(made.args) > 1 else of.get("label")
                    x = made.args[0] if made.args else of.get("data")
                    if x is not None and y is not None:
                        yield Site(number, call, x, y, self._name_of(step, call), library, made)
                elif (found := self._code.function(call, step.module)) and (
                    at := xy_of(found[1], found[0], self._code)
                ):
                    names = [each.arg for each in [*found[1].args.posonlyargs, *found[1].args.args]]  # type: ignore[union-attr]
                    x, y = (call.args[each] if each < len(call.args) else given.get(names[each]) for each in at)
                    if x is not None and y is not None:
                        trained = (each for each in calls_of(found[1]) if called(each) == "train")
                        library = next((NATIVE[r] for each in trained if (r := root_of(each.func)) in NATIVE), "")
                        made = next(
                            (each for each in calls_of(found[1]) if called(each) in {"DMatrix", "Dataset"}), None
                        )
                        yield Site(number, call, x, y, self._name_of(step, call), library, made)

    def _name_of(self, step: Step, call: ast.Call) -> str:
        """The name that the fitted model has, or the call where it has none."""
        if step.targets and step.value is call:
            return step.targets[0]
        if step.targets and isinstance(step.value, ast.Call) and root_of(step.value) == root_of(call):
            return step.targets[0]
        root = root_of(call.func)
        is_object = isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Name)
        return root if is_object and root not in step.module.imports else ""

    def _rows_of(self, node: ast.expr | None, before: int) -> ast.Call | None:
        """The call that makes the rows of a native booster."""
        if isinstance(node, ast.Name):
            at = self._made_at(node.id, before)
            node = self._steps[at].value if at is not None else None
        return (
            node if isinstance(node, ast.Call) and called(node) in {"DMatrix", "QuantileDMatrix", "Dataset"} else None
        )

    def _is_transformer(self, node: ast.expr, before: int) -> bool:
        if isinstance(node, ast.Name):
            at = self._made_at(node.id, before)
            value = self._steps[at].value if at is not None else None
            return value is not None and value is not node and self._is_transformer(value, at or 0)
        return bool(_TRANSFORMER.fullmatch(called(node)))

    def _made_at(self, name: str, before: int) -> int | None:
        return next((n for n in range(before - 1, -1, -1) if name in self._steps[n].targets), None)

    def _chosen(self, sites: list[Site]) -> tuple[Site, str, int]:
        """The fit whose model is saved, or the last: the name of the model, and the step up to which it may change."""
        by_name = {each.result: each for each in sites if each.result}
        for number in range(len(self._steps) - 1, -1, -1):
            step = self._steps[number]
            for name in self._saved(step):
                path = leading_to(self._steps, number - 1, {name})
                for site in reversed(sites):
                    if site.number in path and site.number < number:
                        return site, name, number - 1
        site = next((by_name[each.result] for each in reversed(sites) if each.result in by_name), sites[-1])
        return site, site.result, site.number

    def _saved(self, step: Step) -> Iterator[str]:
        """Names of what a step writes to a file."""
        for call in calls_of(step.tree):
            if called(call) in {"dump", "log_model", "dumps"} and call.args:
                names = names_in(call.args[0])
                yield from sorted(names, key=lambda name: (not re.search("model|clf|pipe|est|best", name), name))
            elif called(call) in {"save_model", "save", "to_pickle"} and isinstance(call.func, ast.Attribute):
                yield root_of(call.func)

    def _reads(self, step: Step) -> bool:
        """Whether a step makes rows."""
        names = _READ | {"fetch_california_housing", "fetch_openml", "DataFrame"}
        data = any(_DATA.fullmatch(called(each)) for each in calls_of(step.tree))
        return data or self._program.has(step.tree, step.module, names)

    def _kinds_of(self, path: Sequence[int]) -> set[str]:
        """Names that are rows, or columns of rows."""
        rows: set[str] = set()
        for number in path:
            step = self._steps[number]
            value = step.value
            if not step.targets or value is None:
                inner = [each for each in ast.walk(step.tree) if isinstance(each, ast.Assign)]
                some = [(each.targets[0], each.value) for each in inner if self._is_rows(each.value, step, rows)]
                rows = rows | {target.id for target, _ in some if isinstance(target, ast.Name)}
                continue
            if isinstance(value, ast.Tuple) and len(value.elts) == len(step.targets):
                kinds = [self._is_rows(each, step, rows) for each in value.elts]
            else:
                kinds = [self._is_rows(value, step, rows)] * len(step.targets)
            for name, is_rows in zip(step.targets, kinds, strict=True):
                rows = rows | {name} if is_rows else rows - {name}
        return rows

    def _is_rows(self, node: ast.AST, step: Step, rows: set[str]) -> bool:
        more = partial(self._is_rows, step=step, rows=rows)
        if isinstance(node, ast.Name):
            return node.id in rows
        if isinstance(node, ast.Attribute):
            return node.attr not in _PLAIN and more(node.value)
        if isinstance(node, ast.Subscript):
            return more(node.value)
        if isinstance(node, ast.Call):
            name = called(node)
            by_row = any(each.arg == "axis" for each in node.keywords) or "groupby" in ast.dump(node.func)
            if name in _PLAIN and not by_row:
                return False
            if name in _READ or _DATA.fullmatch(name):
                return True
            if self._code.function(node, step.module):
                return self._program.has(node, step.module, _READ) or any(map(more, node.args))
            return (
                any(map(more, node.args))
                or any(map(more, getattr(node.args[0], "elts", []) if node.args else []))
                or (isinstance(node.func, ast.Attribute) and more(node.func.value))
            )
        if isinstance(node, ast.BinOp | ast.Compare | ast.UnaryOp | ast.BoolOp):
            return any(more(each) for each in ast.iter_child_nodes(node))
        return False

    def _tainted_of(self, path: Sequence[int]) -> set[int]:
        """Steps that train, or use what was trained."""
        fitted: set[str] = set()
        found = set()
        for number in path:
            step = self._steps[number]
            fits = self._fits(step)
            column = self._column_of(step)
            if column is not None and fits and not self._is_divided(root_of(column), number):
                self._frozen(step, column)
                continue
            if fits or step.needs & fitted:
                found.add(number)
                fitted |= step.makes
                fitted |= {
                    root_of(call.func) for call in calls_of(step.tree) if called(call) in FITS and root_of(call.func)
                }
            else:
                fitted -= step.ends
        return found

    def _fits(self, step: Step) -> bool:
        if any(called(call) in FITS for call in calls_of(step.tree)):
            return True
        return self._program.has(step.tree, step.module, TRAINS | {"DMatrix", "Dataset", "fit_transform"})

    def _column_of(self, step: Step) -> ast.Subscript | None:
        """The column or columns that a step assigns."""
        if isinstance(step.tree, ast.For):
            inner = [each for each in ast.walk(step.tree) if isinstance(each, ast.Assign)]
            targets = [target for each in inner for target in each.targets if isinstance(target, ast.Subscript)]
            return next((each for each in targets if root_of(each) in self._kinds), None)
        target = step.tree.targets[0] if isinstance(step.tree, ast.Assign) else None
        return target if isinstance(target, ast.Subscript) and root_of(target) in self._kinds else None

    def _is_divided(self, name: str, before: int) -> bool:
        """Whether rows were divided before."""
        return any(self._steps[n].given == "all" for n in self._path if n < before) and bool(name)

    def _frozen(self, step: Step, column: ast.Subscript) -> None:
        what = ast.unparse(step.tree.iter if isinstance(step.tree, ast.For) else column.slice)
        self._point(
            step,
            f"callers send {what} as this step makes it, of all rows: fit it in a pipeline of `train`, and they send "
            "what it is made of",
        )

    @staticmethod
    def _part(step: Step, name: str) -> ast.expr | None:
        """The value that one of the names of an assignment gets."""
        value = step.value
        if isinstance(value, ast.Tuple) and len(value.elts) == len(step.targets):
            return value.elts[step.targets.index(name)]
        return value if step.targets == (name,) else None

    def _tainted_names(self, before: int) -> set[str]:
        found: set[str] = set()
        for number in self._path:
            if number >= before:
                break
            step = self._steps[number]
            found = found | set(step.makes) if number in self._tainted else found - step.ends
        return found

    def _point(self, step: Step, what: str) -> None:
        text = f"{step.where}: {what}"
        if text not in self._flow.points:
            self._flow.points.append(text)


def names_in(node: ast.AST) -> set[str]:
    return {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}
