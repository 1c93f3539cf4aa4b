"""An account of a strict laptop, in a process of its own."""

from __future__ import annotations

import base64
import json
import time

import boto3
import pytest
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import ClientError
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from laptop.test_aws_account import Account
from modelworks.laptop import pki

ACCOUNT = "000000000000"
ISSUER = "laptop.modelworks.internal"
SUBJECT = "system:serviceaccount:models:serving"
ROOT = {"AWS": f"arn:aws:iam::{ACCOUNT}:root"}
BUCKET = "arn:aws:s3:::store"


def allow(action, resource="*", **more):
    return {"Effect": "Allow", "Action": action, "Resource": resource, **more}


def document(*statements):
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})


SESSION = f"arn:aws:sts::{ACCOUNT}:assumed-role/serving/pod"
"""Whom a pod is for AWS."""
KEY_POLICY = document({"Effect": "Allow", "Principal": ROOT, "Action": "kms:*", "Resource": "*"})


class Strict(Account):
    """An account that enforces IAM, with a bucket `store`, a key that encrypts it, and a role to give policies to."""

    def __init__(self, place):
        self.signer = pki.new_key()
        (place.cluster / "pki").mkdir(parents=True)
        place.logs.mkdir()
        (place.root / "laptop.json").write_text('{"strict": true, "metrics_delay": 1}')
        (place.cluster / "pki" / "service-accounts.pub").write_text(pki.public_key(self.signer))
        super().__init__(place)
        self.key = self.new_key()
        s3 = self.client("s3")
        s3.create_bucket(Bucket="store", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
        rule = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": self.key}}
        s3.put_bucket_encryption(Bucket="store", ServerSideEncryptionConfiguration={"Rules": [rule]})
        s3.put_object(Bucket="store", Key="models/a", Body=b"weights")
        trust = {"Effect": "Allow", "Principal": {"Federated": f"arn:aws:iam::{ACCOUNT}:oidc-provider/{ISSUER}"},
                 "Action": "sts:AssumeRoleWithWebIdentity",
                 "Condition": {"StringEquals": {f"{ISSUER}:sub": SUBJECT, f"{ISSUER}:aud": "sts.amazonaws.com"}},
                 }  # fmt: skip
        owner = {"Effect": "Allow", "Principal": ROOT, "Action": "sts:AssumeRole"}
        self.role = self.client("iam").create_role(
            RoleName="serving",
            AssumeRolePolicyDocument=document(trust, owner),
            Tags=[{"Key": "team", "Value": "models"}],
        )
        self.role_arn = self.role["Role"]["Arn"]

    def new_key(self, policy=KEY_POLICY):
        return self.client("kms").create_key(Policy=policy)["KeyMetadata"]["Arn"]

    def token(self, *, key=None, **claims):
        found = {"sub": SUBJECT, "aud": ["sts.amazonaws.com"], "exp": time.time() + 60, **claims}
        parts = b".".join(base64.urlsafe_b64encode(json.dumps(each).encode()).rstrip(b"=")
                          for each in ({"alg": "ES256"}, found))  # fmt: skip
        signer = serialization.load_pem_private_key((key or self.signer).encode(), None)
        raw = b"".join(each.to_bytes(32, "big")
                       for each in decode_dss_signature(signer.sign(parts, ec.ECDSA(hashes.SHA256()))))  # fmt: skip
        return (parts + b"." + base64.urlsafe_b64encode(raw).rstrip(b"=")).decode()

    def assume(self, token, role=None):
        sts = boto3.client("sts", endpoint_url=f"http://127.0.0.1:{self.port}", region_name="eu-central-1",
                           config=Config(signature_version=UNSIGNED))  # fmt: skip
        return sts.assume_role_with_web_identity(
            RoleArn=role or self.role_arn, RoleSessionName="pod", WebIdentityToken=token
        )["Credentials"]

    def pod(self, service, *statements):
        """A client of a pod whose role has these statements, and no others."""
        self.client("iam").put_role_policy(RoleName="serving", PolicyName="p", PolicyDocument=document(*statements))
        keys = self.assume(self.token())
        return self.client_with(service, keys["AccessKeyId"], keys["SecretAccessKey"], keys["SessionToken"])


def refused(call, **arguments):
    """Code, message and HTTP status of a refusal."""
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    answer = caught.value.response
    return answer["Error"]["Code"], answer["Error"].get("Message", ""), answer["ResponseMetadata"]["HTTPStatusCode"]
