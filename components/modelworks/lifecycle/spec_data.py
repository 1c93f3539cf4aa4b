"""The data of a model project: where its rows come from, and which of them train, validate and judge."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from modelworks.errors import ModelworksError
from modelworks.lifecycle.placed import Placed, require

if TYPE_CHECKING:
    import pandas as pd

_VARIABLE = re.compile("[A-Za-z_][A-Za-z0-9_]*")
_LENGTH = re.compile("([1-9][0-9]*)(min|h|d|w)")
_UNITS = {"min": "minutes", "h": "hours", "d": "days", "w": "weeks"}


@dataclass(frozen=True, kw_only=True)
class Split(Placed):
    """Which rows train, which validate, and which are held out and looked at only to judge.

    Without `time`, by the hash of a key, or of a row's features: a row is in the same part of any data it is ever in.
    """

    key: str | tuple[str, ...] = ()
    """Columns whose values name what a row is about, such as a customer: rows of one key are in one part. Default: the
    features, so that equal rows are in one part."""
    holdout_share: float = 0.25
    """By hash: share of the keys to hold out."""
    validation_share: float = 0.15
    """By hash: share of the keys to validate."""
    time: str | None = None
    """Column to split by time."""
    holdout: str = ""
    """With `time`: length of the hold-out, back from the newest row: `60d`. Minutes (`min`), hours, days, weeks."""
    validation: str = ""
    """With `holdout`: length of the validation rows before it. Default: as long as the hold-out."""
    holdout_from: str = ""
    """With `time`, instead of `holdout`: the first moment of the hold-out rows, ISO 8601; without an offset, in UTC."""
    validation_from: str = ""
    """With `holdout_from`: the first moment of the validation rows."""
    embargo: str = ""
    """With `time`: length of a gap before validation and before hold-out whose rows are in no part: as long as it takes
    until an outcome is known."""

    def __post_init__(self) -> None:
        """Check that the parts exist and do not overlap."""
        object.__setattr__(self, "validation", self.validation or self.holdout)
        if self.time:
            self._check_time()
            return
        by_time = ("holdout", "validation", "holdout_from", "validation_from", "embargo")
        stated = [name for name in by_time if getattr(self, name)]
        require(self, not stated, f"{' and '.join(stated)} of a split need time, the column to split by")
        require(
            self,
            self.validation_share > 0 and self.holdout_share > 0 and self.validation_share + self.holdout_share < 1,
            "validation_share and holdout_share must be above 0 and leave rows to train on",
        )

    def _check_time(self) -> None:
        require(self, not self.key, f"a split by time takes no key: the time of a row decides, got {self.key}")
        require(
            self,
            bool(self.holdout) != bool(self.holdout_from) and bool(self.holdout) == (not self.validation_from),
            "a split by time needs either holdout, such as 60d, or validation_from and holdout_from",
        )
        for name in ("holdout", "validation", "embargo"):
            text = getattr(self, name)
            require(
                self,
                not text or _LENGTH.fullmatch(text) is not None,
                f"{name} of a split is a number and min, h, d or w, such as 60d, got {text!r}",
            )
        if self.holdout_from:
            first, second = (self._moment(name) for name in ("validation_from", "holdout_from"))
            require(self, first < second, "a split by time needs validation_from before holdout_from")

    def _moment(self, name: str) -> datetime:
        text = getattr(self, name)
        try:
            moment = datetime.fromisoformat(text)
        except (TypeError, ValueError) as error:
            raise ModelworksError(f"{self.where}: {name} of a split must be ISO 8601, got {text!r}") from error
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)

    @property
    def keys(self) -> tuple[str, ...]:
        """Columns of the key; none where the features decide."""
        return (self.key,) if isinstance(self.key, str) else tuple(self.key)

    @property
    def holdout_length(self) -> timedelta:
        """Length of the hold-out."""
        return _length(self.holdout)

    @property
    def validation_length(self) -> timedelta:
        """Length of the validation rows."""
        return _length(self.validation)

    @property
    def embargo_length(self) -> timedelta:
        """Length of each gap."""
        return _length(self.embargo) if self.embargo else timedelta()


def _length(text: str) -> timedelta:
    number, unit = re.findall(_LENGTH, text)[0]  # the split refuses any other text
    return timedelta(**{_UNITS[unit]: int(number)})


@dataclass(frozen=True, kw_only=True)
class DataSource(Placed):
    """Where the rows come from and what their columns mean in time."""

    load: Callable[[], pd.DataFrame]
    """Returns all rows: features, target and the columns named below. Must give the same rows for the same source."""
    description: str
    """Description of the data, for the model card: content, audience, source, licence."""
    split: Split = field(default_factory=Split)
    prediction_time: str | None = None
    """Column with the moment at which the prediction is made. Needed for freshness and for the leakage check."""
    outcomes: tuple[str, ...] = ()
    """Columns known only after the prediction: none of them may be a feature."""
    max_age_days: float | None = None
    """Freshness: the newest row may be at most this old. None: a closed, historical data set."""
    cluster: str | tuple[str, ...] = ()
    """Columns whose values name rows that resemble each other, such as a day or a customer: confidence intervals take
    only different ones for independent. Default: the key of the split; without one, every row by itself."""
    environment: tuple[str, ...] = ()
    """Variables of the caller's shell that `load` needs, such as `HTTPS_PROXY` or those of a warehouse. Others than
    these, `AWS_*` and `MODELWORKS_*` are hidden from it. They reach data and must not decide what is in it."""
    baseline: str = "baseline.json"
    """File beside `model.py` with the distributions to compare with; written by `check-data --save-baseline`."""
    min_rows: int = 100

    def __post_init__(self) -> None:
        """Check what can be checked without loading."""
        require(self, callable(self.load), f"data.load must be a function, got {type(self.load).__name__}")
        require(
            self,
            not isinstance(self.environment, str) and all(map(_VARIABLE.fullmatch, self.environment)),
            f"data.environment is names of variables, got {self.environment!r}",
            'Write environment=("HTTPS_PROXY",).',
        )
        require(self, bool(self.description), "data.description must describe the data: the model card shows it")
        require(
            self,
            self.max_age_days is None or self.prediction_time is not None,
            "data.max_age_days needs data.prediction_time, the column with the time of a row",
        )

    @property
    def clusters(self) -> tuple[str, ...]:
        """Columns of the clusters that intervals resample; none: every row by itself."""
        return ((self.cluster,) if isinstance(self.cluster, str) else tuple(self.cluster)) or self.split.keys
