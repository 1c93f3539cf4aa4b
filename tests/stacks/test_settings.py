from __future__ import annotations

import pytest
from pydantic import ValidationError

from modelworks.settings import Canary, Endpoint, Registry, Settings, StackConfig, Training

GOOD = {"owner": "ml-platform", "cost_centre": "4711"}


def test_every_default_is_a_safe_one():
    settings = Settings(**GOOD, registry={}, endpoints={"flight-delay": {}})
    endpoint = settings.endpoints["flight-delay"]
    assert (endpoint.allow_anonymous, endpoint.minimum_replicas, endpoint.ingress.visibility) == (False, 2, "internal")
    assert settings.key_deletion_days == 30


@pytest.mark.parametrize("part", [{"endpoints": {"flight-delay": {}}}, {"training": {}}])
def test_endpoints_and_training_without_a_registry_are_contradictory(part):
    with pytest.raises(ValidationError, match="need a registry"):
        Settings(**GOOD, **part)


def test_a_schedule_that_no_cluster_takes_is_refused():
    with pytest.raises(ValidationError, match=r"features\.materialization\.schedule"):
        Settings(**GOOD, features={"materialization": {"schedule": "61 * * * *"}})


def test_an_endpoint_that_reads_features_without_a_feature_store_is_contradictory():
    reading = {"registry": {}, "endpoints": {"flight-delay": {"feature_services": ["flight"]}}}
    assert Settings(**GOOD, **reading, features={}).endpoints["flight-delay"].feature_services == ["flight"]
    with pytest.raises(ValidationError, match=r"endpoints\.flight-delay\.feature_services needs a feature store"):
        Settings(**GOOD, **reading)


TECTON = {
    "url": "https://acme.tecton.ai",
    "deployment": "acme",
    "control_plane_account_id": "222222222222",
    "external_id": "from-tecton",
}


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({"engine": "tecton"}, "the engine tecton needs vendor: its url, deployment, control_plane_account_id"),
        ({"vendor": TECTON}, "vendor is for the engines hopsworks and tecton: state engine too"),
        ({"engine": "hopsworks", "vendor": {"url": "https://h"}}, r"the engine hopsworks needs vendor\.repository"),
        (
            {"engine": "hopsworks", "vendor": {**TECTON, "repository": "a/hopsworks-base"}},
            r"vendor\.deployment is not for",
        ),
        ({"engine": "tecton", "vendor": {**TECTON, "url": "http://acme.tecton.ai"}}, r"features\.vendor\.url"),
        ({"engine": "sagemaker"}, r"features\.engine"),
    ],
)
def test_a_feature_store_of_a_vendor_states_all_that_its_engine_needs_and_no_more(features, message):
    with pytest.raises(ValidationError, match=message):
        Settings(**GOOD, features=features)


def test_nothing_of_a_vendors_features_is_materialized_here():
    found = Settings(**GOOD, registry={}, features={"engine": "tecton", "vendor": TECTON})
    assert found.materialization is None
    assert Settings(**GOOD, registry={}, features={}).materialization is not None


@pytest.mark.parametrize("steps", [[50, 10], [10, 10]])
def test_steps_that_do_not_grow_are_refused(steps):
    with pytest.raises(ValidationError, match="steps must grow"):
        Canary(steps=steps)


def test_probes_that_would_be_a_load_test_are_refused():
    assert Canary(minimum_requests=100_000).probes is False
    with pytest.raises(ValidationError, match="probes would be 51 requests per second"):
        Canary(minimum_requests=3825, probes=True)


def test_a_run_fits_into_what_all_runs_have_together():
    assert Training(memory_mib=1024, run_memory_mib=1024).run_memory_mib == 1024
    with pytest.raises(ValidationError, match=r"run_memory_mib must be at most memory_mib \(1024\), got 1025"):
        Training(memory_mib=1024, run_memory_mib=1025)


def test_fewer_pods_at_most_than_at_least_are_refused():
    assert Endpoint(minimum_replicas=3, maximum_replicas=3).maximum_replicas == 3
    with pytest.raises(ValidationError, match=r"at least minimum_replicas \(3\), got 2"):
        Endpoint(minimum_replicas=3, maximum_replicas=2)


def test_settings_are_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        Settings(**GOOD).owner = "another"


def test_every_setting_is_described():
    undescribed = [
        f"{name}.{field}"
        for name, definition in StackConfig.model_json_schema()["$defs"].items()
        for field, facts in definition["properties"].items()
        if "description" not in facts
    ]
    assert undescribed == []


def hosts(first: dict, second: dict, **shared) -> dict:
    certificate = "arn:aws:acm:eu-central-1:111122223333:certificate/c"
    cluster = {"ingress": {"certificate_arn": certificate, **shared}}
    endpoints = {"flight-delay": {"ingress": first}, "plane-seats": {"ingress": second}}
    return {**GOOD, "registry": {}, "cluster": cluster, "endpoints": endpoints}


def test_grpc_is_refused_where_load_balancers_take_no_group_from_an_ingress():
    endpoints = {"flight-delay": {"grpc": True, "allow_anonymous": True}}
    with pytest.raises(ValidationError, match=r"endpoints\.flight-delay\.grpc takes a group .*auto_mode: false"):
        Settings(**GOOD, registry={}, endpoints=endpoints, cluster={"auto_mode": True})
    assert Settings(**GOOD, registry={}, endpoints=endpoints).endpoints["flight-delay"].grpc


def test_a_group_for_all_hosts_is_stated_once():
    settings = Settings(**hosts({}, {"group": None}, group="modelworks-dev"))
    assert {path: each.group for path, each in settings.ingresses.items()} == {
        "registry": "modelworks-dev",
        "endpoints.flight-delay": "modelworks-dev",
        "endpoints.plane-seats": None,
    }


@pytest.mark.parametrize(
    ("first", "second"),
    [({"visibility": "public"}, {}), ({"inbound_cidrs": ["10.0.0.0/8"]}, {"inbound_cidrs": ["10.1.0.0/16"]})],
)
def test_hosts_that_share_a_load_balancer_agree_about_who_may_reach_it(first, second):
    with pytest.raises(ValidationError, match=r"share the load balancer of group 'g', and so need the same"):
        Settings(**hosts({**first, "group": "g"}, {**second, "group": "g"}))
    assert Settings(**hosts({**first, "group": "g"}, {**second, "group": "h"})).endpoints


@pytest.mark.parametrize(
    ("addition", "message"),
    [
        ({"pod": {"extended_resources": {"gpu": 1}}}, "must be the resource of a device, such as nvidia.com/gpu"),
        ({"pod": {"extended_resources": {"nvidia.com/gpu": 0}}}, "greater than or equal to 1"),
        ({"pod": {"tolerations": [{"operator": "Equal"}]}}, "operator Equal needs a key"),
        ({"pod": {"labels": {"app.kubernetes.io/name": "mine"}}}, "is a key by which pods are found"),
        ({"pod": {"image_pull_secrets": ["no secret"]}}, "must be the name of a Secret"),
        ({"permissions": [{"actions": ["s3:*"], "resources": ["arn:aws:s3:::b"]}]}, "must be named one by one"),
        ({"permissions": [{"actions": ["s3:GetObject"], "resources": ["*"]}]}, "must be an ARN"),
        ({"egress": [{"cidr": "10.0.0.1/8", "ports": [443]}]}, "has host bits set"),
        ({"egress": [{"cidr": "10.0.0.0/8", "ports": []}]}, "at least 1 item"),
        ({"egress": [{"cidr": "10.0.0.0/8", "ports": [0]}]}, "greater than or equal to 1"),
        ({"permissions": [{"actions": [], "resources": ["arn:aws:s3:::b"]}]}, "at least 1 item"),
    ],
)
@pytest.mark.parametrize("model", [Endpoint, Training, Registry])
def test_an_addition_that_the_cluster_or_aws_would_refuse_is_refused(model, addition, message):
    with pytest.raises(ValidationError, match=message):
        model(**addition)


@pytest.mark.parametrize(
    ("registry", "problem"),
    [
        ({"database": "postgres", "backup_hours": 24}, "backups of a PostgreSQL are up to whoever runs it"),
        ({"backup_hours": 168, "backup_days": 7}, "backup_days must last for two dumps, 336 hours, got 7"),
        ({"backup_hours": 0}, "greater than or equal to 1"),
    ],
)
def test_backups_that_would_not_be_made_or_kept_are_refused(registry, problem):
    with pytest.raises(ValidationError, match=problem):
        Settings(**GOOD, registry=registry)


def test_a_postgres_needs_no_word_about_backups():
    assert Settings(**GOOD, registry={"database": "postgres", "backup_hours": None}).registry
    assert Settings(**GOOD, registry={"database": "postgres"}).registry
