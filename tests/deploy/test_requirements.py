"""What an account lacks, against an emulator."""

from __future__ import annotations

import boto3
import pytest
from botocore.stub import Stubber
from moto import mock_aws

from modelworks.deploy.account import account_of
from modelworks.deploy.requirements import (
    SecretsProvider,
    certificate,
    environment_key,
    image,
    oidc_provider,
    secrets_key,
)
from modelworks.errors import ModelworksError

REGION = "eu-central-1"
ISSUER = "oidc.eks.eu-central-1.amazonaws.com/id/1111"
SHELL = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"}
DIGEST = "sha256:" + "0" * 64


@pytest.fixture(autouse=True)
def account(monkeypatch):
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with mock_aws():
        yield account_of("dev", {"aws:region": REGION}, SHELL)


def aws(service):
    return boto3.client(service, region_name=REGION, aws_access_key_id="testing", aws_secret_access_key="testing")


def test_a_secrets_provider_is_read_as_the_engine_reads_it():
    found = SecretsProvider.of("awskms://alias/modelworks-dev-config?region=eu-central-1&profile=tools")
    assert (found.key, found.region, found.profile) == ("alias/modelworks-dev-config", "eu-central-1", "tools")
    assert SecretsProvider.of("awskms:///arn:aws:kms:eu-central-1:1:key/k").key == "arn:aws:kms:eu-central-1:1:key/k"
    assert SecretsProvider.of("passphrase") is SecretsProvider.of("") is SecretsProvider.of("gcpkms://k") is None


def test_a_secrets_key_must_be_there_and_enabled():
    url = f"awskms://alias/config?region={REGION}"
    assert secrets_key(url, SHELL, REGION).status == "missing"
    kms = aws("kms")
    key = kms.create_key()["KeyMetadata"]["KeyId"]
    kms.create_alias(AliasName="alias/config", TargetKeyId=key)
    assert secrets_key(url, SHELL, REGION).status == "ok"
    kms.disable_key(KeyId=key)
    found = secrets_key(url, SHELL, REGION)
    assert (found.status, found.fix) == ("missing", f"aws kms enable-key --key-id {key}")


def test_a_passphrase_is_no_key_of_an_account():
    assert "passphrase" in secrets_key("", SHELL, REGION).message


def test_a_key_that_is_to_be_deleted_can_be_brought_back(account):
    kms = aws("kms")
    key = kms.create_key()["KeyMetadata"]
    kms.schedule_key_deletion(KeyId=key["KeyId"])
    found = environment_key(account, key["Arn"])
    assert (found.status, "cancel-key-deletion" in found.fix) == ("missing", True)


def test_the_identity_provider_of_the_cluster_must_have_the_audience_of_sts(account):
    found = oidc_provider(account, ISSUER)
    assert (found.status, f"--url https://{ISSUER}" in found.fix) == ("missing", True)
    create = {"Url": f"https://{ISSUER}", "ThumbprintList": ["0" * 40]}
    made = aws("iam").create_open_id_connect_provider(**create, ClientIDList=["other"])
    found = oidc_provider(account, ISSUER)
    assert (found.status, "add-client-id" in found.fix) == ("missing", True)
    aws("iam").delete_open_id_connect_provider(OpenIDConnectProviderArn=made["OpenIDConnectProviderArn"])
    aws("iam").create_open_id_connect_provider(**create, ClientIDList=["sts.amazonaws.com"])
    assert oidc_provider(account, ISSUER).status == "ok"


def test_an_image_is_looked_up_by_its_digest_in_the_registry_that_holds_it(account):
    name = f"{account.id}.dkr.ecr.{REGION}.amazonaws.com/modelworks/runtime"
    assert image(account, "cluster.runtime_image", f"{name}@{DIGEST}").status == "missing"  # no repository
    ecr = aws("ecr")
    ecr.create_repository(repositoryName="modelworks/runtime")
    assert image(account, "cluster.runtime_image", f"{name}@{DIGEST}").status == "missing"
    manifest = '{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json"}'
    pushed = ecr.put_image(repositoryName="modelworks/runtime", imageManifest=manifest, imageTag="v1")
    digest = pushed["image"]["imageId"]["imageDigest"]
    assert image(account, "cluster.runtime_image", f"{name}@{digest}").status == "ok"


def test_an_image_of_another_registry_is_not_looked_up(account):
    assert image(account, "cluster.runtime_image", f"registry.example.com/runtime@{DIGEST}").status == "skipped"


def issued(account, domain, *, status="ISSUED"):
    """An account whose ACM has a certificate of that status: the emulator issues when it likes."""
    acm = aws("acm")
    arn = f"arn:aws:acm:{REGION}:{account.id}:certificate/c"
    stubbed = Stubber(acm)
    facts = {"CertificateArn": arn, "DomainName": domain, "Status": status}
    stubbed.add_response("describe_certificate", {"Certificate": facts}, {"CertificateArn": arn})
    stubbed.activate()
    account.session.client = lambda _: acm
    return arn


@pytest.mark.parametrize(
    ("domain", "host", "status", "verdict"),
    [
        ("churn.example.com", "churn.example.com", "ISSUED", "ok"),
        ("*.example.com", "churn.example.com", "ISSUED", "ok"),
        ("*.example.com", "churn.dev.example.com", "ISSUED", "missing"),
        ("*.example.com", "churn.example.com", "PENDING_VALIDATION", "missing"),
    ],
)
def test_a_certificate_must_be_issued_and_cover_the_host(account, domain, host, status, verdict):
    assert certificate(account, "setting", issued(account, domain, status=status), host).status == verdict


def test_a_certificate_of_another_region_is_refused_with_the_request_for_one_here(account):
    found = certificate(account, "setting", "arn:aws:acm:us-east-1:1:certificate/c", "churn.example.com")
    assert (found.status, f"--region {REGION}" in found.fix) == ("missing", True)


def test_a_certificate_that_is_not_there_is_missing(account):
    found = certificate(account, "setting", f"arn:aws:acm:{REGION}:{account.id}:certificate/c", "churn.example.com")
    assert found.status == "missing"


def test_a_call_that_aws_refuses_proves_nothing(account):
    iam = aws("iam")
    stubbed = Stubber(iam)
    stubbed.add_client_error("get_open_id_connect_provider", "AccessDenied")
    stubbed.activate()
    account.session.client = lambda _: iam
    with pytest.raises(ModelworksError, match="AWS refuses GetOpenIDConnectProvider: AccessDenied"):
        oidc_provider(account, ISSUER)
