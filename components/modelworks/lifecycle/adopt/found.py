"""Functions of a project that is to be adopted that load, build, fit or predict, and the code that a model may hold."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from modelworks.lifecycle.adopt.code import READERS, Code, Definition, Module, called, calls_of, named_files, root_of
from modelworks.lifecycle.adopt.flow import find_flow, is_index, types_picked
from modelworks.lifecycle.adopt.reading import ESTIMATOR, Flow
from modelworks.lifecycle.adopt.steps import Step
from modelworks.lifecycle.model_project import source_files

Place = tuple[str, str]
"""A function of the project: module and name."""
_BOOSTERS = ("xgboost", "lightgbm")
_NAMED = re.compile(r"(XGB|LGBM)(Classifier|Regressor)|train|DMatrix|Dataset|Booster|early_stopping|log_evaluation")
_NO_PROBABILITIES = {
    "LinearSVC", "RidgeClassifier", "RidgeClassifierCV", "Perceptron", "PassiveAggressiveClassifier", "NearestCentroid",
}  # fmt: skip
_REGRESSION = re.compile(
    r"\w*(Regressor|SVR|Ridge|RidgeCV|Lasso|LassoCV|ElasticNet|ElasticNetCV)|(?!Logistic)\w*Regression"
)
_CLASSIFICATION = re.compile(
    r"\w*Classifier(CV)?|LogisticRegression(CV)?|\w*SVC|\w+NB|\w*DiscriminantAnalysis|Perceptron"
)
_NETS = {"tensorflow", "keras", "torch", "pytorch_lightning"}
_CHANGES = {"clip", "round", "rint", "maximum", "minimum", "exp", "expm1", "square"}
"""Calls that change numbers that a model answers."""
_ANSWERS = {"predict", "predict_proba", "decision_function"}
"""Methods by which a model answers."""
_BY_NAME = {"columns", "loc", "iloc", "select_dtypes", "dtypes", "assign", "drop", "astype", "apply", "fillna", "copy"}
"""Attributes that a frame has and an array has not."""


@dataclass
class Found:
    """Parts that a model project can be made of."""

    flow: Flow | None = None
    load: Place | None = None
    build: Place | None = None
    fit: Place | None = None
    predict: Place | None = None
    expression: str = ""
    """An estimator that a script makes, of names of libraries alone."""
    imports: tuple[str, ...] = ()
    """The imports of those names."""
    booster: str = ""
    own_code: bool = False
    """Whether a model may hold functions or classes of the project."""
    hint: str = ""
    """`regression` or `classification`, where the code decides it."""
    by_name: bool = False
    """Whether training picks columns by name, so that it needs a frame."""
    by_type: bool = False
    """Whether it picks columns by the type that text has in a file, so that text must not be a category."""
    imputes: bool = False
    """Whether it fills missing values by an imputer, which takes NaN and not None for one."""
    used: list[tuple[Module, Definition]] = field(default_factory=list)
    """Functions and classes that training uses."""
    held: list[Definition] = field(default_factory=list)
    """Those that a model holds."""
    points: list[str] = field(default_factory=list)


def find(code: Code) -> Found:
    """Look for a program that leads from rows to a model, and for functions that are parts of one."""
    found = Found(flow=find_flow(code))
    flow = found.flow
    if flow and not flow.x:  # how it comes by its features could not be read
        found.points += flow.points
        found.flow = flow = None
    if flow is None:
        _find_functions(code, found)
    if not (flow or found.build or found.fit):
        found.expression, found.imports = _expression(code.modules)
    if flow or found.build or found.fit or found.expression:
        found.predict = None
    _look_into_training(code, found)
    return found


def _find_functions(code: Code, found: Found) -> None:
    for module in code.modules:
        if module.is_script:
            continue
        for function in module.definitions.values():
            if not isinstance(function, ast.FunctionDef):
                continue
            calls = {called(node) for node in calls_of(function)}
            given = len(function.args.args) - len(function.args.defaults) + len(function.args.posonlyargs)
            place = (module.name, function.name)
            makes = any(ESTIMATOR.fullmatch(each) for each in calls)
            data = any(each.startswith(("load_", "fetch_")) for each in calls)
            if not given and calls & READERS.keys() and "fit" not in calls:
                found.load = found.load or place
            elif not given and makes and "fit" not in calls:
                found.build = found.build or place
            elif given == 2 and "fit" in calls:
                found.fit = found.fit or place
            elif not given and data and not makes:
                found.load = found.load or place
            elif given == 1 and function.name.startswith(("predict", "score", "infer")):
                found.predict = found.predict or place


def _expression(modules: list[Module]) -> tuple[str, tuple[str, ...]]:
    """An estimator that a script makes of names of libraries alone, with their imports."""
    for module in modules:
        for node in module.tree.body:
            value = node.value if isinstance(node, ast.Assign) else None
            while isinstance(value, ast.Call) and called(value) == "fit" and isinstance(value.func, ast.Attribute):
                value = value.func.value
            if not isinstance(value, ast.Call) or not ESTIMATOR.fullmatch(called(value)):
                continue
            names = {each.id for each in ast.walk(value) if isinstance(each, ast.Name)}
            libraries = {name: each.statement for name, each in module.imports.items() if each.path is None}
            if names <= libraries.keys():
                return ast.unparse(value), tuple(sorted({libraries[each] for each in names}))
    return "", ()


# -- What training uses ----------------------------------------------------------------------------------------------
def _look_into_training(code: Code, found: Found) -> None:
    trees = _training(code, found)
    found.used = _reached(code, trees)
    every = [*trees, *((definition, module) for module, definition in found.used)]
    names = {called(call) for tree, _ in every for call in calls_of(tree)}
    names |= {each.id for tree, _ in every for each in ast.walk(tree) if isinstance(each, ast.Name)}
    names |= {each.attr for tree, _ in every for each in ast.walk(tree) if isinstance(each, ast.Attribute)}
    text = "\n".join(ast.unparse(tree) for tree, _ in every)
    found.hint = _hint(names, text)
    found.by_type = any(
        re.search(r"select_dtypes|dtype|make_column_selector", part) and "object" in part and "category" not in part
        for part in (ast.unparse(tree) for tree, _ in every)
    )
    found.imputes = "SimpleImputer" in names
    libraries = {library for tree, module in every for library in _libraries(tree, module)}
    found.booster = next((each for each in _BOOSTERS if each in libraries), "")
    classes = [each for _, each in found.used if isinstance(each, ast.ClassDef)]
    transformers = [each for _, each in found.used if isinstance(each, ast.FunctionDef) and _is_handed_on(each, every)]
    found.held = [*classes, *transformers]
    own_columns = bool(found.flow and any(columns for _, columns in found.flow.transformers))
    found.own_code = bool(found.predict or classes or transformers or own_columns)
    found.by_name = bool(
        found.own_code or names & {"ColumnTransformer", "make_column_transformer", "make_column_selector"}
        or names & _BY_NAME
    )  # fmt: skip
    found.points += [*_problems(every, libraries, found), *_on_answers(code)]
    if not trees:
        found.points += _nets_in(code)


def _training(code: Code, found: Found) -> list[tuple[ast.AST, Module]]:
    """Steps that train, or functions of the project."""
    if found.flow:
        return [(each.tree, each.module) for each in found.flow.train] + (
            [(ast.parse(found.flow.result, mode="eval"), found.flow.module)] if found.flow.result else []
        )
    trees: list[tuple[ast.AST, Module]] = []
    for place in (found.build, found.fit, found.predict):
        module = next((each for each in code.modules if place and each.name == place[0]), None)
        if place and module:
            trees.append((module.definitions[place[1]], module))
    if found.expression:
        trees += [(ast.parse(found.expression, mode="eval"), code.modules[0])]
        trees += [(ast.parse(each), code.modules[0]) for each in found.imports]
    return trees


def _reached(code: Code, trees: list[tuple[ast.AST, Module]]) -> list[tuple[Module, Definition]]:
    """Functions and classes of the project that these use, by whatever way."""
    found: dict[int, tuple[Module, Definition]] = {}
    waiting = list(trees)
    while waiting:
        tree, module = waiting.pop()
        for node in ast.walk(tree):
            got = None
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
                at = code.find(node.id, module)
                definition = at[0].definitions.get(at[1]) if at else None
                if at and definition:
                    got = (at[0], definition)
                elif at and at[1] in at[0].constants and id(at[0].constants[at[1]]) not in found:
                    found[id(at[0].constants[at[1]])] = None  # type: ignore[assignment]
                    waiting.append((at[0].constants[at[1]], at[0]))
            elif isinstance(node, ast.Attribute) and (other := code.module_of(node.value, module)):
                definition = other.definitions.get(node.attr)
                got = (other, definition) if definition else None
            if got and id(got[1]) not in found:
                found[id(got[1])] = got
                waiting.append((got[1], got[0]))
    return [each for each in found.values() if each]


def _is_handed_on(function: ast.FunctionDef, every: list[tuple[ast.AST, Module]]) -> bool:
    """Whether a function is given to something else than called: to a FunctionTransformer."""
    for tree, _ in every:
        for call in calls_of(tree):
            handed = [*call.args, *(each.value for each in call.keywords)]
            if any(isinstance(each, ast.Name | ast.Attribute) and _last(each) == function.name for each in handed):
                return True
    return False


def _last(node: ast.Name | ast.Attribute) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr


def _libraries(tree: ast.AST, module: Module) -> Iterator[str]:
    """Libraries that the names in a tree come from."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in module.imports and module.imports[node.id].path is None:
            words = module.imports[node.id].statement.split()
            yield words[1].partition(".")[0]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]
        elif isinstance(node, ast.Import):
            yield from (each.name.partition(".")[0] for each in node.names)


def _hint(names: set[str], text: str) -> str:
    regression = any(_REGRESSION.fullmatch(each) for each in names) or bool(
        re.search(r"['\"](reg:\w+|regression(_l1)?|mae|mse|rmse|l2|poisson|tweedie|huber|quantile)['\"]", text)
    )
    classification = any(_CLASSIFICATION.fullmatch(each) for each in names) or bool(
        re.search(r"['\"](binary(:\w+)?|multi(class|:\w+))['\"]", text)
    )
    if regression == classification:
        return ""
    return "regression" if regression else "classification"


def _problems(every: list[tuple[ast.AST, Module]], libraries: set[str], found: Found) -> Iterator[str]:
    """Reasons why it will not be trained, kept or served, each with file and line."""
    for tree, module in every:
        steps = found.flow.train if found.flow else []
        for call in calls_of(tree):
            name = called(call)
            where = _where(tree, call, module, steps)
            if name in _NO_PROBABILITIES and found.hint == "classification":
                yield (
                    f"{where}: {name} has no predict_proba, and a classifier answers probabilities: return "
                    f"CalibratedClassifierCV({name}(...)).fit(data.x, data.y)"
                )
            if name == "SVC" and not any(each.arg == "probability" for each in call.keywords):
                yield f"{where}: SVC answers probabilities with SVC(probability=True), or in a CalibratedClassifierCV"
            if name == "FunctionTransformer" and any(isinstance(each, ast.Lambda) for each in call.args):
                yield f"{where}: a lambda has no name by which a server finds it: make it a function"
            if re.fullmatch(r"(XGB|LGBM|CatBoost)\w+", name) and not _NAMED.fullmatch(name):
                yield f"{where}: no server loads {name}: keep its own file, Fitted(artifacts={{...}}, loader=...)"
        if found.flow is None or tree not in [each.tree for each in steps]:
            for picked, text in types_picked(tree):
                if isinstance(picked, ast.Name | ast.Attribute):
                    yield f"{module.where(picked.lineno)}: a model that holds a type cannot be kept: write {text}"
            for node in ast.walk(tree):
                if isinstance(node, ast.Assign) and is_index(node.value):
                    yield (
                        f"{module.where(node.lineno)}: a model that holds this is not kept, where a ColumnTransformer "
                        "gets it: append .tolist()"
                    )
        if isinstance(tree, ast.ClassDef) and found.hint != "regression" and _is_model(tree):
            yield (
                f"{module.where(tree.lineno)}: {tree.name} has predict and no predict_proba: a classifier answers the "
                "probabilities of its classes, [rows, classes]"
            )
    for library in sorted(libraries):
        if library in _NETS:
            yield from _imports_of(library, every, "export the trained net as ONNX and return Fitted(onnx=...)")
        elif find_spec(library) is None:
            yield from _imports_of(library, every, f"{library} is not installed: `uv add` its package")


def _nets_in(code: Code) -> Iterator[str]:
    """Where a net is trained by a loop: no step of it can be followed to a model."""
    for module in code.modules:
        if _NETS & {library for node in ast.walk(module.tree) for library in _imported(node)}:
            for call in calls_of(module.tree):
                if called(call) == "backward":
                    yield (
                        f"{module.where(call.lineno)}: a net is trained here: have `train` do it, and return its "
                        "graph, Fitted(onnx=...), as the guide to bringing a model has it"
                    )


def _imported(node: ast.AST) -> Iterator[str]:
    """Top-level names of the libraries that a statement imports."""
    if isinstance(node, ast.Import):
        yield from (each.name.partition(".")[0] for each in node.names)
    elif isinstance(node, ast.ImportFrom) and not node.level:
        yield (node.module or "").partition(".")[0]


def _on_answers(code: Code) -> Iterator[str]:
    """Places at which the code changes what its model answers, or decides by a limit: no server does."""
    for module in code.modules:
        answers = {
            name.id
            for node in ast.walk(module.tree)
            if isinstance(node, ast.Assign) and _are_answers(node.value)
            for target in node.targets
            for name in ast.walk(target)
            if isinstance(name, ast.Name)
        }
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Call) and called(node) in _CHANGES:
                # Not of what is made of answers: `round(accuracy_score(y, model.predict(x)), 2)`.
                of = [*node.args, node.func.value] if isinstance(node.func, ast.Attribute) else node.args
                if any(called(each) == "predict" for each in of):
                    yield f"{module.where(node.lineno)}: answers are changed here ({called(node)}): callers do that"
            if isinstance(node, ast.Compare) and _cuts(node, answers):
                yield (
                    f"{module.where(node.lineno)}: answers are cut at a limit here: callers do that, of probabilities"
                )


def _cuts(node: ast.Compare, answers: set[str]) -> bool:
    """Whether answers, or something that is called a limit, are compared with another number."""
    if re.search(r"(?i)thresh|cut_?off|best_t\b", ast.unparse(node)):
        return True
    if not isinstance(node.ops[0], ast.Gt | ast.GtE | ast.Lt | ast.LtE):
        return False
    sides = [node.left, *node.comparators]
    return any(root_of(each) in answers or _are_answers(each) for each in sides)


def _are_answers(node: ast.expr) -> bool:
    """Whether an expression is what a model answers, or some of it: not what is computed of it."""
    while isinstance(node, ast.Subscript | ast.Attribute | ast.Call):
        if called(node) in _ANSWERS:
            return True
        if not isinstance(node, ast.Call):
            node = node.value
        elif isinstance(node.func, ast.Attribute):
            node = node.func.value  # `….ravel()`
        else:
            return False
    return False


def _imports_of(library: str, every: list[tuple[ast.AST, Module]], what: str) -> Iterator[str]:
    for module in dict.fromkeys(module for _, module in every):
        for node in ast.walk(module.tree):
            if library in _imported(node):
                yield f"{module.where(node.lineno)}: {what}"  # type: ignore[attr-defined]
                return


def _where(tree: ast.AST, node: ast.AST, module: Module, steps: list[Step]) -> str:
    step = next((each for each in steps if each.tree is tree), None)
    return step.where if step else module.where(getattr(node, "lineno", 1))


def _is_model(tree: ast.ClassDef) -> bool:
    """Whether a class predicts, and has no probabilities."""
    methods = {each.name for each in tree.body if isinstance(each, ast.FunctionDef)}
    return {"fit", "predict"} <= methods and not methods & {"predict_proba", "transform"}


# -- Rows ------------------------------------------------------------------------------------------------------------
def rows_file(code: Code) -> Path | None:
    """The file that the code reads rows from, or the only one of the kind."""
    for module in code.modules:
        places: dict[int, Any] = {id(node): path for node, _, path in named_files(module, code)}
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Call) and called(node) in READERS and node.args and id(node.args[0]) in places:
                return Path(places[id(node.args[0])])
    kinds = {".csv", ".parquet", ".feather"}
    for below in (code.root, code.root / "data"):
        found = [path for path in source_files(code.root) if path.suffix in kinds and path.parent == below]
        if found:
            return found[0] if len(found) == 1 else None
    return None


def targets_of(code: Code) -> Iterator[str]:
    """Columns that may be the target of the code, the surest first."""
    for module in code.modules:
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Call):
                first = node.args[0] if node.args else None
                if called(node) == "pop" and isinstance(first, ast.Constant):
                    yield str(first.value)
                if len(node.args) == 2 and called(node).startswith(("fit", "train")):
                    yield from _column(node.args[1])
            elif isinstance(node, ast.Assign) and any(
                getattr(each, "id", "") in {"y", "target"} for each in node.targets
            ):
                yield from _column(node.value)


def _column(node: ast.expr) -> Iterator[str]:
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
        yield str(node.slice.value)
