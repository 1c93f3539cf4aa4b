"""Every default, stated once: stack settings and components read them here, and their documentation is checked by them.

A default is a contract: changing one changes what runs in every environment that does not state its own. Pure, and
imports nothing: settings never load Pulumi for it, nor components Pydantic.
"""

from collections.abc import Mapping
from typing import Any, Final

Defaults = Mapping[str, Any]
"""Values by the name of the argument."""

ENVIRONMENT: Final[Defaults] = {
    "alert_emails": [],
    "budget": None,
    "namespace": None,
    "encrypts_volumes": False,
    "key_deletion_days": 30,
    "protect": True,
}
CLUSTER: Final[Defaults] = {
    "viewers": [],
    "public_access_cidrs": [],
    "profile": None,
    "role_arn": None,
    "version": "1.35",
    "vpc_cidr": "10.0.0.0/16",
    "availability_zones": [],
    "nat_per_zone": False,
    "flow_logs": True,
    "log_retention_days": 365,
    "protect": True,
}
CLUSTER_ADDONS: Final[Defaults] = {
    "auto_mode": False,
    "storage_class": None,
    "default_storage_class": False,
    "install_ingress_class": False,
    "install_argo_rollouts": False,
    "enforce_network_policies": False,
}
BUDGET: Final[Defaults] = {
    "actual_percent": 80,
    "forecast_percent": 100,
}
REGISTRY: Final[Defaults] = {
    "postgres_uri": None,
    "storage_class": None,
    "permissions": [],
    "egress": [],
    "volume_gib": 5,
    "backup_hours": 24,
    "backup_days": 30,
    "alerts_topic_arn": None,
    "noncurrent_days": 90,
    "protect": True,
}
FEATURES: Final[Defaults] = {
    "engine": "feast",
    "vendor": None,
    "project": None,
    "views": [],
    "readers": [],
    "writers": [],
    "materializers": [],
    "materialization": None,
    "prediction_bucket": None,
    "maximum_lag_seconds": 86_400,
    "query_limit_gib": 100,
    "query_result_days": 7,
    "noncurrent_days": 90,
    "point_in_time_recovery": True,
    "protect": True,
}
VENDOR: Final[Defaults] = {
    "api_key": None,
    "deployment": None,
    "control_plane_account_id": None,
    "external_id": None,
    "repository": None,
    "node_role": None,
}
FEATURE_VIEW: Final[Defaults] = {
    "path": None,
    "online": True,
}
MATERIALIZATION: Final[Defaults] = {
    "schedule": "0 * * * *",
    "lookback_seconds": 3600,
    "verify_schedule": "30 3 * * *",
    "cpu_millicores": 500,
    "memory_mib": 2048,
    "active_deadline_seconds": 3600,
}
TRAINING: Final[Defaults] = {
    "cpu_millicores": 4000,
    "memory_mib": 16_384,
    "max_jobs": 20,
    "run_cpu_millicores": 1000,
    "run_memory_mib": 2048,
    "active_deadline_seconds": 3600,
    "retries": 1,
    "ttl_seconds_after_finished": 86_400,
    "permissions": [],
    "feature_history": None,
    "egress": [],
}
PREDICTIONS: Final[Defaults] = {
    "days": 90,
    "protect": True,
}
ENDPOINT: Final[Defaults] = {
    "release": None,
    "tokens": None,
    "allow_anonymous": False,
    "trusted_keys": {},
    "grpc": False,
    "minimum_replicas": 2,
    "maximum_replicas": 6,
    "cpu_millicores": 500,
    "memory_mib": 512,
    "latency_objective_ms": 100,
    "log_sample_ratio": 1.0,
    "prediction_bucket": None,
    "feature_tables": {},
    "feature_api": None,
    "permissions": [],
    "egress": [],
}
INGRESS: Final[Defaults] = {
    "visibility": "internal",
    "certificate_arn": None,
    "inbound_cidrs": [],
    "group": None,
    "tags": {},
}
POD: Final[Defaults] = {
    "extended_resources": {},
    "node_selector": {},
    "tolerations": [],
    "image_pull_secrets": [],
    "labels": {},
    "annotations": {},
    "scratch_mib": None,
}
TOLERATION: Final[Defaults] = {
    "key": None,
    "operator": "Equal",
    "value": None,
    "effect": None,
}
RELEASE: Final[Defaults] = {
    "version": None,
    "override": None,
}
CANARY: Final[Defaults] = {
    "steps": [5, 25, 50],
    "step_seconds": 300,
    "bake_seconds": 600,
    "progress_deadline_seconds": 600,
    "minimum_requests": 100,
    "probes": False,
}
LIMITS: Final[Defaults] = {
    "error_ratio": 0.01,
    "slow_ratio": 0.05,
    "rejected_ratio": 0.05,
    "period_seconds": 60,
}

CLOUD_STEP_SECONDS: Final = 180
"""Shortest step of a canary off the laptop: CloudWatch may take two minutes to show a new series, every release has
new ones, and a minute of the step is left to judge them.

Source: https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/publishingMetrics.html
"""
LAPTOP_ISSUER: Final = "laptop.modelworks.internal"
"""The OIDC issuer of the laptop's cluster."""
LAPTOP_IMAGES: Final = "modelworks.invalid"
"""The host in the names of images that nobody pulls: a laptop runs commands as processes."""
LAPTOP_STORAGE_CLASS: Final = "laptop"
"""The StorageClass of the laptop's cluster."""

OF_ARGUMENTS: Final[Mapping[str, Defaults]] = {
    "BudgetArgs": BUDGET,
    "CanaryArgs": CANARY,
    "ClusterAddonsArgs": CLUSTER_ADDONS,
    "ClusterArgs": CLUSTER,
    "EgressArgs": {},
    "EnvironmentArgs": ENVIRONMENT,
    "FeatureApiArgs": {},
    "FeatureStoreArgs": FEATURES,
    "FeatureViewArgs": FEATURE_VIEW,
    "IngressArgs": INGRESS,
    "LimitsArgs": LIMITS,
    "MaterializationArgs": MATERIALIZATION,
    "ModelEndpointArgs": ENDPOINT,
    "ModelRegistryArgs": REGISTRY,
    "PermissionArgs": {},
    "PodArgs": POD,
    "PredictionStoreArgs": PREDICTIONS,
    "ReleaseArgs": RELEASE,
    "TolerationArgs": TOLERATION,
    "TrainingComputeArgs": TRAINING,
    "VendorArgs": VENDOR,
}
"""The defaults of each kind of arguments, by its name."""
