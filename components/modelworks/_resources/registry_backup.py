"""Private: dumps of a registry's embedded database: the containers that make and restore them, and their alarm."""

from collections.abc import Mapping, Sequence
from typing import Any

import pulumi

from modelworks import contract
from modelworks._manifests import RESTRICTED_CONTAINER
from modelworks._resources.iam import statement
from modelworks._resources.kubernetes import Manifest

_ALARM_PERIOD_SECONDS = 3600
_ALARM_PERIODS = 3
"""Hours without a report: a pod that moves to another node is none."""


def backup_containers(
    *, bucket: pulumi.Input[str], hours: int, like: Manifest, mounts: Sequence[str], variables: Sequence[Manifest]
) -> tuple[Manifest, Manifest]:
    """The container that restores what is lost before the server starts, and the one that dumps beside it.

    Args:
        bucket: Where the dumps are.
        hours: Between two dumps.
        like: The server's container, whose image and folders they have.
        mounts: Names of the volumes that they use.
        variables: Their environment variables.
    """
    place = pulumi.Output.concat("s3://", bucket, "/", contract.BACKUPS_PREFIX)

    def container(name: str, *arguments: pulumi.Input[str]) -> Manifest:
        return {
            "name": name,
            "image": like["image"],
            "command": ["python", "-m", "modelworks.runtime.registry_backup"],
            "args": list(arguments),
            "workingDir": like["workingDir"],
            "env": list(variables),
            "resources": {
                "requests": {"cpu": "10m", "memory": "128Mi"},
                "limits": {"cpu": "500m", "memory": "128Mi"},
            },
            "securityContext": RESTRICTED_CONTAINER,
            "volumeMounts": [each for each in like["volumeMounts"] if each["name"] in mounts],
        }

    return container("restore", "restore", place), container("backup", "keep", place, f"--hours={hours}")


def backup_permissions(bucket: str) -> list[dict[str, Any]]:
    """Statements that let the server's role write and read dumps, and delete none."""
    return [statement(["s3:GetObject", "s3:PutObject"], [f"{bucket}/{contract.BACKUPS_PREFIX}/*"])]


def backup_alarm(bucket: pulumi.Input[str], hours: int) -> Mapping[str, Any]:
    """The alarm on a registry whose newest dump is old, or that reports none, as `paging_alarm` takes it."""
    return {
        "alarm_description": f"the newest dump of the registry's database is more than {2 * hours} hours old",
        "namespace": contract.REGISTRY_METRIC_NAMESPACE,
        "metric_name": contract.METRIC_BACKUP_AGE,
        "dimensions": {contract.DIMENSION_BUCKET: bucket},
        "statistic": "Minimum",
        "comparison_operator": "GreaterThanThreshold",
        "threshold": 2 * hours * 3600,
        "period": _ALARM_PERIOD_SECONDS,
        "evaluation_periods": _ALARM_PERIODS,
        "datapoints_to_alarm": _ALARM_PERIODS,
        "treat_missing_data": "breaching",
    }
