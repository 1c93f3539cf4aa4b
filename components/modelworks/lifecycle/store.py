"""The stores of an environment: bundles, their signatures and lineage, and what models are made from."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from modelworks import contract
from modelworks._files import digest_of, digest_of_file, write_whole
from modelworks.contract import Digest
from modelworks.errors import ModelworksError
from modelworks.lifecycle.archive import pack
from modelworks.lifecycle.runs import MADE_OF, TrainedModel
from modelworks.lifecycle.signing import read_stored_signature
from modelworks.lifecycle.version import Version
from modelworks.runtime.signature import read_signature, verify

_NEEDED = {"GetObject": "s3:GetObject", "ListObjectsV2": "s3:ListBucket", "PutObject": "s3:PutObject"}
_REFUSAL = re.compile(r'User: (\S+) is not authorized to perform: (\S+) on resource: "?([^"\s]+)')
"""The sentence of AWS. Callers of another account get none."""


class ForbiddenError(ModelworksError):
    """A store that answers, and refuses the caller."""


@dataclass(frozen=True)
class Store:
    """The stores of one environment.

    Args:
        environment: Its name, for messages.
        bucket: The bundle store.
        artifacts: The bucket that data snapshots are kept in.
        session: A boto3 session of the environment's account.
        trusted_keys: Public keys in PEM, by file name, that its pods require a signature of. None: they require none.
    """

    environment: str
    bucket: str
    artifacts: str
    session: Any
    trusted_keys: Mapping[str, str] = field(default_factory=dict)

    # -- Bundles -------------------------------------------------------------------------------------------------------
    def has_bundle(self, model: str, digest: Digest) -> bool:
        """Whether the store holds the bundle."""
        return self._has(self.bucket, contract.bundle_key(model, digest))

    def put_bundle(self, model: str, digest: Digest, bundle: Path, signature: Path | None) -> None:
        """Keep a bundle and its signature.

        Raises:
            ModelworksError: The store does not answer.
        """
        for path, key in (
            (bundle, contract.bundle_key(model, digest)),
            (signature, contract.signature_key(model, digest)),
        ):
            if path is not None:
                self._ask(f"keeping {path.name}", lambda path=path, key=key: self._put(path, self.bucket, key))

    def fetch(self, model: str, digest: Digest, into: Path) -> tuple[Path, Path | None]:
        """Download a bundle and its signature, verified against the digest.

        Raises:
            ModelworksError: It is not there, or its bytes are not the digest's.
        """
        bundle = into / f"{digest.hex}.bento"
        write_whole(bundle, self._verified(self.bucket, contract.bundle_key(model, digest), digest))
        if (content := self._signature(model, digest)) is None:
            return bundle, None
        signature = bundle.with_name(f"{bundle.name}.sig")
        write_whole(signature, content)
        return bundle, signature

    def require_trust(self, model: str, digest: Digest, signature: bytes | None) -> str:
        """Require the signature of a bundle to be about that bundle, and by a trusted key if there are any.

        Args:
            model: The model.
            digest: The bundle's.
            signature: The content of its `.sig` file; None if there is none.

        Returns:
            The identity of the key that signed it; empty without a signature.

        Raises:
            ModelworksError: It is another's, malformed, wrong, missing where one is required, or by another key.
        """
        named = f"{self.environment} does not take {model} {contract.short_digest(digest)}"
        if signature is None and self.trusted_keys:
            raise ModelworksError(
                f"{named}: it has no signature, and pods there require one by {', '.join(sorted(self.trusted_keys))}",
                fix="Sign it with a key that the environment trusts: `--signing-key`.",
            )
        if signature is None:
            return ""
        try:
            if self.trusted_keys:
                return verify(model, digest, signature, self.trusted_keys)
            return read_signature(model, digest, signature).key
        except ModelworksError as error:
            raise ModelworksError(f"{named}: {error.message}", fix=error.fix) from error

    def require_trusted_release(self, model: str, digest: Digest) -> str:
        """Require the same of the signature in the store. Returns the identity of the key; empty without a signature.

        Raises:
            ModelworksError: See `require_trust`; or the store does not answer.
        """
        return self.require_trust(model, digest, self._signature(model, digest))

    def _signature(self, model: str, digest: Digest) -> bytes | None:
        """The content of the `.sig` file in the store; None if there is none."""
        read = partial(read_stored_signature, self._s3, self.bucket, model, digest)
        found: bytes | None = self._ask(f"fetching the signature of {model} {contract.short_digest(digest)}", read)
        return found

    # -- What models are made from -------------------------------------------------------------------------------------
    def has_data(self, digest: Digest) -> bool:
        """Whether the environment keeps the rows of that digest, so that they can be trained on again."""
        return self._has(self.artifacts, contract.data_key(digest))

    def keep_data(self, digest: Digest, path: Path) -> None:
        """Keep rows by their digest.

        Args:
            digest: Of the Parquet file.
            path: The file.

        Raises:
            ModelworksError: The file is not the digest's, or the store does not answer.
        """
        if digest_of_file(path) != digest:
            raise ModelworksError(f"{path} is not {digest}: it was changed", fix="Train on the data again.")
        self._ask(f"keeping {path.name}", lambda: self._put(path, self.artifacts, contract.data_key(digest)))

    def fetch_data(self, digest: Digest, into: Path) -> Path:
        """Download rows, verified against their digest.

        Raises:
            ModelworksError: They are not there, or their bytes are not the digest's.
        """
        path = into / f"{digest.hex}.parquet"
        write_whole(path, self._verified(self.artifacts, contract.data_key(digest), digest))
        return path

    def keep_project(self, run: TrainedModel) -> Digest:
        """Keep what a run was made from, so that its version can be judged anywhere; returns its digest.

        Raises:
            ModelworksError: The run's copy was changed, or the store does not answer.
        """
        run.project()
        return self.keep_archive(pack(run.folder, MADE_OF))

    def keep_archive(self, data: bytes) -> Digest:
        """Keep what `archive_of` returned in another environment; returns its digest.

        Raises:
            ModelworksError: The store does not answer.
        """
        digest = digest_of(data)
        key = contract.project_key(digest)
        self._ask(
            f"keeping {key}",
            lambda: self._s3.put_object(Bucket=self.artifacts, Key=key, Body=data, ChecksumAlgorithm="SHA256"),
        )
        return digest

    def archive_of(self, version: Version) -> bytes:
        """The packed project of a version, verified against the digest in its lineage.

        Raises:
            ModelworksError: It is not there, or its bytes are not the digest's.
        """
        return self._verified(self.artifacts, contract.project_key(version.project), version.project)

    # -- Lineage -------------------------------------------------------------------------------------------------------
    def write_lineage(self, version: Version) -> None:
        """Write the lineage of a version.

        Raises:
            ForbiddenError: The store refuses it.
            ModelworksError: The store is unreachable.
        """
        content = {"version": version.version, "facts": version.facts}
        self._write_json(contract.lineage_key(version.model, version.digest), content)

    def write_aliases(self, model: str, aliases: Mapping[str, Digest]) -> None:
        """Write which bundle each alias of a model means.

        Raises:
            ModelworksError: The store is unreachable.
        """
        self._write_json(contract.aliases_key(model), aliases)

    def has_lineage(self, model: str) -> bool:
        """Whether there is the lineage of any version of a model."""
        prefix = f"{contract.LINEAGE_PREFIX}/{model}/"
        listed = self._ask(
            f"looking for {prefix}",
            lambda: self._s3.list_objects_v2(Bucket=self.bucket, Prefix=prefix, MaxKeys=1),
        )
        return bool(listed.get("Contents"))

    def read_lineage(self) -> dict[str, dict[str, bytes]]:
        """The lineage in the store: the content of each object by its file's name, by the model.

        Raises:
            ModelworksError: The store is unreachable.
        """

        def keys() -> list[str]:
            pages = self._s3.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=f"{contract.LINEAGE_PREFIX}/"
            )
            return [item["Key"] for page in pages for item in page.get("Contents", [])]

        found: dict[str, dict[str, bytes]] = {}
        for key in self._ask("listing the lineage", keys):
            model, _, name = key.removeprefix(f"{contract.LINEAGE_PREFIX}/").rpartition("/")
            found.setdefault(model, {})[name] = self._get(self.bucket, key)
        return found

    def _write_json(self, key: str, content: Mapping[str, Any]) -> None:
        data = json.dumps(content, sort_keys=True).encode()
        self._ask(
            f"keeping {key}",
            lambda: self._s3.put_object(Bucket=self.bucket, Key=key, Body=data, ChecksumAlgorithm="SHA256"),
        )

    # -- Objects -------------------------------------------------------------------------------------------------------
    def _has(self, bucket: str, key: str) -> bool:
        listed = self._ask(f"looking for {key}", lambda: self._s3.list_objects_v2(Bucket=bucket, Prefix=key))
        return any(item["Key"] == key for item in listed.get("Contents", []))

    def _verified(self, bucket: str, key: str, digest: Digest) -> bytes:
        content = self._get(bucket, key)
        if digest_of(content) != digest:
            raise ModelworksError(
                f"s3://{bucket}/{key} is not {digest}: it was tampered with",
                fix="Do not release it. `modelworks lineage` shows its origin; train it again.",
            )
        return content

    def _get(self, bucket: str, key: str) -> bytes:
        def get() -> bytes:
            return bytes(self._s3.get_object(Bucket=bucket, Key=key)["Body"].read())

        return bytes(self._ask(f"fetching {key.rpartition('/')[2]}", get))

    def _put(self, path: Path, bucket: str, key: str) -> None:
        with path.open("rb") as file:
            self._s3.put_object(Bucket=bucket, Key=key, Body=file, ChecksumAlgorithm="SHA256")

    @cached_property
    def _s3(self) -> Any:
        from botocore.config import Config  # only where the store is asked

        return self.session.client("s3", config=Config(retries={"total_max_attempts": 3}))

    def _ask(self, doing: str, call: Any) -> Any:
        """Run one call to S3; its failure is the store's."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            return call()
        except (ClientError, BotoCoreError, OSError) as error:
            if isinstance(error, ClientError) and (answer := error.response["Error"]).get("Code") == "AccessDenied":
                raise self._forbidden(doing, error.operation_name, answer.get("Message", "")) from error
            raise ModelworksError(
                f"{doing}: the store of {self.environment} (s3://{self.bucket}, s3://{self.artifacts}) failed: {error}",
                fix="Check that it exists (`modelworks verify`), and retry: no step is repeated.",
            ) from error

    def _forbidden(self, doing: str, operation: str, message: str) -> ForbiddenError:
        """The refusal of a call to S3, with the permission that it takes."""
        here = f"s3://{self.bucket}, s3://{self.artifacts}"
        if named := _REFUSAL.search(message):
            who, permission, resource = named.groups()
        else:
            # It may as well be the key of the bucket that refuses.
            who, permission, resource = "the caller", _NEEDED.get(operation, f"s3:{operation}"), f"{here} and their key"
        return ForbiddenError(
            f"{doing}: the store of {self.environment} ({here}) refused: AccessDenied, {who} lacks {permission} on "
            f"{resource}",
            fix=f"Allow it, or use other credentials for {self.environment}: `aws:profile` or `aws:assumeRoles` of its "
            "stack's file. docs/guides/aws.md lists what a promotion needs of each side. Then retry: no step is "
            "repeated.",
        )
