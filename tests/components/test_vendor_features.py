"""A feature store of Hopsworks or Tecton: what their documentation asks an AWS account for, and no more."""

from __future__ import annotations

import json

import pytest

from mocks import ACCOUNT, declare
from modelworks import FeatureStore, ModelEndpoint
from smallest import SMALLEST

KEY = SMALLEST["FeatureStore"]["key_arn"]
TECTON = {
    "url": "https://acme.tecton.ai",
    "deployment": "acme-prod",
    "control_plane_account_id": "222222222222",
    "external_id": "from-tecton",
}
HOPSWORKS = {"url": "https://rdrs.example.com:4406", "repository": "ml/hopsworks-base"}
both = pytest.mark.parametrize(("engine", "vendor"), [("tecton", TECTON), ("hopsworks", HOPSWORKS)])
BUCKET = "aws:s3/bucket:Bucket"
SECRET = "aws:secretsmanager/secret:Secret"


def store(engine: str, vendor: dict | None, **args):
    given = {**SMALLEST["FeatureStore"], "engine": engine, "vendor": vendor, **args}
    return declare(lambda: FeatureStore("features", given))


def outputs(engine: str, vendor: dict) -> dict:
    found: dict = {}

    def program():
        made = FeatureStore("features", {**SMALLEST["FeatureStore"], "engine": engine, "vendor": vendor})
        made.vendor.apply(lambda told: found.update(vendor=told))
        made.place.apply(lambda place: found.update(place=place))
        found["tables"] = made.tables_of(["flight__delays"])

    declare(program)
    return found


def allowed(declared) -> dict[str, list[str]]:
    """The resources of each action that a policy of the vendor allows."""
    policies = declared.all("aws:iam/rolePolicy:RolePolicy") or declared.all("aws:iam/policy:Policy")
    (policy,) = policies.values()
    return {action: rule["Resource"] for rule in json.loads(policy["policy"])["Statement"] for action in rule["Action"]}


# -- Both ------------------------------------------------------------------------------------------------------------
@both
def test_nothing_of_feasts_store_is_declared(engine, vendor):
    declared = store(engine, vendor)
    assert not {token for token, _ in declared.resources} & {
        "aws:athena/workgroup:Workgroup",
        "aws:cloudwatch/metricAlarm:MetricAlarm",
        "aws:dynamodb/table:Table",
        "aws:glue/catalogDatabase:CatalogDatabase",
        "kubernetes:batch/v1:CronJob",
    }


@both
def test_the_bucket_is_private_encrypted_by_the_environments_key_versioned_and_protected(engine, vendor):
    declared = store(engine, vendor)
    (encryption,) = declared.all(
        "aws:s3/bucketServerSideEncryptionConfiguration:BucketServerSideEncryptionConfiguration"
    ).values()
    (rule,) = encryption["rules"]
    assert rule["applyServerSideEncryptionByDefault"] == {"sseAlgorithm": "aws:kms", "kmsMasterKeyId": KEY}
    (versioning,) = declared.all("aws:s3/bucketVersioning:BucketVersioning").values()
    assert versioning["versioningConfiguration"] == {"status": "Enabled"}
    (access,) = declared.all("aws:s3/bucketPublicAccessBlock:BucketPublicAccessBlock").values()
    assert access["restrictPublicBuckets"] is True
    assert declared.one(BUCKET) is not None


@both
def test_the_api_key_is_a_secret_that_the_environments_key_encrypts(engine, vendor):
    declared = store(engine, {**vendor, "api_key": "the-key"})
    assert declared.one(SECRET)["kmsKeyId"] == KEY
    version = declared.one("aws:secretsmanager/secretVersion:SecretVersion")
    assert "the-key" in json.dumps(version["secretString"])


@both
def test_without_a_key_the_secret_waits_for_somebody_to_fill_it_in(engine, vendor):
    declared = store(engine, vendor)
    assert declared.one(SECRET)["kmsKeyId"] == KEY
    assert declared.all("aws:secretsmanager/secretVersion:SecretVersion") == {}


@both
def test_the_store_names_no_tables_and_tells_what_the_vendor_needs(engine, vendor):
    found = outputs(engine, vendor)
    assert found["tables"] == {}
    assert found["place"]["engine"] == engine
    assert found["vendor"]["key_arn"] == KEY
    assert found["vendor"]["account_id"] == ACCOUNT
    assert ("role_arn" in found["vendor"], "policy_arn" in found["vendor"]) == (engine == "tecton", engine != "tecton")


# -- Tecton ----------------------------------------------------------------------------------------------------------
def test_tecton_assumes_its_role_by_the_external_id_alone():
    declared = store("tecton", TECTON)
    role = declared.one("aws:iam/role:Role")
    assert role["name"] == "tecton-acme-prod-cross-account-role"
    assert role["tags"]["tecton-accessible:acme-prod"] == "true"
    (trust,) = json.loads(role["assumeRolePolicy"])["Statement"]
    assert trust == {
        "Effect": "Allow",
        "Principal": {"AWS": "arn:aws:iam::222222222222:root"},
        "Action": "sts:AssumeRole",
        "Condition": {"StringEquals": {"sts:ExternalId": "from-tecton"}},
    }


def test_tecton_reaches_its_own_tables_and_its_own_bucket():
    may = allowed(store("tecton", TECTON))
    assert may["dynamodb:PutItem"] == [f"arn:aws:dynamodb:eu-central-1:{ACCOUNT}:table/tecton-acme-prod*"]
    assert may["s3:ListBucket"] == ["arn:aws:s3:::tecton-acme-prod"]
    assert may["s3:DeleteObject"] == [
        f"arn:aws:s3:::tecton-acme-prod/{prefix}/*"
        for prefix in ("offline-store", "rift-logs", "streaming-checkpoints")
    ]
    assert may["iam:GetRole"] == [f"arn:aws:iam::{ACCOUNT}:role/tecton-acme-prod-cross-account-role"]
    assert may["kms:Decrypt"] == [KEY]
    assert not [action for action in may if action.startswith(("ecr:", "ec2:", "secretsmanager:", "iam:Pass"))]
    assert [action for action, resources in may.items() if resources == ["*"]] == [
        "dynamodb:DescribeLimits",
        "dynamodb:ListTables",
    ]


def test_tectons_account_may_use_the_bucket_by_name_and_the_key_by_a_grant():
    declared = store("tecton", TECTON)
    assert declared.one(BUCKET)["bucket"] == "tecton-acme-prod"
    (policy,) = declared.all("aws:s3/bucketPolicy:BucketPolicy").values()
    transport, listing, objects = json.loads(policy["policy"])["Statement"]
    assert (transport["Effect"], transport["Condition"]) == ("Deny", {"Bool": {"aws:SecureTransport": "false"}})
    assert {each["Principal"]["AWS"] for each in (listing, objects)} == {"arn:aws:iam::222222222222:root"}
    assert objects["Action"] == ["s3:DeleteObject", "s3:GetObject", "s3:PutObject"]
    grant = declared.one("aws:kms/grant:Grant")
    assert (grant["keyId"], grant["granteePrincipal"]) == (KEY, "arn:aws:iam::222222222222:root")
    assert grant["operations"] == ["Decrypt", "DescribeKey", "Encrypt", "GenerateDataKey"]


# -- Hopsworks -------------------------------------------------------------------------------------------------------
def test_hopsworks_nodes_use_its_bucket_and_push_to_its_repository():
    declared = store("hopsworks", {**HOPSWORKS, "node_role": "hopsworks-nodes"})
    repository = declared.one("aws:ecr/repository:Repository")
    assert repository["name"] == "ml/hopsworks-base"
    assert repository["encryptionConfigurations"] == [{"encryptionType": "KMS", "kmsKey": KEY}]
    may = allowed(declared)
    assert may["s3:PutObject"] == ["arn:aws:mock:::features-hopsworks/*"]
    assert may["ecr:PutImage"] == ["arn:aws:mock:::features-hopsworks-images"]
    assert may["kms:GenerateDataKey"] == [KEY]
    assert not [action for action, resources in may.items() if "*" in resources]
    attached = declared.one("aws:iam/rolePolicyAttachment:RolePolicyAttachment")
    assert attached["role"] == "hopsworks-nodes"


def test_without_a_role_of_nodes_the_policy_is_attached_by_nobody():
    assert store("hopsworks", HOPSWORKS).all("aws:iam/rolePolicyAttachment:RolePolicyAttachment") == {}


# -- Mistakes --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("engine", "vendor", "message"),
    [
        ("sagemaker", None, "engine must be one of feast, hopsworks, tecton, got 'sagemaker'"),
        ("feast", TECTON, "vendor is for the engines hopsworks and tecton"),
        ("tecton", None, "the engine tecton needs vendor: control_plane_account_id, deployment, external_id, url"),
        ("tecton", HOPSWORKS, r"the engine tecton needs vendor\.control_plane_account_id"),
        ("hopsworks", {**HOPSWORKS, "external_id": "x"}, r"vendor\.external_id is not for the engine hopsworks"),
        ("tecton", {**TECTON, "url": "http://acme.tecton.ai"}, "must be https://HOST or https://HOST:PORT, got 'http:"),
        ("tecton", {**TECTON, "deployment": "A" * 30}, r"vendor\.deployment must be at most 21"),
        ("tecton", {**TECTON, "control_plane_account_id": "1"}, r"control_plane_account_id must be 12 digits, got '1'"),
        ("hopsworks", {**HOPSWORKS, "repository": "images"}, r"vendor\.repository must be NAMESPACE/hopsworks-base"),
    ],
)
def test_an_argument_that_cannot_work_is_refused(engine, vendor, message):
    with pytest.raises(ValueError, match=message):
        store(engine, vendor)


# -- The endpoint ----------------------------------------------------------------------------------------------------
API = {"url": "https://acme.tecton.ai", "key_secret_arn": f"arn:aws:secretsmanager:eu-central-1:{ACCOUNT}:secret:k-Ab"}


def test_pods_get_the_address_and_may_read_the_one_secret():
    release = {"digest": "sha256:" + "ab" * 32}
    given = {**SMALLEST["ModelEndpoint"], "release": release, "allow_anonymous": True, "feature_api": API}
    declared = declare(lambda: ModelEndpoint("churn", given))
    (container,) = declared.one("kubernetes:argoproj.io/v1alpha1:Rollout")["spec"]["template"]["spec"]["containers"]
    found = {item["name"]: item.get("value") for item in container["env"]}
    assert found["MODELWORKS_FEATURE_URL"] == API["url"]
    assert found["MODELWORKS_FEATURE_KEY_SECRET"] == API["key_secret_arn"]
    assert allowed(declared)["secretsmanager:GetSecretValue"] == [API["key_secret_arn"]]


def test_an_endpoint_without_a_vendor_may_read_no_secret():
    declared = declare(lambda: ModelEndpoint("churn", SMALLEST["ModelEndpoint"]))
    assert "secretsmanager:GetSecretValue" not in allowed(declared)


def test_an_address_without_tls_is_refused():
    given = {**SMALLEST["ModelEndpoint"], "feature_api": {**API, "url": "http://acme.tecton.ai"}}
    with pytest.raises(ValueError, match=r"feature_api\.url must be https://HOST"):
        declare(lambda: ModelEndpoint("churn", given))
