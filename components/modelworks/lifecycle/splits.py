"""Which rows train, validate and are held out: a row stays in its part, whatever rows come beside it later.

A split by position puts other rows into the hold-out whenever the data grows, so that a model is compared with a
champion on rows that the champion was trained on. Here a row's part is a function of the row alone (its key, or its
features) or of its time; the rule goes into the bundle, and any later comparison finds the rows that it left out.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from modelworks._files import write_whole
from modelworks.errors import ModelworksError
from modelworks.runtime.manifest import HoldOut

if TYPE_CHECKING:
    import pandas as pd

    from modelworks.lifecycle.spec import ModelSpec
    from modelworks.lifecycle.spec_data import Split

PARTS = ("train", "validation", "holdout")
"""The parts of a split."""
MISSING = np.uint64(0x9E3779B97F4A7C15)
"""Hash of a missing value, of whatever type."""
EXACT = 2**53
"""Up to here an integer and the float that it becomes beside a missing value have one hash."""


def split_rows(spec: ModelSpec, frame: pd.DataFrame) -> dict[str, np.ndarray]:
    """Positions of the rows to `train`, `validation` and `holdout`. A row without a time, or in an embargo, is in none.

    Raises:
        ModelworksError: One of them is empty, or the training rows hold one class only.
    """
    split = spec.data.split
    masks = _by_time(split, frame) if split.time else _by_hash(split, frame, _columns(spec))
    found = {name: np.nonzero(mask)[0] for name, mask in masks.items()}
    for name, index in found.items():
        if not len(index):
            raise ModelworksError(f"{split.where}: the split leaves no {name} rows", fix="Move its limits.")
    if spec.kind != "regression":
        classes = frame[spec.target].iloc[found["train"]].unique()
        absent = [label for label in spec.classes if label not in set(classes)]
        if absent:
            raise ModelworksError(
                f"{spec.where}: the training rows hold no {spec.target} of {absent}: a classifier cannot learn it",
                fix="Load more rows, move the split, or take the class out of the spec.",
            )
    return found


def _by_time(split: Split, frame: pd.DataFrame) -> dict[str, np.ndarray]:
    import pandas as pd  # only where rows are at hand

    time = moments(frame[split.time])
    embargo = pd.Timedelta(split.embargo_length)
    if split.holdout:
        holdout = time.max() - pd.Timedelta(split.holdout_length)
        validation = holdout - embargo - pd.Timedelta(split.validation_length)
    else:
        validation, holdout = map(_moment, (split.validation_from, split.holdout_from))
    # A comparison with a missing time is false: such a row is in no part.
    return {
        "train": (time < validation - embargo).to_numpy(),
        "validation": ((time >= validation) & (time < holdout - embargo)).to_numpy(),
        "holdout": (time >= holdout).to_numpy(),
    }


def _by_hash(split: Split, frame: pd.DataFrame, columns: Sequence[str]) -> dict[str, np.ndarray]:
    at = _places(frame, columns)
    held, until = split.holdout_share, split.holdout_share + split.validation_share
    return {"train": at >= until, "validation": (at >= held) & (at < until), "holdout": at < held}


def _columns(spec: ModelSpec) -> tuple[str, ...]:
    return spec.data.split.keys or spec.feature_names


# -- What a later comparison needs -----------------------------------------------------------------------------------
def hold_out(spec: ModelSpec, frame: pd.DataFrame, parts: dict[str, np.ndarray]) -> HoldOut:
    """The rule by which rows were left out of a training, for its bundle."""
    split = spec.data.split
    if not split.time:
        return HoldOut(columns=_columns(spec), share=split.holdout_share)
    seen = np.concatenate([parts["train"], parts["validation"]])
    return HoldOut(columns=(split.time,), after=moments(frame[split.time].iloc[seen]).max().isoformat())


def unseen(rule: HoldOut | None, rows: pd.DataFrame) -> np.ndarray | str:
    """Positions of the rows that a model was not trained on, by the rule in its bundle; or why that is not known."""
    if rule is None:
        return "its bundle does not state which rows it was trained on"
    absent = [name for name in rule.columns if name not in rows.columns]
    if absent:
        return f"its rows were split by {', '.join(absent)}, which this data has not"
    if rule.after:
        later: np.ndarray = (moments(rows[rule.columns[0]]) > _moment(rule.after)).to_numpy()
        return np.nonzero(later)[0]
    return np.nonzero(_places(rows, rule.columns) < rule.share)[0]


def cluster_numbers(spec: ModelSpec, frame: pd.DataFrame) -> np.ndarray:
    """Number of the cluster of each row, from 0: rows that resemble each other, as the spec names them."""
    columns = spec.data.clusters
    if not columns:
        return np.arange(len(frame))
    return np.unique(row_hashes(frame, columns), return_inverse=True)[1]


# -- Hashes ----------------------------------------------------------------------------------------------------------
def _places(frame: pd.DataFrame, columns: Sequence[str]) -> np.ndarray:
    """A number for each row, evenly spread from 0 to 1, that depends on the values in these columns alone."""
    return (row_hashes(frame, columns) >> np.uint64(11)).astype("float64") / 2**53


def row_hashes(frame: pd.DataFrame, columns: Sequence[str]) -> np.ndarray:
    """A hash of the values in these columns, a row each: the same on every machine, for whatever type holds the values.

    An integer has the hash of the float and the boolean that equals it, so that a column that gets its first missing
    value moves no row.
    """
    found = np.zeros(len(frame), dtype="uint64")
    for name in sorted(columns):
        found = _mix(found ^ _hashes(frame[name]))
    return found


def _hashes(column: pd.Series[Any]) -> np.ndarray:
    import pandas as pd  # only where rows are at hand

    missing = column.isna().to_numpy()
    if isinstance(column.dtype, pd.DatetimeTZDtype) or column.dtype.kind == "M":
        found = moments(column).dt.as_unit("us").astype("int64").to_numpy().view("uint64")
    elif pd.api.types.is_bool_dtype(column.dtype) or pd.api.types.is_integer_dtype(column.dtype):
        found = _of_integers(column.fillna(0).to_numpy("int64"))
    elif pd.api.types.is_float_dtype(column.dtype):
        found = _of_floats(column.to_numpy("float64", na_value=np.nan))
    else:
        found = _of_objects(column)
    return np.where(missing, MISSING, _mix(found))


def _of_integers(values: np.ndarray) -> np.ndarray:
    return np.where(np.abs(values) <= EXACT, _of_floats(values.astype("float64")), values.view("uint64"))


def _of_floats(values: np.ndarray) -> np.ndarray:
    return (values + 0.0).view("uint64")  # -0.0 becomes 0.0


def _of_objects(column: pd.Series[Any]) -> np.ndarray:
    import pandas as pd  # only where rows are at hand

    try:
        codes, values = pd.factorize(column)
    except TypeError:  # lists and dicts
        codes, values = pd.factorize(column.map(repr))
    hashes = np.array([*map(_of_value, values), 0], dtype="uint64")
    return np.asarray(hashes[codes])  # a missing value has the code -1


def _of_value(value: Any) -> int:
    if isinstance(value, bool | int | float | np.number | np.bool_) and abs(float(value)) <= EXACT:
        return int(_of_floats(np.array([float(value)]))[0])
    return int.from_bytes(hashlib.blake2b(str(value).encode(), digest_size=8).digest(), "little")


def _mix(values: np.ndarray) -> np.ndarray:
    """The finalizer of SplitMix64 (Steele, Lea and Flood 2014): every bit of the input moves half of the output's."""
    values = values + MISSING
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(values ^ (values >> np.uint64(31)))


def moments(column: pd.Series[Any]) -> pd.Series[pd.Timestamp]:
    """Times as moments in UTC."""
    import pandas as pd  # only where rows are at hand

    return pd.to_datetime(column, utc=True)


def _moment(text: str) -> Any:
    import pandas as pd  # only where rows are at hand

    return pd.to_datetime(datetime.fromisoformat(text), utc=True)


# -- Kept with a run -------------------------------------------------------------------------------------------------
def write_split(file: Path, parts: dict[str, np.ndarray], rows: int) -> None:
    """Keep a split: a byte a row, which of `PARTS` it is in, or one more for a row in none."""
    found = np.full(rows, len(PARTS), dtype="uint8")
    for number, name in enumerate(PARTS):
        found[parts[name]] = number
    stream = io.BytesIO()
    np.save(stream, found, allow_pickle=False)
    write_whole(file, stream.getvalue())


def read_split(file: Path, rows: int) -> dict[str, np.ndarray]:
    """The split that a run keeps.

    Raises:
        ModelworksError: It is not there, or not one of so many rows.
    """
    try:
        found = np.load(file, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ModelworksError(f"{file} cannot be read: {error}", fix="Train again.") from error
    if found.shape != (rows,) or found.dtype != np.uint8:
        raise ModelworksError(f"{file} is no split of {rows:,} rows: it was changed", fix="Train again.")
    return {name: np.nonzero(found == number)[0] for number, name in enumerate(PARTS)}
