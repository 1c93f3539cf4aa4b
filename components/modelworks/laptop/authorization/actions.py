"""The actions, resources and condition keys by which IAM judges a request to AWS.

Source: the service authorization reference,
https://docs.aws.amazon.com/service-authorization/latest/reference/reference_policies_actions-resources-contextkeys.html

The resource of an action that is not in the tables here is `*`, which a policy that names single resources does not
allow. So an unknown action is refused, and never let through.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

from botocore.parsers import RpcV2CBORParser

from modelworks.laptop.authorization.evaluation import Question
from modelworks.laptop.request_journal import operation


@dataclass(frozen=True)
class Call:
    """One request, read."""

    service: str
    """The prefix of its actions, such as `s3` or `cloudwatch`."""
    operation: str
    region: str
    account: str
    method: str = "POST"
    path: str = "/"
    """Decoded."""
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    """By names in lower case."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Of the body; S3's are in query and headers."""
    body: bytes = b""

    @property
    def bucket(self) -> str:
        """Of a request to S3; empty for the list of all buckets."""
        return self.path.lstrip("/").partition("/")[0]

    @property
    def key(self) -> str:
        """Of a request to S3; empty for a bucket's own."""
        return self.path.lstrip("/").partition("/")[2]

    def text(self, *names: str) -> str:
        """The first of these parameters that is there, as text."""
        return next((str(self.parameters[name]) for name in names if self.parameters.get(name)), "")

    def arn(self, resource: str) -> str:
        """The ARN of a resource of the service in the account and region."""
        return f"arn:aws:{self.service}:{self.region}:{self.account}:{resource}"


def read(environ: dict[str, Any], body: bytes, service: str, region: str, account: str) -> Call:
    """A request, with its parameters.

    Args:
        environ: The WSGI request.
        body: Its body.
        service: The name of the service in its signature.
        region: The region in its signature.
        account: 12 digits.
    """
    headers = {name[5:].replace("_", "-").lower(): value for name, value in environ.items() if name[:5] == "HTTP_"}
    headers["content-type"] = str(environ.get("CONTENT_TYPE", ""))
    query = dict(parse_qsl(environ.get("QUERY_STRING", ""), keep_blank_values=True))
    path = unquote(urlsplit(str(environ["RAW_URI"]).partition("?")[0]).path)
    prefix = _PREFIXES.get(service, service)
    parameters = {} if prefix == "s3" else {**query, **_parameters(headers, body)}
    return Call(
        prefix,
        # An action in the query or a form counts before one in a header: to the emulator, too.
        str(parameters.get("Action") or operation(environ, body)),
        region,
        account,
        environ["REQUEST_METHOD"],
        path,
        query,
        headers,
        parameters,
        body,
    )


_PREFIXES: Final = {"monitoring": "cloudwatch"}


def _parameters(headers: Mapping[str, str], body: bytes) -> dict[str, Any]:
    kind = headers["content-type"]
    if "cbor" in kind:
        parser = RpcV2CBORParser()
        found = parser.parse_data_item(parser.get_peekable_stream_from_bytes(body)) if body else {}
    elif "json" in kind:
        found = json.loads(body or b"{}")
    else:
        found = dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True))
    return found if isinstance(found, dict) else {}


Resolve = Callable[[Call, str], str]
"""The ARN of a KMS key or a secret by whatever names it: id, alias, name or ARN."""


def questions(call: Call, resolve: Resolve) -> list[Question]:
    """The questions that IAM must all answer with yes for a request; none if it needs no permission."""
    if call.service == "s3":
        return list(_of_s3(call))
    if (call.service, call.operation) in _FREE:
        return []
    action = f"{call.service}:{call.operation}"
    resources = _RESOURCES.get(call.service, _unknown)(call, resolve)
    return [Question(action, resource, _context(call)) for resource in resources]


_FREE: Final = {("sts", "GetCallerIdentity"), ("sts", "GetSessionToken")}
"""Nobody needs a permission for these, and no policy can deny the first one."""


def _context(call: Call) -> dict[str, list[str]]:
    if call.service == "cloudwatch" and (namespace := call.text("Namespace")):
        return {"cloudwatch:namespace": [namespace]}
    if call.service == "kms":
        encryption = call.parameters.get("EncryptionContext") or {}
        return {
            "kms:CallerAccount": [call.account],
            **{f"kms:EncryptionContext:{key}": [str(value)] for key, value in encryption.items()},
            **({"kms:EncryptionContextKeys": list(encryption)} if encryption else {}),
        }
    if call.service == "iam" and (boundary := call.text("PermissionsBoundary")):
        return {"iam:PermissionsBoundary": [boundary]}
    return {}


# -- S3 --------------------------------------------------------------------------------------------------------------
_OF_BUCKET: Final = {
    # query: what is read, what is written; what deletes it is the same as what writes it, but for two
    "accelerate": ("GetAccelerateConfiguration", "PutAccelerateConfiguration"),
    "acl": ("GetBucketAcl", "PutBucketAcl"),
    "cors": ("GetBucketCORS", "PutBucketCORS"),
    "encryption": ("GetEncryptionConfiguration", "PutEncryptionConfiguration"),
    "inventory": ("GetInventoryConfiguration", "PutInventoryConfiguration"),
    "lifecycle": ("GetLifecycleConfiguration", "PutLifecycleConfiguration"),
    "location": ("GetBucketLocation", ""),
    "logging": ("GetBucketLogging", "PutBucketLogging"),
    "notification": ("GetBucketNotification", "PutBucketNotification"),
    "object-lock": ("GetBucketObjectLockConfiguration", "PutBucketObjectLockConfiguration"),
    "ownershipControls": ("GetBucketOwnershipControls", "PutBucketOwnershipControls"),
    "policy": ("GetBucketPolicy", "PutBucketPolicy"),
    "policyStatus": ("GetBucketPolicyStatus", ""),
    "publicAccessBlock": ("GetBucketPublicAccessBlock", "PutBucketPublicAccessBlock"),
    "replication": ("GetReplicationConfiguration", "PutReplicationConfiguration"),
    "requestPayment": ("GetBucketRequestPayment", "PutBucketRequestPayment"),
    "tagging": ("GetBucketTagging", "PutBucketTagging"),
    "uploads": ("ListBucketMultipartUploads", ""),
    "versioning": ("GetBucketVersioning", "PutBucketVersioning"),
    "versions": ("ListBucketVersions", ""),
    "website": ("GetBucketWebsite", "PutBucketWebsite"),
}
_DELETES: Final = {"policy": "DeleteBucketPolicy", "website": "DeleteBucketWebsite"}
_PLAIN: Final = {"GET": "ListBucket", "HEAD": "ListBucket", "PUT": "CreateBucket", "DELETE": "DeleteBucket"}
_OF_OBJECT: Final = {
    ("acl", "GET"): "GetObjectAcl",
    ("acl", "PUT"): "PutObjectAcl",
    ("legal-hold", "GET"): "GetObjectLegalHold",
    ("legal-hold", "PUT"): "PutObjectLegalHold",
    ("restore", "POST"): "RestoreObject",
    ("retention", "GET"): "GetObjectRetention",
    ("retention", "PUT"): "PutObjectRetention",
    ("tagging", "DELETE"): "DeleteObjectTagging",
    ("tagging", "GET"): "GetObjectTagging",
    ("tagging", "PUT"): "PutObjectTagging",
    ("uploadId", "DELETE"): "AbortMultipartUpload",
    ("uploadId", "GET"): "ListMultipartUploadParts",
}
_PLAIN_OBJECT: Final = {"GET": "GetObject", "HEAD": "GetObject", "PUT": "PutObject", "POST": "PutObject",
                        "DELETE": "DeleteObject"}  # fmt: skip


def _of_s3(call: Call) -> Iterable[Question]:
    if not call.bucket:
        yield Question("s3:ListAllMyBuckets", "*")
        return
    bucket = f"arn:aws:s3:::{call.bucket}"
    if call.key:
        yield from _of_object(call, bucket)
    elif "delete" in call.query and call.method == "POST":
        for key, version in _deleted(call.body) or [("*", "")]:
            yield Question(f"s3:DeleteObject{'Version' if version else ''}", f"{bucket}/{key}")
    else:
        yield Question(f"s3:{_bucket_action(call)}", bucket, _listing(call))


def _bucket_action(call: Call) -> str:
    for name, (reads, writes) in _OF_BUCKET.items():
        if name in call.query:
            return reads if call.method in {"GET", "HEAD"} else _DELETES.get(name, writes) if (
                call.method == "DELETE") else writes  # fmt: skip
    return _PLAIN.get(call.method, "PutObject")


def _listing(call: Call) -> dict[str, list[str]]:
    keys = {"prefix": "s3:prefix", "delimiter": "s3:delimiter", "max-keys": "s3:max-keys"}
    return {key: [call.query[name]] for name, key in keys.items() if name in call.query}


_CONDITION_HEADERS: Final = (
    "x-amz-acl",
    "x-amz-content-sha256",
    "x-amz-copy-source",
    "x-amz-server-side-encryption",
    "x-amz-server-side-encryption-aws-kms-key-id",
    "x-amz-storage-class",
)


def _of_object(call: Call, bucket: str) -> Iterable[Question]:
    context = {f"s3:{name}": [call.headers[name]] for name in _CONDITION_HEADERS if name in call.headers}
    if version := call.query.get("versionId"):
        context["s3:VersionId"] = [version]
    one = f"{bucket}/{call.key}"
    special = next((found for (name, method), found in _OF_OBJECT.items()
                    if name in call.query and method == call.method), "")  # fmt: skip
    action = special or _PLAIN_OBJECT[call.method]
    if version and call.method != "PUT" and action in _VERSIONED:
        action = re.sub("Object", "ObjectVersion", action)
    yield Question(f"s3:{action}", one, context)
    if action != "PutObject":
        return
    if "x-amz-acl" in call.headers:
        yield Question("s3:PutObjectAcl", one, context)
    if "x-amz-tagging" in call.headers:
        yield Question("s3:PutObjectTagging", one, context)
    if source := call.headers.get("x-amz-copy-source"):
        name, _, asked = unquote(source).lstrip("/").partition("?")
        yield Question(f"s3:GetObject{'Version' if 'versionId' in asked else ''}", f"arn:aws:s3:::{name}")


_VERSIONED: Final = {"GetObject", "DeleteObject", "GetObjectAcl", "GetObjectTagging", "DeleteObjectTagging"}


def _deleted(body: bytes) -> list[tuple[str, str]]:
    """Key and version of each object in a request to delete many."""
    from xml.etree import ElementTree as ET

    try:
        root = ET.fromstring(body)  # noqa: S314 - of who may write to this account
    except ET.ParseError:
        return []
    found = [{child.tag.rpartition("}")[2]: child.text or "" for child in one} for one in root.iter()
             if one.tag.rpartition("}")[2] == "Object"]  # fmt: skip
    return [(each.get("Key", ""), each.get("VersionId", "")) for each in found]


# -- The others ------------------------------------------------------------------------------------------------------
_Resources = Callable[[Call, Resolve], list[str]]


def _unknown(_: Call, __: Resolve) -> list[str]:
    return ["*"]


def _dynamodb(call: Call, _: Resolve) -> list[str]:
    tables = [call.text("TableName")] if call.text("TableName") else list(call.parameters.get("RequestItems") or ())
    for item in call.parameters.get("TransactItems") or ():
        tables += [each["TableName"] for each in item.values()]
    named = [each if each.startswith("arn:") else call.arn(f"table/{each}") for each in dict.fromkeys(tables)]
    if index := call.text("IndexName"):
        return [f"{each}/index/{index}" for each in named]
    return named or [call.text("ResourceArn") or "*"]


def _kms(call: Call, resolve: Resolve) -> list[str]:
    if call.operation in {"CreateKey", "ListKeys", "ListAliases", "GenerateRandom"}:
        return ["*"]
    return [resolve(call, call.text("KeyId", "TargetKeyId"))]


def _logs(call: Call, _: Resolve) -> list[str]:
    if call.operation == "DescribeLogGroups":
        return [call.arn("log-group:*")]
    if stated := call.text("resourceArn", "logGroupIdentifier"):
        return [stated]
    group, stream = call.text("logGroupName"), call.text("logStreamName")
    return [call.arn(f"log-group:{group}:{f'log-stream:{stream}' if stream else '*'}")] if group else ["*"]


def _glue(call: Call, _: Resolve) -> list[str]:
    database = call.text("DatabaseName")
    named = call.parameters.get("DatabaseInput") or {}
    if not database and "Database" in call.operation:
        database = call.text("Name") or str(named.get("Name", ""))
    if not database:
        return [call.text("ResourceArn") or call.arn("catalog")]
    found = [call.arn("catalog"), call.arn(f"database/{database}")]
    if "Database" in call.operation:
        return found
    table = call.text("TableName", "Name") or str((call.parameters.get("TableInput") or {}).get("Name", "*"))
    return [*found, call.arn(f"table/{database}/{table}")]


def _athena(call: Call, resolve: Resolve) -> list[str]:
    if stated := call.text("ResourceARN"):
        return [stated]
    group = call.text("WorkGroup", "Name") or resolve(call, call.text("QueryExecutionId")) or "primary"
    return [call.arn(f"workgroup/{group}")]


def _sqs(call: Call, _: Resolve) -> list[str]:
    name = call.text("QueueUrl").rpartition("/")[2] or call.text("QueueName")
    return [call.arn(name)] if name else ["*"]


def _sns(call: Call, _: Resolve) -> list[str]:
    subscription = call.text("SubscriptionArn").rpartition(":")[0]
    stated = call.text("TopicArn", "TargetArn", "ResourceArn") or subscription
    return [stated or (call.arn(call.text("Name")) if call.text("Name") else "*")]


def _ssm(call: Call, _: Resolve) -> list[str]:
    names = [call.text("Name", "ResourceId", "Path")] if call.text("Name", "ResourceId", "Path") else list(
        call.parameters.get("Names") or ())  # fmt: skip
    return [each if each.startswith("arn:") else call.arn(f"parameter/{each.lstrip('/')}") for each in names] or ["*"]


def _ecr(call: Call, _: Resolve) -> list[str]:
    names = [call.text("repositoryName")] if call.text("repositoryName") else list(
        call.parameters.get("repositoryNames") or ())  # fmt: skip
    return [call.arn(f"repository/{each}") for each in names] or [call.text("resourceArn") or "*"]


def _secrets(call: Call, resolve: Resolve) -> list[str]:
    if call.operation == "CreateSecret":
        return [call.arn(f"secret:{call.text('Name')}-??????")]
    return [resolve(call, call.text("SecretId"))] if call.text("SecretId") else ["*"]


def _cloudwatch(call: Call, _: Resolve) -> list[str]:
    if stated := call.text("ResourceARN"):
        return [stated]
    if "Dashboard" in call.operation and call.text("DashboardName"):
        return [f"arn:aws:cloudwatch::{call.account}:dashboard/{call.text('DashboardName')}"]
    if "Alarm" not in call.operation:
        return ["*"]
    names = [call.text("AlarmName")] if call.text("AlarmName") else _listed(call, "AlarmNames")
    return [call.arn(f"alarm:{each}") for each in names] or [call.arn("alarm:*")]


def _iam(call: Call, _: Resolve) -> list[str]:
    own = f"arn:aws:iam::{call.account}:"
    for parameter, kind in (("RoleName", "role"), ("UserName", "user"), ("GroupName", "group")):
        if name := call.text(parameter):
            return [f"{own}{kind}{call.text('Path') or '/'}{name}"]
    stated = call.text("PolicyArn", "OpenIDConnectProviderArn")
    if stated:
        return [stated]
    if name := call.text("PolicyName"):
        return [f"{own}policy{call.text('Path') or '/'}{name}"]
    if url := call.text("Url"):
        return [f"{own}oidc-provider/{url.removeprefix('https://')}"]
    return ["*"]


def _sts(call: Call, _: Resolve) -> list[str]:
    return [call.text("RoleArn") or "*"]


def _listed(call: Call, name: str) -> list[str]:
    """A list, in whichever protocol."""
    if isinstance(found := call.parameters.get(name), list):
        return [str(each) for each in found]
    return [str(value) for key, value in call.parameters.items() if re.fullmatch(rf"{name}\.member\.\d+", key)]


_RESOURCES: Final[Mapping[str, _Resources]] = {
    "athena": _athena,
    "cloudwatch": _cloudwatch,
    "dynamodb": _dynamodb,
    "ecr": _ecr,
    "glue": _glue,
    "iam": _iam,
    "kms": _kms,
    "logs": _logs,
    "secretsmanager": _secrets,
    "sns": _sns,
    "sqs": _sqs,
    "ssm": _ssm,
    "sts": _sts,
}
