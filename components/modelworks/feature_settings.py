"""The settings of a feature store: Feast's in the environment, or that of a vendor.

Pure: no cloud, no clock, and no Pulumi.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from modelworks import _bounds as bounds
from modelworks import defaults
from modelworks._schedule import SCHEDULE
from modelworks.workload_settings import AccountId, Strict


class Materialization(Strict):
    """The job that writes the newest values of the feature store online."""

    schedule: Annotated[str, StringConstraints(pattern=f"^{SCHEDULE}$")] = defaults.MATERIALIZATION["schedule"]
    """When a run begins, in UTC and in the fields of cron: minute, hour, day of the month, month, day of the week."""
    lookback_seconds: Annotated[int, Field(**bounds.MATERIALIZATION["lookback_seconds"])] = defaults.MATERIALIZATION[
        "lookback_seconds"
    ]
    """How late a value may arrive in the history, in seconds: a run begins this long before the end of the last one."""
    verify_schedule: Annotated[str, StringConstraints(pattern=f"^{SCHEDULE}$")] | None = defaults.MATERIALIZATION[
        "verify_schedule"
    ]
    """When a sample of the online values is compared with the history, in UTC and in the fields of cron. Null for
    never."""
    cpu_millicores: Annotated[int, Field(**bounds.MATERIALIZATION["cpu_millicores"])] = defaults.MATERIALIZATION[
        "cpu_millicores"
    ]
    """CPU that a run requests, in thousandths of a core."""
    memory_mib: Annotated[int, Field(**bounds.MATERIALIZATION["memory_mib"])] = defaults.MATERIALIZATION["memory_mib"]
    """Memory that a run requests and may use at most, in MiB."""
    active_deadline_seconds: Annotated[int, Field(**bounds.MATERIALIZATION["active_deadline_seconds"])] = (
        defaults.MATERIALIZATION["active_deadline_seconds"]
    )
    """A run that takes longer is ended, its retry included, in seconds. Written values stay."""


class FeatureVendor(Strict):
    """The feature store that Hopsworks or Tecton runs."""

    url: Annotated[str, StringConstraints(pattern=r"^https://[A-Za-z0-9.-]+(:\d+)?$")]
    """Address of its online API: `https://HOST`, or `https://HOST:PORT`. A port other than 443 needs the endpoint's
    `egress` too."""
    deployment: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,19}[a-z0-9]$")] | None = defaults.VENDOR[
        "deployment"
    ]
    """Name that was agreed with Tecton. Its bucket is `tecton-<deployment>`."""
    control_plane_account_id: AccountId | None = defaults.VENDOR["control_plane_account_id"]
    """AWS account of Tecton's control plane, as Tecton states it."""
    external_id: Annotated[str, StringConstraints(min_length=2, max_length=1224)] | None = defaults.VENDOR[
        "external_id"
    ]
    """The external ID that Tecton assumes its role with, as Tecton states it."""
    repository: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]*/hopsworks-base$")] | None = (
        defaults.VENDOR["repository"]
    )
    """ECR repository of the images of Hopsworks' projects: `NAMESPACE/hopsworks-base`."""
    node_role: Annotated[str, StringConstraints(pattern=r"^[\w+=,.@-]{1,64}$")] | None = defaults.VENDOR["node_role"]
    """Name of the role of the nodes that Hopsworks runs on, which gets its policy. Default: none; you attach it."""


class Features(Strict):
    """The feature store of the environment: its views are those of `models/features.json`."""

    engine: Literal["feast", "hopsworks", "tecton"] = defaults.FEATURES["engine"]
    """The system that keeps the features. For Hopsworks and Tecton only what they ask an AWS account for is declared,
    and the settings of Feast's store below do nothing."""
    vendor: FeatureVendor | None = None
    """The feature store of Hopsworks or Tecton; required for them."""

    materialization: Materialization | None = Materialization()
    """The job on the cluster that writes the newest values online. It needs the registry, whose namespace it runs in.
    Null for none: then only who runs `modelworks features materialize` writes them."""
    maximum_lag_seconds: Annotated[int, Field(**bounds.FEATURES["maximum_lag_seconds"])] | None = defaults.FEATURES[
        "maximum_lag_seconds"
    ]
    """Alert when no materialization of a view reported a lag within this, for as long, in seconds. Null for never."""
    query_limit_gib: Annotated[int, Field(**bounds.FEATURES["query_limit_gib"])] = defaults.FEATURES["query_limit_gib"]
    """Most data that one Athena query may scan, in GiB."""
    query_result_days: Annotated[int, Field(**bounds.FEATURES["query_result_days"])] = defaults.FEATURES[
        "query_result_days"
    ]
    """Days that results of Athena queries are kept."""
    noncurrent_days: Annotated[int, Field(**bounds.FEATURES["noncurrent_days"])] = defaults.FEATURES["noncurrent_days"]
    """How long a superseded or deleted file of history is kept, in days."""
    point_in_time_recovery: bool = defaults.FEATURES["point_in_time_recovery"]
    """Whether the online tables can be restored to any second of the last 35 days. AWS bills it by size."""

    @model_validator(mode="after")
    def _of_one_engine(self) -> Self:
        needed = {
            "feast": (),
            "hopsworks": ("repository",),
            "tecton": ("deployment", "control_plane_account_id", "external_id"),
        }[self.engine]
        if (self.vendor is None) != (self.engine == "feast"):
            raise ValueError(
                f"the engine {self.engine} needs vendor: its url, {', '.join(needed)}"
                if self.vendor is None
                else "vendor is for the engines hopsworks and tecton: state engine too"
            )
        given = self.vendor.model_dump(exclude={"url", "node_role"}, exclude_none=True) if self.vendor else {}
        if missing := [name for name in needed if name not in given]:
            raise ValueError(f"the engine {self.engine} needs vendor.{missing[0]}")
        if strange := [name for name in given if name not in needed]:
            raise ValueError(f"vendor.{strange[0]} is not for the engine {self.engine}")
        return self
