"""The keys of KMS behind data: who reads or writes it uses the key too, and a key that is not enabled serves nobody.

Sources:
https://docs.aws.amazon.com/AmazonS3/latest/userguide/UsingKMSEncryption.html
https://docs.aws.amazon.com/kms/latest/developerguide/key-state.html
https://docs.aws.amazon.com/AmazonS3/latest/API/API_GetObject.html
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from modelworks.laptop.authorization.actions import Call
from modelworks.laptop.authorization.evaluation import Question
from modelworks.laptop.authorization.policies import backend, buckets, key_of, resolve

_SERVING: Final = frozenset(
    {
        "CreateAlias", "CreateGrant", "Decrypt", "DeriveSharedSecret", "DisableKey", "DisableKeyRotation", "EnableKey",
        "EnableKeyRotation", "Encrypt", "GenerateDataKey", "GenerateDataKeyPair", "GenerateDataKeyPairWithoutPlaintext",
        "GenerateDataKeyWithoutPlaintext", "GenerateMac", "GetPublicKey", "ReEncrypt", "Sign", "TagResource",
        "UntagResource", "UpdateAlias", "Verify", "VerifyMac",
    }
)  # fmt: skip
"""Operations that fail on a key that is pending deletion."""
_OF_DISABLED: Final = _SERVING - frozenset(
    {
        "CreateAlias", "DisableKey", "EnableKey", "GetPublicKey", "TagResource", "UntagResource", "UpdateAlias",
    }
)  # fmt: skip
"""Operations that fail on a key that is disabled."""


def key_uses(call: Call) -> Iterator[Question]:
    """The uses of keys of the account by a request, on behalf of its caller."""
    if call.service == "s3" and call.bucket and call.key:
        yield from _of_object(call)
    elif call.service == "secretsmanager":
        yield from _of_secret(call)
    elif call.service in {"sns", "sqs"}:
        yield from _of_message(call)


def unusable(call: Call, uses: list[Question]) -> tuple[str, str] | None:
    """The code and message of AWS for a request that needs a key which is not enabled; None if all are."""
    if call.service == "kms" and call.operation in _SERVING:
        uses = [Question(f"kms:{call.operation}", resolve(call, call.text("KeyId", "TargetKeyId")))]
    prefix = "" if call.service == "kms" else "KMS."
    for use in uses:
        key = key_of(call.account, use.resource)
        if key is not None and key.key_state == "PendingDeletion":
            return f"{prefix}KMSInvalidStateException", f"{key.arn} is pending deletion."
        if key is not None and not key.enabled and use.action.removeprefix("kms:") in _OF_DISABLED:
            return f"{prefix}DisabledException", f"{key.arn} is disabled."
    return None


def missing(call: Call) -> bool:
    """Whether a request reads an object that is not there."""
    reads = call.service == "s3" and call.key and call.method in {"GET", "HEAD"} and "uploadId" not in call.query
    bucket = buckets(call.account).get(call.bucket) if reads else None
    return bucket is not None and _object(bucket, call.key, call.query.get("versionId")) is None


def _of_object(call: Call) -> Iterator[Question]:
    held = buckets(call.account)
    if (bucket := held.get(call.bucket)) is None:
        return
    one = f"arn:aws:s3:::{call.bucket}/{call.key}"
    if call.method in {"GET", "HEAD"}:
        # What is asked about an object needs its key as its content does, but for access lists and tags.
        found = None if {"acl", "tagging", "uploadId"} & set(call.query) else _object(
            bucket, call.key, call.query.get("versionId"))  # fmt: skip
        if found is not None and (key := _key_of_object(bucket, found)):
            yield _use(call, "Decrypt", key, one)
        return
    if call.method not in {"PUT", "POST"} or {"acl", "tagging", "retention", "legal-hold", "restore"} & set(call.query):
        return
    if key := _key_of_write(call, bucket):
        yield _use(call, "GenerateDataKey", key, one)
        if "uploadId" in call.query:  # parts are read again to be put together
            yield _use(call, "Decrypt", key, one)
    if source := call.headers.get("x-amz-copy-source"):
        name, _, path = source.lstrip("/").partition("?")[0].partition("/")
        origin = held.get(name)
        found = _object(origin, path, None) if origin is not None else None
        if origin is not None and found is not None and (key := _key_of_object(origin, found)):
            yield _use(call, "Decrypt", key, f"arn:aws:s3:::{name}/{path}")


def _use(call: Call, operation: str, key: Any, encrypts: str) -> Question:
    return Question(
        f"kms:{operation}",
        str(key.arn),
        {
            "kms:CallerAccount": [call.account],
            "kms:ViaService": [f"{call.service}.{key.region}.amazonaws.com"],
            f"kms:EncryptionContext:aws:{call.service}:arn": [encrypts],
            "kms:EncryptionContextKeys": [f"aws:{call.service}:arn"],
        },
    )


def _object(bucket: Any, name: str, version: str | None) -> Any:
    """An object as moto has it, and no marker of a deletion; None if it is not there."""
    if version is None:
        found = bucket.keys.get(name)
    else:
        found = next((each for each in bucket.keys.getlist(name, default=[]) if str(each.version_id) == version), None)
    return found if hasattr(found, "encryption") else None


def _key_of_object(bucket: Any, found: Any) -> Any:
    if found.encryption is None:  # moto gives an upload in parts no encryption of its bucket
        return _key_of_bucket(bucket)
    return key_of(bucket.account_id, found.kms_key_id) if found.encryption.startswith("aws:kms") and (
        found.kms_key_id) else None  # fmt: skip


def _key_of_write(call: Call, bucket: Any) -> Any:
    stated = call.headers.get("x-amz-server-side-encryption")
    if stated and not stated.startswith("aws:kms"):
        return None
    if named := call.headers.get("x-amz-server-side-encryption-aws-kms-key-id"):
        return key_of(call.account, named)
    return _key_of_bucket(bucket)


def _key_of_bucket(bucket: Any) -> Any:
    """The key of a bucket's default encryption; None for S3's own keys, which every caller may use."""
    rule = (bucket.encryption or {}).get("Rule") or {}
    found = (rule[0] if isinstance(rule, list) else rule).get("ApplyServerSideEncryptionByDefault") or {}
    named = found.get("KMSMasterKeyID")
    return key_of(bucket.account_id, named) if named else None


def _of_secret(call: Call) -> Iterator[Question]:
    operation = {"GetSecretValue": "Decrypt", "PutSecretValue": "GenerateDataKey"}.get(call.operation)
    if operation is None:
        return
    name = call.text("SecretId")
    secrets = backend("secretsmanager", call.account, call.region).secrets
    found = next((each for each in secrets.values() if name in {each.arn, each.name}), None)
    if found and found.kms_key_id and (key := key_of(call.account, found.kms_key_id)) is not None:
        yield _use(call, operation, key, str(found.arn))


def _of_message(call: Call) -> Iterator[Question]:
    held = backend(call.service, call.account, call.region)
    if call.service == "sns":
        holder = held.topics.get(call.text("TopicArn", "TargetArn"))
    else:
        holder = held.queues.get(call.text("QueueUrl").rpartition("/")[2])
    sends = call.operation.startswith(("Publish", "SendMessage"))
    receives = ["Decrypt"] if call.operation == "ReceiveMessage" else []
    operations = ["GenerateDataKey", "Decrypt"] if sends else receives
    named = getattr(holder, "kms_master_key_id", None)
    if named and operations and (key := key_of(call.account, named)) is not None:
        for operation in operations:
            yield _use(call, operation, key, call.text("TopicArn", "TargetArn") or call.arn(holder.name))
