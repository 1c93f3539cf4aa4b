"""The rows of a project that is to be adopted: a sample that a process of its own makes, and the features in it."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelworks.errors import ModelworksError
from modelworks.lifecycle.adopt.code import READERS, quoted, too_large
from modelworks.lifecycle.child_process import environment_of_child

if TYPE_CHECKING:
    import pandas as pd

MARK = "TODO"
MOST_CATEGORIES = 20
"""Different texts up to which a column is one of categories."""
SAMPLE_ROWS = 100_000
_LOAD = """
import json
import os
import sys
from importlib import import_module
from types import ModuleType

package = ModuleType("adopted")
package.__path__ = [sys.argv[1]]
sys.modules["adopted"] = package
made = getattr(import_module("adopted." + sys.argv[2]), sys.argv[3])()
facts = {}
if isinstance(made, tuple):
    import pandas as pd

    frame, target = made[:2]
    facts["series"] = isinstance(frame, pd.Series)
    if facts["series"]:
        frame = frame.rename(frame.name or "x").to_frame()
    facts["array"] = not hasattr(frame, "columns")
    frame = pd.DataFrame(frame).add_prefix("x") if facts["array"] else frame
    facts["renamed"] = any(not isinstance(name, str) for name in frame.columns)
    frame = frame.rename(columns=str)
    facts["features"] = list(frame.columns)
    columns = getattr(target, "columns", None)
    if len(getattr(target, "shape", "")) > 1 and target.shape[1] > 1:
        names = "several columns" if columns is None else ", ".join(map(str, columns))
        sys.exit(f"{names} are predicted at once: have the code fit a model for each")
    name = columns[0] if columns is not None else getattr(target, "name", None)
    facts["target"] = str(name or sys.argv[6] or "target")
    target = target[columns[0]] if columns is not None else target
    frame = frame.assign(**{facts["target"]: target})
    if len(made) > 2:
        frame[sys.argv[7]] = made[2]
    made = frame
made.head(int(sys.argv[5])).to_parquet(sys.argv[4])
with open(sys.argv[4] + ".json", "w") as file:
    json.dump(facts, file)
sys.stdout.flush()
os._exit(0)  # threads of libraries may abort a process that takes them down
"""


@dataclass(frozen=True)
class Sample:
    """Rows of a project."""

    table: pd.DataFrame
    target: str = ""
    """The column that the code predicts, if the rows have its name."""
    features: tuple[str, ...] = ()
    """The columns that the code gives to its model; none: all others."""
    array: bool = False
    """Whether they were an array, so that their names are ours."""
    renamed: bool = False
    """Whether their names were no texts."""
    series: bool = False
    """Whether they were one column, and no table of one."""


def sample_of(
    copy: Path,
    place: tuple[str, str],
    left_out: Sequence[Path],
    steps: str = "",
    target: str = "",
    time: str = "",
    writes: dict[str, str] | None = None,
) -> Sample:
    """Rows that a function of the copied project returns, whole or as features and target.

    Args:
        copy: The folder of the copy.
        place: The function: module and name.
        left_out: Files that the copy has not.
        steps: Where the steps are that it was made of, if it is none of the project's own.
        target: Name of the target, if the rows have none.
        time: Name of a third value, the time of each row.
        writes: Names of files that the project writes, each with file and line.

    Raises:
        ModelworksError: It raises, or returns something else.
    """
    import pandas as pd  # only where rows are at hand

    with tempfile.TemporaryDirectory(prefix="modelworks-sample-") as scratch:
        out = Path(scratch) / "rows.parquet"
        argv = [
            sys.executable,
            "-P",
            "-c",
            _LOAD,
            str(copy.resolve()),
            *place,
            str(out),
            str(SAMPLE_ROWS),
            target,
            time,
        ]
        done = subprocess.run(
            argv, cwd=scratch, env=environment_of_child(Path(scratch)), capture_output=True, text=True, check=False
        )
        if done.returncode:
            last = "".join(done.stderr.strip().splitlines()[-1:]).replace(f"{copy.resolve()}/", "")
            if written := next((where for name, where in (writes or {}).items() if name in last), ""):
                raise ModelworksError(
                    f"the rows are in a file that the project writes at {written}: {last}",
                    fix="Run that first, or name a file with rows: --data FILE.",
                )
            what = f"{steps or f'{place[0]}.{place[1]}() of the project'} does not return rows: {last}"
            if named := _named_in_configuration(copy, last):
                raise ModelworksError(
                    f"{what}, which {named} names",
                    fix="A run imports the code from another folder: write the whole path there, or have the code "
                    "begin it at its own folder, as in Path(__file__).parent / path.",
                )
            large = " ".join(f"It has no {path}: {too_large(path)}" for path in left_out)
            raise ModelworksError(
                what,
                fix=f"{large} Give the whole path." if large else "Correct it, or name a file with rows: --data FILE.",
            )
        facts = json.loads(Path(f"{out}.json").read_text(encoding="utf-8"))
        table = pd.read_parquet(out)
    features = tuple(facts.get("features", ()))
    return Sample(
        table, facts.get("target", ""), features, facts.get("array", False), facts.get("renamed", False),
        facts.get("series", False),
    )  # fmt: skip


def _named_in_configuration(copy: Path, error: str) -> str:
    """File and line of a project's configuration that has the path of a file that is not there."""
    missing = re.search(r"No such file or directory: '([^']+)'", error)
    for file in sorted(copy.rglob("*")) if missing else ():
        if file.suffix in {".yaml", ".yml", ".json", ".toml", ".ini", ".cfg", ".env"} and file.is_file():
            for number, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
                if missing and missing[1] in line:
                    return f"{file.relative_to(copy)}:{number}"
    return ""


def sample_of_file(rows: Path | None) -> Sample:
    """The rows of a file.

    Raises:
        ModelworksError: There is none, or it cannot be read.
    """
    import pandas as pd  # only where rows are at hand

    if rows is None or not rows.is_file():
        raise ModelworksError(
            "no file with rows was found: no function or script could be followed from one to a model",
            fix="Name one, and the column to predict: --data FILE --target COLUMN. The rest is then yours to write.",
        )
    try:
        return Sample(getattr(pd, reader_of(rows))(rows).head(SAMPLE_ROWS))
    except (ValueError, OSError, ImportError) as error:
        raise ModelworksError(f"{rows} cannot be read: {error}", fix="Name another: --data FILE.") from error


def reader_of(rows: Path) -> str:
    """The function of pandas that reads a file of that name."""
    return next((name for name, suffix in READERS.items() if suffix == rows.suffix), "read_csv")


# -- What the columns are --------------------------------------------------------------------------------------------
def kind_of(column: pd.Series[Any], hint: str = "") -> tuple[str, tuple[Any, ...]]:
    """Which kind of model predicts a column, and its classes.

    Args:
        column: The target.
        hint: `regression` or `classification`, where the code decides it; otherwise empty.
    """
    values = sorted(column.dropna().unique().tolist(), key=str)
    if hint == "regression":
        return "regression", ()
    if hint or len(values) == 2:
        values = [int(each) if isinstance(each, float) and each.is_integer() else each for each in values]
    whole = all(isinstance(each, bool | int | str) for each in values)
    if whole and values and not isinstance(values[0], str):
        values = sorted(values)
    if len(values) == 2:
        return "binary", tuple(values)
    if whole and values and (hint or len(values) <= MOST_CATEGORIES):
        return "multiclass", tuple(values)
    return "regression", ()


@dataclass(frozen=True)
class Columns:
    """The features of a table as Python."""

    kept: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    """Those that are none, each with the reason."""

    @property
    def are_numbers(self) -> bool:
        """Whether each is a number."""
        return all('"string"' not in text and '"boolean"' not in text for text in self.kept.values())


def columns_of(sample: Sample, target: str, as_text: frozenset[str] = frozenset()) -> Columns:
    """The features of a sample.

    Args:
        sample: The rows.
        target: The column to predict.
        as_text: Columns that code of the project changes as text, which a category is not.
    """
    kept, left_out = {}, {}
    for name in sample.features or [str(each) for each in sample.table.columns]:
        if name == target:
            continue
        column = sample.table[name]
        text, why = _feature(column, wanted=bool(sample.features), categories=name not in as_text)
        if text:
            kept[name] = text + (f"  # {MARK}: {why}" if why else "")
        else:
            left_out[name] = why
    return Columns(kept, left_out)


def _feature(column: pd.Series[Any], *, wanted: bool, categories: bool) -> tuple[str, str]:
    """A feature as Python, or nothing; and the reason, or what is odd."""
    import pandas as pd  # only where rows are at hand

    name, present = quoted(str(column.name)), column.dropna()
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
        odd = "each row has another, as an id has: leave it out of the features" if whole and _is_id(present) else ""
        return f'Feature(name={name}, type="{kind}", {limits}{missing}, example={shown!r}),', odd
    if pd.api.types.is_datetime64_any_dtype(present):
        return (
            "",
            "a moment is no feature; compute a number in load, such as the hour, or name it in data.prediction_time",
        )
    if not all(isinstance(each, str) for each in present):
        return "", f"it holds {type(example).__name__}; make it numbers or text in load, one column a value"
    texts = sorted(set(present))
    if len(texts) <= MOST_CATEGORIES and categories:
        stated = f"({', '.join(map(quoted, texts))},)"
        return f'Feature(name={name}, type="string", categories={stated}{missing}, example={quoted(example)}),', ""
    if len(texts) == len(present) and not wanted:
        return "", "every row has another text, like a name or a key"
    longest = max(map(len, texts))
    length = f", max_length={2 * longest}" if longest > 256 else ""
    example = example if length else example[:50]
    return f'Feature(name={name}, type="string"{length}{missing}, example={quoted(example)}),', ""


def _is_id(column: pd.Series[Any]) -> bool:
    """Whether whole numbers are a count of the rows, or a key."""
    named = str(column.name).lower()
    distinct = column.nunique() == len(column) > 20
    steps = column.diff().dropna()
    return distinct and (named == "id" or named.endswith(("_id", " id", "id")) or bool((steps == 1).all()))


def _limits(low: float, high: float) -> tuple[float, float]:
    """The range of a sample, widened by its width on either side and rounded outward; not below 0 where nothing is."""
    width = (high - low) or abs(high) or 1.0
    digit = math.floor(math.log10(width))
    wide = [rounds(each / 10.0**digit) for rounds, each in ((math.floor, low - width), (math.ceil, high + width))]
    least, most = (float(f"{each}e{digit}") for each in wide)
    return (0.0 if low >= 0 else least), most


def _number(value: float) -> str:
    return str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)
