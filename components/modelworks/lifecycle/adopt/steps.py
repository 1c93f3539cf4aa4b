"""Steps: statements in the order in which they run, each with the names that it needs and makes."""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from modelworks.lifecycle.adopt.code import Code, Module, called, calls_of, named, root_of

SPLITS = {"train_test_split"}
_CHANGES_NOTHING = {
    "head", "tail", "info", "describe", "hist", "plot", "boxplot", "value_counts", "score", "predict", "predict_proba",
    "to_csv", "to_parquet", "to_json", "to_excel", "isnull", "isna", "corr", "nunique", "save_model", "show", "print",
    "sample", "groupby", "dropna", "fillna", "drop", "rename", "sort_values", "reset_index", "set_index", "replace",
    "astype", "merge", "query", "unique", "mean", "sum", "max", "min", "median", "items", "keys", "values",
}  # fmt: skip
"""Methods that, called as a statement and not in place, leave their object as it is."""


@dataclass(frozen=True)
class Step:
    """A statement."""

    text: str
    module: Module
    """Where its names are looked up."""
    where: str
    """File and line, or cell and line."""
    given: str = ""
    """It divided rows: `all`, or the names of those parts that are not trained on."""
    limit: tuple[str, ...] = ()
    """By which column, up to where, and of which rows it did."""

    @cached_property
    def tree(self) -> ast.stmt:
        return ast.parse(self.text).body[0]

    @cached_property
    def value(self) -> ast.expr | None:
        """The value that it assigns, or the expression that it is."""
        return self.tree.value if isinstance(self.tree, ast.Assign | ast.AnnAssign | ast.Expr) else None

    @cached_property
    def targets(self) -> tuple[str, ...]:
        """Names that it assigns to, in order; none if one of them is no name."""
        if isinstance(self.tree, ast.AnnAssign):
            return (self.tree.target.id,) if isinstance(self.tree.target, ast.Name) else ()
        if not isinstance(self.tree, ast.Assign) or len(self.tree.targets) != 1:
            return ()
        [target] = self.tree.targets
        every = target.elts if isinstance(target, ast.Tuple | ast.List) else [target]
        return tuple(each.id for each in every if isinstance(each, ast.Name)) if _are_names(every) else ()

    @cached_property
    def makes(self) -> frozenset[str]:
        """Names that are other values, or have changed ones, after it."""
        inner = {name for node in ast.walk(self.tree) for name in _own_names(node)}
        found = {n.id for n in ast.walk(self.tree) if isinstance(n, ast.Name) and not isinstance(n.ctx, ast.Load)}
        changed: set[str] = set()
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Subscript | ast.Attribute) and not isinstance(node.ctx, ast.Load):
                changed.add(root_of(node))
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
                changed |= self._changed_by(node.value)
        for node in ast.walk(self.tree):
            if isinstance(node, ast.For) and changed & {*_bound_first(node)}:
                changed |= {each.id for each in ast.walk(node.iter) if isinstance(each, ast.Name)}
        return frozenset((found | changed) - inner - {""})

    def _changed_by(self, call: ast.Call) -> set[str]:
        inner = call.func.value if isinstance(call.func, ast.Attribute) else None
        in_place = any(each.arg == "inplace" for each in call.keywords)
        if inner is None or (called(call) in _CHANGES_NOTHING and not in_place) or called(call).startswith("plot"):
            return set()
        changed = self._changed_by(inner) if isinstance(inner, ast.Call) else set()
        name = root_of(inner)
        return changed | (set() if name in self.module.imports else {name})

    @cached_property
    def needs(self) -> frozenset[str]:
        """Names that it reads."""
        inner = {name for node in ast.walk(self.tree) for name in _own_names(node)}
        found = {n.id for n in ast.walk(self.tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
        if isinstance(self.tree, ast.AugAssign):
            found.add(root_of(self.tree.target))
        if isinstance(self.tree, ast.For | ast.With):
            found -= {n.id for n in ast.walk(self.tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)} & {
                *_bound_first(self.tree)
            }
        return frozenset(found - inner - {*dir(builtins)} | ({"__file__"} & found))

    @cached_property
    def ends(self) -> frozenset[str]:
        """Names whose earlier value is gone after it."""
        return frozenset(self.targets)


def _are_names(nodes: Sequence[ast.expr]) -> bool:
    return all(isinstance(each, ast.Name) for each in nodes)


def _own_names(node: ast.AST) -> Iterator[str]:
    """Names that live only inside of an expression."""
    if isinstance(node, ast.comprehension):
        yield from (each.id for each in ast.walk(node.target) if isinstance(each, ast.Name))
    elif isinstance(node, ast.Lambda):
        yield from (each.arg for each in node.args.args)
    elif isinstance(node, ast.ExceptHandler) and node.name:
        yield node.name


def _bound_first(node: ast.For | ast.With) -> Iterator[str]:
    if isinstance(node, ast.For):
        yield from (each.id for each in ast.walk(node.target) if isinstance(each, ast.Name))
    else:
        for item in node.items:
            yield from (each.id for each in ast.walk(item.optional_vars or ast.Pass()) if isinstance(each, ast.Name))


def leading_to(steps: Sequence[Step], last: int, wanted: set[str]) -> list[int]:
    """Positions of the steps up to `last` that decide the values of names."""
    kept, wanted = [], set(wanted)
    for number in range(last, -1, -1):
        step = steps[number]
        if step.makes & wanted:
            kept.append(number)
            wanted = (wanted - step.ends) | step.needs
        elif called(step.value or step.tree) in {"seed", "set_seed"}:
            kept.append(number)
    return kept[::-1]


def erase_splits(steps: list[Step]) -> list[Step]:
    """Steps in which each part of the rows is all of them: `train` divides rows by a rule of its own."""
    found: list[Step] = []
    for number, each in enumerate(steps):
        step = _of_rows_to_train_on(each, found)
        call = step.value
        if isinstance(call, ast.Call) and called(call) in SPLITS and len(step.targets) == 2 * len(call.args):
            whole = [ast.unparse(each) for each in call.args]
            text = f"{', '.join(step.targets[::2])} = {', '.join(whole)}"
            found.append(Step(text, step.module, step.where, given="all"))
            others = f"{', '.join(step.targets[1::2])} = {', '.join(whole)}"
            found.append(Step(others, step.module, step.where, given=" ".join(step.targets[1::2])))
        elif pair := _other_half(step, steps, number):
            found.append(pair)
        else:
            found.append(step)
    return found


def _of_rows_to_train_on(step: Step, before: Sequence[Step]) -> Step:
    """A loop over the parts of a split without those that are not trained on: they are the same rows now."""
    others = {name for each in before if each.given and each.given != "all" for name in each.given.split()}
    loop = step.tree
    if not isinstance(loop, ast.For) or not isinstance(loop.iter, ast.Tuple | ast.List):
        return step
    kept = [each for each in loop.iter.elts if not (isinstance(each, ast.Name) and each.id in others)]
    if not kept or len(kept) == len(loop.iter.elts):
        return step
    once = ast.For(loop.target, ast.List(kept, ast.Load()), loop.body, loop.orelse)
    return replace(step, text=ast.unparse(ast.fix_missing_locations(once)))


def _other_half(step: Step, steps: Sequence[Step], number: int) -> Step | None:
    """A statement that picks rows by a limit, where another picks those on its other side: as one of a split."""
    mine = limit_of(step)
    glued = {
        name
        for each in steps
        if any(called(c) in {"concat", "append"} for c in calls_of(each.tree))
        for name in each.makes
    }
    if mine is None or mine[0] in glued:  # rows without a target, of another file, are no part of a split
        return None
    for other in range(max(0, number - 6), min(len(steps), number + 7)):
        theirs = limit_of(steps[other]) if other != number else None
        names = f"{step.targets[0]} {steps[other].targets[0]}" if theirs else ""
        if theirs and theirs[:3] == mine[:3] and theirs[3] != mine[3] and _PARTS.search(names):
            text = f"{step.targets[0]} = {mine[0]}"
            if mine[3] == "<":
                return replace(step, text=text, given="all", limit=(*mine[1:3], mine[0]))
            return replace(step, text=text, given=step.targets[0])
    return None


_PARTS = re.compile("train|test|val|hold|dev|past|future|recent|new", re.IGNORECASE)
"""Names that parts of a split have."""


def limit_of(step: Step) -> tuple[str, str, str, str] | None:
    """The frame, the column, the limit and the side of `df[df["day"] < "2024-01-01"]`, or of `df.iloc[:n]`."""
    value = step.value
    while (
        isinstance(value, ast.Call)
        and called(value) in {"copy", "reset_index"}
        and isinstance(value.func, ast.Attribute)
    ):
        value = value.func.value
    if not isinstance(value, ast.Subscript) or len(step.targets) != 1:
        return None
    frame = (
        value.value.value
        if isinstance(value.value, ast.Attribute) and value.value.attr in {"loc", "iloc"}
        else value.value
    )
    if not isinstance(frame, ast.Name):
        return None
    test = value.slice
    if isinstance(test, ast.Slice) and test.step is None:
        if test.upper and not test.lower:
            return frame.id, "", ast.unparse(test.upper), "<"
        if test.lower and not test.upper:
            return frame.id, "", ast.unparse(test.lower), ">"
        return None
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Invert):
        return frame.id, "?", ast.unparse(test.operand), ">"
    if isinstance(test, ast.Name):
        return frame.id, "?", test.id, "<"
    if not (
        isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(test.left, ast.Subscript | ast.Attribute)
    ):
        return None
    side = {ast.Lt: "<", ast.LtE: "<", ast.Gt: ">", ast.GtE: ">"}.get(type(test.ops[0]), "")
    column = test.left.slice if isinstance(test.left, ast.Subscript) else ast.Constant(test.left.attr)
    return (frame.id, ast.unparse(column), ast.unparse(test.comparators[0]), side) if side else None


def text_of(node: ast.AST | None, step: Step, code: Code, steps: Sequence[Step]) -> str:
    """The text that an expression is, if that can be read: of a constant, here or in another module."""
    if isinstance(node, ast.Name):
        for each in reversed(steps):
            if each.targets == (node.id,) and isinstance(each.value, ast.Constant):
                return str(each.value.value)
    found = named(node, step.module, code) if node is not None else None
    return found.text if found else ""
