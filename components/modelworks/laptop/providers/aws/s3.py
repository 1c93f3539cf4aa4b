"""S3: buckets, what is set on them, and objects."""

# A kind's methods have one signature; few need all of it.
# ruff: noqa: ARG002

from __future__ import annotations

import base64
import hashlib
import io
import mimetypes
import urllib.request
from collections.abc import Collection
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlencode

from modelworks.laptop.providers.aws.resource import Name, Resource, absent, names
from modelworks.laptop.providers.aws.shapes import camel, pairs, pascal, tags_of
from modelworks.laptop.providers.property_values import Archive, Asset
from modelworks.laptop.providers.provider import ProviderError


class Bucket(Resource):
    pulumi_type = "aws:s3/bucket:Bucket"
    handles = names("bucket bucketPrefix forceDestroy objectLockEnabled region tags")
    recorded = names("forceDestroy bucketPrefix")
    name = Name("bucket", "bucketPrefix", limit=63, lower=True)
    computed = names("bucket bucketPrefix")
    defaults: ClassVar = {"forceDestroy": False, "objectLockEnabled": False}

    def create(self, inputs: dict[str, Any]) -> str:
        more: dict[str, Any] = {}
        if self.region != "us-east-1":  # the one region that must not be named
            more["CreateBucketConfiguration"] = {"LocationConstraint": self.region}
        name: str = inputs["bucket"]
        self.client("s3").create_bucket(
            Bucket=name, ObjectLockEnabledForBucket=inputs.get("objectLockEnabled", False), **more
        )
        return name

    def after_create(self, inputs: dict[str, Any]) -> Collection[str]:
        return ("tagsAll",) if inputs.get("tagsAll") else ()

    def settle(self, id_: str, inputs: dict[str, Any], changed: Collection[str]) -> None:
        if "tagsAll" in changed:
            self.tag(id_, inputs["tagsAll"], [])

    def read(self, id_: str, known: dict[str, Any]) -> dict[str, Any] | None:
        s3 = self.client("s3")
        s3.head_bucket(Bucket=id_)
        locked = bool(known.get("objectLockEnabled"))
        if not known or "arn" in known:  # of a bucket made this moment, the program's word is the truth: a call less
            with absent("ObjectLockConfigurationNotFoundError") as unlocked:
                s3.get_object_lock_configuration(Bucket=id_)
            locked = not unlocked
        tags: dict[str, str] = {}
        with absent("NoSuchTagSet"):
            tags = tags_of(s3.get_bucket_tagging(Bucket=id_)["TagSet"])
        return {
            "arn": f"arn:{self.account.partition}:s3:::{id_}",
            "bucket": id_,
            "bucketDomainName": f"{id_}.s3.amazonaws.com",
            "bucketRegion": self.region,
            "bucketRegionalDomainName": f"{id_}.s3.{self.region}.amazonaws.com",
            "objectLockEnabled": locked,
            "tagsAll": tags,
        }

    def delete(self, id_: str, state: dict[str, Any]) -> None:
        s3 = self.client("s3")
        if state.get("forceDestroy"):
            for page in s3.get_paginator("list_object_versions").paginate(Bucket=id_):
                for each in [*page.get("Versions", ()), *page.get("DeleteMarkers", ())]:
                    s3.delete_object(Bucket=id_, Key=each["Key"], VersionId=each["VersionId"])
        s3.delete_bucket(Bucket=id_)

    def tag(self, id_: str, add: dict[str, str], remove: list[str]) -> None:
        s3, there = self.client("s3"), {}
        with absent("NoSuchTagSet"):
            there = tags_of(s3.get_bucket_tagging(Bucket=id_)["TagSet"])
        wanted = {key: value for key, value in {**there, **add}.items() if key not in remove}
        if wanted:
            s3.put_bucket_tagging(Bucket=id_, Tagging={"TagSet": pairs(wanted)})
        else:
            s3.delete_bucket_tagging(Bucket=id_)


class _OnBucket(Resource):
    """A property of a bucket: its id is the bucket's name, and one call creates and changes it."""

    def create(self, inputs: dict[str, Any]) -> str:
        self.put(inputs["bucket"], inputs)
        return str(inputs["bucket"])

    def settle(self, id_: str, inputs: dict[str, Any], changed: Collection[str]) -> None:
        if changed:
            self.put(id_, inputs)

    def put(self, bucket: str, inputs: dict[str, Any]) -> None:
        raise NotImplementedError


class BucketVersioning(_OnBucket):
    pulumi_type = "aws:s3/bucketVersioning:BucketVersioning"
    handles = names("bucket versioningConfiguration region")
    filled = names("mfaDelete")

    def put(self, bucket: str, inputs: dict[str, Any]) -> None:
        status = inputs["versioningConfiguration"]["status"]
        if status != "Disabled":  # a bucket that never had versions: there is no call that says so
            self.client("s3").put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": status})

    def read(self, id_: str, known: dict[str, Any]) -> dict[str, Any] | None:
        status = self.client("s3").get_bucket_versioning(Bucket=id_).get("Status") or "Disabled"
        return {"bucket": id_, "versioningConfiguration": {"status": status}}

    def delete(self, id_: str, state: dict[str, Any]) -> None:
        if state["versioningConfiguration"]["status"] != "Disabled":
            self.client("s3").put_bucket_versioning(Bucket=id_, VersioningConfiguration={"Status": "Suspended"})


class BucketServerSideEncryptionConfiguration(_OnBucket):
    pulumi_type = "aws:s3/bucketServerSideEncryptionConfiguration:BucketServerSideEncryptionConfiguration"
    handles = names("bucket rules region")
    filled = names("blockedEncryptionTypes")

    def put(self, bucket: str, inputs: dict[str, Any]) -> None:
        rules = []
        for rule in inputs["rules"]:
            chosen = rule.get("applyServerSideEncryptionByDefault") or {}
            by_default = {"SSEAlgorithm": chosen.get("sseAlgorithm"), "KMSMasterKeyID": chosen.get("kmsMasterKeyId")}
            rules.append(
                {
                    "ApplyServerSideEncryptionByDefault": {key: each for key, each in by_default.items() if each},
                    "BucketKeyEnabled": rule.get("bucketKeyEnabled", False),
                }
            )
        self.client("s3").put_bucket_encryption(Bucket=bucket, ServerSideEncryptionConfiguration={"Rules": rules})

    def read(self, id_: str, known: dict[str, Any]) -> dict[str, Any] | None:
        answer = self.client("s3").get_bucket_encryption(Bucket=id_)["ServerSideEncryptionConfiguration"]
        rules = []
        for rule in answer["Rules"]:
            chosen = rule["ApplyServerSideEncryptionByDefault"]
            by_default = {"sseAlgorithm": chosen["SSEAlgorithm"], "kmsMasterKeyId": chosen.get("KMSMasterKeyID")}
            rules.append(
                {
                    "applyServerSideEncryptionByDefault": {key: each for key, each in by_default.items() if each},
                    # S3 answers false where nothing was said.
                    **({"bucketKeyEnabled": True} if rule.get("BucketKeyEnabled") in (True, "true") else {}),
                }
            )
        return {"bucket": id_, "rules": rules}

    def normal(self, key: str, value: Any) -> Any:
        if key == "rules" and isinstance(value, list):
            value = [
                {name: each for name, each in rule.items() if (name, each) != ("bucketKeyEnabled", False)}
                for rule in value
            ]
        return super().normal(key, value)

    def delete(self, id_: str, state: dict[str, Any]) -> None:
        self.client("s3").delete_bucket_encryption(Bucket=id_)


class BucketPublicAccessBlock(_OnBucket):
    pulumi_type = "aws:s3/bucketPublicAccessBlock:BucketPublicAccessBlock"
    handles = names(
        "bucket blockPublicAcls blockPublicPolicy ignorePublicAcls restrictPublicBuckets skipDestroy region"
    )
    recorded = names("skipDestroy")
    _switches = ("blockPublicAcls", "blockPublicPolicy", "ignorePublicAcls", "restrictPublicBuckets")
    defaults: ClassVar = dict.fromkeys((*_switches, "skipDestroy"), False)

    def put(self, bucket: str, inputs: dict[str, Any]) -> None:
        block = {pascal(switch): inputs.get(switch, False) for switch in self._switches}
        self.client("s3").put_public_access_block(Bucket=bucket, PublicAccessBlockConfiguration=block)

    def read(self, id_: str, known: dict[str, Any]) -> dict[str, Any] | None:
        block = self.client("s3").get_public_access_block(Bucket=id_)["PublicAccessBlockConfiguration"]
        return {"bucket": id_, **{switch: bool(block.get(pascal(switch))) for switch in self._switches}}

    def delete(self, id_: str, state: dict[str, Any]) -> None:
        if not state.get("skipDestroy"):
            self.client("s3").delete_public_access_block(Bucket=id_)


class BucketOwnershipControls(_OnBucket):
    pulumi_type = "aws:s3/bucketOwnershipControls:BucketOwnershipControls"
    handles = names("bucket rule region")

    def put(self, bucket: str, inputs: dict[str, Any]) -> None:
        rules = {"Rules": [{"ObjectOwnership": inputs["rule"]["objectOwnership"]}]}
        self.client("s3").put_bucket_ownership_controls(Bucket=bucket, OwnershipControls=rules)

    def read(self, id_: str, known: dict[str, Any]) -> dict[str, Any] | None:
        rules = self.client("s3").get_bucket_ownership_controls(Bucket=id_)["OwnershipControls"]["Rules"]
        return {"bucket": id_, "rule": {"objectOwnership": rules[0]["ObjectOwnership"]}}

    def delete(self, id_: str, state: dict[str, Any]) -> None:
        self.client("s3").delete_bucket_ownership_controls(Bucket=id_)


class BucketLifecycleConfiguration(_OnBucket):
    pulumi_type = "aws:s3/bucketLifecycleConfiguration:BucketLifecycleConfiguration"
    handles = names("bucket rules transitionDefaultMinimumObjectSize timeouts region")
    recorded = names("timeouts transitionDefaultMinimumObjectSize")

    def put(self, bucket: str, inputs: dict[str, Any]) -> None:
        rules = [_lifecycle_rule(rule) for rule in inputs["rules"]]
        self.client("s3").put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": rules})

    def read(self, id_: str, known: dict[str, Any]) -> dict[str, Any] | None:
        rules = self.client("s3").get_bucket_lifecycle_configuration(Bucket=id_)["Rules"]
        return {"bucket": id_, "rules": [_lifecycle_said(rule) for rule in rules]}

    def delete(self, id_: str, state: dict[str, Any]) -> None:
        self.client("s3").delete_bucket_lifecycle(Bucket=id_)


def _lifecycle_rule(rule: dict[str, Any]) -> dict[str, Any]:
    said = dict(rule)
    chosen = said.pop("filter", None) or {}
    result: dict[str, Any] = pascal(said)
    result["ID"] = result.pop("Id")
    if "tag" in chosen:
        result["Filter"] = {"Tag": pascal(chosen["tag"])}
    elif "and" in chosen:
        both = dict(chosen["and"])
        tags = both.pop("tags", None)
        result["Filter"] = {"And": {**pascal(both), **({"Tags": pairs(tags)} if tags else {})}}
    elif "Prefix" not in result:
        result["Filter"] = pascal(chosen) or {"Prefix": ""}
    return result


def _lifecycle_said(rule: dict[str, Any]) -> dict[str, Any]:
    chosen = dict(rule.get("Filter") or {})
    said: dict[str, Any] = camel({key: value for key, value in rule.items() if key not in {"Filter", "ID"}})
    said["id"] = rule["ID"]
    if "And" in chosen:
        both = dict(chosen["And"])
        tags = both.pop("Tags", None)
        said["filter"] = {"and": {**camel(both), **({"tags": tags_of(tags)} if tags else {})}}
    elif chosen and chosen != {"Prefix": ""}:
        said["filter"] = camel(chosen)
    if not said.get("prefix"):
        said.pop("prefix", None)
    return said


class BucketPolicy(_OnBucket):
    pulumi_type = "aws:s3/bucketPolicy:BucketPolicy"
    handles = names("bucket policy region")

    def put(self, bucket: str, inputs: dict[str, Any]) -> None:
        self.client("s3").put_bucket_policy(Bucket=bucket, Policy=inputs["policy"])

    def read(self, id_: str, known: dict[str, Any]) -> dict[str, Any] | None:
        return {"bucket": id_, "policy": self.client("s3").get_bucket_policy(Bucket=id_)["Policy"]}

    def delete(self, id_: str, state: dict[str, Any]) -> None:
        self.client("s3").delete_bucket_policy(Bucket=id_)


class BucketObjectv2(Resource):
    pulumi_type = "aws:s3/bucketObjectv2:BucketObjectv2"
    handles = names(
        "bucket key source content contentBase64 contentType contentEncoding contentDisposition contentLanguage "
        "cacheControl metadata etag sourceHash forceDestroy tags region storageClass serverSideEncryption kmsKeyId "
        "bucketKeyEnabled"
    )
    recorded = names("source contentBase64 sourceHash forceDestroy etag bucketKeyEnabled kmsKeyId")
    computed = names("key etag contentType storageClass serverSideEncryption kmsKeyId bucketKeyEnabled")
    defaults: ClassVar = {"forceDestroy": False}
    changing = names("versionId etag")

    _said = ("contentEncoding", "contentDisposition", "contentLanguage", "cacheControl")

    def create(self, inputs: dict[str, Any]) -> str:
        key = inputs.get("key") or Path(getattr(inputs.get("source"), "path", None) or "").name
        if not key:
            raise ProviderError("an object needs a key, or a source with a file name", path=("key",))
        self._put(inputs["bucket"], key, inputs)
        return f"{inputs['bucket']}/{key}"

    def settle(self, id_: str, inputs: dict[str, Any], changed: Collection[str]) -> None:
        if set(changed) - {"tags", "tagsAll", "forceDestroy"}:
            bucket, _, key = id_.partition("/")
            self._put(bucket, key, inputs)

    def _put(self, bucket: str, key: str, inputs: dict[str, Any]) -> None:
        guess = mimetypes.guess_type(key)[0] or "application/octet-stream"
        more = {
            "ContentType": inputs.get("contentType") or guess,
            "Metadata": inputs.get("metadata") or {},
            **{pascal(name): inputs[name] for name in self._said if inputs.get(name)},
            **({"StorageClass": inputs["storageClass"]} if inputs.get("storageClass") else {}),
            **({"ServerSideEncryption": inputs["serverSideEncryption"]} if inputs.get("serverSideEncryption") else {}),
            **({"Tagging": urlencode(inputs["tagsAll"])} if inputs.get("tagsAll") else {}),
        }
        if inputs.get("kmsKeyId"):
            more |= {"SSEKMSKeyId": inputs["kmsKeyId"], "ServerSideEncryption": "aws:kms"}
        self.client("s3").put_object(Bucket=bucket, Key=key, Body=io.BytesIO(_content(inputs)), **more)

    def read(self, id_: str, known: dict[str, Any]) -> dict[str, Any] | None:
        bucket, _, key = id_.removeprefix("s3://").partition("/")
        s3 = self.client("s3")
        found = s3.head_object(Bucket=bucket, Key=key)
        etag = found["ETag"].strip('"')
        state = {
            "arn": f"arn:{self.account.partition}:s3:::{bucket}/{key}",
            "bucket": bucket,
            "key": key,
            "etag": etag,
            "contentType": found.get("ContentType"),
            "metadata": found.get("Metadata") or {},
            "storageClass": found.get("StorageClass") or "STANDARD",
            "serverSideEncryption": found.get("ServerSideEncryption"),
            "versionId": found.get("VersionId") or "",
            "tagsAll": tags_of(s3.get_object_tagging(Bucket=bucket, Key=key)["TagSet"]),
            **{name: found.get(pascal(name)) for name in self._said},
        }
        if "content" in known and hashlib.md5(_content(known), usedforsecurity=False).hexdigest() != etag:
            state["content"] = s3.get_object(Bucket=bucket, Key=key)["Body"].read().decode(errors="replace")
        return state

    def delete(self, id_: str, state: dict[str, Any]) -> None:
        s3, bucket, key = self.client("s3"), state["bucket"], state["key"]
        for page in s3.get_paginator("list_object_versions").paginate(Bucket=bucket, Prefix=key):
            for each in [*page.get("Versions", ()), *page.get("DeleteMarkers", ())]:
                if each["Key"] == key:
                    s3.delete_object(Bucket=bucket, Key=key, VersionId=each["VersionId"])

    def tag(self, id_: str, add: dict[str, str], remove: list[str]) -> None:
        bucket, _, key = id_.partition("/")
        s3 = self.client("s3")
        there = tags_of(s3.get_object_tagging(Bucket=bucket, Key=key)["TagSet"])
        wanted = {name: value for name, value in {**there, **add}.items() if name not in remove}
        s3.put_object_tagging(Bucket=bucket, Key=key, Tagging={"TagSet": pairs(wanted)})


class BucketObject(BucketObjectv2):
    pulumi_type = "aws:s3/bucketObject:BucketObject"


def _content(inputs: dict[str, Any]) -> bytes:
    """The bytes of an object."""
    if inputs.get("content") is not None:
        return str(inputs["content"]).encode()
    if inputs.get("contentBase64") is not None:
        return base64.b64decode(inputs["contentBase64"])
    source = inputs.get("source")
    if isinstance(source, Asset):
        if source.path:
            return Path(source.path).read_bytes()
        if source.uri:
            with urllib.request.urlopen(source.uri, timeout=60) as answer:  # noqa: S310  the program names the address
                return bytes(answer.read())
        return (source.text or "").encode()
    if isinstance(source, Archive) and source.path and Path(source.path).is_file():
        return Path(source.path).read_bytes()
    if source is not None:
        raise ProviderError("the laptop's provider takes files, texts and addresses only", path=("source",))
    return b""
