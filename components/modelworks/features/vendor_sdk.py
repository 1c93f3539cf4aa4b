"""A program that reads from Hopsworks or Tecton by the vendor's own SDK: `python vendor_sdk.py VERB`.

It imports nothing of modelworks, so that it runs in any virtual environment that has the SDK: the packages that
Tecton's pins exclude those of a model. It takes a request as JSON on standard input.

- `describe` writes the features, keys and times of a Hopsworks feature view to the file `result`, as JSON.
- `read` writes the features of the rows in the Parquet file `rows` to the Parquet file `result`, in their order, each
  as it was at its row's time.

Sources: https://docs.tecton.ai/docs/reading-feature-data/reading-feature-data-for-training/constructing-training-data
(`get_features_for_events`), and https://docs.hopsworks.ai/latest/user_guides/fs/feature_view/batch-data/
(`get_batch_data`; `spine_df` is of its version 5.2).
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any
from urllib.parse import urlsplit

_ROW = "modelworks_row"


def main(verb: str) -> None:
    """Carry out a request."""
    request = json.load(sys.stdin)
    if verb == "describe":
        with open(request["result"], "w", encoding="utf-8") as file:  # noqa: PTH123 - as plain as can be
            json.dump(_describe(_feature_view(request)), file)
        return
    import pandas as pd

    rows = pd.read_parquet(request["rows"])
    found = (_from_tecton if request["engine"] == "tecton" else _from_hopsworks)(request, rows)
    found.to_parquet(request["result"], index=False)


# -- Tecton ----------------------------------------------------------------------------------------------------------
def _from_tecton(request: dict[str, Any], rows: Any) -> Any:
    import tecton

    tecton.login(tecton_url=request["url"], tecton_api_key=os.environ["TECTON_API_KEY"])
    service = tecton.get_workspace(request["place"]["workspace"]).get_feature_service(request["service"])
    rows[_ROW] = range(len(rows))  # columns that Tecton does not know come back as they are, rows in any order
    frame = service.get_features_for_events(rows, timestamp_key=request["time"]).to_pandas().sort_values(_ROW)
    if frame[_ROW].tolist() != list(range(len(rows))):
        raise SystemExit(f"Tecton returned {len(frame)} rows for {len(rows)}")
    columns = {f"{view}__{name}": name for view, names in request["features"].items() for name in names}
    return frame[list(columns)].rename(columns=columns)


# -- Hopsworks -------------------------------------------------------------------------------------------------------
def _from_hopsworks(request: dict[str, Any], rows: Any) -> Any:
    # The time of each row has the name of the event time of the view's first feature group.
    rows = rows.rename(columns={request["time"]: request["place"]["event_time"]})
    # Online, vectors come as they are stored too; transformations that belong to a model are the model's.
    frame = _feature_view(request).get_batch_data(spine_df=rows, transformed=False, dataframe_type="pandas")
    if len(frame) != len(rows):
        raise SystemExit(f"Hopsworks returned {len(frame)} rows for {len(rows)}")
    return frame[[name for names in request["features"].values() for name in names]]


def _feature_view(request: dict[str, Any]) -> Any:
    import hopsworks

    where, place = urlsplit(request["url"]), request["place"]
    project = hopsworks.login(
        host=where.hostname,
        port=where.port or 443,
        project=place["project"],
        api_key_value=os.environ["HOPSWORKS_API_KEY"],
        hostname_verification=True,
        engine="python",
    )
    view = project.get_feature_store().get_feature_view(request["service"], int(place["version"]))
    if view is None:
        raise SystemExit(f"Hopsworks has no feature view {request['service']!r} of the version {place['version']}")
    return view


def _describe(view: Any) -> dict[str, Any]:
    """The view's metadata. Nothing is read from its feature groups."""
    keys = {}
    for key in view.serving_keys:
        if key.required:
            types = {feature.name: feature.type for feature in key.feature_group.features}
            keys[key.required_serving_key] = types[key.feature_name]
    features = [
        {
            "name": feature.name,
            "type": feature.type,
            "view": feature.feature_group.name,
            "is_time": (feature.feature_group_feature_name or feature.name) == feature.feature_group.event_time,
        }
        for feature in view.features
        if not feature.label and not feature.training_helper_column and feature.name not in keys
    ]
    first = view.query._left_feature_group  # noqa: SLF001 - the group that the SDK's own `spine_df` takes it from
    return {"keys": keys, "features": features, "event_time": first.event_time}


if __name__ == "__main__":
    main(sys.argv[1])
