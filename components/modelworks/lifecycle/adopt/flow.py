"""The way from rows to a fitted model in a stranger's program: which of its steps make rows, and which train."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from modelworks.lifecycle.adopt.code import Code, Edit, Module, called, calls_of, edited, quoted, root_of
from modelworks.lifecycle.adopt.reading import Flow, Reading, Site, names_in
from modelworks.lifecycle.adopt.steps import Step, leading_to, text_of


def find_flow(code: Code) -> Flow | None:
    """The program of a project that leads from rows to a model; the best of several."""
    found: list[tuple[int, Flow]] = []
    loops: list[str] = []
    for module in code.modules:
        for function in (None, *(each for each in module.definitions.values() if isinstance(each, ast.FunctionDef))):
            if function and (module.is_script or _needs_arguments(function)):
                continue
            reader = _Reader(code, module, function)
            flow = reader.flow
            loops += reader.loops
            if flow:
                found.append((_rank(flow, function), flow))
    if not found:
        code.problems += dict.fromkeys(loops)
        return None
    best = max(found, key=lambda each: each[0])[1]
    others = dict.fromkeys(flow.where for _, flow in found if flow.where != best.where)
    best.points += [f"{where}: another model is fitted here; {best.where} was taken" for where in others]
    return best


def _needs_arguments(function: ast.FunctionDef) -> bool:
    required = len(function.args.posonlyargs) + len(function.args.args) - len(function.args.defaults)
    commands = any("command" in ast.unparse(each) for each in function.decorator_list)
    return required > 0 and not commands


def _rank(flow: Flow, function: ast.FunctionDef | None) -> int:
    named = function.name if function else ""
    return 8 * flow.is_whole + 4 * (not function) + 2 * (not flow.module.cells) + (named in {"main", "train", "run"})


_OF_ALL = {"mean", "median", "mode", "std", "max", "min", "quantile", "get_dummies", "factorize", "qcut"}
"""Work that looks at all rows to change one."""
_LEFT_OUT = {"dropna", "drop_duplicates", "query"}
_TESTS = {"between", "isin", "notna", "notnull", "isna", "isnull", "duplicated", "contains", "startswith"}
_COMPUTES = {"log", "log1p", "log10", "sqrt", "exp", "abs", "clip", "where", "apply", "applymap", "map", "div", "sub"}
SENT = "callers send {} as this step makes it; in a pipeline of `train` they would send what it is made of"
_OF_ROWS = (
    "{} of all rows is part of the features: callers send what this step makes; in a pipeline of `train` they would "
    "send what it is made of"
)
_ARRAYS = {"values", "to_numpy", "array", "asarray"}


class _Reader(Reading):
    """Divides one program."""

    def __init__(self, code: Code, module: Module, function: ast.FunctionDef | None) -> None:
        super().__init__(code, module, function)
        self.flow: Flow | None = None
        self.loops = self._program.loops
        sites = list(self._sites())
        if not sites:
            return
        site, name, last = self._chosen(sites)
        self._leave_labels(site)
        self._flow = Flow(module, points=[*self._program.points], where=self._steps[site.number].where)
        saved = {each for step in self._steps for each in self._saved(step)}
        if name not in saved:
            self._flow.points += self._program.loops
        path = leading_to(self._steps, last, {name} if name else set())
        path = sorted({*path, *leading_to(self._steps, site.number, names_in(site.call)), site.number})
        for other in sites:
            is_rival = other.number > site.number or (name not in saved and other.number not in path)
            if is_rival and name != other.result:
                self._point(self._steps[other.number], f"another model is fitted here; {self._flow.where} was taken")
        if not any(self._reads(self._steps[each]) for each in path):
            return
        self._others = {name for each in self._steps for name in each.given.split() if each.given != "all"}
        self._path = path
        self._kinds = self._kinds_of(path)
        self._tainted = self._tainted_of(path)
        self._divide(site, name)
        self.flow = self._flow

    def _divide(self, site: Site, name: str) -> None:
        flow = self._flow
        x, x_at = self._back(site.x, site.number)
        y, y_at = self._y(site.y, site.number)
        if x is None:
            self._point(self._steps[x_at], "how features are made here is not followed: have a pipeline do it")
            return
        x = self._without_array(x, site)
        flow.x, flow.y = ast.unparse(x), ast.unparse(y)
        load = leading_to(self._steps, site.number, names_in(x) | names_in(y))
        load = [each for each in load if each not in self._tainted and each in self._path]
        needed, kept = names_in(x) | names_in(y), []
        for number in reversed(load):
            if self._steps[number].makes & needed or ".seed(" in self._steps[number].text:
                kept.append(number)
                needed = (needed - self._steps[number].ends) | self._steps[number].needs
        flow.load = self._rows_steps(kept[::-1], y)
        flow.target, flow.sources = self._target(y, y_at)
        self._target_notes(y, y_at)
        at = self._made_at(site.y.id, site.number) if isinstance(site.y, ast.Name) else None
        if at in self._tainted and called(self._steps[at].value or site.y) in {"fit_transform", "transform"}:
            self._point(self._steps[at], "the target is computed here (fit_transform): the model answers that value")
        self._notes([*flow.load, Step(f"features = {flow.x}", self._steps[site.number].module, flow.where)])
        self._training(site, name, x, y)

    def _back(self, node: ast.expr, before: int) -> tuple[ast.expr | None, int]:
        """The features as they were before anything was fitted on them, by way of the transformers on the path."""
        if isinstance(node, ast.Call) and called(node) in {"fit_transform", "transform"} and node.args:
            if isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name):
                self._flow.transformers.insert(0, (node.func.value.id, ""))
                return self._back(node.args[0], before)
            return None, before
        if (
            isinstance(node, ast.Call)
            and called(node) == "DataFrame"
            and node.args
            and self._fits_in(node.args[0], before)
        ):
            return self._back(node.args[0], before)
        if not isinstance(node, ast.Name):
            return (None, before) if names_in(node) & self._tainted_names(before) else (node, before)
        at = next((n for n in range(before - 1, -1, -1) if node.id in self._steps[n].makes and n in self._path), None)
        if at is None:
            return node, before
        made = self._steps[at]
        column = self._column_of(made)
        if at in self._tainted:
            if column is not None and (name := self._transforming(made.value)):
                self._flow.transformers.insert(0, (name, ast.unparse(column.slice)))
                return self._back(node, at)
            if isinstance(made.value, ast.Call) and called(made.value) == "fit_resample":
                return self._back(made.value.args[0], at)
            if node.id in made.targets and made.value is not None and not column:
                value = self._part(made, node.id)
                return self._back(value, at) if value is not None else (None, at)
            return None, at
        value = self._part(made, node.id)
        if isinstance(value, ast.Name) and value.id != node.id:
            return self._back(value, at)
        return node, before

    @staticmethod
    def _transforming(node: ast.AST | None) -> str:
        """The name of the transformer that a call is of."""
        function = node.func if isinstance(node, ast.Call) and called(node) in {"fit_transform", "transform"} else None
        receiver = function.value if isinstance(function, ast.Attribute) else None
        return receiver.id if isinstance(receiver, ast.Name) else ""

    def _fits_in(self, node: ast.expr, before: int) -> bool:
        return any(called(each) in {"fit_transform", "transform"} for each in calls_of(node)) or bool(
            names_in(node) & self._tainted_names(before)
        )

    def _leave_labels(self, site: Site) -> None:
        """Take a LabelEncoder of the target out: a run gives positions in the sorted classes, as it does."""
        encoders = {
            name for step in self._steps for name in step.targets if called(step.value or step.tree) == "LabelEncoder"
        }
        chain, changed = names_in(site.y), True
        while changed:
            made = [s for s in self._steps[: site.number] if chain & set(s.targets)]
            more = {n for s in made for t in s.targets if t in chain for n in names_in(self._inner(self._part(s, t)))}
            changed = not more - encoders <= chain
            chain |= more - encoders
        column, _ = self._target(site.y, site.number)
        for number, step in enumerate(self._steps):
            value = step.value
            if not (isinstance(value, ast.Call) and value.args and called(value) in {"fit_transform", "transform"}):
                continue
            receiver = value.func.value if isinstance(value.func, ast.Attribute) else None
            name = receiver.id if isinstance(receiver, ast.Name) else ""
            if not (name in encoders or called(receiver or value) == "LabelEncoder"):
                continue
            others = {"transform", "inverse_transform", "fit_transform"}
            if any(isinstance(n, ast.Attribute) and root_of(n.value) == name and n.attr not in others
                   for s in self._steps for n in ast.walk(s.tree) if name) and len(step.targets) == 1:  # fmt: skip
                continue
            aim = self._column_target(step)
            is_column = aim is not None and bool(column) and text_of(aim.slice, step, self._code, ()) == column
            if is_column or (len(step.targets) == 1 and (step.targets[0] in chain or _is_of_y(step.targets[0]))):
                inner = ast.unparse(value.args[0])
                idle = is_column or inner == step.targets[0]
                text = "pass" if idle else edited(step.text, [(value, inner)])
                self._steps[number] = Step(text, step.module, step.where, step.given)

    @staticmethod
    def _inner(node: ast.expr | None) -> ast.AST:
        """The expression behind a target that is another name, or encoded; otherwise nothing."""
        if isinstance(node, ast.Call) and called(node) in {"fit_transform", "transform"} and node.args:
            return node.args[0]
        return node if isinstance(node, ast.Name) else ast.Pass()

    @staticmethod
    def _column_target(step: Step) -> ast.Subscript | None:
        target = step.tree.targets[0] if isinstance(step.tree, ast.Assign) else None
        return target if isinstance(target, ast.Subscript) else None

    def _y(self, node: ast.expr, before: int) -> tuple[ast.expr, int]:
        """The target by the first name that it has."""
        at = next(
            (n for n in range(before - 1, -1, -1) if isinstance(node, ast.Name) and node.id in self._steps[n].targets),
            None,
        )
        if at is None or not isinstance(node, ast.Name):
            return node, before
        value = self._part(self._steps[at], node.id)
        if isinstance(value, ast.Call) and called(value) == "fit_resample":
            return self._y(value.args[1], at)
        if isinstance(value, ast.Tuple | type(None)) and called(self._steps[at].value or node) == "fit_resample":
            return self._y(self._steps[at].value.args[1], at)  # type: ignore[union-attr]
        return self._y(value, at) if isinstance(value, ast.Name) else (node, before)

    def _without_array(self, x: ast.expr, site: Site) -> ast.expr:
        """Features as a frame, where the code makes an array of one."""
        inner = _framed(x)
        if inner is not x:
            self._flow.matrix = True
            return inner
        if isinstance(x, ast.Name):
            at = next((n for n in range(site.number - 1, -1, -1) if x.id in self._steps[n].targets), None)
            value = self._part(self._steps[at], x.id) if at is not None else None
            if at is not None and value is not None and (inner := _framed(value)) is not value:
                self._flow.matrix = True
                self._steps[at] = Step(
                    edited(self._steps[at].text, [(value, ast.unparse(inner))]), self._steps[at].module,
                    self._steps[at].where, self._steps[at].given,
                )  # fmt: skip
        return x

    def _rows_steps(self, numbers: Sequence[int], y: ast.expr) -> list[Step]:
        """Steps to load, without those that give a part of the rows another name and nothing more."""
        kept: list[Step] = []
        for position, number in enumerate(numbers):
            step = self._steps[number]
            later = [self._steps[each] for each in numbers[position + 1 :]]
            used = {name for each in later for name in each.needs} | names_in(ast.parse(self._flow.x)) | names_in(y)
            if step.limit:
                self._flow.limit = step.limit
                self._flow.points += (
                    []
                    if step.limit[0] not in {"", "?"}
                    else [f"{step.where}: rows are divided by their order here: name their time, Split(time=...)"]
                )
            if step.given and not set(step.targets) & used:
                continue
            if step.given == "all" and isinstance(step.value, ast.Tuple):
                pairs = [(n, ast.unparse(v)) for n, v in zip(step.targets, step.value.elts, strict=True) if n in used]
                text = f"{', '.join(n for n, _ in pairs)} = {', '.join(v for _, v in pairs)}"
                step = Step(text, step.module, step.where, "all", step.limit)
            kept.append(step)
        return kept

    def _target(self, y: ast.expr, before: int) -> tuple[str, tuple[str, ...]]:
        """Name of the target's column, if it can be read, and the columns that it is made of."""
        step, node = self._steps[before], y
        earlier = self._steps[:before]
        for _ in range(20):
            if isinstance(node, ast.Name):
                at = next((n for n in range(before - 1, -1, -1) if node.id in self._steps[n].targets), None)
                value = self._part(self._steps[at], node.id) if at is not None else None
                if at is None or value is None:
                    return "", ()
                step, node, before = self._steps[at], value, at
            elif isinstance(node, ast.Subscript) and not isinstance(node.slice, ast.Slice | ast.Tuple):
                name = text_of(node.slice, step, self._code, earlier)
                if not name and isinstance(node.slice, ast.List) and len(node.slice.elts) == 1:
                    name = text_of(node.slice.elts[0], step, self._code, earlier)
                return (name, self._made_of(name, before)) if name else ("", ())
            elif isinstance(node, ast.Call) and called(node) == "pop" and node.args:
                name = text_of(node.args[0], step, self._code, earlier)
                return name, self._made_of(name, before)
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in self._kinds:
                if node.attr in _ARRAYS:
                    node = node.value
                else:
                    return node.attr, self._made_of(node.attr, before)
            elif isinstance(node, ast.Attribute):
                node = node.value
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                inner = node.func.value
                node = node.args[0] if root_of(inner) in step.module.imports and node.args else inner
            elif isinstance(node, ast.Compare):
                node = node.left
            else:
                return "", ()
        return "", ()

    def _target_notes(self, y: ast.expr, before: int) -> None:
        """Whether the target is a number that was computed of another one."""
        at = self._made_at(y.id, before) if isinstance(y, ast.Name) else None
        step = self._steps[before if at is None else at]
        value = self._part(step, y.id) if at is not None and isinstance(y, ast.Name) else y
        column = [each for each in self._flow.load if self._column_name(each) == self._flow.target != ""]
        for place, node in ((step, value), *((each, each.value) for each in column)):
            for call in calls_of(node) if node is not None else ():
                if called(call) in {"log", "log1p", "log10", "log2", "sqrt", "cbrt", "boxcox"}:
                    self._point(place, f"the target is computed here ({called(call)}): the model answers that value")
            if sums := _sums_in(node):
                self._point(place, f"the target is computed here ({sums[0]}): the model answers that value")

    def _column_name(self, step: Step) -> str:
        aim = self._column_target(step)
        return text_of(aim.slice, step, self._code, ()) if aim is not None else ""

    def _made_of(self, target: str, before: int) -> tuple[str, ...]:
        """Columns of which the code computes the one with that name."""
        found: list[str] = []
        for step in self._steps[:before]:
            tree = step.tree
            aim = (
                tree.targets[0] if isinstance(tree, ast.Assign) and isinstance(tree.targets[0], ast.Subscript) else None
            )
            if aim is None or text_of(aim.slice, step, self._code, ()) != target or step.value is None:
                continue
            found += [
                each.slice.value
                for each in ast.walk(step.value)
                if isinstance(each, ast.Subscript)
                and isinstance(each.slice, ast.Constant)
                and isinstance(each.slice.value, str)
            ]
        return tuple(dict.fromkeys(each for each in found if each != target))

    def _notes(self, steps: Sequence[Step]) -> None:
        for step in steps:
            names = {called(call) for call in calls_of(step.tree)}
            how = dict.fromkeys([*sorted(names & _LEFT_OUT), *self._picked(step)])
            if how:
                self._point(step, f"rows are left out here ({', '.join(how)}): requests like them come too")
            if (
                names & _OF_ALL
                and step.makes & self._kinds
                and not self._code.function(step.value or step.tree, step.module)
            ):
                what = ", ".join(sorted(names & _OF_ALL))
                self._point(step, _OF_ROWS.format(what))
            elif not any(each.startswith(f"{step.where}: callers send") for each in self._flow.points):
                self._made(step)

    def _picked(self, step: Step) -> Iterator[str]:
        """Tests and slices by which a step keeps some of the rows."""
        for node in ast.walk(step.value or ast.Pass()) if step.makes & self._kinds and not step.given else ():
            if not isinstance(node, ast.Subscript) or not self._is_rows(node.value, step, self._kinds):
                continue
            at = node.slice.elts[0] if isinstance(node.slice, ast.Tuple) and node.slice.elts else node.slice
            made = self._made_at(at.id, len(self._steps)) if isinstance(at, ast.Name) else None
            test = at if made is None else self._steps[made].value
            is_test = isinstance(test, ast.Compare | ast.UnaryOp) or called(test or at) in _TESTS
            is_test = is_test or (isinstance(test, ast.BinOp) and isinstance(test.op, ast.BitAnd | ast.BitOr))
            is_slice = isinstance(at, ast.Slice) and bool(at.lower or at.upper) and ".str" not in ast.unparse(node)
            if is_slice or (is_test and self._is_rows(at, step, self._kinds)):
                yield ast.unparse(at)

    def _made(self, step: Step) -> None:
        """Take down the columns that a step computes, itself or in a function of the project, as no server does."""
        is_computed = isinstance(step.value, ast.BinOp) or called(step.value or step.tree) in _COMPUTES
        if is_computed and set(step.targets) & {*self._kinds, "features"} and not any(map(_is_of_y, step.targets)):
            self._point(step, SENT.format(", ".join(step.targets)))
        waiting: list[tuple[ast.AST, Module]] = [(step.tree, step.module)]
        seen: set[ast.AST] = set()
        while waiting:
            tree, module = waiting.pop()
            for node in ast.walk(tree):
                where = step.where if tree is step.tree else module.where(getattr(node, "lineno", 1))
                if isinstance(node, ast.Assign) and called(node.value) != "astype":
                    for each in node.targets:
                        if isinstance(each, ast.Subscript) and (name := text_of(each.slice, step, self._code, ())):
                            self._flow.made.setdefault(name, where)
                        elif isinstance(each, ast.Subscript) and root_of(each) in self._kinds and tree is step.tree:
                            self._point(
                                step,
                                SENT.format(
                                    ast.unparse(step.tree.iter if isinstance(step.tree, ast.For) else each.slice)
                                ),
                            )
                elif isinstance(node, ast.Call) and called(node) == "assign":
                    self._flow.made |= dict.fromkeys([each.arg for each in node.keywords if each.arg], where)
                elif called(node) in _OF_ALL and tree is not step.tree and isinstance(node.func, ast.Attribute):  # type: ignore[attr-defined]
                    self._flow.points.append(f"{where}: {_OF_ROWS.format(called(node))}")
                elif (found := self._code.function(node, module)) and found[1] not in seen:
                    seen.add(found[1])
                    waiting.append((found[1], found[0]))

    def _training(self, site: Site, name: str, x: ast.expr, y: ast.expr) -> None:
        flow = self._flow
        kept: list[Step] = []
        wanted: set[str] = set()
        changes: dict[int, list[Edit]] = {}
        used = {name for step in self._steps for name in step.makes}
        for node, short, given in ((site.x, "X", "data.x"), (site.y, "y", "data.y")):
            taken = names_in(node) & self._tainted_names(site.number)
            at = next((n for n in self._tainted if node in ast.walk(self._steps[n].tree)), None)
            if not isinstance(node, ast.Name) and not taken and at is not None:
                here = f"{short}_train" if short in used else short
                flow.given[here] = given
                changes.setdefault(at, []).append((node, here))
        self._others_in_place(changes, {ast.unparse(site.x): "x", ast.unparse(site.y): "y"})
        if site.native and site.constructor is not None:
            self._feed(site)
        last = max(self._tainted & {*self._path}, default=site.number)
        for number in reversed([each for each in self._path if each <= last]):
            step = self._steps[number]
            if number in self._tainted:
                text = edited(step.text, changes.get(number, []))
                step = Step(text, step.module, step.where, step.given) if number in changes else step
                if step.given and step.given != "all":  # the rows were transformed before they were divided
                    flow.given[step.targets[0]] = "data.x_validation"
                    continue
                kept.append(step)
                wanted = (wanted - step.ends) | step.needs
                continue
            if not step.makes & wanted:
                continue
            for each in sorted(step.makes & wanted):
                if each in self._kinds or each in self._others:
                    flow.given.setdefault(each, self._what(each, number, x, y))
                    wanted = wanted - {each}
                elif each in flow.given:
                    wanted = wanted - {each}
            if step.makes & wanted and self._reads(step):
                self._point(step, "rows are read here for training: `train` gets its own, have `load` return them")
                flow.given |= dict.fromkeys(step.makes & wanted, "data.rows")
                wanted = wanted - step.makes
            if step.makes & wanted:
                kept.append(step)
                wanted = (wanted - step.ends) | step.needs
        kept.reverse()
        for step in kept:
            weighed = {
                name
                for call in calls_of(step.tree)
                for each in call.keywords
                if each.arg in {"sample_weight", "weight", "groups"}
                for name in names_in(each.value)
            }
            weights = sorted(name for name in weighed if flow.given.get(name) == "data.rows")
            if weights:
                self._point(
                    step, f"{', '.join(weights)} is not known to `train`: compute it there, of data.x or data.y"
                )
            if "sys.argv" in step.text:
                self._point(step, "a run has no command line: write the value")
        if name:
            flow.result = name
        else:
            whole = Step(edited(self._steps[site.number].text, changes.get(site.number, [])), self._module, "")
            flow.result = self._expression(whole, called(site.call))
            kept = [each for each in kept if each.where != self._steps[site.number].where]
        flow.module = self._steps[site.number].module
        flow.train, flow.native = [_as_kept(each, kept) for each in kept], site.native

    def _others_in_place(self, changes: dict[int, list[Edit]], known: dict[str, str]) -> None:
        """Replace the rows that training stops by with `data.x_validation` and `data.y_validation`."""
        same = {self._of_origins(text): part for text, part in known.items()}
        for number in sorted(self._tainted):
            step = self._steps[number]
            waiting: list[ast.AST] = [step.tree]
            while waiting:
                node = waiting.pop()
                rows = isinstance(node, ast.Subscript | ast.Attribute | ast.Call) and self._is_rows(
                    node, step, self._kinds
                )
                if rows and names_in(node) & self._others and not isinstance(node, ast.Name):
                    part = same.get(self._of_origins(ast.unparse(node)), "")
                    if part and not names_in(node) & self._tainted_names(number):
                        name = {"x": "X_val", "y": "y_val"}[part]
                        self._flow.given[name] = f"data.{part}_validation"
                        changes.setdefault(number, []).append((node, name))
                        continue
                waiting += ast.iter_child_nodes(node)

    def _of_origins(self, text: str) -> str:
        """An expression by the names that the rows had before they were divided."""
        tree = ast.parse(text, mode="eval")
        edits: list[Edit] = [
            (each, self._origin_simple(each.id)) for each in ast.walk(tree) if isinstance(each, ast.Name)
        ]
        return edited(text, edits)

    @staticmethod
    def _expression(step: Step, name: str) -> str:
        """The call of that name in a step, as it was changed."""
        calls = [each for each in calls_of(step.tree) if called(each) == name]
        return ast.unparse(calls[0])

    def _feed(self, site: Site) -> None:
        made = site.constructor
        assert made is not None  # noqa: S101 - the caller asked
        names = {each.arg: each.value for each in made.keywords if each.arg not in {"label", "weight", "data"}}
        more = "".join(f", {key}={ast.unparse(value)}" for key, value in names.items() if key == "enable_categorical")
        array = isinstance(site.x, ast.Attribute) and site.x.attr == "values"
        self._flow.feed = (
            f"xgboost.DMatrix(rows{'.values' if array and not self._flow.matrix else ''}{more})"
            if site.native == "xgboost"
            else "rows"
        )

    def _what(self, name: str, number: int, x: ast.expr, y: ast.expr) -> str:
        """Which part of the data of `train` a name is."""
        root, other = self._origin(name, number)
        of_x, of_y = (self._origin(ast.unparse(each), len(self._steps))[0] for each in (x, y))
        is_y = root == of_y or (_is_of_y(name) and root != of_x)
        if other:
            return "data.y_validation" if is_y else "data.x_validation"
        if root == of_y or (is_y and name not in names_in(x)):
            return "data.y"
        if root == of_x or (name in names_in(x) and isinstance(x, ast.Name)):
            return "data.x"
        made = self._steps[number]
        if len(made.targets) > 1 and self._code.function(made.value or made.tree, made.module):
            self._point(
                made, f"{name} may be rows, or what is computed of them: make it in `train` of data.x, or a pipeline"
            )
        return "data.rows"

    def _origin(self, name: str, before: int) -> tuple[str, bool]:
        """The name that a name is another one for, and whether it is of the rows that are not trained on."""
        other = name in self._others
        for _ in range(20):
            if not name.isidentifier():
                break
            at = next(
                (n for n in range(min(before, len(self._steps) - 1), -1, -1) if name in self._steps[n].targets), None
            )
            if at is None:
                break
            step = self._steps[at]
            other = other or (name in self._others)
            value = self._part(step, name)
            other = other or (value is not None and bool(names_in(value) & self._others) and at not in self._tainted)
            if isinstance(value, ast.Call) and called(value) == "copy" and isinstance(value.func, ast.Attribute):
                value = value.func.value
            if isinstance(value, ast.Name) and value.id != name:
                name, before = value.id, at - 1
                continue
            if other and value is not None and name in self._others | {name}:
                # The same expression, of the other part.
                text = ast.unparse(value)
                for n in range(len(self._steps)):
                    if n != at and n in self._path and self._steps[n].targets and self._twin(text, n):
                        return self._steps[n].targets[0], True
            break
        return name, other

    def _twin(self, text: str, number: int) -> bool:
        value = self._part(self._steps[number], self._steps[number].targets[0])
        if value is None:
            return False
        pairs = {name: self._origin_simple(name) for name in names_in(value) | names_in(ast.parse(text))}
        mine, theirs = ast.unparse(value), text
        for name, origin in pairs.items():
            mine, theirs = (re.sub(rf"\b{name}\b", origin, each) for each in (mine, theirs))
        return mine == theirs

    def _origin_simple(self, name: str) -> str:
        at = next((n for n in range(len(self._steps) - 1, -1, -1) if name in self._steps[n].targets), None)
        value = self._part(self._steps[at], name) if at is not None else None
        return value.id if isinstance(value, ast.Name) else name


def _as_kept(step: Step, steps: Sequence[Step]) -> Step:
    """A step with lists of names and names of types: a model that holds an Index or a type cannot be kept."""
    types = types_picked(step.tree)
    step = replace(step, text=edited(step.text, types)) if types else step
    if len(step.targets) != 1 or step.value is None or not is_index(step.value):
        return step
    others = [each for one in steps for each in ast.walk(one.tree) if isinstance(each, ast.Attribute)]
    if any(isinstance(each.value, ast.Name) and each.value.id == step.targets[0] for each in others):
        return step
    text = ast.get_source_segment(step.text, step.value)
    return replace(step, text=edited(step.text, [(step.value, f"{text}.tolist()")]))


def types_picked(tree: ast.AST) -> list[tuple[ast.expr, str]]:
    """Types by which columns are picked, each as it must read: text may be a category, and a model holds no type."""
    found: list[tuple[ast.expr, str]] = []
    for call in calls_of(tree):
        if called(call) not in {"make_column_selector", "select_dtypes"}:
            continue
        for value in [*call.args, *(each.value for each in call.keywords if each.arg != "pattern")]:
            many = value.elts if isinstance(value, ast.List | ast.Tuple) else []
            for each in many or [value]:
                if _is_object(each):
                    found.append((each, '"object", "category"' if many else '["object", "category"]'))
                elif not isinstance(each, ast.Constant) and called(call) == "make_column_selector":
                    found.append((each, quoted(ast.unparse(each).rpartition(".")[2])))
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare) and len(node.ops) == 1 and _is_object(node.comparators[0]):
            how = {ast.Eq: "in", ast.NotEq: "not in"}.get(type(node.ops[0]), "")
            if how and ast.unparse(node.left).endswith("dtype"):
                found.append((node, f'{ast.unparse(node.left)} {how} ("object", "category")'))
    return found


def _is_object(node: ast.AST) -> bool:
    """Whether it is the type that text has in a file."""
    return ast.unparse(node).strip("'") in {"object", "O", "np.object_"}


def is_index(node: ast.AST) -> bool:
    """Whether an expression is names of columns, as pandas holds them."""
    while isinstance(node, ast.Call) and called(node) in {"drop", "difference", "intersection", "union"}:
        node = node.func.value if isinstance(node.func, ast.Attribute) else ast.Pass()
    return isinstance(node, ast.Attribute) and node.attr == "columns"


def _is_of_y(name: str) -> bool:
    return bool(re.match(r"(?i)(y|target|label)s?(_|\d|$)", name))


def _framed(node: ast.expr) -> ast.expr:
    """The frame that an array is made of; another expression as it is."""
    if isinstance(node, ast.Attribute) and node.attr == "values":
        return node.value
    if isinstance(node, ast.Call) and called(node) == "to_numpy" and isinstance(node.func, ast.Attribute):
        return node.func.value
    if isinstance(node, ast.Call) and called(node) in {"array", "asarray"} and len(node.args) == 1:
        return node.args[0]
    return node


def _sums_in(node: ast.AST | None) -> list[str]:
    """Arithmetic and negations in an expression, but for those that pick rows or columns."""
    if node is None or isinstance(node, ast.Compare):
        return []
    if isinstance(node, ast.BinOp) and not isinstance(node.op, ast.BitAnd | ast.BitOr | ast.BitXor):
        return [ast.unparse(node)]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Invert | ast.USub):
        return [ast.unparse(node)]
    inner = [node.value] if isinstance(node, ast.Subscript) else ast.iter_child_nodes(node)
    return [found for each in inner for found in _sums_in(each)]
