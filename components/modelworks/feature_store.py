"""The place of features: history in S3 behind Glue and Athena, the newest values in DynamoDB; or a vendor's."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NotRequired, TypedDict

import pulumi
import pulumi_aws as aws

from modelworks import contract
from modelworks._resources.alarm import paging_alarm
from modelworks._resources.arguments import checked
from modelworks._resources.bucket import made_by, secure_bucket
from modelworks._resources.feature_alarms import lag_alarm, skew_alarm, table_alarms
from modelworks._resources.feature_catalog import catalog, catalog_tables, queries
from modelworks._resources.feature_jobs import MaterializationArgs, feature_job, require_sound_materialization
from modelworks._resources.feature_permissions import DATA, QUERIES, REGISTRY, materializes, reads, verifies, writes
from modelworks._resources.feature_views import FeatureViewArgs, require_sound_views
from modelworks._resources.iam import (
    account_decides,
    bucket_arn,
    least_privilege_role,
    policy_document,
    service_account_trust,
)
from modelworks._resources.kubernetes import KubernetesComponent, KubernetesObject
from modelworks._resources.network import network_policy
from modelworks._resources.pod_identity import service_account
from modelworks._resources.vendor_features import FeatureApiArgs, VendorAccount, VendorArgs, require_sound_vendor
from modelworks._spelling import did_you_mean

_SERVICE_ACCOUNT = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?/[a-z0-9]([a-z0-9.-]*[a-z0-9])?")
_PROJECT = re.compile("[A-Za-z0-9][A-Za-z0-9_]*")


class FeatureStoreArgs(TypedDict):
    """Arguments of a `FeatureStore`."""

    engine: NotRequired[str]
    """The system that keeps the features: `feast`, `hopsworks` or `tecton`. For the latter two only what their
    documentation requires of an AWS account is declared, and `vendor` is required. Default feast."""

    vendor: NotRequired[VendorArgs | None]
    """The feature store of Hopsworks or Tecton. Default: none."""

    project: NotRequired[str | None]
    """Name of the Feast project: letters, digits and `_`. Default: none, and the component's name with `_` for `-`."""

    views: NotRequired[list[FeatureViewArgs]]
    """The feature views, as `modelworks.stack.feature_views()` reads them from the manifest. Default: none."""

    readers: NotRequired[list[str]]
    """Service accounts that may assume the reader role, as `namespace/name`. Default: none."""

    writers: NotRequired[list[str]]
    """Service accounts that may assume the writer role, as `namespace/name`. Default: none."""

    materializers: NotRequired[list[str]]
    """Service accounts that may assume the materializer role, as `namespace/name`. Default: none."""

    materialization: NotRequired[MaterializationArgs | None]
    """The job on a cluster that writes the newest values online. Default: none, and only who runs it by hand does."""

    prediction_bucket: NotRequired[pulumi.Input[str] | None]
    """Bucket of prediction logs, encrypted with the same key, as a `PredictionStore` has it: the verifying job also
    compares what was served. Default: none, and it compares online values alone."""

    maximum_lag_seconds: NotRequired[int | None]
    """Alert when no materialization of a view reported a lag within this, for as long, in seconds: 60 to 604800.
    None for no such alarm. Default 86400."""

    query_limit_gib: NotRequired[int]
    """Most data that one Athena query may scan, in GiB. Default 100."""

    query_result_days: NotRequired[int]
    """Days that results of Athena queries are kept. Default 7."""

    noncurrent_days: NotRequired[int]
    """Days a superseded or deleted file is kept. Default 90."""

    point_in_time_recovery: NotRequired[bool]
    """Whether the online tables can be restored to any second of the last 35 days. Default true."""

    protect: NotRequired[bool]
    """Refuse to delete the bucket, its settings and the online tables until this is false. Default true."""

    environment: str
    """Name of the environment: a dimension of every metric."""

    account_id: pulumi.Input[str]
    """The AWS account: 12 digits. Its IAM policies decide who else may assume the roles."""

    oidc_issuer: pulumi.Input[str]
    """The cluster's OIDC issuer without `https://`: by it service accounts assume the roles."""

    key_arn: pulumi.Input[str]
    """KMS key that encrypts the bucket, the tables and the results of queries."""

    alerts_topic_arn: pulumi.Input[str]
    """SNS topic that throttling, errors and stale features are reported to."""


class FeatureStore(KubernetesComponent):
    """An offline store in S3 with a Glue catalog and an Athena workgroup, and an online store in DynamoDB, for Feast.

    With `materialization`, a job on a cluster writes the newest values online. For Hopsworks and Tecton: a bucket, the
    role or policy that they need, and a secret for the API key. Children that a store has no use for are None.

    Raises:
        ValueError: An argument is unknown, missing, of the wrong type or out of its range, or two views have one name.
    """

    bucket: pulumi.Output[str]
    """Bucket of the history, the registry and the results of queries."""

    location: pulumi.Output[str]
    """Where sources with a relative path lie: `s3://bucket/data`."""

    database: pulumi.Output[str]
    """Glue database with a table for each view that has a path."""

    workgroup: pulumi.Output[str]
    """Athena workgroup that encrypts and limits queries."""

    tables: pulumi.Output[dict[str, str]]
    """ARN of each online view's table, by the view's name."""

    reader_role_arn: pulumi.Output[str]
    """Role that reads features, online and offline, and changes none."""

    writer_role_arn: pulumi.Output[str]
    """Role that writes history and applies definitions."""

    materializer_role_arn: pulumi.Output[str]
    """Role that reads history and writes the online tables."""

    feature_store_yaml: pulumi.Output[str]
    """A ready `feature_store.yaml` for Feast."""

    vendor: pulumi.Output[dict[str, str]]
    """Names and ARNs of this account to give to Hopsworks or Tecton; empty for Feast."""

    place: pulumi.Output[dict[str, Any]]
    """All that `modelworks features --env` reads: export it as `features`. Holds no secret."""

    def __init__(self, name: str, args: FeatureStoreArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        args = checked(name, FeatureStoreArgs, args)
        project = args["project"] or name.replace("-", "_")
        _refuse_bad_names(project, args)
        require_sound_materialization(args["materialization"])
        require_sound_vendor(args["engine"], args["vendor"])
        cluster = args["materialization"]
        super().__init__(
            "modelworks:index:FeatureStore",
            name,
            part="features",
            namespace=cluster["namespace"] if cluster else None,
            opts=opts,
        )
        self._name, self._args, self._project = name, args, project
        self._protect_data = args["protect"] or None  # None: whatever the program states for the component itself
        self.account: VendorAccount | None = None
        self.catalog: aws.glue.CatalogDatabase | None = None
        self.catalog_tables: list[aws.glue.CatalogTable] = []
        self.queries: aws.athena.Workgroup | None = None
        self.online_tables: list[aws.dynamodb.Table] = []
        self.reader: aws.iam.Role | None = None
        self.writer: aws.iam.Role | None = None
        self.materializer: aws.iam.Role | None = None
        self.alarms: list[aws.cloudwatch.MetricAlarm] = []
        self.service_account: KubernetesObject | None = None
        self.network_policy: KubernetesObject | None = None
        self.materialization: KubernetesObject | None = None
        self.verifier: aws.iam.Role | None = None
        self.verifier_account: KubernetesObject | None = None
        self.verification: KubernetesObject | None = None
        if args["engine"] == "feast":
            self._declare(cluster)
        else:
            self._declare_vendor(args["engine"])
        self.register_outputs({output: getattr(self, output) for output in _OUTPUTS})

    def _declare(self, cluster: MaterializationArgs | None) -> None:
        """The stores of Feast, their roles, alarms and jobs."""
        self.store = self._store()
        self.location = pulumi.Output.concat("s3://", self.store.bucket, f"/{DATA}")
        self.catalog = database = catalog(self, self._project)
        self.catalog_tables = catalog_tables(self, database.name, self.location, self._args["views"])
        self.queries = group = queries(self, self.store.bucket, self._args["key_arn"], self._args["query_limit_gib"])
        self.online_tables = self._online_tables()
        may_read = self._reads(database.name, group.arn)
        reader, _ = self._role("reader", "Reads features", self._args["readers"], may_read)
        writer, _ = self._role(
            "writer", "Writes history and definitions of features", self._args["writers"], self._writes()
        )
        materializer, may_materialize = self._role(
            "materializer", "Writes the newest features online", self._materializers(), self._materializes()
        )
        self.reader, self.writer, self.materializer = reader, writer, materializer
        self.alarms = self._alarms()
        self.bucket = self.store.bucket
        self.database, self.workgroup = database.name, group.name
        self.tables = pulumi.Output.all(**{view: table.arn for view, table in self._online.items()})
        self.reader_role_arn, self.writer_role_arn = reader.arn, writer.arn
        self.materializer_role_arn = materializer.arn
        self.feature_store_yaml = self._feature_store_yaml()
        if cluster:
            self._run_on(cluster, materializer, may_materialize)
        self.vendor = pulumi.Output.from_input({})
        self.place = pulumi.Output.all(
            feature_store_yaml=self.feature_store_yaml,
            location=self.location,
            tables=self.tables,
            environment=self._args["environment"],
        )

    def _declare_vendor(self, engine: str) -> None:
        """The account as a vendor needs it. The outputs of Feast's stores are empty."""
        self.account = account = VendorAccount(self, engine, self._args, protect=self._protect_data)
        self.store = account.bucket
        self._online: dict[str, aws.dynamodb.Table] = {}
        nothing = pulumi.Output.from_input("")
        for output in ("location", "database", "workgroup", "feature_store_yaml"):
            setattr(self, output, nothing)
        self.reader_role_arn = self.writer_role_arn = self.materializer_role_arn = nothing
        self.bucket = self.store.bucket
        self.tables = pulumi.Output.from_input({})
        self.vendor = pulumi.Output.all(**account.facts)
        self.place = pulumi.Output.all(
            engine=engine, vendor=self.vendor, tables=self.tables, environment=self._args["environment"]
        )

    @property
    def api(self) -> FeatureApiArgs | None:
        """The online API of Hopsworks or Tecton: the `feature_api` of a `ModelEndpoint`. None for Feast."""
        return self.account.api if self.account else None

    def tables_of(self, views: Iterable[str]) -> dict[str, pulumi.Input[str]]:
        """ARN of the online table of each of these views, by name: the `feature_tables` of a `ModelEndpoint`.

        Args:
            views: Names of online views, as `modelworks.stack.views_of()` reads them for a feature service.

        Raises:
            ValueError: The store has no online view of that name.
        """
        if self._args["engine"] != "feast":
            return {}  # pods reach the vendor's API: `api`
        wanted = list(views)
        if strangers := [view for view in wanted if view not in self._online]:
            raise ValueError(
                f"{self._name} has no online view {strangers[0]!r}{did_you_mean(strangers[0], self._online)}"
            )
        return {view: self._online[view].arn for view in wanted}

    def _store(self) -> "aws.s3.Bucket":
        return secure_bucket(
            self.child_name("store"),
            parent=self,
            key_arn=self._args["key_arn"],
            noncurrent_days=self._args["noncurrent_days"],
            expiration_days={f"{QUERIES}/": self._args["query_result_days"]},
            protect=self._protect_data,
        )

    def _online_tables(self) -> list["aws.dynamodb.Table"]:
        self._online = {
            view["name"]: self._online_table(view["name"]) for view in self._args["views"] if view["online"]
        }
        return list(self._online.values())

    def _online_table(self, view: str) -> "aws.dynamodb.Table":
        return aws.dynamodb.Table(
            self.child_name(f"online-{view}"),
            name=f"{self._project}.{view}",  # Feast finds it by this name
            billing_mode="PAY_PER_REQUEST",
            hash_key="entity_id",
            attributes=[{"name": "entity_id", "type": "S"}],
            ttl={"attribute_name": "expires_at", "enabled": True},
            point_in_time_recovery={"enabled": self._args["point_in_time_recovery"]},
            server_side_encryption={"enabled": True, "kms_key_arn": self._args["key_arn"]},
            deletion_protection_enabled=self._args["protect"],
            # The key goes last: without it, a table that is kept could not be read.
            opts=pulumi.ResourceOptions(
                parent=self, protect=self._protect_data, depends_on=made_by(self._args["key_arn"])
            ),
        )

    def _role(
        self,
        kind: str,
        description: str,
        accounts: Sequence[pulumi.Input[str]],
        statements: pulumi.Output[list[dict[str, Any]]],
    ) -> tuple["aws.iam.Role", "aws.iam.RolePolicy"]:
        trust = pulumi.Output.all(
            self._args["account_id"], aws.get_partition_output().partition, self._args["oidc_issuer"], *accounts
        ).apply(lambda found: _trust(*found))
        policy = statements.apply(policy_document)
        return least_privilege_role(
            self.child_name(kind), parent=self, trust=trust, policy=policy, description=description
        )

    def _materializers(self) -> list[pulumi.Input[str]]:
        """Those that are stated, and the job's own account."""
        cluster = self._args["materialization"]
        own = [pulumi.Output.concat(cluster["namespace"], "/", self.child_name("materializer"))] if cluster else []
        return [*self._args["materializers"], *own]

    def _reads(self, database: pulumi.Input[str], workgroup: pulumi.Input[str]) -> pulumi.Output[list[dict[str, Any]]]:
        glue = pulumi.Output.concat(
            "arn:",
            aws.get_partition_output().partition,
            ":glue:",
            aws.get_region_output().region,
            ":",
            self._args["account_id"],
        )
        return pulumi.Output.all(
            self.store.arn, self._args["key_arn"], glue, database, workgroup, self._table_arns()
        ).apply(lambda found: reads(*found))

    def _writes(self) -> pulumi.Output[list[dict[str, Any]]]:
        return pulumi.Output.all(self.store.arn, self._args["key_arn"], self._table_arns()).apply(
            lambda found: writes(*found)
        )

    def _materializes(self) -> pulumi.Output[list[dict[str, Any]]]:
        return pulumi.Output.all(self.store.arn, self._args["key_arn"], self._table_arns()).apply(
            lambda found: materializes(*found)
        )

    def _verifies(self) -> pulumi.Output[list[dict[str, Any]]]:
        bucket = self._args["prediction_bucket"]
        logs = None if bucket is None else bucket_arn(bucket)
        return pulumi.Output.all(self.store.arn, self._args["key_arn"], self._table_arns(), logs).apply(
            lambda found: verifies(*found)
        )

    def _table_arns(self) -> pulumi.Output[list[str]]:
        return pulumi.Output.all(*(table.arn for table in self.online_tables))

    def _alarms(self) -> list["aws.cloudwatch.MetricAlarm"]:
        return [
            paging_alarm(
                self.child_name(f"{view}-{suffix}"), parent=self, topic=self._args["alerts_topic_arn"], **definition
            )
            for view, table in self._online.items()
            for suffix, definition in (*table_alarms(view, table.name), *self._alarms_of_runs(view))
        ]

    def _alarms_of_runs(self, view: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
        environment, cluster = self._args["environment"], self._args["materialization"]
        if lag := self._args["maximum_lag_seconds"]:
            yield lag_alarm(view, environment, lag)
        if cluster and cluster["verify_schedule"]:
            yield skew_alarm(view, environment)

    def _run_on(self, cluster: MaterializationArgs, role: "aws.iam.Role", may: pulumi.Resource) -> None:
        """Declare the jobs, and what they need in the cluster."""
        self.service_account = account = service_account(self, "materializer", role)
        self.network_policy = self.object(
            "networking.k8s.io/v1", "NetworkPolicy", "jobs", spec=network_policy(self.selector, port=None)
        )
        lookback = f"--lookback-seconds={cluster['lookback_seconds']}"
        self.materialization = self._job("materialize", [lookback], cluster["schedule"], cluster, account, may)
        if schedule := cluster["verify_schedule"]:
            self._verify_on(cluster, schedule)

    def _verify_on(self, cluster: MaterializationArgs, schedule: str) -> None:
        """Declare the job that compares, as a role of its own: predictions are nothing that a materializer needs."""
        who = pulumi.Output.concat(cluster["namespace"], "/", self.child_name("verifier"))
        role, may_verify = self._role("verifier", "Compares features with their history", [who], self._verifies())
        self.verifier = role
        self.verifier_account = account = service_account(self, "verifier", role)
        options: list[pulumi.Input[str]] = []
        if (bucket := self._args["prediction_bucket"]) is not None:
            options.append(pulumi.Output.concat("--predictions=s3://", bucket, f"/{contract.PREDICTIONS_PREFIX}"))
        if lag := self._args["maximum_lag_seconds"]:
            options.append(f"--behind-seconds={lag}")
        self.verification = self._job("verify", options, schedule, cluster, account, may_verify)

    def _job(
        self,
        verb: str,
        options: Sequence[pulumi.Input[str]],
        schedule: str,
        cluster: MaterializationArgs,
        account: KubernetesObject,
        may: pulumi.Resource,
    ) -> KubernetesObject:
        return self.object(
            "batch/v1",
            "CronJob",
            verb,
            fixed_name=True,  # for people: `kubectl create job --from=cronjob/features-materialize`
            after=[may],
            spec=feature_job(
                self,
                verb,
                options,
                schedule,
                cluster,
                account=account.name,
                environment=self._args["environment"],
                feature_store_yaml=self.feature_store_yaml,
            ),
        )

    def _feature_store_yaml(self) -> pulumi.Output[str]:
        return pulumi.Output.all(self.store.bucket, aws.get_region_output().region).apply(
            lambda found: _yaml(self._project, *found)
        )


_OUTPUTS = (
    "bucket",
    "location",
    "database",
    "workgroup",
    "tables",
    "reader_role_arn",
    "writer_role_arn",
    "materializer_role_arn",
    "feature_store_yaml",
    "vendor",
    "place",
)


def _refuse_bad_names(project: str, args: FeatureStoreArgs) -> None:
    if not _PROJECT.fullmatch(project):
        raise ValueError(f"project must be letters, digits and _, and begin with no _, got {project!r}")
    require_sound_views(project, args["views"])
    for kind in ("readers", "writers", "materializers"):
        for account in args[kind]:
            if not _SERVICE_ACCOUNT.fullmatch(account):
                raise ValueError(f"{kind} must be service accounts as namespace/name, got {account!r}")


def _trust(account: str, partition: str, issuer: str, *service_accounts: str) -> str:
    trusted = [account_decides(account, partition)]
    for each in service_accounts:
        namespace, name = each.split("/")
        trusted.append(service_account_trust(name, account, partition, issuer, namespace))
    return policy_document(trusted)


def _yaml(project: str, bucket: str, region: str) -> str:
    return f"""project: {json.dumps(project)}
provider: local
registry:
  registry_type: file
  path: s3://{bucket}/{REGISTRY}/registry.db
  cache_ttl_seconds: 60
offline_store:
  type: modelworks.features.offline.PolarsOfflineStore
  location: s3://{bucket}/{DATA}
online_store:
  type: modelworks.features.online.DynamoDBOnlineStore
  region: {region}
  create_tables: false
entity_key_serialization_version: 3
"""
