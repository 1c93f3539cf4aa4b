"""A strict account of the laptop, asked by roles and users: in a process of its own, through boto3."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import boto3
import pytest
from botocore import UNSIGNED
from botocore.config import Config

from laptop.authorization.strict_account import ACCOUNT, BUCKET, SESSION, allow, document, refused
from modelworks.laptop import cloud, pki
from waiting import eventually

READ = allow("s3:GetObject", f"{BUCKET}/models/*")
OPEN = allow("kms:Decrypt")


def test_a_role_may_do_what_its_policies_say(account):
    s3 = account.pod("s3", READ, OPEN)
    assert s3.get_object(Bucket="store", Key="models/a")["Body"].read() == b"weights"


def test_a_role_with_one_permission_less_is_refused_in_the_words_of_s3(account):
    s3 = account.pod("s3", OPEN)
    code, message, status = refused(s3.get_object, Bucket="store", Key="models/a")
    assert (code, status) == ("AccessDenied", 403)
    assert message == (
        f'User: {SESSION} is not authorized to perform: s3:GetObject on resource: "{BUCKET}/models/a" because no '
        "identity-based policy allows the s3:GetObject action"
    )


def test_an_encrypted_object_needs_its_key_too(account):
    s3 = account.pod("s3", READ, allow("s3:PutObject", f"{BUCKET}/*"))
    code, message, _ = refused(s3.get_object, Bucket="store", Key="models/a")
    assert code == "AccessDenied"
    assert "perform: kms:Decrypt on resource: " in message
    assert "perform: kms:GenerateDataKey on" in refused(s3.put_object, Bucket="store", Key="b", Body=b"")[1]


def test_an_upload_in_parts_reads_what_it_wrote(account):
    s3 = account.pod("s3", allow(["s3:PutObject", "s3:GetObject"], f"{BUCKET}/*"), allow("kms:GenerateDataKey"))
    upload = s3.create_multipart_upload(Bucket="store", Key="models/b")["UploadId"]
    part = {"Bucket": "store", "Key": "models/b", "UploadId": upload, "PartNumber": 1, "Body": b"x"}
    assert "perform: kms:Decrypt" in refused(s3.upload_part, **part)[1]


def test_a_key_whose_policy_names_nobody_opens_for_no_policy_of_a_role(account):
    admin = {"AWS": f"arn:aws:iam::{ACCOUNT}:user/admin"}
    key = account.new_key(document({"Effect": "Allow", "Principal": admin, "Action": "kms:*", "Resource": "*"}))
    blob = account.client("kms").encrypt(KeyId=key, Plaintext=b"x")["CiphertextBlob"]
    kms = account.pod("kms", allow("kms:*"))
    code, message, status = refused(kms.decrypt, CiphertextBlob=blob)
    assert (code, status) == ("AccessDeniedException", 400)
    assert message.endswith("because no resource-based policy allows the kms:Decrypt action")


def test_a_bucket_policy_that_denies_wins(account):
    deny = {"Effect": "Deny", "Principal": "*", "Action": "s3:PutObject", "Resource": f"{BUCKET}/locked/*"}
    plain = {"Effect": "Deny", "Principal": "*", "Action": "s3:*", "Resource": f"{BUCKET}/*",
             "Condition": {"Bool": {"aws:SecureTransport": "false"}}}  # fmt: skip
    account.client("s3").put_bucket_policy(Bucket="store", Policy=document(deny, plain))
    s3 = account.pod("s3", allow("s3:*"), allow("kms:*"))
    try:
        s3.put_object(Bucket="store", Key="open/a", Body=b"")
        message = refused(s3.put_object, Bucket="store", Key="locked/a", Body=b"")[1]
    finally:
        account.client("s3").delete_bucket_policy(Bucket="store")
    assert message.endswith("with an explicit deny in a resource-based policy")


def test_a_missing_object_is_not_found_for_who_may_list_and_forbidden_else(account):
    blind = account.pod("s3", READ, OPEN)
    assert refused(blind.get_object, Bucket="store", Key="models/none")[0::2] == ("AccessDenied", 403)
    assert refused(blind.head_object, Bucket="store", Key="models/none")[2] == 403
    narrow = {"StringLike": {"s3:prefix": "models/*"}}
    sees = account.pod("s3", READ, OPEN, allow("s3:ListBucket", BUCKET, Condition=narrow))
    assert refused(sees.get_object, Bucket="store", Key="models/none")[0] == "NoSuchKey"


def test_listing_is_for_the_prefix_of_the_condition(account):
    narrow = {"StringLike": {"s3:prefix": "models/*"}}
    s3 = account.pod("s3", allow("s3:ListBucket", BUCKET, Condition=narrow))
    assert s3.list_objects_v2(Bucket="store", Prefix="models/")["KeyCount"] >= 1
    assert refused(s3.list_objects_v2, Bucket="store")[2] == 403
    assert refused(s3.list_objects_v2, Bucket="store", Prefix="other/")[2] == 403


def test_objects_are_deleted_together_where_each_may_be(account):
    s3 = account.pod("s3", allow("s3:DeleteObject", f"{BUCKET}/runs/*"))
    both = [{"Key": "runs/1"}, {"Key": "models/a"}]
    assert f'"{BUCKET}/models/a"' in refused(s3.delete_objects, Bucket="store", Delete={"Objects": both})[1]
    s3.delete_objects(Bucket="store", Delete={"Objects": both[:1]})


def test_a_copy_reads_its_source(account):
    s3 = account.pod("s3", allow("s3:PutObject", f"{BUCKET}/*"), allow("kms:*"))
    copy = {"Bucket": "store", "Key": "models/copy", "CopySource": {"Bucket": "store", "Key": "models/a"}}
    assert "s3:GetObject on" in refused(s3.copy_object, **copy)[1]


def test_metrics_are_published_in_one_namespace_in_the_protocol_that_boto3_speaks(account):
    narrow = {"StringEquals": {"cloudwatch:namespace": "Mine"}}
    cloudwatch = account.pod("cloudwatch", allow("cloudwatch:PutMetricData", Condition=narrow))
    datum = [{"MetricName": "m", "Value": 1}]
    cloudwatch.put_metric_data(Namespace="Mine", MetricData=datum)
    code, message, status = refused(cloudwatch.put_metric_data, Namespace="Other", MetricData=datum)
    assert (code, status) == ("AccessDenied", 403)
    assert "is not authorized to perform: cloudwatch:PutMetricData on resource: *" in message


def test_metrics_are_readable_only_after_a_while(account):
    cloudwatch, now = account.client("cloudwatch"), datetime.now(UTC)

    def published():
        found = cloudwatch.get_metric_statistics(
            Namespace="Late", MetricName="m", StartTime=now - timedelta(minutes=5), EndTime=now + timedelta(minutes=5),
            Period=60, Statistics=["Sum"],
        )  # fmt: skip
        return found["Datapoints"]

    began = time.monotonic()
    cloudwatch.put_metric_data(Namespace="Late", MetricData=[{"MetricName": "m", "Value": 1}])
    eventually(published)
    assert time.monotonic() - began >= 1


def test_tables_are_allowed_one_by_one(account):
    account.client("dynamodb").create_table(
        TableName="features", BillingMode="PAY_PER_REQUEST",
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
    )  # fmt: skip
    table = f"arn:aws:dynamodb:eu-central-1:{ACCOUNT}:table/features"
    dynamodb = account.pod("dynamodb", allow("dynamodb:BatchGetItem", table))
    key = {"id": {"S": "1"}}
    dynamodb.batch_get_item(RequestItems={"features": {"Keys": [key]}})
    code, message, _ = refused(dynamodb.get_item, TableName="features", Key=key)
    assert code == "AccessDeniedException"
    assert f"dynamodb:GetItem on resource: {table} because" in message


def test_who_calls_may_always_be_asked(account):
    assert account.pod("sts", allow("s3:GetObject")).get_caller_identity()["Arn"] == SESSION


def test_a_policy_may_name_a_tag_of_the_role(account):
    s3 = account.pod("s3", allow("s3:GetObject", f"{BUCKET}/${{aws:PrincipalTag/team}}/*"), OPEN)
    s3.get_object(Bucket="store", Key="models/a")
    assert refused(s3.get_object, Bucket="store", Key="other/a")[2] == 403


def test_a_user_has_the_rights_of_its_groups(account):
    iam = account.client("iam")
    iam.create_user(UserName="ann")
    iam.create_group(GroupName="team")
    iam.put_group_policy(GroupName="team", PolicyName="p", PolicyDocument=document(allow("s3:*")))
    iam.add_user_to_group(GroupName="team", UserName="ann")
    key = iam.create_access_key(UserName="ann")["AccessKey"]
    account.client_with("s3", key["AccessKeyId"], key["SecretAccessKey"]).list_buckets()
    sns = account.client_with("sns", key["AccessKeyId"], key["SecretAccessKey"])
    code, message, status = refused(sns.list_topics)
    assert (code, status) == ("AuthorizationError", 403)
    assert f"User: arn:aws:iam::{ACCOUNT}:user/ann is" in message


def test_a_boundary_narrows_a_role(account):
    iam = account.client("iam")
    boundary = iam.create_policy(PolicyName="bound", PolicyDocument=document(allow("sns:*")))["Policy"]["Arn"]
    iam.put_role_permissions_boundary(RoleName="serving", PermissionsBoundary=boundary)
    try:
        account.pod("sns", allow(["s3:*", "sns:*"])).list_topics()
        message = refused(account.pod("s3", allow(["s3:*", "sns:*"])).list_buckets)[1]
    finally:
        iam.delete_role_permissions_boundary(RoleName="serving")
    assert message.endswith("because no permissions boundary allows the s3:ListAllMyBuckets action")


def test_a_session_policy_narrows_a_role(account):
    account.pod("s3", allow("s3:*"), allow("kms:*"))
    keys = account.client("sts").assume_role(
        RoleArn=account.role_arn, RoleSessionName="narrow", Policy=document(allow("s3:ListAllMyBuckets"))
    )["Credentials"]
    s3 = account.client_with("s3", keys["AccessKeyId"], keys["SecretAccessKey"], keys["SessionToken"])
    s3.list_buckets()
    message = refused(s3.get_object, Bucket="store", Key="models/a")[1]
    assert message.endswith("because no session policy allows the s3:GetObject action")


def test_a_role_is_assumed_by_whom_it_trusts_alone(account):
    iam = account.client("iam")
    iam.create_role(RoleName="closed", AssumeRolePolicyDocument=document(
        {"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}))  # fmt: skip
    sts = account.pod("sts", allow("sts:AssumeRole"))
    arn = f"arn:aws:iam::{ACCOUNT}:role/closed"
    assert "sts:AssumeRole on" in refused(sts.assume_role, RoleArn=arn, RoleSessionName="session")[1]
    assert refused(account.assume, token=account.token(), role=arn)[0] == "AccessDenied"
    assert refused(account.assume, token=account.token(), role=f"{arn}-none")[0] == "AccessDenied"


@pytest.mark.parametrize(
    ("claims", "code"),
    [
        ({"sub": "system:serviceaccount:models:other"}, "AccessDenied"),
        ({"aud": ["kubernetes"]}, "InvalidIdentityToken"),
        ({"exp": 1}, "ExpiredTokenException"),
        ({"key": pki.new_key()}, "InvalidIdentityToken"),
    ],
)
def test_a_token_is_worth_what_it_says_and_who_signed_it(account, claims, code):
    assert refused(account.assume, token=account.token(**claims))[0] == code


def test_nothing_else_goes_without_a_signature(account):
    s3 = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{account.port}", region_name="eu-central-1",
                      config=Config(signature_version=UNSIGNED))  # fmt: skip
    assert refused(s3.get_object, Bucket="store", Key="models/a")[2] == 403


def test_a_key_pending_deletion_encrypts_and_decrypts_nothing_for_anybody(account):
    s3, kms, key = account.client("s3"), account.client("kms"), account.new_key()
    encrypted = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": key}
    s3.put_object(Bucket="store", Key="doomed", Body=b"x", **encrypted)
    blob = kms.encrypt(KeyId=key, Plaintext=b"x")["CiphertextBlob"]
    kms.schedule_key_deletion(KeyId=key.rpartition("/")[2], PendingWindowInDays=7)
    code, message, status = refused(s3.get_object, Bucket="store", Key="doomed")
    assert (code, message, status) == ("KMS.KMSInvalidStateException", f"{key} is pending deletion.", 400)
    assert refused(s3.put_object, Bucket="store", Key="new", Body=b"", **encrypted)[0] == code
    assert refused(kms.decrypt, CiphertextBlob=blob)[0] == "KMSInvalidStateException"
    assert refused(kms.encrypt, KeyId=key, Plaintext=b"x")[0] == "KMSInvalidStateException"
    kms.cancel_key_deletion(KeyId=key.rpartition("/")[2])
    assert refused(kms.encrypt, KeyId=key, Plaintext=b"x")[0] == "DisabledException"
    kms.enable_key(KeyId=key.rpartition("/")[2])
    assert s3.get_object(Bucket="store", Key="doomed")["Body"].read() == b"x"


def test_refusals_are_in_a_log(account):
    refused(account.pod("s3", OPEN).get_object, Bucket="store", Key="models/a")
    last = list(cloud.logs(account.place, "denied-local"))[-1]
    assert f" AccessDenied {SESSION} s3:GET /store/models/a: User: {SESSION} is not authorized" in last


def test_a_policy_that_cannot_be_evaluated_allows_nothing(account):
    odd = allow("s3:*", Condition={"NumericEquals": {"aws:PrincipalArn": "one"}})
    assert "cannot be evaluated" in refused(account.pod("s3", odd).list_buckets)[1]
