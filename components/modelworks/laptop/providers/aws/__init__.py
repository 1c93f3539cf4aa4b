"""The `aws` plugin: real boto3 calls to the environment's emulator, by the rules of the real provider."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from modelworks.laptop.aws_credentials import AwsCredentials
from modelworks.laptop.providers.plugin import Plugin
from modelworks.laptop.providers.property_values import UNKNOWN, decoded

RECORDED_NOT_EMULATED: Mapping[str, str] = {
    "aws:athena/workgroup": "stored, but no query runs: results are empty and nothing is scanned",
    "aws:budgets/budget": "stored, but nothing is ever spent and no alert is sent",
    "aws:iam/*": "policies are stored and not evaluated: every key of the account may do everything",
    "aws:iam/openIdConnectProvider": "stored, nobody is federated; client ids cannot be changed once it is made",
    "aws:kms/key": "key policies and rotation are stored; policies are not evaluated and keys never rotate",
    "aws:s3/bucketLifecycleConfiguration": "stored, nothing expires or changes class",
    "aws:s3/bucketPolicy": "stored and not evaluated; the same for public-access blocks and ownership controls",
    "aws:sns/topicSubscription": "no e-mail or SMS is sent, and no address has to confirm",
    "aws:secretsmanager/secret": "deleted at once, whatever the recovery window; rotation does not happen",
    "aws:cloudwatch/metricAlarm": "those on percentiles, other functions than IF, or anomalies are stored, not judged",
    "aws:cloudwatch/logGroup": "retention is stored, nothing expires",
    "aws:dynamodb/table": "capacity and backups are stored: nothing is throttled, nothing can be restored",
}
"""Resources that the emulator stores without acting on them, by type. `modelworks laptop status` shows it."""


def plugin(facts: Mapping[str, Any], credentials: AwsCredentials) -> Plugin:
    """The plugin of one environment, from its facts (`aws_port`, `region`) and the key of its account."""
    return plugin_at(f"http://127.0.0.1:{facts['aws_port']}", facts["region"], credentials)


def plugin_at(url: str, region: str, credentials: AwsCredentials) -> Plugin:
    """The plugin for the emulator at `url`; `region` is what a program without `aws:region` gets."""
    # boto3 takes a sixth of a second, and `laptop status` wants only the table above.
    from modelworks.laptop.providers.aws.account import account, shared_endpoint
    from modelworks.laptop.providers.aws.provider import AwsProvider, configuration_checked
    from modelworks.laptop.providers.aws.schema import package

    def connect(configuration: dict[str, Any]) -> AwsProvider:
        # In a preview, settings that come from resources may be unknown: AWS is asked without them.
        meant = {key: decoded(value) for key, value in configuration.items() if value is not UNKNOWN}
        return AwsProvider(account(shared_endpoint(url, credentials), meant, region))

    return Plugin("aws", version("pulumi_aws"), connect, check_config=configuration_checked, schema=package)
