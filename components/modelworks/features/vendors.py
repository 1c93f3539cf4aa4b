"""Feature services that Hopsworks or Tecton keeps: their definitions for the manifest, and their history for training.

The SDKs run in a process of their own (`vendor_sdk.py`), and in a virtual environment of their own where
`MODELWORKS_FEATURE_PYTHON` names one. The API key is where the SDK looks for it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelworks import contract
from modelworks.errors import ModelworksError
from modelworks.feature_items import qualified, require_encrypted, unqualified
from modelworks.feature_manifest import FeatureManifest, Service, View

if TYPE_CHECKING:
    import pyarrow as pa

_PROGRAM = Path(__file__).with_name("vendor_sdk.py")
_READ_SECONDS = 3600
"""Longest time that the history of all rows may take."""
_DESCRIBE_SECONDS = 120
_METADATA = "/api/v1/feature-service/metadata"
"""Source: https://docs.tecton.ai/http-api, GetFeatureServiceMetadata."""

_TYPES = {
    "bool": "Bool",
    "boolean": "Bool",
    "tinyint": "Int32",
    "smallint": "Int32",
    "int": "Int32",
    "int32": "Int32",
    "bigint": "Int64",
    "int64": "Int64",
    "float": "Float32",
    "float32": "Float32",
    "double": "Float64",
    "float64": "Float64",
    "string": "String",
}
"""Types of both vendors that a model may read, in Feast's words."""


# -- Definitions -----------------------------------------------------------------------------------------------------
def pull(engine: str, url: str, service: str, place: Mapping[str, str], model: str) -> FeatureManifest:
    """The definition of a feature service as its vendor states it: a manifest of it alone.

    Args:
        engine: `hopsworks` or `tecton`.
        url: Address of the vendor.
        service: Name of the feature service, or of the feature view of Hopsworks.
        place: `workspace` for Tecton; `project` and `version` for Hopsworks.
        model: The model that it is for.

    Raises:
        ModelworksError: The vendor does not answer or has no such service, or a model cannot read what is in it.
    """
    require_encrypted(url)
    if engine == "tecton":
        keys, features = _described_by_tecton(url, service, place)
        event_time, times = "", dict[str, str]()
    else:
        keys, features, event_time, times = _described_by_hopsworks(url, service, place)
    by_view: dict[str, dict[str, str]] = {}
    for view, name, kind in features:
        by_view.setdefault(qualified(service, view), {})[name] = kind
    if not keys or not by_view:
        raise ModelworksError(f"the feature service {service!r} has no keys or no features: it cannot be read by key")
    where = dict(place) | ({"event_time": event_time} if event_time else {})
    views = {
        name: View(
            model=model,
            entities=(),
            keys=keys,
            features=kinds,
            ttl_seconds=None,
            source=f"{engine}://{'/'.join(place.values())}/{service}",
            event_time=times.get(unqualified(service, name), ""),
            created_time=None,
            stored={},
            online=True,
            digest=_digest([engine, where, service, name, keys, kinds, times.get(unqualified(service, name), "")]),
        )
        for name, kinds in sorted(by_view.items())
    }
    of_service = Service(
        model=model, features={name: tuple(view.features) for name, view in views.items()}, engine=engine, place=where
    )
    return FeatureManifest(views=views, services={service: of_service})


def _digest(facts: Any) -> str:
    return f"sha256:{hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()}"


def _described_by_tecton(
    url: str, service: str, place: Mapping[str, str]
) -> tuple[dict[str, str], list[tuple[str, str, str]]]:
    import urllib3  # only who reads from a vendor pays for it

    key = _key("tecton")
    body = {"params": {"featureServiceName": service, "workspaceName": place["workspace"]}}
    try:
        answer = urllib3.request(
            "POST",
            url + _METADATA,
            json=body,
            headers={"Authorization": f"Tecton-key {key}"},
            redirect=False,
            retries=urllib3.Retry(
                2, redirect=False, status_forcelist=[429, 500, 502, 503, 504], allowed_methods=None, backoff_factor=0.2
            ),
            timeout=10,
        )
        if answer.status != 200:
            raise ModelworksError(
                f"Tecton answered {answer.status} for the feature service {service!r}: {answer.data[:200].decode()}",
                fix="Check the address, the workspace, and that the key may read it.",
            )
        found = answer.json()
        if requested := [each["name"] for each in found.get("inputRequestContextKeys") or ()]:
            raise ModelworksError(
                f"the feature service {service!r} needs {', '.join(requested)} of each request, which no server passes "
                "to Tecton yet",
                fix="Name a feature service without on-demand features, and compute them in the model's pipeline.",
            )
        keys = {each["name"]: _type(service, each["name"], each["dataType"]["type"]) for each in found["inputJoinKeys"]}
        named = [(each["name"].partition("."), each["dataType"]["type"]) for each in found["featureValues"]]
        features = [(view, name, _type(service, f"{view}.{name}", kind)) for (view, _, name), kind in named]
    except urllib3.exceptions.HTTPError as error:
        raise ModelworksError(f"Tecton cannot be reached at {url}: {error}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise ModelworksError(f"Tecton described the feature service {service!r} in another form: {error!r}") from error
    return keys, features


def _described_by_hopsworks(
    url: str, service: str, place: Mapping[str, str]
) -> tuple[dict[str, str], list[tuple[str, str, str]], str, dict[str, str]]:
    with tempfile.TemporaryDirectory(prefix="modelworks-") as folder:
        result = Path(folder) / "description.json"
        request = {"engine": "hopsworks", "url": url, "service": service, "place": dict(place), "result": str(result)}
        _run("describe", request, _DESCRIBE_SECONDS)
        found = json.loads(result.read_text(encoding="utf-8"))
    keys = {name: _type(service, name, kind) for name, kind in found["keys"].items()}
    times = {each["view"]: each["name"] for each in found["features"] if each["is_time"]}
    features = [
        (each["view"], each["name"], _type(service, each["name"], each["type"]))
        for each in found["features"]
        if not each["is_time"]
    ]
    return keys, features, found["event_time"], times


def _type(service: str, name: str, kind: str) -> str:
    if kind.lower() not in _TYPES:
        raise ModelworksError(
            f"{name} of the feature service {service!r} is of the type {kind}, which no model can read",
            fix=f"Leave it out of the service, or give it one of the types {', '.join(sorted(_TYPES))}.",
        )
    return _TYPES[kind.lower()]


# -- History ---------------------------------------------------------------------------------------------------------
def read_events(
    service: str,
    read: Service,
    rows: pa.Table,
    time: str,
    features: Mapping[str, Sequence[str]],
) -> dict[str, list[Any]]:
    """The raw value of each feature at the time of each row, by the vendor's own point-in-time join.

    Args:
        service: Name of the feature service.
        read: The service.
        rows: Keys and times, none of them null.
        time: The column of times.
        features: Names of features, by their view.

    Raises:
        ModelworksError: There is no address or key, the SDK is not installed, or it failed.
    """
    import pyarrow.parquet as pq

    url = os.environ.get(contract.ENV_FEATURE_URL, "").rstrip("/")
    if not url:
        raise ModelworksError(
            f"the feature service {service!r} is in {read.engine}, and {contract.ENV_FEATURE_URL} is not set",
            fix="Set it to the vendor's address, such as https://acme.tecton.ai.",
        )
    require_encrypted(url)
    with tempfile.TemporaryDirectory(prefix="modelworks-") as folder:
        given, result = Path(folder) / "rows.parquet", Path(folder) / "features.parquet"
        pq.write_table(rows, given)
        request = {
            "engine": read.engine,
            "url": url,
            "service": service,
            "place": dict(read.place),
            "time": time,
            "features": {unqualified(service, view): list(names) for view, names in features.items()},
            "rows": str(given),
            "result": str(result),
        }
        _run("read", request, _READ_SECONDS)
        found = pq.read_table(result)
    if found.num_rows != rows.num_rows:
        raise ModelworksError(f"{read.engine} returned {found.num_rows} rows for {rows.num_rows}")
    return {name: found[name].to_pylist() for names in features.values() for name in names}


def _run(verb: str, request: Mapping[str, Any], seconds: int) -> None:
    engine = request["engine"]
    _key(engine)
    python = os.environ.get(contract.FEATURE_PYTHON_VARIABLE) or sys.executable
    # Alone in its folder: Python looks for modules beside a program first, and ours have names that others use too.
    program = shutil.copy(_PROGRAM, Path(request["result"]).parent)
    try:
        done = subprocess.run(
            [python, program, verb],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
    except FileNotFoundError as error:
        raise ModelworksError(f"{contract.FEATURE_PYTHON_VARIABLE} names no interpreter: {python}") from error
    except subprocess.TimeoutExpired as error:
        raise ModelworksError(f"the SDK of {engine} was ended after {seconds} s") from error
    if done.returncode == 0:
        return
    said = done.stderr.strip().splitlines() or ["nothing"]
    if f"No module named '{engine}'" in said[-1]:
        raise ModelworksError(
            f"the SDK of {engine} is not installed in {python}",
            fix=f"Install `{engine}` in a virtual environment, and name its interpreter in "
            f"{contract.FEATURE_PYTHON_VARIABLE}.",
        )
    raise ModelworksError(f"the SDK of {engine} failed: {said[-1]}", fix="\n".join(said[-20:]))


def _key(engine: str) -> str:
    variable = contract.FEATURE_KEY_VARIABLES[engine]
    if not (key := os.environ.get(variable, "").strip()):
        raise ModelworksError(f"{variable} is not set: it is the API key for {engine}")
    return key
