from __future__ import annotations

import json

import pytest

from mocks import ACCOUNT, declare
from modelworks import ModelRegistry, TrainingCompute, defaults
from modelworks.cluster.training_job import TrainingEnvironment

GROUND = {
    "account_id": ACCOUNT,
    "oidc_issuer": "oidc.example/id",
    "key_arn": "arn:aws:kms:eu-central-1:111111111111:key/k",
}
DEPLOYMENT = "kubernetes:apps/v1:Deployment"
SECRET = "kubernetes:core/v1:Secret"
ROLE_POLICY = "aws:iam/rolePolicy:RolePolicy"
LIFECYCLE = "aws:s3/bucketLifecycleConfiguration:BucketLifecycleConfiguration"
ALARM = "aws:cloudwatch/metricAlarm:MetricAlarm"


def registry(**args):
    given = {
        **GROUND,
        "namespace": "modelworks-dev",
        "image": "registry.example/mlflow@sha256:" + "0" * 64,
        "host": "registry.dev.example.com",
        "admin_password": "correct horse 100%",
        **args,
    }
    return declare(lambda: ModelRegistry("registry", given))


TRAINING = {
    **GROUND,
    "environment": "dev",
    "namespace": "modelworks-dev-training",
    "image": "registry.example/training@sha256:" + "0" * 64,
    "artifact_bucket": "artifacts",
    "alerts_topic_arn": "arn:aws:sns:eu-central-1:111111111111:alerts",
}


def training(**args):
    return declare(lambda: TrainingCompute("training", {**TRAINING, **args}))


def actions(declared) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for rule in json.loads(declared.one(ROLE_POLICY)["policy"])["Statement"]:
        for action in rule["Action"]:
            found[action] = [*found.get(action, []), *rule["Resource"]]
    return found


def containers(declared) -> dict[str, dict]:
    """The containers of the registry's pod, by name."""
    spec = declared.all(DEPLOYMENT)["registry-server"]["spec"]["template"]["spec"]
    return {each["name"]: each for each in [*spec.get("initContainers", []), *spec["containers"]]}


def test_bundles_and_artifacts_are_kept_in_buckets_of_their_own():
    declared = registry()
    assert set(declared.all("aws:s3/bucket:Bucket")) == {"registry-bundles", "registry-artifacts"}
    assert len(declared.all("aws:s3/bucketVersioning:BucketVersioning")) == 2


def test_the_server_asks_who_is_there():
    container = containers(registry())["mlflow"]
    assert "--app-name=basic-auth" in container["args"]


def test_no_secret_stands_in_the_deployment():
    declared = registry(postgres_uri="postgresql://user:hunter2@db/mlflow")
    assert "hunter2" not in json.dumps(declared.one(DEPLOYMENT))
    assert "correct horse" not in json.dumps(declared.one(DEPLOYMENT))


def test_a_percent_sign_in_the_password_survives_the_ini_file():
    assert "admin_password = correct horse 100%%" in registry().one(SECRET)["stringData"]["auth.ini"]


def test_a_short_password_is_refused():
    with pytest.raises(ValueError, match="admin_password must have at least 12 characters, got 5"):
        registry(admin_password="short")


def test_an_embedded_database_lives_on_a_volume_and_has_one_writer():
    declared = registry()
    assert declared.one(DEPLOYMENT)["spec"]["strategy"] == {"type": "Recreate"}
    assert len(declared.all("kubernetes:core/v1:PersistentVolumeClaim")) == 1


def test_the_server_keeps_connections_for_longer_than_the_load_balancer():
    container = containers(registry())["mlflow"]
    (options,) = [each for each in container["args"] if each.startswith("--uvicorn-opts=")]
    assert int(options.removeprefix("--uvicorn-opts=--timeout-keep-alive ")) > 60


def test_the_registry_speaks_tls_with_a_certificate_and_stays_internal():
    declared = registry(ingress={"certificate_arn": "arn:aws:acm:eu-central-1:111111111111:certificate/c"})
    annotations = declared.one("kubernetes:networking.k8s.io/v1:Ingress")["metadata"]["annotations"]
    assert annotations["alb.ingress.kubernetes.io/listen-ports"] == '[{"HTTPS":443}]'
    assert annotations["alb.ingress.kubernetes.io/scheme"] == "internal"


@pytest.mark.parametrize(
    ("uri", "port"),
    [
        ("postgresql://user:hunter2@db/mlflow", 5432),
        ("postgresql://user:hunter2@db:6432/mlflow", 6432),
        ("postgresql://user:hunter2@/mlflow?host=db&port=7432", 7432),
        ("postgresql://user:hunter2@[2001:db8::1]:8432/mlflow", 8432),
    ],
)
def test_the_server_may_connect_to_the_port_of_its_database(uri, port):
    policy = registry(postgres_uri=uri).one("kubernetes:networking.k8s.io/v1:NetworkPolicy")
    assert {"port": port, "protocol": "TCP"} in policy["spec"]["egress"][0]["ports"]


def test_an_existing_postgres_needs_no_volume():
    declared = registry(postgres_uri="postgresql://user:password@db/mlflow")
    assert declared.all("kubernetes:core/v1:PersistentVolumeClaim") == {}
    assert declared.one(SECRET)["stringData"]["database"] == "postgresql+psycopg://user:password@db/mlflow"


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg"])
def test_the_database_is_reached_with_the_driver_of_the_image(scheme):
    secret = registry(postgres_uri=f"{scheme}://user:p%40ss@db/mlflow?sslmode=require").one(SECRET)["stringData"]
    assert secret["database"] == "postgresql+psycopg://user:p%40ss@db/mlflow?sslmode=require"
    assert "database_uri = postgresql+psycopg://user:p%%40ss@db/mlflow?sslmode=require" in secret["auth.ini"]


@pytest.mark.parametrize(
    ("uri", "found"),
    [
        ("postgresql+psycopg2://user:hunter2@db/mlflow", r"got postgresql\+psycopg2://…"),
        ("mysql://user:hunter2@db/mlflow", "got mysql://…"),
        ("user:hunter2@db/mlflow", "got a text without ://"),
        ("", "got a text without ://"),
        ("postgresql://user:hunter 2@db/mlflow", "one line without blanks"),
        ("postgresql://user:hunter2@db/mlflow\nadmin_username = eve", "one line without blanks"),
    ],
)
def test_another_database_is_refused_and_its_password_is_in_no_message(uri, found):
    with pytest.raises(ValueError, match=found) as refused:
        registry(postgres_uri=uri)
    assert "hunter" not in str(refused.value)


def test_the_server_may_touch_its_artifacts_and_no_bundle_and_deletes_no_dump():
    allowed = actions(registry())
    own, dumps = "arn:aws:s3:::registry-artifacts/artifacts/*", "arn:aws:s3:::registry-artifacts/backups/*"
    assert allowed["s3:PutObject"] == allowed["s3:GetObject"] == [own, dumps]
    assert allowed["s3:DeleteObject"] == [own]
    assert conditions(registry())["cloudwatch:PutMetricData"] == {
        "StringEquals": {"cloudwatch:namespace": "modelworks/registry"}
    }


def test_an_embedded_database_is_dumped_beside_its_server_and_restored_before_it():
    declared = registry(backup_hours=6)
    spec = declared.one(DEPLOYMENT)["spec"]["template"]["spec"]
    (restore,), (server, backup) = spec["initContainers"], spec["containers"]
    assert restore["args"] == ["restore", "s3://registry-artifacts/backups"]
    assert backup["args"] == ["keep", "s3://registry-artifacts/backups", "--hours=6"]
    for each in (restore, backup):
        assert (each["image"], each["workingDir"]) == (server["image"], server["workingDir"])
        assert each["securityContext"] == server["securityContext"]
        assert [mount["name"] for mount in each["volumeMounts"]] == ["data", "scratch"]


def test_no_password_is_within_reach_of_dumps():
    found = containers(registry())
    assert "secretKeyRef" not in json.dumps([found["restore"], found["backup"]])


def test_a_device_is_for_the_server_alone():
    found = containers(registry(pod={"extended_resources": {"nvidia.com/gpu": 1}}))
    assert found["mlflow"]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert "nvidia.com/gpu" not in found["backup"]["resources"]["limits"]


def test_dumps_are_kept_for_days_and_artifacts_for_good():
    rules = {
        name: [(rule["filter"], rule["expiration"]) for rule in found["rules"] if "expiration" in rule]
        for name, found in registry(backup_days=7).all(LIFECYCLE).items()
    }
    assert rules == {
        "registry-artifacts-lifecycle": [({"prefix": "backups/"}, {"days": 7})],
        "registry-bundles-lifecycle": [],
    }


@pytest.mark.parametrize("given", [{"backup_hours": None}, {"postgres_uri": "postgresql://user:password@db/mlflow"}])
def test_without_dumps_nothing_of_them_is_declared(given):
    declared = registry(**given, alerts_topic_arn=TRAINING["alerts_topic_arn"])
    assert set(containers(declared)) == {"mlflow"}
    assert "backups" not in json.dumps([declared.one(ROLE_POLICY), declared.all(LIFECYCLE)])
    assert set(declared.all(ALARM)) == {"registry-unanswered"}


def test_an_old_dump_and_a_silent_sidecar_page():
    alarms = registry(backup_hours=12, alerts_topic_arn=TRAINING["alerts_topic_arn"]).all(ALARM)
    alarm = alarms["registry-stale-backup"]
    assert (alarm["namespace"], alarm["metricName"]) == ("modelworks/registry", "backup_age")
    assert alarm["dimensions"] == {"bucket": "registry-artifacts"}
    assert (alarm["threshold"], alarm["comparisonOperator"]) == (86_400, "GreaterThanThreshold")
    assert alarm["treatMissingData"] == "breaching"
    assert alarm["alarmActions"] == [TRAINING["alerts_topic_arn"]]


def test_without_a_topic_there_is_no_alarm_and_no_uptime_check():
    declared = registry()
    assert declared.all(ALARM) == {}
    assert set(declared.all(DEPLOYMENT)) == {"registry-server"}


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"backup_hours": 0}, "backup_hours must be at least 1, got 0"),
        ({"backup_days": 0}, "backup_days must be at least 1, got 0"),
        ({"backup_hours": 24, "backup_days": 1}, "backup_days must last for two dumps, 48 hours, got 1"),
    ],
)
def test_dumps_of_which_none_may_be_left_are_refused(given, problem):
    with pytest.raises(ValueError, match=problem):
        registry(**given)


def test_runs_have_a_namespace_of_their_own_that_admits_restricted_pods_only():
    labels = training().one("kubernetes:core/v1:Namespace")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


def test_runs_share_a_quota():
    quota = training(cpu_millicores=2000).one("kubernetes:core/v1:ResourceQuota")["spec"]["hard"]
    assert quota == {"requests.cpu": "2000m", "requests.memory": "16384Mi", "count/jobs.batch": "20"}


def below(*prefixes: str) -> list[str]:
    return [f"arn:aws:s3:::artifacts/{prefix}/*" for prefix in prefixes]


def test_runs_keep_data_and_results_plant_no_finished_run_and_delete_nothing():
    allowed = actions(training())
    assert allowed["s3:PutObject"] == below("data", "jobs")
    assert allowed["s3:GetObject"] == below("sources", "data", "runs")
    assert not any("Delete" in action for action in allowed)


def conditions(declared) -> dict[str, object]:
    statements = json.loads(declared.one(ROLE_POLICY)["policy"])["Statement"]
    return {action: rule.get("Condition") for rule in statements for action in rule["Action"]}


def test_a_run_cannot_publish_an_endpoint_s_metrics():
    condition = conditions(training())["cloudwatch:PutMetricData"]
    assert condition == {"StringEquals": {"cloudwatch:namespace": "modelworks/training"}}
    assert training().one("aws:cloudwatch/metricAlarm:MetricAlarm")["namespace"] == "modelworks/training"


def test_a_run_cannot_find_where_another_hands_its_result_over():
    declared = training()
    assert conditions(declared)["s3:ListBucket"] == {"StringLike": {"s3:prefix": ["data/*", "runs/*"]}}
    assert not any("/jobs/" in resource for resource in actions(declared)["s3:GetObject"])


def test_runs_reach_name_servers_and_tls_and_nobody_reaches_them():
    policy = training().all("kubernetes:networking.k8s.io/v1:NetworkPolicy")["training"]["spec"]
    anywhere = [rule for rule in policy["egress"] if "to" not in rule]
    assert {port["port"] for rule in anywhere for port in rule["ports"]} == {53, 443}
    assert (policy["policyTypes"], "ingress" in policy) == (["Ingress", "Egress"], False)


def test_a_place_is_all_that_a_run_is_made_of():
    found: dict[str, object] = {}

    def program() -> None:
        made = TrainingCompute("training", {**TRAINING, "retries": 0})
        made.place.apply(found.update)

    declare(program)
    assert TrainingEnvironment.of(found) == TrainingEnvironment(
        namespace="modelworks-dev-training",
        service_account="training-runs",
        artifact_bucket="artifacts",
        image="registry.example/training@sha256:" + "0" * 64,
        run_cpu_millicores=1000,
        run_memory_mib=2048,
        active_deadline_seconds=3600,
        retries=0,
        ttl_seconds_after_finished=86_400,
        pod=defaults.POD,
        feature_history="",
    )


def test_runs_read_the_history_of_features_and_write_none():
    declared = training(feature_history="s3://features/data")
    statements = json.loads(declared.one(ROLE_POLICY)["policy"])["Statement"]
    rules = [rule for rule in statements if "features" in str(rule["Resource"])]
    assert [(rule["Action"], rule["Resource"], rule.get("Condition")) for rule in rules] == [
        (["s3:GetObject"], ["arn:aws:s3:::features/data/*"], None),
        (["s3:ListBucket"], ["arn:aws:s3:::features"], {"StringLike": {"s3:prefix": ["data/*"]}}),
    ]


def test_a_failed_run_is_an_alarm():
    alarm = training().one("aws:cloudwatch/metricAlarm:MetricAlarm")
    assert (alarm["metricName"], alarm["threshold"], alarm["dimensions"]) == ("run_failed", 0, {"environment": "dev"})


@pytest.mark.parametrize("name", ["volume_gib", "noncurrent_days"])
def test_a_registry_that_keeps_nothing_is_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        registry(**{name: 0})


def test_a_quota_of_nothing_is_refused():
    with pytest.raises(ValueError, match="max_jobs must be at least 1, got 0"):
        training(max_jobs=0)


def test_a_run_that_exceeds_the_quota_is_refused():
    with pytest.raises(ValueError, match=r"run_memory_mib must be at most memory_mib \(1024\), got 2048"):
        training(memory_mib=1024)
