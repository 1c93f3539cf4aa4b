"""Stand-ins for the SDKs of Tecton and Hopsworks: the documented calls that training makes, over Parquet files.

Neither SDK reads history without its vendor's platform. These take the arguments that the real ones document, refuse
what those refuse, and join by a loop over all values.
"""

from __future__ import annotations

import stat
import sys
from pathlib import Path

_HISTORY = '''
import os
from pathlib import Path

import pandas as pd

TIMES = {"weather": ("origin", "hour"), "delays": ("tail", "landed")}


def value(view, name, key, moment):
    """The newest value not after a moment, by looking at all of them."""
    column, time = TIMES[view]
    frame = pd.read_parquet(Path(os.environ["STAND_IN_HISTORY"]) / view)
    seen = frame[(frame[column] == key) & (frame[time] <= moment)]
    return None if seen.empty else seen.sort_values(time)[name].iloc[-1]


def rows_of(rows, moment, features):
    cache = {}
    found = []
    for row in rows.to_dict("records"):
        values = {}
        for view, name, column in features:
            at = (view, name, row[TIMES[view][0]], row[moment])
            if at not in cache:
                cache[at] = value(*at)
            values[column] = cache[at]
        found.append(values)
    return pd.DataFrame(found, columns=[column for _, _, column in features])


FEATURES = [("weather", name) for name in ("wind", "sky", "storm")]
FEATURES += [("delays", name) for name in ("mean_delay", "flights")]
'''
_TECTON = """
import pandas as pd
from stand_in_history import FEATURES, rows_of

_logged_in = []


def login(tecton_url, interactive=True, tecton_api_key=None):
    if tecton_api_key != "the-key-of-tests":
        raise RuntimeError("Invalid API key")
    _logged_in.append(tecton_url)


def get_workspace(workspace_name):
    assert _logged_in and workspace_name == "prod", workspace_name
    return Workspace()


class Workspace:
    def get_feature_service(self, name):
        assert name == "flight", name
        return FeatureService()


class FeatureService:
    def get_features_for_events(self, events, timestamp_key=None, from_source=None, compute_mode=None):
        assert events[["tail", "origin", timestamp_key]].notna().all().all()
        columns = [(view, name, f"{view}__{name}") for view, name in FEATURES]
        joined = pd.concat([events.reset_index(drop=True), rows_of(events, timestamp_key, columns)], axis=1)
        return TectonDataFrame(joined.sample(frac=1, random_state=0))  # in no order, as Tecton may return them


class TectonDataFrame:
    def __init__(self, frame):
        self._frame = frame

    def to_pandas(self):
        return self._frame
"""
_HOPSWORKS = """
import pandas as pd
from stand_in_history import FEATURES, rows_of


def login(host=None, port=443, project=None, api_key_value=None, hostname_verification=False, engine=None):
    if api_key_value != "the-key-of-tests" or not hostname_verification:
        raise RuntimeError("Could not connect to Hopsworks")
    assert project == "flights"
    return Project()


class Project:
    def get_feature_store(self):
        return self

    def get_feature_view(self, name, version):
        return FeatureView() if (name, version) == ("flight", 3) else None


class Column:
    def __init__(self, name, type, group=None, own_name=None):
        self.name, self.type, self.feature_group = name, type, group
        self.feature_group_feature_name = own_name or name
        self.label = self.training_helper_column = False


class Group:
    def __init__(self, name, event_time, features):
        self.name, self.event_time = name, event_time
        self.features = [Column(feature, kind) for feature, kind in features.items()]


COLUMNS = {"tail": "string", "landed": "timestamp", "mean_delay": "double", "flights": "bigint"}
DELAYS = Group("delays", "landed", COLUMNS)
WEATHER = Group("weather", "hour", {"origin": "string", "wind": "float", "sky": "string", "storm": "boolean"})


class Key:
    required = True

    def __init__(self, name, group):
        self.required_serving_key = self.feature_name = name
        self.feature_group = group


class Query:
    _left_feature_group = DELAYS


class FeatureView:
    serving_keys = [Key("tail", DELAYS), Key("origin", WEATHER)]
    query = Query()
    features = [Column(column.name, column.type, group) for group in (DELAYS, WEATHER) for column in group.features]

    def get_batch_data(self, start_time=None, end_time=None, transformed=True, dataframe_type="default", spine_df=None):
        assert not transformed
        accepted = {"tail", "origin", "landed"}  # as the SDK 5.2 refuses columns that match nothing in the view
        assert set(spine_df.columns) <= accepted, set(spine_df.columns)
        found = rows_of(spine_df, "landed", [(view, name, name) for view, name in FEATURES])
        return pd.concat([spine_df.reset_index(drop=True), found], axis=1)
"""


def interpreter(folder: Path, history: Path) -> Path:
    """An interpreter whose `tecton` and `hopsworks` are the stand-ins."""
    packages = folder / "packages"
    packages.mkdir(parents=True)
    for name, code in (("stand_in_history", _HISTORY), ("tecton", _TECTON), ("hopsworks", _HOPSWORKS)):
        (packages / f"{name}.py").write_text(code)
    program = folder / "python"
    program.write_text(
        f'#!/bin/sh\nPYTHONPATH="{packages}" STAND_IN_HISTORY="{history}" exec "{sys.executable}" "$@"\n'
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return program
