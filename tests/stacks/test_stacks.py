from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from typing import Any

import pytest
from ruamel.yaml import YAML

from mocks import ACCOUNT, ROOT, Declared, declare
from modelworks.errors import ModelworksError
from modelworks.feature_manifest import Service, read_manifest
from modelworks.laptop.agent import provisioner
from modelworks.stack import stack_config
from reference import FILES, SECRETS, evaluated

REAL = ["dev", "staging", "prod"]
TAGS = {"environment", "owner", "cost-centre", "project", "managed-by"}


@pytest.fixture(autouse=True)
def _no_laptop(monkeypatch):
    for name in [name for name in os.environ if name.startswith(("PULUMI_", "AWS_"))]:
        monkeypatch.delenv(name)


@pytest.mark.parametrize("stack", FILES)
def test_every_stack_declares_its_key_topic_and_budget(stack):
    declared = evaluated(stack)
    assert declared.one("aws:kms/key:Key")["enableKeyRotation"] is True
    assert declared.one("aws:sns/topic:Topic")["kmsMasterKeyId"] == f"arn:aws:mock:::{stack}-key"
    assert len(declared.all("aws:budgets/budget:Budget")) == 1


@pytest.mark.parametrize("stack", FILES)
def test_every_taggable_resource_of_every_stack_carries_the_required_tags(stack):
    tagged = {key: inputs["tags"] for key, inputs in evaluated(stack).resources.items() if "tags" in inputs}
    assert {token for token, _ in tagged} == {
        "aws:athena/workgroup:Workgroup",
        "aws:budgets/budget:Budget",
        "aws:cloudwatch/metricAlarm:MetricAlarm",
        "aws:dynamodb/table:Table",
        "aws:glue/catalogDatabase:CatalogDatabase",
        "aws:iam/role:Role",
        "aws:kms/key:Key",
        "aws:s3/bucket:Bucket",
        "aws:sns/topic:Topic",
    }
    assert all(set(tags) == TAGS and tags["environment"] == stack for tags in tagged.values())


@pytest.mark.parametrize("stack", FILES)
def test_every_stack_has_a_registry_and_a_place_to_train_but_no_pods_without_a_release(stack):
    declared = evaluated(stack)
    assert set(declared.all("kubernetes:core/v1:Namespace")) == {stack, "training"}
    assert set(declared.all("kubernetes:apps/v1:Deployment")) == {"registry-server", "registry-uptime"}
    assert declared.all("kubernetes:argoproj.io/v1alpha1:Rollout") == {}


@pytest.mark.parametrize("stack", FILES)
def test_a_release_line_is_all_that_an_endpoint_needs(stack):
    release = {"flight-delay": {"digest": "sha256:" + "ab" * 32, "version": 3}}
    tokens = {"modelworks:secrets": {**SECRETS, "tokens": {"flight-delay": "t0ken"}}}
    declared = evaluated(stack, **{"modelworks:releases": release}, **tokens)
    (template,) = [
        item["spec"]["template"] for item in declared.all("kubernetes:argoproj.io/v1alpha1:Rollout").values()
    ]
    assert template["metadata"]["annotations"]["modelworks.dev/digest"] == release["flight-delay"]["digest"]
    assert "@sha256:" in template["spec"]["containers"][0]["image"]


def test_the_registrys_volume_is_of_a_class_that_the_environments_key_encrypts():
    declared = evaluated("dev")
    claim = declared.one("kubernetes:core/v1:PersistentVolumeClaim")
    assert claim["spec"]["storageClassName"] == "modelworks-dev-encrypted"
    storage = declared.one("kubernetes:storage.k8s.io/v1:StorageClass")
    assert storage["metadata"]["name"] == "modelworks-dev-encrypted"
    assert storage["parameters"] == {"type": "gp3", "encrypted": "true", "kmsKeyId": "arn:aws:mock:::dev-key"}


def test_on_the_laptop_the_volume_is_of_the_laptops_own_class():
    declared = evaluated("local")
    claim = declared.one("kubernetes:core/v1:PersistentVolumeClaim")["spec"]
    assert claim["storageClassName"] == provisioner.storage_class(default=False)["metadata"]["name"]
    assert declared.all("kubernetes:storage.k8s.io/v1:StorageClass") == {}


def test_endpoints_come_after_the_argo_that_the_stack_installs():
    settings = YAML(typ="safe").load(FILES["dev"].read_text())["config"]["modelworks:settings"]
    settings["cluster"]["install_argo_rollouts"] = True
    release = {"flight-delay": {"digest": "sha256:" + "ab" * 32, "version": 3}}
    tokens = {"modelworks:secrets": {**SECRETS, "tokens": {"flight-delay": "t0ken"}}}
    declared = evaluated("dev", **{"modelworks:settings": settings, "modelworks:releases": release}, **tokens)
    # The children of a component are declared after it, and deleted before it.
    (endpoint,) = [each for urn, each in declared.requests().items() if "ModelEndpoint::" in urn]
    assert any("helm.sh/v3:Release::dev-argo-rollouts" in urn for urn in endpoint["dependencies"])


def with_a_cluster(**more: Any) -> Declared:
    """The stack `dev` with a release, in a cluster that it makes itself."""
    settings = YAML(typ="safe").load(FILES["dev"].read_text())["config"]["modelworks:settings"]
    settings["cluster"] |= {"eks": {"administrators": [f"arn:aws:iam::{ACCOUNT}:user/somebody"]}}
    del settings["cluster"]["oidc_issuer"]
    release = {"flight-delay": {"digest": "sha256:" + "ab" * 32, "version": 3}}
    tokens = {"modelworks:secrets": {**SECRETS, "tokens": {"flight-delay": "t0ken"}}}
    return evaluated("dev", **{"modelworks:settings": settings, "modelworks:releases": release}, **tokens, **more)


def test_everything_in_the_cluster_that_a_stack_makes_is_made_by_its_provider():
    declared = with_a_cluster()
    objects = {
        urn: each.get("provider", "")
        for urn, each in declared.requests().items()
        if each["type"].startswith("kubernetes:")
    }
    assert len(objects) > 20
    assert [urn for urn, provider in objects.items() if "::modelworks-dev-kubernetes::" not in provider] == []
    assert declared.one("aws:eks/cluster:Cluster")["name"] == "modelworks-dev"


def test_a_cluster_that_a_stack_makes_has_all_that_it_needs():
    declared = with_a_cluster()
    assert declared.one("kubernetes:networking.k8s.io/v1:IngressClass")["spec"]["controller"] == "eks.amazonaws.com/alb"
    assert declared.one("kubernetes:storage.k8s.io/v1:StorageClass")["provisioner"] == "ebs.csi.eks.amazonaws.com"
    assert declared.one("kubernetes:helm.sh/v3:Release")["namespace"] == "argo-rollouts"
    assert "amazon-vpc-cni" in {
        each["metadata"].get("name") for each in declared.all("kubernetes:core/v1:ConfigMap").values()
    }


def test_pods_of_a_cluster_that_a_stack_makes_assume_roles_by_its_own_issuer():
    trusted = {
        principal
        for each in with_a_cluster().all("aws:iam/role:Role").values()
        for statement in json.loads(each["assumeRolePolicy"])["Statement"]
        if (principal := statement["Principal"].get("Federated"))
    }
    provider = "oidc-provider/oidc.eks.eu-central-1.amazonaws.com/id/0123"
    assert trusted == {f"arn:aws:iam::{ACCOUNT}:{provider}"}


def test_load_balancers_go_before_the_class_that_deletes_them():
    asked = with_a_cluster().requests()
    (registry,) = [each for urn, each in asked.items() if "ModelRegistry::registry" in urn]
    (endpoint,) = [each for urn, each in asked.items() if "ModelEndpoint::flight-delay" in urn]
    for each in (registry, endpoint):
        assert any("IngressClass::dev-ingress-class" in urn for urn in each["dependencies"])


def test_the_kubeconfig_signs_in_as_the_stack_does():
    role = {"aws:profile": "dev", "aws:assumeRoles": [{"roleArn": "arn:aws:iam::111111111111:role/deploy"}]}
    kubeconfig = json.loads(with_a_cluster(**role).one("pulumi:providers:kubernetes")["kubeconfig"])
    (user,) = kubeconfig["users"]
    assert user["user"]["exec"]["env"] == [{"name": "AWS_PROFILE", "value": "dev"}]
    assert user["user"]["exec"]["args"][-1] == "arn:aws:iam::111111111111:role/deploy"


OURS, THEIRS = "arn:aws:iam::111111111111:role/hub", "arn:aws:iam::222222222222:role/deploy"


@pytest.mark.parametrize(
    ("roles", "what"),
    [
        ([{"roleArn": OURS}, {"roleArn": THEIRS}], "2 roles"),
        ([{"roleArn": THEIRS, "externalId": "x"}], "a role with an externalId"),
    ],
)
def test_roles_that_a_kubeconfig_cannot_sign_in_with_are_refused(roles, what):
    with pytest.raises(ModelworksError, match=f"^aws:assumeRoles has {what}, and a kubeconfig signs in") as caught:
        with_a_cluster(**{"aws:assumeRoles": roles})
    assert "source_profile" in caught.value.fix


def test_a_chain_of_roles_is_the_providers_where_no_cluster_is_made():
    assert evaluated("dev", **{"aws:assumeRoles": [{"roleArn": OURS}, {"roleArn": THEIRS}]}).resources


@pytest.mark.parametrize(
    ("cluster", "message"),
    [
        (
            {"eks": {"administrators": []}},
            r"cluster\.eks\.administrators: administrators must name an IAM role or user",
        ),
        ({"eks": {"administrators": ["arn:aws:iam::111111111111:role/x"], "vpc_cidr": "10.0.0.0/8"}}, r"eks\.vpc_cidr"),
        (
            {"eks": {"administrators": ["arn:aws:iam::111111111111:role/x"]}, "auto_mode": False},
            "must be true or left out",
        ),
        ({"eks": {"administrators": ["arn:aws:iam::111111111111:role/x"]}}, "leave oidc_issuer out"),
        (
            {"eks": {key: ["arn:aws:iam::111111111111:role/x"] for key in ("administrators", "viewers")}},
            "viewers names arn:aws:iam::111111111111:role/x, which is one of the administrators",
        ),
        ({"enforce_network_policies": True}, "enforce_network_policies needs auto_mode: true"),
        ({"auto_mode": True, "ingress": {"group": "ours"}}, "EKS Auto Mode takes groups from an IngressClass alone"),
    ],
)
def test_mistakes_about_the_cluster_are_named_by_their_path(cluster, message):
    settings = YAML(typ="safe").load(FILES["dev"].read_text())["config"]["modelworks:settings"]
    settings["cluster"] |= cluster
    with pytest.raises(ModelworksError, match=message):
        evaluated("dev", **{"modelworks:settings": settings})


def test_stacks_differ_by_config_alone():
    embedded = {"kubernetes:core/v1:PersistentVolumeClaim", "kubernetes:storage.k8s.io/v1:StorageClass"}
    shapes = {
        stack: sorted(
            token
            for token, name in evaluated(stack).resources
            if token not in embedded and name != "registry-stale-backup"
        )
        for stack in REAL
    }
    assert shapes["dev"] == shapes["staging"] == shapes["prod"]


@pytest.mark.parametrize("stack", REAL)
def test_real_stacks_pin_their_account_and_encrypt_their_secrets_with_kms(stack):
    document = YAML(typ="safe").load(FILES[stack].read_text())
    assert document["secretsprovider"].startswith("awskms://")
    assert document["config"]["kubernetes:context"]


def test_accounts_are_never_shared_between_stacks():
    accounts = [
        account
        for path in FILES.values()
        for account in YAML(typ="safe").load(path.read_text())["config"]["aws:allowedAccountIds"]
    ]
    assert len(accounts) == len(set(accounts)) == len(FILES)


def test_prod_is_refused_with_credentials_of_dev():
    with pytest.raises(ModelworksError, match="pinned to account 333333333333"):
        evaluated("prod", account="111111111111")


def laptops_own(stack: str, cluster: dict, **endpoint: Any) -> list[str]:
    """The settings that a stack of a real account is refused for, as its messages name them."""
    settings = YAML(typ="safe").load(FILES[stack].read_text())["config"]["modelworks:settings"]
    settings["cluster"] = {name: value for name, value in (settings["cluster"] | cluster).items() if value is not None}
    settings["endpoints"]["flight-delay"] |= endpoint
    with pytest.raises(ModelworksError) as refused:
        evaluated(stack, **{"modelworks:settings": settings})
    assert all("and AWS is a real one" in line for line in refused.value.message.splitlines())
    return re.findall(
        rf"^stacks/Pulumi\.{stack}\.yaml: config\.modelworks:settings\.([\w.-]+): ", refused.value.message, re.MULTILINE
    )


STAND_IN = "modelworks.invalid/runtime@sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("cluster", "path"),
    [
        ({"oidc_issuer": None}, "cluster.oidc_issuer"),
        ({"oidc_issuer": "laptop.modelworks.internal"}, "cluster.oidc_issuer"),
        ({"domain": None}, "cluster.domain"),
        ({"domain": "localhost"}, "cluster.domain"),
        ({"domain": "dev.localhost"}, "cluster.domain"),
        ({"runtime_image": None}, "cluster.runtime_image"),
        ({"runtime_image": STAND_IN}, "cluster.runtime_image"),
        ({"registry_image": None}, "cluster.registry_image"),
        ({"training_image": None}, "cluster.training_image"),
    ],
)
def test_a_real_account_is_refused_what_only_a_laptop_serves(cluster, path):
    assert laptops_own("dev", cluster) == [path]


def test_everything_that_only_a_laptop_serves_is_listed_at_once():
    nothing = dict.fromkeys(["ingress", "oidc_issuer", "domain", "runtime_image", "registry_image", "training_image"])
    assert laptops_own("prod", nothing, host="model.localhost") == [
        "cluster.oidc_issuer",
        "cluster.domain",
        "endpoints.flight-delay.host",
        "registry.ingress.certificate_arn",
        "endpoints.flight-delay.ingress.certificate_arn",
        "cluster.registry_image",
        "cluster.training_image",
        "cluster.runtime_image",
    ]


def test_a_real_account_is_refused_datapoints_that_cloudwatch_does_not_show_in_time():
    path = "endpoints.flight-delay.limits.period_seconds"
    assert laptops_own("dev", {}, limits={"period_seconds": 10}) == [path]


@pytest.mark.parametrize("seconds", [10, 179])
def test_a_real_account_is_refused_steps_that_end_before_cloudwatch_shows_them(seconds):
    path = "endpoints.flight-delay.canary.step_seconds"
    assert laptops_own("dev", {}, canary={"step_seconds": seconds}) == [path]


def test_a_laptops_times_are_all_listed_at_once():
    path = "endpoints.flight-delay"
    found = laptops_own("dev", {}, limits={"period_seconds": 10}, canary={"step_seconds": 15})
    assert found == [f"{path}.limits.period_seconds", f"{path}.canary.step_seconds"]


def test_a_real_account_is_refused_passwords_and_tokens_without_tls():
    found = laptops_own("dev", {"ingress": None})
    assert found == ["registry.ingress.certificate_arn", "endpoints.flight-delay.ingress.certificate_arn"]


def test_an_endpoint_without_tokens_may_answer_plain_http():
    assert laptops_own("dev", {"ingress": None}, allow_anonymous=True) == ["registry.ingress.certificate_arn"]


@pytest.mark.parametrize("allow_anonymous", [False, True])
def test_a_real_account_is_refused_grpc_without_tls(allow_anonymous):
    found = laptops_own("dev", {"ingress": None}, grpc=True, allow_anonymous=allow_anonymous)
    assert found == ["registry.ingress.certificate_arn", "endpoints.flight-delay.ingress.certificate_arn"]


def test_a_host_states_what_is_different_about_its_load_balancer():
    settings = YAML(typ="safe").load(FILES["dev"].read_text())["config"]["modelworks:settings"]
    settings["cluster"]["ingress"]["inbound_cidrs"] = ["10.0.0.0/8"]
    settings["endpoints"]["flight-delay"]["ingress"] = {"visibility": "public", "inbound_cidrs": []}
    release = {"flight-delay": {"digest": "sha256:" + "ab" * 32, "version": 3}}
    tokens = {"modelworks:secrets": {**SECRETS, "tokens": {"flight-delay": "t0ken"}}}
    declared = evaluated("dev", **{"modelworks:settings": settings, "modelworks:releases": release}, **tokens)
    annotations = {
        name: inputs["metadata"]["annotations"]
        for name, inputs in declared.all("kubernetes:networking.k8s.io/v1:Ingress").items()
    }
    endpoint, registry = annotations["flight-delay"], annotations["registry-server"]
    prefix = "alb.ingress.kubernetes.io"
    assert endpoint[f"{prefix}/certificate-arn"] == registry[f"{prefix}/certificate-arn"]
    assert (endpoint[f"{prefix}/scheme"], registry[f"{prefix}/scheme"]) == ("internet-facing", "internal")
    assert f"{prefix}/inbound-cidrs" not in endpoint
    assert registry[f"{prefix}/inbound-cidrs"] == "10.0.0.0/8"


def test_a_domain_that_only_ends_like_the_laptops_is_a_real_one():
    settings = YAML(typ="safe").load(FILES["dev"].read_text())["config"]["modelworks:settings"]
    settings["cluster"]["domain"] = "notlocalhost"
    evaluated("dev", **{"modelworks:settings": settings})


def test_an_environment_without_a_cluster_needs_none_of_it():
    settings = {"owner": "me", "cost_centre": "1"}
    assert evaluated("dev", **{"modelworks:settings": settings}).all("kubernetes:core/v1:Namespace") == {}


FEATURES_IMAGE = "registry.example.com/modelworks/features@sha256:" + "0" * 64


def with_features(stack: str, **features: Any) -> dict[str, Any]:
    """The settings of a stack with other settings of its feature store."""
    settings = YAML(typ="safe").load(FILES[stack].read_text())["config"]["modelworks:settings"]
    cluster = {**settings.get("cluster", {}), "features_image": FEATURES_IMAGE}
    return {**settings, "cluster": cluster, "features": features}


@pytest.mark.parametrize("stack", FILES)
def test_a_line_of_the_settings_declares_a_feature_store(stack):
    declared = evaluated(stack, **{"modelworks:settings": with_features(stack, query_limit_gib=5)})
    assert "aws:athena/workgroup:Workgroup" in {token for token, _ in declared.resources}
    without = {**with_features(stack), "features": None, "endpoints": {}}
    assert evaluated(stack, **{"modelworks:settings": without}).all("aws:athena/workgroup:Workgroup") == {}
    configuration = declared.one("aws:athena/workgroup:Workgroup")["configuration"]
    assert configuration["bytesScannedCutoffPerQuery"] == 5 * 1024**3
    protected = declared.requests()
    bucket = next(request for urn, request in protected.items() if urn.endswith("::features-store"))
    assert bool(bucket.get("protect")) == (stack != "local")


@pytest.mark.parametrize("stack", FILES)
def test_a_feature_store_is_materialized_in_the_namespace_of_the_environment(stack):
    materialization = {"schedule": "*/15 * * * *", "memory_mib": 512}
    settings = with_features(stack, materialization=materialization)
    jobs = evaluated(stack, **{"modelworks:settings": settings}).all("kubernetes:batch/v1:CronJob")
    job = jobs["features-materialize"]
    (container,) = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    assert (job["metadata"]["namespace"], job["spec"]["schedule"]) == (f"modelworks-{stack}", "*/15 * * * *")
    assert (container["image"], container["resources"]["limits"]) == (FEATURES_IMAGE, {"memory": "512Mi"})


@pytest.mark.parametrize(("features", "left_out"), [({"materialization": None}, ()), ({}, ("registry", "training"))])
def test_where_nobody_asked_for_it_or_no_namespace_is_nothing_is_materialized(features, left_out):
    settings = {**with_features("dev", **features), "endpoints": {}}
    declared = evaluated("dev", **{"modelworks:settings": {k: v for k, v in settings.items() if k not in left_out}})
    assert declared.all("kubernetes:batch/v1:CronJob") == {}


def test_a_real_account_is_refused_the_stand_in_of_the_job_that_materializes():
    settings = with_features("dev")
    del settings["cluster"]["features_image"]
    with pytest.raises(ModelworksError, match=r"cluster\.features_image: the stand-in of the laptop"):
        evaluated("dev", **{"modelworks:settings": settings})


def reading(stack: str, monkeypatch, *services: str) -> dict[str, Any]:
    """Changes to a stack whose released model reads feature services of the example's manifest."""
    known = read_manifest(ROOT / "examples" / "feature-store")
    known = replace(known, services={**known.services, "history": Service(model="flights", features={"past": ("a",)})})
    monkeypatch.setattr("modelworks.stack.read_manifest", lambda _: known)
    settings = {**with_features(stack), "endpoints": {"flight-delay": {"feature_services": [*services]}}}
    return {
        "modelworks:settings": settings,
        "modelworks:releases": {"flight-delay": {"digest": "sha256:" + "ab" * 32}},
        "modelworks:secrets": {**SECRETS, "tokens": {"flight-delay": "t0ken"}},
    }


def test_a_feature_service_of_an_endpoint_gives_its_pods_the_tables_of_its_views(monkeypatch):
    changes = reading("dev", monkeypatch, "flight")
    declared = evaluated("dev", **changes)
    policy = json.loads(declared.all("aws:iam/rolePolicy:RolePolicy")["flight-delay-endpoint-policy"]["policy"])
    (reads,) = [rule for rule in policy["Statement"] if "dynamodb:BatchGetItem" in rule["Action"]]
    tables = [f"arn:aws:dynamodb:eu-central-1:{ACCOUNT}:table/features.{view}" for view in ("delays", "weather")]
    assert reads == {"Effect": "Allow", "Action": ["dynamodb:BatchGetItem"], "Resource": tables}
    (container,) = declared.one("kubernetes:argoproj.io/v1alpha1:Rollout")["spec"]["template"]["spec"]["containers"]
    (found,) = [item["value"] for item in container["env"] if item["name"] == "MODELWORKS_FEATURE_TABLES"]
    assert json.loads(found) == {"delays": "features.delays", "weather": "features.weather"}


VENDOR = {
    "url": "https://acme.tecton.ai",
    "deployment": "acme",
    "control_plane_account_id": "222222222222",
    "external_id": "from-tecton",
}


def test_an_endpoint_reads_a_vendors_feature_service_by_its_api_and_the_secret_of_its_key(monkeypatch):
    changes = reading("dev", monkeypatch, "flight")
    changes["modelworks:settings"]["features"] = {"engine": "tecton", "vendor": VENDOR}
    changes["modelworks:secrets"]["feature_api_key"] = "the-key-of-tecton"
    declared = evaluated("dev", **changes)
    (container,) = declared.one("kubernetes:argoproj.io/v1alpha1:Rollout")["spec"]["template"]["spec"]["containers"]
    found = {item["name"]: item.get("value") for item in container["env"]}
    secret = "arn:aws:mock:::features-api-key"
    assert (found["MODELWORKS_FEATURE_URL"], found["MODELWORKS_FEATURE_KEY_SECRET"]) == (VENDOR["url"], secret)
    assert "MODELWORKS_FEATURE_TABLES" not in found
    policy = json.loads(declared.all("aws:iam/rolePolicy:RolePolicy")["flight-delay-endpoint-policy"]["policy"])
    (reads,) = [rule for rule in policy["Statement"] if "secretsmanager:GetSecretValue" in rule["Action"]]
    assert reads["Resource"] == [secret]
    assert declared.all("aws:dynamodb/table:Table") == {}
    assert "the-key-of-tecton" not in json.dumps(container)


def test_an_endpoint_that_reads_nothing_gets_no_address_and_no_secret(monkeypatch):
    changes = reading("dev", monkeypatch)
    changes["modelworks:settings"]["features"] = {"engine": "tecton", "vendor": VENDOR}
    declared = evaluated("dev", **changes)
    (container,) = declared.one("kubernetes:argoproj.io/v1alpha1:Rollout")["spec"]["template"]["spec"]["containers"]
    assert "MODELWORKS_FEATURE_KEY_SECRET" not in {item["name"] for item in container["env"]}


@pytest.mark.parametrize(
    ("service", "message"),
    [
        ("flihgt", r"service 'flihgt', and models/features.json has none of that name; did you mean 'flight'\?"),
        ("history", "service 'history', whose view 'past' is not online"),
    ],
)
def test_a_feature_service_without_tables_is_refused_before_anything_is_declared(monkeypatch, service, message):
    changes = reading("dev", monkeypatch, service)
    with pytest.raises(ModelworksError, match=message) as error:
        evaluated("dev", **changes)
    assert "modelworks features apply" in error.value.fix


@pytest.mark.parametrize("name", ["prod_eu", "Prod", "1prod", "prod-", "p" * 41])
def test_a_stack_whose_name_no_namespace_can_have_is_refused_before_anything_is_declared(name):
    mocks = Declared()
    with pytest.raises(ModelworksError, match=f"the stack is called '{name}'"):
        declare(stack_config, stack=name, config={}, mocks=mocks)
    assert mocks.resources == {}
