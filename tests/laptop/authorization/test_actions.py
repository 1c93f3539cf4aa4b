"""What IAM is asked for a request: by method, path, query, headers and body alone."""

from __future__ import annotations

import json

import pytest

from modelworks.laptop.authorization.actions import questions, read

GUIDE = "https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazons3.html"


def asked(service, method, target, body=b"", **headers):
    """Actions and resources."""
    variables = {f"HTTP_{name.upper()}": value for name, value in headers.items() if name != "content_type"}
    environ = {"REQUEST_METHOD": method, "RAW_URI": target, "QUERY_STRING": target.partition("?")[2],
               "CONTENT_TYPE": headers.get("content_type", ""), "PATH_INFO": target.partition("?")[0],
               **variables}  # fmt: skip
    call = read(environ, body, service, "eu-central-1", "1" * 12)
    return [(each.action, each.resource) for each in questions(call, lambda _, name: f"resolved/{name}")]


BUCKET, OBJECT = "arn:aws:s3:::b", "arn:aws:s3:::b/k/l"
S3 = [
    ("GET", "/", [("s3:ListAllMyBuckets", "*")]),
    ("GET", "/b?list-type=2&prefix=k", [("s3:ListBucket", BUCKET)]),
    ("HEAD", "/b", [("s3:ListBucket", BUCKET)]),
    ("PUT", "/b", [("s3:CreateBucket", BUCKET)]),
    ("DELETE", "/b", [("s3:DeleteBucket", BUCKET)]),
    ("GET", "/b?versions", [("s3:ListBucketVersions", BUCKET)]),
    ("PUT", "/b?policy", [("s3:PutBucketPolicy", BUCKET)]),
    ("DELETE", "/b?policy", [("s3:DeleteBucketPolicy", BUCKET)]),
    ("DELETE", "/b?lifecycle", [("s3:PutLifecycleConfiguration", BUCKET)]),
    ("PUT", "/b?encryption", [("s3:PutEncryptionConfiguration", BUCKET)]),
    ("GET", "/b/k/l", [("s3:GetObject", OBJECT)]),
    ("HEAD", "/b/k%2Fl", [("s3:GetObject", OBJECT)]),
    ("GET", "/b/k/l?versionId=1", [("s3:GetObjectVersion", OBJECT)]),
    ("DELETE", "/b/k/l?versionId=1", [("s3:DeleteObjectVersion", OBJECT)]),
    ("PUT", "/b/k/l?partNumber=1&uploadId=u", [("s3:PutObject", OBJECT)]),
    ("POST", "/b/k/l?uploads", [("s3:PutObject", OBJECT)]),
    ("DELETE", "/b/k/l?uploadId=u", [("s3:AbortMultipartUpload", OBJECT)]),
    ("GET", "/b/k/l?tagging", [("s3:GetObjectTagging", OBJECT)]),
    ("GET", "http://127.0.0.1:1/b/k/l", [("s3:GetObject", OBJECT)]),
]


@pytest.mark.parametrize(("method", "target", "expected"), S3)
def test_requests_to_s3(method, target, expected):
    assert asked("s3", method, target) == expected, GUIDE


def test_a_deletion_of_many_that_cannot_be_read_is_one_of_all():
    assert asked("s3", "POST", "/b?delete", b"<Delete") == [("s3:DeleteObject", f"{BUCKET}/*")]
    body = b"<Delete><Object><Key>k</Key></Object><Object><Key>l</Key><VersionId>1</VersionId></Object></Delete>"
    assert asked("s3", "POST", "/b?delete", body) == [
        ("s3:DeleteObject", f"{BUCKET}/k"), ("s3:DeleteObjectVersion", f"{BUCKET}/l")
    ]  # fmt: skip


def test_a_header_hides_no_action_of_the_query_or_of_a_form():
    target = "DynamoDB_20120810.GetItem"
    json_type = "application/x-amz-json-1.0"
    assert asked("dynamodb", "POST", "/", b"{}", x_amz_target=target, content_type=json_type)[0][0] == (
        "dynamodb:GetItem"
    )
    assert (
        asked("dynamodb", "POST", "/?Action=DeleteTable", b"{}", x_amz_target=target, content_type=json_type)[0][0]
        == "dynamodb:DeleteTable"
    )
    form = "application/x-www-form-urlencoded"
    assert asked("sns", "POST", "/", b"Action=DeleteTopic", x_amz_target="a.Publish", content_type=form)[0][0] == (
        "sns:DeleteTopic"
    )


def test_every_table_of_a_request_is_asked_for():
    body = json.dumps({"RequestItems": {"a": {}, "b": {}}}).encode()
    found = asked("dynamodb", "POST", "/", body, x_amz_target="x.BatchGetItem", content_type="application/json")
    assert [resource.rpartition("/")[2] for _, resource in found] == ["a", "b"]


def test_an_action_without_a_known_resource_is_asked_for_on_everything():
    found = asked("dynamodb", "POST", "/", b"{}", x_amz_target="x.ExecuteStatement", content_type="application/json")
    assert found == [("dynamodb:ExecuteStatement", "*")]
    assert asked("ec2", "POST", "/", b"Action=RunInstances", content_type="application/x-www-form-urlencoded") == [
        ("ec2:RunInstances", "*")
    ]
