"""The start of a model project from code that is there: what can be read of it is stated, the rest is marked.

The files stay as they are laid out. Two things of them change, because a run imports a project as a package of its own
and from another folder: imports of each other become relative, and files that the code names are found beside it. A
script or a notebook is not imported at all: its steps become `load` and `train` of `model.py`.
"""

from __future__ import annotations

import ast
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from modelworks._files import write_whole
from modelworks.errors import ModelworksError
from modelworks.lifecycle.adopt.code import (
    Code,
    moved,
    named_files,
    place_of,
    quoted,
    read_code,
    rewritten,
    too_large,
    written_files,
)
from modelworks.lifecycle.adopt.flow import SENT
from modelworks.lifecycle.adopt.found import Found, find, rows_file, targets_of
from modelworks.lifecycle.adopt.rows import (
    MARK,
    Columns,
    Sample,
    columns_of,
    kind_of,
    reader_of,
    sample_of,
    sample_of_file,
)
from modelworks.lifecycle.adopt.text import (
    ON_COLUMNS,
    Text,
    load_lines,
    native_serving,
    returned_rows,
    sorted_imports,
    train_lines,
    without_idle_imports,
)
from modelworks.lifecycle.lockfile import package_of
from modelworks.lifecycle.scaffold import TEMPLATES, new_folder

_PROBE = "rows_of_the_project"
"""A module of the copy that is there while a sample is made."""


@dataclass(frozen=True)
class Adopted:
    """A project that was made of another."""

    folder: Path
    derived: dict[str, str]
    """Facts that were read of the code and the data, by name."""
    open: list[str]
    """Open points, each with file and line."""


def adopt(source: Path, name: str, into: Path, data: Path | None = None, target: str = "") -> Adopted:
    """Make a model project of a folder, a Python file or a notebook with an estimator or a plain function.

    Args:
        source: The folder, or a Python file or notebook in one.
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
    code = read_code(root, None if source.is_dir() else source.resolve())
    if not code.modules:
        raise ModelworksError(
            f"{source} holds no Python file and no notebook", fix="Name the folder of the code, or a file of it."
        )
    into.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=into) as scratch:
        copy = Path(scratch) / folder.name
        made = _Making(code, copy, name, data.resolve() if data else None)
        made.lay_out()
        derived = made.write(target)
        copy.rename(folder)
    problems = [f"{folder / problem}" for problem in made.left_out]
    return Adopted(folder, derived, [*problems, *code.problems, *made.points, *_marked(folder)])


def _marked(folder: Path) -> list[str]:
    """The points that the new files leave open, each with file and line."""
    return [
        f"{path}:{number}: {line.partition(MARK)[2].strip(': ')}"
        for path in (folder / "model.py", folder / "serving.py")
        if path.is_file()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if MARK in line
    ]


@dataclass
class _Making:
    """A project in the making."""

    code: Code
    copy: Path
    name: str
    data: Path | None
    left_out: list[str] = field(default_factory=list)
    """Files that are too large, by the line that names them."""
    points: list[str] = field(default_factory=list)
    _named: list[Path] = field(default_factory=list)

    def lay_out(self) -> None:
        """Write the code, as it must read in a model project, and the files that it names."""
        self._named = sorted({path for module in self.code.modules for _, _, path in named_files(module, self.code)})
        for module in self.code.modules:
            if module.cells:
                continue
            text = rewritten(module, self.code)
            self.left_out += self._too_large(
                moved(module.path), text, [path for _, _, path in named_files(module, self.code)]
            )
            write_whole(self.copy / moved(module.path), text)
        for path in self._named:
            if not too_large(path):
                _copy_file(path, self.copy / place_of(path, self.code.root))

    def _too_large(self, file: Path, text: str, paths: Sequence[Path]) -> Iterator[str]:
        """Files that the code names and that are too large for a project, each by the line of the rewritten text."""
        for path in filter(too_large, paths):
            name = place_of(path, self.code.root).as_posix()
            lines = (number for number, line in enumerate(text.splitlines(), 1) if quoted(name) in line)
            yield (
                f"{file}:{next(lines, 1)}: {name} is left out: {too_large(path)} Have `load` fetch "
                f"it, or give the whole path, {path}, if no server reads it"
            )

    def write(self, target: str) -> dict[str, str]:
        """Write `model.py` and what it needs beside itself; what was read of the project."""
        found = find(self.code)
        text = Text(self.code)
        if found.flow and self.data is None and any("sys.argv" in each.text for each in found.flow.load):
            self.data = rows_file(self.code)
        rows = self.data or (None if found.flow else rows_file(self.code))
        place = rows
        if rows and not too_large(rows) and not found.load:
            place = rows.relative_to(self.code.root) if rows.is_relative_to(self.code.root) else Path(rows.name)
            if found.flow and not rows.is_relative_to(self.code.root):
                place = place_of(rows, self.code.root)
            _copy_file(rows, self.copy / place)
        load = load_lines(found.flow, text, self.data) if found.flow else []
        if found.flow and any("sys.argv" in each for each in load):
            where = next(each.where for each in found.flow.load if "sys.argv" in each.text)
            raise ModelworksError(
                f"{where}: the command line decides the rows here, and a run has none",
                fix="Give its options defaults, or name the file with rows: --data FILE.",
            )
        sample = self._sample(found, text, load, rows, target)
        column = target or sample.target or self._target(sample)
        if column not in sample.table.columns:
            raise ModelworksError(
                f"there is no column {column!r}: there is {', '.join(map(str, sample.table.columns))}",
                fix="Name another: --target.",
            )
        derived = self._model_py(found, text, load, sample, column, place)
        if found.predict:
            write_whole(self.copy / "serving.py", _serving_py(found))
        elif found.flow and found.flow.native:
            write_whole(self.copy / "serving.py", native_serving(found.flow))
        if any(each.startswith("from .on_columns ") for each in text.imports):
            write_whole(self.copy / "on_columns.py", ON_COLUMNS)
        test = (TEMPLATES / "test_model.py.txt").read_text(encoding="utf-8")
        write_whole(self.copy / "test_model.py", test.replace("__NAME__", self.name))
        self.points += [*(found.flow.points if found.flow else []), *found.points, *text.points]
        self.points = list(dict.fromkeys(self.points))
        return derived

    def _sample(self, found: Found, text: Text, load: list[str], rows: Path | None, target: str) -> Sample:
        left_out = [path for path in self._named if too_large(path)]
        flow = found.flow
        if flow is None:
            return sample_of(self.copy, found.load, left_out) if found.load else sample_of_file(rows)
        text.write_parts()
        for path, content in text.parts.items():
            write_whole(self.copy / path, content)
        time = self._time_column(found)
        more = f", {flow.limit[2]}[{quoted(time)}]" if time else ""
        writes = written_files(self.code)
        self.points += [
            f"{where}: {name} is written here: callers send its columns as this code makes them"
            for name, where in writes.items()
            if any(name in line for line in load)
        ]
        probe = self.copy / f"{_PROBE}.py"
        imports = "\n".join(sorted_imports(text.imports))
        write_whole(probe, f"{imports}\n\n\ndef load():\n{_indented([*load, f'return {flow.x}, {flow.y}{more}'])}\n")
        try:
            return sample_of(
                self.copy,
                (_PROBE, "load"),
                left_out,
                f"the code up to {flow.where}",
                target or flow.target,
                time,
                writes,
            )
        finally:
            probe.unlink()

    @staticmethod
    def _time_column(found: Found) -> str:
        """The column of a split by time."""
        limit = found.flow.limit if found.flow else ()
        try:
            column = ast.literal_eval(limit[0]) if limit else ""
        except (ValueError, SyntaxError):
            return ""
        return column if isinstance(column, str) else ""

    def _target(self, sample: Sample) -> str:
        """The column that is the target of the code."""
        columns = [str(each) for each in sample.table.columns]
        found = [name for name in targets_of(self.code) if name in columns]
        found = found or [name for name in ("target", "label", "y", "class") if name in columns]
        if not found:
            raise ModelworksError(
                f"which column is to be predicted is not clear; there is {', '.join(columns)}",
                fix="Name it: --target COLUMN.",
            )
        return found[0]

    # -- model.py ----------------------------------------------------------------------------------------------------
    def _model_py(
        self, found: Found, text: Text, load: list[str], sample: Sample, target: str, rows: Path | None
    ) -> dict[str, str]:
        flow = found.flow
        kind, classes = kind_of(sample.table[target], found.hint)
        columns = columns_of(sample, target, _changed_as_text(found, sample))
        if found.imputes:
            self.points += [
                f"{(flow.where if flow else self.copy.name)}: a missing {name} is None, as it has no categories: "
                "SimpleImputer(missing_values=None) fills it"
                for name, stated in columns.kept.items()
                if '"string"' in stated and "nullable" in stated and "categories" not in stated
            ]
        how = "matrix" if columns.are_numbers and not found.by_name and (found.booster or flow) else "frame"
        how = "matrix" if flow and flow.matrix and columns.are_numbers else how
        one = sample.features[0] if sample.series else ""
        if one:
            how, found.own_code = "frame", True
        train = train_lines(flow, text, one) if flow else _train_lines(found, how, kind)
        text.write_parts()
        for path, content in text.parts.items():
            write_whole(self.copy / path, content)
        time = self._time_column(found)
        split, dates = self._split(found, sample, time)
        if flow:
            body = [
                *load,
                "return " + returned_rows(flow, sample, target, time if split and time not in sample.features else ""),
            ]
            self._leaks(found, sample)
        else:
            body = _load_lines(found, rows)
        for statement in _import_lines(found):
            text.imports.setdefault(statement)
        if split:
            text.imports.setdefault("from modelworks.lifecycle import Split")
        values = {
            "__NAME__": self.name,
            "__IMPORTS__": "\n".join(_beside_template(text.imports)),
            "__LOAD__": _indented(body),
            "__TRAIN__": _indented(train),
            "__KIND__": kind,
            "__CLASSES__": _classes_text(kind, classes),
            "__TARGET__": quoted(target),
            "__SPLIT__": split,
            "__INPUT__": how,
            "__FEATURES__": "\n".join(f"        {each}" for each in columns.kept.values()),
            "__LEFT_OUT__": "".join(
                f"        # {MARK}: {column!r} is left out: {why}\n" for column, why in columns.left_out.items()
            ),
            "__SERVICE__": self._service_text(found, kind),
            "__METRIC__": {"binary": "auc", "multiclass": "accuracy", "regression": "mae"}[kind],
        }
        page = (TEMPLATES / "adopted.py.tmpl").read_text(encoding="utf-8")
        for mark, value in values.items():
            page = page.replace(mark, value)
        write_whole(self.copy / "model.py", re.sub(r"\n{4,}", "\n\n\n", without_idle_imports(page, text.imports)))
        return self._derived(found, columns, target, kind, classes, rows, dates)

    def _derived(
        self,
        found: Found,
        columns: Columns,
        target: str,
        kind: str,
        classes: tuple[Any, ...],
        rows: Path | None,
        split: str,
    ) -> dict[str, str]:
        flow = found.flow
        source = str(rows) if rows else ""
        if flow:
            files = [
                each
                for each in self._named
                if any(quoted(place_of(each, self.code.root).name)[1:-1] in s.text for s in flow.load)
            ]
            names = ", ".join(place_of(each, self.code.root).as_posix() for each in files) or source
            source = f"{names + ': ' if names else ''}{len(flow.load)} steps before {flow.where}"
        elif found.load:
            source = f"{found.load[0]}.{found.load[1]}()"
        classes_text = f", {classes!r}" if classes else ""
        left_out = f"; left out: {', '.join(columns.left_out)}" if columns.left_out else ""
        derived = {
            "rows": source,
            "target": f"{target} ({kind}{classes_text})",
            "features": ", ".join(columns.kept) + left_out,
            "model": _model_text(found) or "not found",
        }
        derived |= {"split": split} if split else {}
        return {what: fact.replace(f"{self.code.root}/", "") for what, fact in derived.items()}

    def _split(self, found: Found, sample: Sample, time: str) -> tuple[str, str]:
        """A split by time as the code divides rows, as Python and as a fact."""
        import pandas as pd  # only where rows are at hand

        flow = found.flow
        if not flow or not flow.limit or not time:
            return "", ""
        stated = re.search(r"""["']([^"']+)["']""", flow.limit[1])
        moments = sample.table.get(time)
        where = next((each.where for each in flow.load if each.limit), flow.where)
        if moments is None or pd.api.types.is_numeric_dtype(moments) or not stated:
            self.points.append(
                f"{where}: rows are divided by {time} here: state Split(time=...) with a column of moments"
            )
            return "", ""
        moments = pd.to_datetime(moments, utc=True)
        held = pd.to_datetime(stated[1], utc=True)
        first = moments[moments < held].quantile(0.85)
        parts = f'validation_from="{first:%Y-%m-%d}", holdout_from="{held.isoformat()}"'
        return (
            f", split=Split(time={quoted(time)}, {parts})",
            f"by {time}, from {held:%Y-%m-%d} on held out",
        )

    def _leaks(self, found: Found, sample: Sample) -> None:
        """Features that the target is computed of, or that are computed before callers could send them."""
        flow = found.flow
        made = {name: where for name, where in flow.made.items() if name in sample.features} if flow else {}
        for where in dict.fromkeys(made.values()):
            names = [name for name in made if made[name] == where]
            self.points.append(f"{where}: {SENT.format(', '.join(names))}")
        for column in flow.sources if flow else ():
            if flow and column in sample.features:
                self.points.append(
                    f"{flow.where}: {column} is a feature, and the target is computed of it: leave it out, or it "
                    "gives the answer away"
                )

    def _service_text(self, found: Found, kind: str) -> str:
        options, flow = [], found.flow
        if found.booster and not (flow and flow.native):
            ending = "Regressor" if kind == "regression" else "Classifier"
            main = {"xgboost": f"xgboost.sklearn.XGB{ending}", "lightgbm": f"lightgbm.sklearn.LGBM{ending}"}
            core = {"xgboost": "xgboost.core.Booster", "lightgbm": "lightgbm.basic.Booster"}[found.booster]
            options.append(f'trusted=("{main[found.booster]}", "{core}")')
        if booster := found.booster or (flow.native if flow else ""):
            package = package_of(booster) if find_spec(booster) else booster
            options.append(f'packages=("{package}",)')
        if found.own_code or (flow and flow.native):
            options.append("trusted_code=True")
            read = [place_of(path, self.code.root).as_posix() for path in self._named]
            if found.predict and (
                read := [each for each in read if (self.copy / each).is_file() and not _is_rows(found, each, self)]
            ):
                options.append(f"files=({', '.join(map(quoted, read))},)")
        return f"\n    service=Service({', '.join(options)})," if options else ""


def _is_rows(found: Found, name: str, made: _Making) -> bool:
    """Whether a file is the one with rows, and no side file of a function."""
    rows = made.data or (None if found.flow else rows_file(made.code))
    return rows is not None and place_of(rows, made.code.root).as_posix() == name


def _changed_as_text(found: Found, sample: Sample) -> frozenset[str]:
    """Columns that must be text to training: code that travels with the model names them, or it picks them by type."""
    if found.by_type:
        return frozenset(map(str, sample.table.columns))
    return frozenset(
        each.value
        for definition in found.held
        for each in ast.walk(definition)
        if isinstance(each, ast.Constant) and isinstance(each.value, str)
    )


def _copy_file(path: Path, copy: Path) -> None:
    copy.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, copy)


def _indented(lines: Sequence[str]) -> str:
    return "\n".join(f"    {each}" if each else "" for each in lines)


def _beside_template(statements: dict[str, None]) -> list[str]:
    """Imports that the template has not already."""
    there = {"from pathlib import Path", "import pandas as pd", "import pandera.pandas as pa"}
    return sorted_imports([each for each in statements if each not in there])


def _classes_text(kind: str, classes: tuple[Any, ...]) -> str:
    if not classes:
        return ""
    stated = ", ".join(quoted(each) if isinstance(each, str) else repr(each) for each in classes)
    unsure = kind == "binary" and classes not in {(0, 1), (False, True)}
    return f"\n    classes=({stated})," + (f"  # {MARK}: (negative, positive)" if unsure else "")


def _model_text(found: Found) -> str:
    if found.flow:
        parts = [name for name, _ in found.flow.transformers]
        return f"{' and '.join([*parts, found.flow.result])} of {found.flow.where}"
    place = found.build or found.fit or found.predict
    return f"{place[0]}.{place[1]}" if place else found.expression


def _import_lines(found: Found) -> list[str]:
    if found.flow:
        return ["from .serving import load_model"] if found.flow.native else []
    places = [place for place in (found.load, found.build, found.fit) if place]
    mine = [f"from .{module} import {name}{_as(name)}" for module, name in places]
    return [*(["from .serving import load_model"] if found.predict else []), *sorted(mine)]


def _as(name: str) -> str:
    return f" as own_{name}" if name in {"load", "train", "spec"} else ""


def _here(name: str) -> str:
    return _as(name).rpartition(" ")[2] or name


def _load_lines(found: Found, rows: Path | None) -> list[str]:
    if found.load:
        return [f"return {_here(found.load[1])}()"]
    assert rows is not None  # noqa: S101 - without rows there is no table
    where = quoted(str(rows)) if rows.is_absolute() else f"Path(__file__).parent / {quoted(rows.as_posix())}"
    return [f"return pd.{reader_of(rows)}({where})"]


def _train_lines(found: Found, how: str, kind: str) -> list[str]:
    if found.build:
        return [f"return {_here(found.build[1])}().fit(data.x, data.y)"]
    if found.fit:
        return [f"return {_here(found.fit[1])}(data.x, data.y)"]
    if found.predict:
        return ["return Fitted(loader=load_model)"]
    if found.expression:
        return [*found.imports, "", f"return {found.expression}.fit(data.x, data.y)"]
    return [
        f"# {MARK}: return an estimator that is fitted on data.x ({how}) and data.y: none was found",
        f'raise NotImplementedError("state how the {kind} model is trained")',
    ]


def _serving_py(found: Found) -> str:
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
