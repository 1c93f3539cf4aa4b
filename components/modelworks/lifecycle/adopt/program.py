"""A stranger's program as a list of steps, with its functions in the place of their calls. Nothing is run."""

from __future__ import annotations

import ast
import copy
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from modelworks.lifecycle.adopt.code import Code, Edit, Module, called, calls_of, edited, guards, root_of
from modelworks.lifecycle.adopt.steps import SPLITS, Step, erase_splits

FITS = {"fit", "fit_transform", "fit_resample", "partial_fit"}
DATASETS = {
    "load_iris", "load_wine", "load_breast_cancer", "load_diabetes", "load_digits", "load_linnerud",
    "fetch_california_housing", "fetch_covtype",
}  # fmt: skip
"""Functions of scikit-learn that give rows with names if they are asked for a frame."""
_DEEPEST = 8
TRAINS = frozenset({"fit", "fit_resample", "xgb", "xgboost", "lgb", "lightgbm"})
"""Calls by which `has` finds training."""


class Program:
    """The steps of a module, or of one function of it."""

    def __init__(self, code: Code, module: Module, function: ast.FunctionDef | None = None) -> None:
        self._code = code
        self._options = _options(code, module)
        self._objects: dict[str, tuple[Module, ast.ClassDef]] = {}
        self._searched: dict[tuple[int, str], bool] = {}
        self.points: list[str] = []
        """Places that could not be followed."""
        self.loops: list[str] = []
        """Loops that fit one model after the other."""
        body = function.body if function else module.tree.body
        steps = self._with_functions(self._flat(body, module), 0)
        self.steps = erase_splits([self._with_defaults(each) for each in steps])

    def has(self, node: ast.AST, module: Module, names: frozenset[str], depth: int = 0) -> bool:
        """Whether a node, or a function of the project that it calls, makes one of these calls."""
        for call in calls_of(node):
            if called(call) in names and not (called(call) == "fit" and _is_transformer_fit(call)):
                return True
            if called(call) == "train" and root_of(call.func) in {"xgb", "xgboost", "lgb", "lightgbm"} & names:
                return True
            found = self._code.function(call, module)
            if found is None or depth > _DEEPEST or not isinstance(found[1], ast.FunctionDef):
                continue
            key = (id(found[1]), ",".join(sorted(names)))
            if key not in self._searched:
                self._searched[key] = False  # of a function that calls itself
                self._searched[key] = self.has(found[1], found[0], names, depth + 1)
            if self._searched[key]:
                return True
        return False

    def _flat(self, body: Sequence[ast.stmt], module: Module) -> Iterator[Step]:
        """Statements without those around a fit: a run of a tracker, a guard, a loop over folds."""
        for node in body:
            if isinstance(node, ast.Import | ast.ImportFrom | ast.FunctionDef | ast.ClassDef | ast.Pass | ast.Global):
                continue
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                continue
            fits = not isinstance(node, ast.Expr | ast.Assign) and self.has(node, module, TRAINS)
            if (isinstance(node, ast.If) and (guards(node) or fits)) or (isinstance(node, ast.With | ast.Try) and fits):
                yield from self._flat(node.body, module)
            elif isinstance(node, ast.For) and fits:
                yield from self._once(node, module)
            else:
                yield _step(node, module)

    def _once(self, node: ast.For, module: Module) -> Iterator[Step]:
        """The body of a loop over folds, once: with all rows to train on."""
        names = [each.id for each in ast.walk(node.target) if isinstance(each, ast.Name)]
        if called(node.iter) not in {"split", "enumerate"} or len(names) < 2:
            self.loops.append(f"{module.where(node.lineno)}: this loop fits several models: name one outside of it")
            return
        other = names[-1]
        self.points.append(
            f"{module.where(node.lineno)}: a model is fitted for each fold here; `train` fits one, on all training rows"
        )
        for step in self._flat(node.body, module):
            edits: list[Edit] = []
            for each in ast.walk(step.tree):
                if (
                    not isinstance(each, ast.Subscript)
                    or not isinstance(each.slice, ast.Name)
                    or each.slice.id not in names
                ):
                    continue
                of = each.value
                base = ast.unparse(of.value if isinstance(of, ast.Attribute) and of.attr in {"iloc", "loc"} else of)
                if each.slice.id == other:
                    part = re.sub(r"\W", "_", f"{base}_other")
                    yield Step(f"{part} = {base}", module, step.where, given=part)
                    base = part
                edits.append((each, base))
            yield replace(step, text=edited(step.text, edits)) if edits else step

    def _with_functions(self, steps: Iterator[Step] | list[Step], depth: int) -> list[Step]:
        """Steps with functions that load, divide and fit put in the place of their calls."""
        before = [each for step in steps for each in self._hoisted(step)]
        found: list[Step] = []
        for number, step in enumerate(before):
            call, function = self._to_expand(step)
            if call is None or function is None or depth > _DEEPEST:
                found.append(step)
                continue
            body = self._in_place(step, call, *function, before, number)
            found += [step] if body is None else self._with_functions(body, depth + 1)
        return found

    def _hoisted(self, step: Step) -> Iterator[Step]:
        """A step, after those that make what it takes of a function that is to be put in place."""
        if not isinstance(step.tree, ast.Expr | ast.Assign | ast.With):
            yield step
            return
        for call in calls_of(step.tree):
            if call is step.value or self._code.function(call, step.module) is None:
                continue
            name = "model" if "model" not in step.needs | step.makes else "fitted"
            alone = Step(f"{name} = {ast.get_source_segment(step.text, call)}", step.module, step.where)
            if self._to_expand(alone)[0] is not None:
                yield alone
                yield from self._hoisted(replace(step, text=edited(step.text, [(call, name)])))
                return
        yield step

    def _to_expand(self, step: Step) -> tuple[ast.Call | None, tuple[Module, ast.FunctionDef] | None]:
        call = step.value
        if isinstance(call, ast.Call) and called(call) == "exit" and call.args:
            call = call.args[0]
        if not isinstance(call, ast.Call):
            return None, None
        if isinstance(step.tree, ast.Expr) and called(call) in {"run", "Fire"} and call.args:
            call = ast.Call(call.args[0], [], [], lineno=call.lineno, col_offset=call.col_offset,
                            end_lineno=call.end_lineno, end_col_offset=call.end_col_offset)  # fmt: skip
        if method := self._method(call, step):
            return call, method
        found = self._code.function(call, step.module)
        if found is None and isinstance(step.tree, ast.Expr) and not call.args:
            found = self._command(call, step.module)
        if found is None or not isinstance(found[1], ast.FunctionDef):
            return None, None
        module, function = found[0], found[1]
        divides = self.has(function, module, frozenset(SPLITS))
        fits = self.has(function, module, TRAINS)
        options = any(isinstance(each, ast.Name) and each.id in {"args", "opts", "options"} for each in call.args)
        last = function.body[-1]
        several = isinstance(last, ast.Return) and isinstance(last.value, ast.Tuple) and len(step.targets) > 1
        if divides or options or several or (fits and xy_of(function, module, self._code) is None):
            return call, (module, function)
        return None, None

    def _method(self, call: ast.Call, step: Step) -> tuple[Module, ast.FunctionDef] | None:
        """The method that a call is of, where a class is no model but the program that makes one."""
        name = "__init__"
        found = self._code.function(call, step.module)
        if found is None and isinstance(call.func, ast.Attribute):
            name, receiver = call.func.attr, call.func.value
            found = self._code.function(receiver, step.module)
            found = found or (self._objects.get(receiver.id) if isinstance(receiver, ast.Name) else None)
        module, made = found or (step.module, None)
        if not isinstance(made, ast.ClassDef) or not _is_program(made):
            return None
        for each in (*step.targets[:1], "self"):
            self._objects[each] = (module, made)
        method = next((each for each in made.body if isinstance(each, ast.FunctionDef) and each.name == name), None)
        return (module, _without_self(method, made)) if method else None

    def _command(self, call: ast.Call, module: Module) -> tuple[Module, ast.FunctionDef] | None:
        """The function of a command line that its object runs."""
        name = root_of(call.func)
        commands = [
            each
            for each in module.definitions.values()
            if isinstance(each, ast.FunctionDef) and any(root_of(one) == name for one in each.decorator_list)
        ]
        fitting = [each for each in commands if self.has(each, module, TRAINS)]
        return (module, (fitting or commands)[0]) if commands else None

    def _in_place(
        self, step: Step, call: ast.Call, module: Module, function: ast.FunctionDef, around: list[Step], number: int
    ) -> list[Step] | None:
        """The body of a function with its arguments, or None where it cannot replace a call."""
        body = [each for each in function.body if not isinstance(each, ast.Expr) or isinstance(each.value, ast.Call)]
        last = body[-1] if body else None
        returns = [each for each in ast.walk(function) if isinstance(each, ast.Return)]
        if any(each is not last for each in returns) or any(isinstance(each, ast.Starred) for each in call.args):
            self.points.append(f"{step.where}: {function.name} returns in several places: what it does is not followed")
            return None
        given = _arguments(step, call, function, module)
        steps = [*self._flat([each for each in body if each is not last or not returns], module)]
        steps = [self._of_object(each) for each in steps]
        mine = {name for each in steps for name in each.makes} | {name for name, _ in given}
        outer = {name for each in around for name in each.makes}
        later = {name for each in around[number + 1 :] for name in each.needs}
        kept = set(step.targets) | {
            n for n, each in given if each.text == f"{n} = {n}" and n not in (later - set(step.targets))
        }
        unchanged = {name for name, each in given if each.text == f"{name} = {name}"} - {
            name for each in steps for name in each.makes
        }
        names = {name: f"{function.name}_{name}" for name in (mine & outer) - kept - unchanged}
        found = [each for name, each in given if each.text != f"{name} = {name}" or name in names]
        found = [
            replace(each, text=f"{names.get(n, n)} ={each.text.partition('=')[2]}")
            for (n, _), each in zip([g for g in given if g[1] in found], found, strict=True)
        ]
        found += [_renamed(each, names) for each in steps]
        if isinstance(last, ast.Return) and last.value is not None:
            result = _renamed(self._of_object(replace(_step(last, module), text=_of_return(last, module))), names)
            text = edited(step.text, [(call, result.text)])
            place = module.where(last.lineno)
            inner = ast.parse(result.text, mode="eval").body
            if step.targets and isinstance(inner, ast.Tuple) and len(inner.elts) == len(step.targets):
                text = _without_idle(step.targets, [ast.get_source_segment(result.text, e) or "" for e in inner.elts])
            if text and (not isinstance(step.tree, ast.Expr) or self.has(last.value, module, TRAINS)):
                found.append(Step(text, _Both(module, step.module) if module is not step.module else module, place))
        return [each for each in found if not _is_idle(each)]

    def _of_object(self, step: Step) -> Step:
        """A step of a method, with the attributes of its object as names."""
        if "self" not in self._objects:
            return step
        methods = {each.name for each in self._objects["self"][1].body if isinstance(each, ast.FunctionDef)}
        edits: list[Edit] = [
            (each, each.attr)
            for each in ast.walk(ast.parse(step.text))
            if isinstance(each, ast.Attribute) and isinstance(each.value, ast.Name) and each.value.id == "self"
            and each.attr not in methods
        ]  # fmt: skip
        return replace(step, text=edited(step.text, edits)) if edits else step

    def _with_defaults(self, step: Step) -> Step:
        """A step with the defaults of the command line in place of what it would get from there."""
        edits = [(node, text) for node in ast.walk(step.tree) if (text := self._default(node))]
        return replace(step, text=edited(step.text, edits)) if edits else step

    def _default(self, node: ast.AST) -> str:
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and isinstance(node.ctx, ast.Load):
            is_options = node.value.id.rpartition("_")[2] in {"args", "opt", "opts", "options"}
            return self._options.get(node.attr, "") if is_options else ""
        if isinstance(node, ast.IfExp) and re.fullmatch(r"len\(sys\.argv\) >=? \d", ast.unparse(node.test)):
            return ast.unparse(node.orelse)
        if not isinstance(node, ast.Call):
            return ""
        function = ast.unparse(node.func)
        if called(node) in DATASETS and "as_frame" not in ast.unparse(node):
            given = [*map(ast.unparse, node.args), *map(ast.unparse, node.keywords), "as_frame=True"]
            return f"{function}({', '.join(given)})"
        is_variable = len(node.args) == 2 and (called(node) == "getenv" or function.endswith("environ.get"))
        return ast.unparse(node.args[1]) if is_variable else ""


class _Both(Module):
    """Where a statement of two modules looks names up: a function's result, assigned in another."""

    def __init__(self, first: Module, second: Module) -> None:
        super().__init__(first.path, first.text, first.tree, first.root, first.cells, first.numbers)
        self.imports = {**second.imports, **first.imports}
        self.second = second


def _is_program(made: ast.ClassDef) -> bool:
    """Whether a class fits a model on rows of its own, and is no estimator, transformer or set of constants."""
    methods = {each.name: each for each in made.body if isinstance(each, ast.FunctionDef)}
    fit = methods.get("fit")
    is_estimator = "transform" in methods or (fit is not None and len(fit.args.args) > 2) or bool(made.bases)
    return not is_estimator and any(called(each) == "fit" for each in calls_of(made))


def _without_self(method: ast.FunctionDef, made: ast.ClassDef) -> ast.FunctionDef:
    """A method as a function of its other parameters."""
    found = copy.copy(method)
    found.args = copy.copy(method.args)
    found.args.args = method.args.args[1:]
    found.name = f"{made.name}_{method.name}" if method.name == "__init__" else method.name
    return found


def _is_transformer_fit(call: ast.Call) -> bool:
    """Whether it fits nothing to a target: `scaler.fit(X)`."""
    return len(call.args) + len([each for each in call.keywords if each.arg in {"X", "y"}]) < 2


def _without_idle(targets: Sequence[str], values: Sequence[str]) -> str:
    """An assignment of several names, without those that keep their value."""
    pairs = [(name, value) for name, value in zip(targets, values, strict=True) if name != value]
    return f"{', '.join(name for name, _ in pairs)} = {', '.join(value for _, value in pairs)}" if pairs else ""


def _is_idle(step: Step) -> bool:
    names, _, value = step.text.partition(" = ")
    return names == value


def _of_return(node: ast.Return, module: Module) -> str:
    text = ast.get_source_segment(module.text, node.value) or "" if node.value else ""
    return f"({text})" if "\n" in text and not text.startswith(("(", "[", "{")) else text


def _renamed(step: Step, names: dict[str, str]) -> Step:
    nodes = [each for each in ast.walk(ast.parse(step.text)) if isinstance(each, ast.Name) and each.id in names]
    return replace(step, text=edited(step.text, [(each, names[each.id]) for each in nodes])) if nodes else step


def _step(node: ast.stmt, module: Module) -> Step:
    """A statement with the comments right above it, as far to the left as it can be."""
    lines = module.text.splitlines()
    first, indent = node.lineno - 1, node.col_offset
    segment = ast.get_source_segment(module.text, node) or ""
    start = first
    while start and re.match(r"\s*#(?! ?[%!]| In\[)", lines[start - 1]) and not lines[start - 1][:indent].strip():
        start -= 1
    last = lines[(node.end_lineno or node.lineno) - 1]
    if lines[first][:indent].strip() or ";" in last[node.end_col_offset or 0 :]:
        return Step(segment, module, module.where(node.lineno))
    block = lines[start : node.end_lineno]
    text = "\n".join(each[indent:] if not each[:indent].strip() else each for each in block)
    return Step(text, module, module.where(node.lineno))


def _arguments(step: Step, call: ast.Call, function: ast.FunctionDef, module: Module) -> list[tuple[str, Step]]:
    """Parameters of a function as steps that assign what a call gives."""
    every = [*function.args.posonlyargs, *function.args.args]
    defaults = dict(zip([each.arg for each in reversed(every)], reversed(function.args.defaults), strict=False))
    defaults |= {a.arg: d for a, d in zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True) if d}
    by_name = {each.arg: each.value for each in call.keywords if each.arg}
    stated = _click_defaults(function)
    found = []
    for number, parameter in enumerate([*every, *function.args.kwonlyargs]):
        name = parameter.arg
        value = call.args[number] if number < len(call.args) else by_name.get(name)
        if value is not None:
            found.append((name, Step(f"{name} = {ast.unparse(value)}", step.module, step.where)))
        elif name in stated:
            found.append((name, Step(f"{name} = {stated[name]}", module, module.where(parameter.lineno))))
        elif name in defaults:
            default: ast.expr | None = defaults[name]
            if isinstance(default, ast.Call) and called(default) in {"Option", "Argument"}:
                default = default.args[0] if default.args else None
            if default is not None:
                text = f"{name} = {ast.unparse(default)}"
                found.append((name, Step(text, module, module.where(parameter.lineno))))
    return found


def _click_defaults(function: ast.FunctionDef) -> dict[str, str]:
    """Defaults of the options that decorate a function."""
    found: dict[str, str] = {}
    for each in function.decorator_list:
        if isinstance(each, ast.Call) and called(each) in {"option", "argument"}:
            found |= _option(each)
    return found


def _options(code: Code, module: Module) -> dict[str, str]:
    """Defaults of the command line by the name that they get: those of the module itself go first."""
    found: dict[str, str] = {}
    for each in sorted(code.modules, key=lambda other: other is module):
        for call in calls_of(each.tree):
            if called(call) == "add_argument":
                found |= _option(call)
    return found


def _option(call: ast.Call) -> dict[str, str]:
    names = [each.value for each in call.args if isinstance(each, ast.Constant) and isinstance(each.value, str)]
    given = {each.arg: each.value for each in call.keywords}
    long = next((each for each in names if each.startswith("--")), names[0] if names else "")
    dest = given.get("dest") or next(
        (ast.Constant(each) for each in names if long.startswith("-") and each[0] != "-"), None
    )
    name = str(dest.value) if isinstance(dest, ast.Constant) else long.lstrip("-").partition("/")[0].replace("-", "_")
    if "default" in given:
        text = ast.unparse(given["default"])
        return {name: f"Path({text})" if ast.unparse(given.get("type", ast.Constant(0))) == "Path" else text}
    action = given.get("action")
    if "is_flag" in given or (isinstance(action, ast.Constant) and action.value == "store_true"):
        return {name: "False"}
    optional = long.startswith("-") and "required" not in given
    return {name: "None" if optional else "sys.argv[1]"} if name else {}


def xy_of(function: ast.AST, module: Module, code: Code) -> tuple[int, int] | None:
    """Which parameters of a function are features and target, if it fits an estimator on them and returns that."""
    if not isinstance(function, ast.FunctionDef):
        return None
    parameters = [each.arg for each in [*function.args.posonlyargs, *function.args.args]]
    returned = [each.value for each in ast.walk(function) if isinstance(each, ast.Return) and each.value is not None]
    if not returned or any(isinstance(each, ast.Tuple) for each in returned):
        return None
    for call in calls_of(function):
        if called(call) in {"fit", "fit_resample"} or called(call) in {"DMatrix", "Dataset"}:
            given = {each.arg: each.value for each in call.keywords}
            x = call.args[0] if call.args else given.get("X", given.get("data"))
            y = call.args[1] if len(call.args) > 1 else given.get("y", given.get("label"))
        elif (
            (inner := code.function(call, module))
            and inner[1] is not function
            and (at := xy_of(inner[1], inner[0], code))
        ):
            x, y = (call.args[each] if each < len(call.args) else None for each in at)
        else:
            continue
        first, second = _parameter(x, parameters), _parameter(y, parameters)
        if first is not None and second is not None and first != second:
            return first, second
    return None


def _parameter(node: ast.AST | None, parameters: list[str]) -> int | None:
    names = [each.id for each in ast.walk(node) if isinstance(each, ast.Name)] if node else []
    return next((parameters.index(each) for each in names if each in parameters), None)
