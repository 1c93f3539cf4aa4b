from __future__ import annotations

import json

import pytest
import yaml

from mocks import ACCOUNT, declare
from modelworks import FeatureStore
from modelworks.contract import METRIC_FEATURE_LAG
from modelworks.stack import feature_views
from smallest import SMALLEST

ALARM = "aws:cloudwatch/metricAlarm:MetricAlarm"
CATALOG_TABLE = "aws:glue/catalogTable:CatalogTable"
TABLE = "aws:dynamodb/table:Table"
KEY = SMALLEST["FeatureStore"]["key_arn"]
TABLE_ARN = f"arn:aws:dynamodb:eu-central-1:{ACCOUNT}:table/features.weather"
WEATHER = {"name": "weather", "columns": {"origin": "string", "wind": "double", "hour": "timestamp"}, "path": "weather"}


def store(*views, **args):
    given = {**SMALLEST["FeatureStore"], "views": [*views], **args}
    return declare(lambda: FeatureStore("features", given))


def outputs(*views, **args):
    found = {}

    def program():
        made = FeatureStore("flight-features", {**SMALLEST["FeatureStore"], "views": [*views], **args})
        made.feature_store_yaml.apply(lambda text: found.update(yaml.safe_load(text)))
        made.place.apply(lambda place: found.update(place=place))

    declare(program)
    return found


def statements(declared, role: str) -> list[dict]:
    return json.loads(declared.all("aws:iam/rolePolicy:RolePolicy")[f"features-{role}-policy"]["policy"])["Statement"]


def actions(declared, role: str) -> set[str]:
    return {action for rule in statements(declared, role) for action in rule["Action"]}


def resources(declared, role: str, action: str) -> list[str]:
    return next(rule["Resource"] for rule in statements(declared, role) if action in rule["Action"])


def trust(declared, role: str) -> list[dict]:
    return json.loads(declared.all("aws:iam/role:Role")[f"features-{role}"]["assumeRolePolicy"])["Statement"]


def test_an_online_view_has_the_table_that_feast_looks_for():
    table = store(WEATHER).one(TABLE)
    assert (table["name"], table["hashKey"], table["billingMode"]) == (
        "features.weather", "entity_id", "PAY_PER_REQUEST",
    )  # fmt: skip
    assert table["ttl"] == {"attributeName": "expires_at", "enabled": True}


def test_an_online_table_is_encrypted_recoverable_and_refuses_deletion():
    table = store(WEATHER).one(TABLE)
    assert table["serverSideEncryption"] == {"enabled": True, "kmsKeyArn": KEY}
    assert table["pointInTimeRecovery"] == {"enabled": True}
    assert table["deletionProtectionEnabled"] is True


def test_a_view_that_is_offline_only_has_no_table_and_no_alarm():
    declared = store({**WEATHER, "online": False})
    assert (declared.all(TABLE), declared.all(ALARM)) == ({}, {})
    assert set(declared.all(CATALOG_TABLE)) == {"features-catalog-weather"}


def test_the_history_of_a_view_is_a_table_of_parquet_in_the_catalog():
    table = store(WEATHER).one(CATALOG_TABLE)
    assert table["storageDescriptor"]["location"] == "s3://features-store/data/weather/"
    assert table["storageDescriptor"]["columns"] == [
        {"name": "origin", "type": "string"},
        {"name": "wind", "type": "double"},
        {"name": "hour", "type": "timestamp"},
    ]
    assert table["storageDescriptor"]["serDeInfo"]["serializationLibrary"].endswith("ParquetHiveSerDe")


def test_a_view_without_a_path_is_in_no_catalog():
    assert store({**WEATHER, "path": None}).all(CATALOG_TABLE) == {}


def test_results_of_queries_are_encrypted_limited_and_expire():
    declared = store(query_limit_gib=2, query_result_days=3)
    configuration = declared.one("aws:athena/workgroup:Workgroup")["configuration"]
    assert configuration["enforceWorkgroupConfiguration"] is True
    assert configuration["bytesScannedCutoffPerQuery"] == 2 * 1024**3
    assert configuration["resultConfiguration"] == {
        "outputLocation": "s3://features-store/queries/",
        "encryptionConfiguration": {"encryptionOption": "SSE_KMS", "kmsKeyArn": KEY},
    }
    rules = declared.one("aws:s3/bucketLifecycleConfiguration:BucketLifecycleConfiguration")["rules"]
    assert [(rule["filter"], rule["expiration"]) for rule in rules if "expiration" in rule] == [
        ({"prefix": "queries/"}, {"days": 3})
    ]


def test_what_holds_data_is_protected_and_what_does_not_is_not():
    asked = store(WEATHER).requests()
    protected = {urn.rpartition("::")[2] for urn, request in asked.items() if request.get("protect")}
    bucket = {f"features-store-{part}" for part in
              ("encryption", "lifecycle", "ownership", "policy", "private", "versioning")}  # fmt: skip
    assert protected == {"features-store", "features-online-weather"} | bucket


def test_nothing_is_protected_where_the_environment_is_not():
    declared = store(WEATHER, protect=False)
    assert not any(request.get("protect") for request in declared.requests().values())
    assert declared.one(TABLE)["deletionProtectionEnabled"] is False


def test_a_reader_changes_nothing_but_results_of_queries():
    declared = store(WEATHER)
    assert resources(declared, "reader", "s3:PutObject") == ["arn:aws:mock:::features-store/queries/*"]
    assert {action for action in actions(declared, "reader") if action.startswith("dynamodb:")} == {
        "dynamodb:BatchGetItem", "dynamodb:DescribeTable", "dynamodb:GetItem",
    }  # fmt: skip
    assert resources(declared, "reader", "dynamodb:GetItem") == [TABLE_ARN]
    assert resources(declared, "reader", "glue:GetTable") == [
        f"arn:aws:glue:eu-central-1:{ACCOUNT}:catalog",
        f"arn:aws:glue:eu-central-1:{ACCOUNT}:database/features",
        f"arn:aws:glue:eu-central-1:{ACCOUNT}:table/features/*",
    ]


def test_a_writer_writes_history_and_no_online_value():
    declared = store(WEATHER)
    assert resources(declared, "writer", "s3:PutObject") == [
        "arn:aws:mock:::features-store/data/*",
        "arn:aws:mock:::features-store/registry/*",
    ]
    assert "dynamodb:PutItem" not in actions(declared, "writer")


def test_the_materializer_writes_online_values_and_no_history():
    declared = store(WEATHER)
    assert resources(declared, "materializer", "dynamodb:PutItem") == [TABLE_ARN]
    assert "s3:PutObject" not in actions(declared, "materializer")


@pytest.mark.parametrize("role", ["reader", "writer", "materializer"])
def test_a_store_without_online_views_has_no_statement_about_nothing(role):
    assert all(rule["Resource"] for rule in statements(store({**WEATHER, "online": False}), role))


def test_named_service_accounts_assume_their_role_and_no_other():
    declared = store(readers=["modelworks-dev/churn"])
    (_, pods) = trust(declared, "reader")
    assert pods["Condition"]["StringEquals"]["oidc.example/id:sub"] == "system:serviceaccount:modelworks-dev:churn"
    assert [rule["Sid"] for rule in trust(declared, "writer")] == ["AccountDecidesByIam"]


def test_throttling_errors_and_stale_values_of_a_view_page():
    alarms = store(WEATHER).all(ALARM)
    assert {(alarm["metricName"], alarm["dimensions"].get("Operation")) for alarm in alarms.values()} == {
        ("ReadThrottleEvents", None), ("WriteThrottleEvents", None), ("SystemErrors", "BatchGetItem"),
        ("SystemErrors", "PutItem"), (METRIC_FEATURE_LAG, None),
    }  # fmt: skip
    topic = SMALLEST["FeatureStore"]["alerts_topic_arn"]
    assert all(alarm["alarmActions"] == [topic] for alarm in alarms.values())


@pytest.mark.parametrize(
    ("lag", "period", "periods"),
    [(60, 60, 1), (3599, 60, 60), (3600, 3600, 1), (86_400, 3600, 24), (604_800, 3600, 168)],
)
def test_a_view_is_stale_when_no_run_reported_a_lag_within_the_limit_for_as_long(lag, period, periods):
    alarm = store(WEATHER, maximum_lag_seconds=lag).all(ALARM)["features-weather-stale"]
    assert (alarm["threshold"], alarm["period"], alarm["evaluationPeriods"]) == (lag, period, periods)
    assert (alarm["statistic"], alarm["treatMissingData"]) == ("Minimum", "breaching")
    assert alarm["dimensions"] == {"environment": "dev", "view": "weather"}


def test_a_store_without_a_limit_of_lag_has_no_such_alarm():
    assert "features-weather-stale" not in store(WEATHER, maximum_lag_seconds=None).all(ALARM)


def test_feast_gets_a_ready_config():
    found = outputs(WEATHER)
    assert found["project"] == "flight_features"
    assert found["registry"]["path"] == "s3://flight-features-store/registry/registry.db"
    assert found["offline_store"] == {
        "type": "modelworks.features.offline.PolarsOfflineStore",
        "location": "s3://flight-features-store/data",
    }
    assert found["online_store"]["region"] == "eu-central-1"
    assert found["place"]["tables"] == {"weather": TABLE_ARN.replace("features", "flight_features")}


@pytest.mark.parametrize(
    ("views", "args", "message"),
    [
        ([{**WEATHER, "name": "we ather"}], {}, "a view's name must be letters"),
        ([{**WEATHER, "name": "w" * 250}], {}, "at most 255"),
        ([{**WEATHER, "columns": {}}], {}, "view 'weather' has no columns"),
        ([{**WEATHER, "path": ""}], {}, "path of view 'weather' must name a folder"),
        ([{**WEATHER, "path": "../registry"}], {}, "path of view 'weather' must name a folder"),
        ([WEATHER, {**WEATHER, "name": "Weather"}], {}, "view 'Weather' has the name of 'weather' in the catalog"),
        ([WEATHER, dict(WEATHER)], {}, "view 'weather' has the name of 'weather' in the catalog"),
        ([{"name": "weather"}], {}, r"views\[0\].columns is required"),
        ([], {"project": "my-project"}, "project must be letters, digits and _"),
        ([], {"readers": ["churn"]}, "readers must be service accounts as namespace/name, got 'churn'"),
        ([], {"maximum_lag_seconds": 59}, "maximum_lag_seconds must be at least 60, got 59"),
        ([], {"query_limit_gib": 0}, "query_limit_gib must be at least 1, got 0"),
    ],
)
def test_an_argument_that_cannot_work_is_refused(views, args, message):
    with pytest.raises(ValueError, match=message):
        store(*views, **args)


def test_a_program_declares_the_views_of_the_committed_manifest(tmp_path):
    (tmp_path / "models").mkdir()
    view = {
        "model": "flight-delay", "entities": ["airport"], "keys": {"origin": "String"}, "features": {"wind": "Float64"},
        "ttl_seconds": 7200, "source": "weather", "event_time": "hour", "created_time": None, "stored": {},
        "online": True, "digest": "sha256:0",
    }  # fmt: skip
    manifest = {"format": 1, "views": {"weather": view}, "on_demand": {}, "services": {}}
    (tmp_path / "models/features.json").write_text(json.dumps(manifest))
    assert feature_views(tmp_path) == [{**WEATHER, "online": True}]
    assert set(store(*feature_views(tmp_path)).all(TABLE)) == {"features-online-weather"}


def test_a_project_without_a_manifest_has_no_views(tmp_path):
    assert feature_views(tmp_path) == []


def test_the_tables_of_some_views_are_what_an_endpoint_takes():
    found = {}

    def program():
        views = [WEATHER, {**WEATHER, "name": "delays"}]
        tables = FeatureStore("features", {**SMALLEST["FeatureStore"], "views": views}).tables_of(["weather"])
        tables["weather"].apply(lambda arn: found.update(weather=arn))
        assert set(tables) == {"weather"}

    declare(program)
    assert found == {"weather": TABLE_ARN}


@pytest.mark.parametrize(
    ("view", "message"),
    [
        ("wether", "features has no online view 'wether'; did you mean 'weather'"),
        ("history", "features has no online view 'history'; known here: weather"),
    ],
)
def test_a_view_without_an_online_table_is_refused(view, message):
    views = [WEATHER, {**WEATHER, "name": "history", "online": False}]
    with pytest.raises(ValueError, match=message):
        declare(lambda: FeatureStore("features", {**SMALLEST["FeatureStore"], "views": views}).tables_of([view]))


# -- The job on a cluster --------------------------------------------------------------------------------------------
CLUSTER = {"namespace": "modelworks-dev", "image": "registry.example/features@sha256:" + "0" * 64}
CRON_JOB = "kubernetes:batch/v1:CronJob"


def job(verb="materialize", **cluster):
    """Spec of a job of a store."""
    return store(WEATHER, materialization={**CLUSTER, **cluster}).all(CRON_JOB)[f"features-{verb}"]["spec"]


def container(**cluster):
    (found,) = job(**cluster)["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    return found


def test_without_a_cluster_a_store_declares_nothing_in_one():
    assert not [token for token, _ in store(WEATHER).resources if token.startswith("kubernetes:")]


def test_materialization_begins_every_hour_of_utc_and_never_beside_itself():
    spec = job()
    assert (spec["schedule"], spec["timeZone"], spec["concurrencyPolicy"]) == ("0 * * * *", "Etc/UTC", "Forbid")
    assert (spec["successfulJobsHistoryLimit"], spec["failedJobsHistoryLimit"]) == (1, 3)
    assert job(schedule="*/5 6-22 * * MON-FRI")["schedule"] == "*/5 6-22 * * MON-FRI"


def test_a_run_has_a_limit_of_time_and_of_memory():
    spec = job(active_deadline_seconds=600, memory_mib=512, cpu_millicores=250)["jobTemplate"]["spec"]
    (found,) = spec["template"]["spec"]["containers"]
    assert spec["activeDeadlineSeconds"] == 600
    assert found["resources"] == {"requests": {"cpu": "250m", "memory": "512Mi"}, "limits": {"memory": "512Mi"}}


def test_a_run_looks_back_for_values_that_arrived_late():
    assert container()["args"] == ["materialize", "--lookback-seconds=3600"]
    assert container(lookback_seconds=0)["args"] == ["materialize", "--lookback-seconds=0"]


def test_a_run_gets_the_store_and_the_environment_and_no_secret():
    variables = {each["name"]: each["value"] for each in container()["env"]}
    assert yaml.safe_load(variables.pop("MODELWORKS_FEATURE_STORE"))["project"] == "features"
    assert variables == {"MODELWORKS_ENVIRONMENT": "dev", "HOME": "/scratch", "TMPDIR": "/scratch"}


def test_a_run_is_restricted_and_has_no_token_for_the_cluster():
    pod = job()["jobTemplate"]["spec"]["template"]["spec"]
    assert (pod["automountServiceAccountToken"], pod["restartPolicy"]) == (False, "Never")
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container()["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip


def test_the_pods_of_the_job_reach_name_servers_and_tls_and_nothing_reaches_them():
    declared = store(WEATHER, materialization=CLUSTER)
    policy = declared.one("kubernetes:networking.k8s.io/v1:NetworkPolicy")["spec"]
    jobs = declared.all(CRON_JOB).values()
    labels = [job["spec"]["jobTemplate"]["spec"]["template"]["metadata"]["labels"].items() for job in jobs]
    assert [policy["podSelector"]["matchLabels"].items() <= each for each in labels] == [True, True]
    assert "ingress" not in policy
    assert [each["port"] for each in policy["egress"][0]["ports"]] == [53, 53, 443]


def test_the_job_alone_assumes_the_role_of_the_materializer_besides_those_that_are_stated():
    declared = store(WEATHER, materialization=CLUSTER, materializers=["ops/backfill"])
    account = declared.all("kubernetes:core/v1:ServiceAccount")["features-materializer"]
    pod = declared.all(CRON_JOB)["features-materialize"]["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    trusted = [rule["Condition"]["StringEquals"]["oidc.example/id:sub"] for rule in trust(declared, "materializer")[1:]]
    assert trusted == [
        "system:serviceaccount:ops:backfill",
        f"system:serviceaccount:modelworks-dev:{account['metadata']['name']}",
    ]
    assert account["metadata"]["annotations"] == {"eks.amazonaws.com/role-arn": "arn:aws:mock:::features-materializer"}
    assert pod["serviceAccountName"] == account["metadata"]["name"]
    assert [rule["Sid"] for rule in trust(declared, "writer")] == ["AccountDecidesByIam"]


def test_the_job_waits_for_its_permissions():
    requests = store(WEATHER, materialization=CLUSTER).requests()
    (waits,) = [each["dependencies"] for urn, each in requests.items() if urn.endswith("::features-materialize")]
    assert any(urn.endswith("::features-materializer-policy") for urn in waits)


@pytest.mark.parametrize(
    "schedule",
    ["", "hourly", "* * * *", "* * * * * *", "60 * * * *", "0 24 * * *", "0 0 0 * *", "0 0 * 13 *", "0 0 * * 7",
     "*/0 * * * *", "0 * * * *\n", "TZ=UTC 0 * * * *"],
)  # fmt: skip
@pytest.mark.parametrize("name", ["schedule", "verify_schedule"])
def test_a_schedule_that_no_cluster_takes_is_refused(name, schedule):
    with pytest.raises(ValueError, match=rf"materialization\.{name} must be five fields of cron"):
        job(**{name: schedule})


def test_online_values_are_compared_with_history_every_night():
    spec = job("verify")
    (found,) = spec["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    assert (spec["schedule"], found["args"], found["image"]) == (
        "30 3 * * *",
        ["verify", "--behind-seconds=86400"],
        CLUSTER["image"],
    )


def test_what_was_served_is_compared_where_there_is_a_prediction_log_by_a_role_that_writes_nothing():
    declared = store(WEATHER, materialization=CLUSTER, prediction_bucket="log", maximum_lag_seconds=7200)
    pod = declared.all(CRON_JOB)["features-verify"]["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["args"] == ["verify", "--predictions=s3://log/predictions", "--behind-seconds=7200"]
    assert pod["serviceAccountName"] == "features-verifier"
    (_, pods) = trust(declared, "verifier")
    subject = pods["Condition"]["StringEquals"]["oidc.example/id:sub"]
    assert subject == "system:serviceaccount:modelworks-dev:features-verifier"
    assert ["arn:aws:s3:::log/predictions/*"] in [rule["Resource"] for rule in statements(declared, "verifier")]
    assert not actions(declared, "verifier") & {"s3:PutObject", "dynamodb:PutItem", "dynamodb:UpdateItem"}
    assert all("log" not in str(rule["Resource"]) for rule in statements(declared, "materializer"))


def test_without_a_prediction_log_the_verifier_reads_none():
    declared = store(WEATHER, materialization=CLUSTER)
    assert "predictions" not in str(statements(declared, "verifier"))


def test_a_view_whose_online_values_are_not_those_of_history_pages_until_a_comparison_finds_them_right():
    alarm = store(WEATHER, materialization=CLUSTER).all(ALARM)["features-weather-skewed"]
    assert (alarm["metricName"], alarm["dimensions"]) == ("feature_skew", {"environment": "dev", "view": "weather"})
    assert (alarm["threshold"], alarm["statistic"], alarm["evaluationPeriods"]) == (0.01, "Maximum", 1)
    assert alarm["treatMissingData"] == "ignore"


def test_a_store_that_is_never_verified_has_no_such_job_and_no_such_alarm():
    declared = store(WEATHER, materialization={**CLUSTER, "verify_schedule": None})
    assert set(declared.all(CRON_JOB)) == {"features-materialize"}
    assert "features-weather-skewed" not in declared.all(ALARM)


@pytest.mark.parametrize(
    ("cluster", "message"),
    [
        (
            {"image": "features:latest"},
            r"materialization\.image must be an image by its digest: .*, got 'features:latest'",
        ),
        ({"lookback_seconds": -1}, "lookback_seconds must be at least 0, got -1"),
        ({"active_deadline_seconds": 0}, "active_deadline_seconds must be at least 10, got 0"),
        ({"every": "hour"}, r"materialization\.every is an unknown argument"),
    ],
)
def test_a_job_that_cannot_work_is_refused(cluster, message):
    with pytest.raises(ValueError, match=message):
        job(**cluster)
