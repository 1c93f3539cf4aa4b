"""The registry of an environment: its stores of bundles and data, and the versions that MLflow keeps of each model.

Bundle and data are in the stores before a version names them, a version is complete before an alias points at it, and
every step finds what an earlier, broken try left: registering twice is registering once. Lineage and aliases are in the
bundle store too, written after MLflow has them: `rebuild` restores a lost registry from there.
"""

from __future__ import annotations

import json
import os
import re
import zlib
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from modelworks import contract
from modelworks._files import digest_of, digest_of_file, plain, write_whole
from modelworks.contract import Digest, RunId
from modelworks.errors import ModelworksError
from modelworks.lifecycle.archive import pack
from modelworks.lifecycle.bundle import Bundle
from modelworks.lifecycle.gates import GateReport, lineage_verdict
from modelworks.lifecycle.runs import MADE_OF, TrainedModel
from modelworks.lifecycle.signing import read_stored_signature
from modelworks.lifecycle.tracking import track
from modelworks.runtime.signature import read_signature, verify

CHAMPION = "champion"
"""Alias of the version that an environment's traffic is on."""
CHALLENGER = "challenger"
"""Alias of the version that was released last and has not taken all traffic yet."""
_SHORTEST_START = 6
"""Hex digits that the start of a digest has at least."""
_TAG = "modelworks."
_LONGEST_TAG = 90_000
"""Characters; MLflow takes 100,000."""
_COMPRESSED = "zlib:"
_COMPLETE = f"{_TAG}complete"
_NEEDED = {"GetObject": "s3:GetObject", "ListObjectsV2": "s3:ListBucket", "PutObject": "s3:PutObject"}
_REFUSAL = re.compile(r'User: (\S+) is not authorized to perform: (\S+) on resource: "?([^"\s]+)')
"""The sentence of AWS. Callers of another account get none."""


class ForbiddenError(ModelworksError):
    """A store that answers, and refuses the caller."""


@dataclass(frozen=True)
class Version:
    """One version of a model in one environment, with its lineage."""

    model: str
    version: int
    facts: dict[str, Any]
    """`bundle`, `data`, `code`, `lock`, `project`, `commit`, `dirty`, `run`, `metrics`, `gates`, `champion`,
    `overrides`, `registered_by`, `registered_at`; for one with stored features also `features`, for a promoted one
    `promoted_from`."""
    aliases: tuple[str, ...] = ()

    @property
    def digest(self) -> Digest:
        """The bundle: what a release names."""
        return Digest(self.facts["bundle"])

    @property
    def data(self) -> Digest:
        """The rows it was trained on."""
        return Digest(self.facts["data"])

    @property
    def project(self) -> Digest:
        """Its packed project: files, lock, inputs and split of its run."""
        return Digest(self.facts["project"])

    @property
    def run(self) -> RunId:
        """The run it was bundled from."""
        return RunId(self.facts["run"])


@dataclass(frozen=True)
class Registry:
    """The registry of one environment.

    Args:
        environment: Its name, for messages.
        uri: Where MLflow answers.
        password: Of the user `admin`.
        bucket: The bundle store.
        artifacts: The bucket that data snapshots are kept in.
        session: A boto3 session of the environment's account.
        trusted_keys: Public keys in PEM, by file name, that its pods require a signature of. None: they require none.
    """

    environment: str
    uri: str
    password: str
    bucket: str
    artifacts: str
    session: Any
    trusted_keys: Mapping[str, str] = field(default_factory=dict)

    def track(self, run: TrainedModel, bundle: Bundle | None = None) -> str:
        """Log a run to this registry's MLflow, and return its id there.

        Raises:
            ModelworksError: It does not answer, or refuses.
        """
        self._sign_in()
        return track(run, self.uri, bundle)

    @property
    def _mlflow(self) -> Any:
        self._sign_in()
        return self._client

    def _sign_in(self) -> None:
        # MLflow reads these at every request, and one process may speak to two registries.
        os.environ["MLFLOW_TRACKING_USERNAME"] = contract.REGISTRY_USER
        os.environ["MLFLOW_TRACKING_PASSWORD"] = self.password

    @cached_property
    def _client(self) -> Any:
        # A server that is down must be an error within seconds, not after MLflow's seven retries.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "15")
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        from mlflow.tracking import MlflowClient  # two seconds to import

        return MlflowClient(self.uri, self.uri)

    @cached_property
    def _s3(self) -> Any:
        from botocore.config import Config  # only where the store is asked

        return self.session.client("s3", config=Config(retries={"total_max_attempts": 3}))

    def _ask(self, doing: str, call: Any) -> Any:
        """Run one call to MLflow or S3 and blame whom it was about."""
        from botocore.exceptions import BotoCoreError, ClientError
        from mlflow.exceptions import MlflowException

        try:
            return call()
        except (MlflowException, OSError) as error:
            raise ModelworksError(
                f"{doing}: the registry of {self.environment} at {self.uri} failed: {str(error).splitlines()[0]}",
                fix="Check that it runs (`modelworks status`), and retry: no step is repeated.",
            ) from error
        except (ClientError, BotoCoreError) as error:
            answer = getattr(error, "response", {}).get("Error", {})
            if answer.get("Code") == "AccessDenied":
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

    # -- Versions ----------------------------------------------------------------------------------------------------
    def versions(self, model: str) -> list[Version]:
        """Every complete version of a model, newest first; of two that name the same bundle, the older one."""
        found = self._ask(f"listing {model}", lambda: self._mlflow.search_model_versions(f"name = '{model}'"))
        aliases: dict[str, list[str]] = {}
        if found:
            registered = self._ask(f"listing {model}", lambda: self._mlflow.get_registered_model(model))
            for alias, number in registered.aliases.items():
                aliases.setdefault(str(number), []).append(alias)
        complete = [
            Version(model, int(item.version), _facts(item.tags), tuple(sorted(aliases.get(str(item.version), []))))
            for item in found
            if item.tags.get(_COMPLETE) == "true"
        ]
        first: dict[str, Version] = {}
        for version in sorted(complete, key=lambda each: each.version):
            first.setdefault(version.digest, version)
        return sorted(first.values(), key=lambda each: -each.version)

    def models(self) -> list[str]:
        """Names of the models that are registered."""
        names: list[str] = []
        token = None
        while True:
            page = self._ask(
                "listing models", lambda token=token: self._mlflow.search_registered_models(page_token=token)
            )
            names += [item.name for item in page]
            if not (token := page.token):
                return sorted(names)

    def find(self, model: str, which: str = "") -> Version:
        """A version by number, alias, digest or start of its hex; the newest by default.

        Raises:
            ModelworksError: There is none, or the start of a digest is that of several.
        """
        versions = self.versions(model)
        for version in versions:
            if not which or which in {str(version.version), version.digest, *version.aliases}:
                return version
        # A short number must never be taken for a digest: version 1 is not the one whose digest begins with 1.
        begun = [each for each in versions if each.digest.hex.startswith(which)]
        if len(which) >= _SHORTEST_START and len(begun) == 1:
            return begun[0]
        if len(which) >= _SHORTEST_START and begun:
            numbers = " and ".join(str(each.version) for each in begun)
            raise ModelworksError(
                f"{which!r} begins the digests of versions {numbers} of {model} in {self.environment}",
                fix="Give the version's number, or more of its digest.",
            )
        have = ", ".join(f"{item.version} ({contract.short_digest(item.digest)})" for item in versions) or "none"
        raise ModelworksError(
            f"{self.environment} has no version {which or 'at all'} of {model}; it has {have}",
            fix=f"Run `modelworks register {model} --env {self.environment}`.",
        )

    def register(self, facts: dict[str, Any], bundle: Path, signature: Path | None) -> Version:
        """Keep a bundle and name it as a version, complete with its lineage; an equal one is found again.

        Args:
            facts: The lineage; `model` and `bundle` (the digest) are required.
            bundle: The `.bento` file.
            signature: Its detached signature.

        Raises:
            ModelworksError: See `keep_bundle` and `name`.
        """
        self.keep_bundle(facts["model"], Digest(facts["bundle"]), bundle, signature)
        return self.name(facts)

    def keep_bundle(self, model: str, digest: Digest, bundle: Path, signature: Path | None) -> None:
        """Keep a bundle, which no version names yet.

        Args:
            model: The model.
            digest: The bundle's.
            bundle: The `.bento` file.
            signature: Its detached signature.

        Raises:
            ModelworksError: The file is not the digest's, its signature is not one that this environment trusts, or the
                store does not answer.
        """
        if digest_of_file(bundle) != digest:
            raise ModelworksError(f"{bundle} is not {digest}: it was changed", fix=f"Run `modelworks bundle {model}`.")
        self.require_trust(model, digest, signature.read_bytes() if signature else None)
        for path, key in (
            (bundle, contract.bundle_key(model, digest)),
            (signature, contract.signature_key(model, digest)),
        ):
            if path is not None:
                self._ask(f"keeping {path.name}", lambda path=path, key=key: self._put(path, self.bucket, key))

    def name(self, facts: dict[str, Any]) -> Version:
        """Name a bundle that is kept as a version, complete with its lineage; an equal one is found again.

        Args:
            facts: The lineage; `model` and `bundle` (the digest) are required.

        Raises:
            ModelworksError: The registry was lost and not rebuilt, or the store or MLflow does not answer.
        """
        digest, versions = Digest(facts["bundle"]), self.versions(facts["model"])
        if not versions:
            self._require_not_lost(facts["model"])
        known = next((version for version in versions if version.digest == digest), None)
        return self._keep_lineage(known or self._name(facts))

    def _put(self, path: Path, bucket: str, key: str) -> None:
        with path.open("rb") as file:
            self._s3.put_object(Bucket=bucket, Key=key, Body=file, ChecksumAlgorithm="SHA256")

    def _name(self, facts: dict[str, Any]) -> Version:
        model, digest = facts["model"], Digest(facts["bundle"])
        stamped = {**facts, "registered_at": datetime.now(UTC).isoformat(timespec="seconds")}

        def make() -> Any:
            self._make_model(model)
            return self._make_version(stamped, complete=True, mlflow_run=facts.get("mlflow_run"))

        made = self._ask(f"registering {model} {contract.short_digest(digest)}", make)
        # Of two who registered it at once, the first names it.
        return next(
            (each for each in self.versions(model) if each.digest == digest), Version(model, int(made.version), stamped)
        )

    def _make_model(self, model: str) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._mlflow.create_registered_model(model)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _make_version(self, facts: dict[str, Any], *, complete: bool, mlflow_run: str | None = None) -> Any:
        model, digest = facts["model"], Digest(facts["bundle"])
        # The server keeps a version and its tags in one transaction, so that no half of one can be seen.
        return self._mlflow.create_model_version(
            model,
            f"s3://{self.bucket}/{contract.bundle_key(model, digest)}",
            run_id=mlflow_run or None,
            tags=_tags(facts) | ({_COMPLETE: "true"} if complete else {}),
            await_creation_for=0,
        )

    def note(self, version: Version, **facts: Any) -> Version:
        """Add facts to a version's lineage: who released it, where and when. Returns it with them."""
        for name, value in facts.items():
            self._ask(
                f"noting {name} of {version.model} {version.version}",
                lambda name=name, value=value: self._mlflow.set_model_version_tag(
                    version.model, str(version.version), f"{_TAG}{name}", _tag(value)
                ),
            )
        noted = replace(version, facts={**version.facts, **facts})
        return self._keep_lineage(noted) if facts else noted

    def point(self, alias: str, version: Version | None, *, model: str) -> None:
        """Let an alias mean a version, or nothing."""
        self._point(alias, version, model=model)
        self._keep_aliases(model)

    def _point(self, alias: str, version: Version | None, *, model: str) -> None:
        if version is None:
            self._ask(f"clearing {alias}", lambda: self._mlflow.delete_registered_model_alias(model, alias))
        else:
            self._ask(
                f"pointing {alias} at {model} {version.version}",
                lambda: self._mlflow.set_registered_model_alias(model, alias, str(version.version)),
            )

    # -- Lineage in the store ----------------------------------------------------------------------------------------
    def keep_lineage(self, model: str) -> None:
        """Write lineage and aliases of all versions of a model into the store, as the registry has them now.

        Raises:
            ModelworksError: Registry or store is unreachable.
        """
        for version in self.versions(model):
            self._write_lineage(version)
        self._keep_aliases(model)

    def require_writable(self, version: Version) -> None:
        """Require that the lineage of a version can be written to the store, by writing it as it is.

        Raises:
            ForbiddenError: The store refuses it.
            ModelworksError: Registry or store is unreachable.
        """
        self._keep_lineage(version)

    def _keep_lineage(self, version: Version) -> Version:
        """Write the lineage of a version as the registry has it: somebody else may have added to it."""
        number = str(version.version)
        item = self._ask(
            f"reading {version.model} {number}", lambda: self._mlflow.get_model_version(version.model, number)
        )
        self._write_lineage(replace(version, facts=_facts(item.tags)))
        return version

    def _write_lineage(self, version: Version) -> None:
        content = {"version": version.version, "facts": version.facts}
        self._write_json(contract.lineage_key(version.model, version.digest), content)

    def _keep_aliases(self, model: str) -> None:
        aliases = {alias: version.digest for version in self.versions(model) for alias in version.aliases}
        self._write_json(contract.aliases_key(model), aliases)

    def _write_json(self, key: str, content: dict[str, Any]) -> None:
        data = json.dumps(content, sort_keys=True).encode()
        self._ask(
            f"keeping {key}",
            lambda: self._s3.put_object(Bucket=self.bucket, Key=key, Body=data, ChecksumAlgorithm="SHA256"),
        )

    def _require_not_lost(self, model: str) -> None:
        """Refuse to number the versions of a model from 1 again, and to write over the lineage that it had."""
        prefix = f"{contract.LINEAGE_PREFIX}/{model}/"
        listed = self._ask(
            f"looking for {prefix}",
            lambda: self._s3.list_objects_v2(Bucket=self.bucket, Prefix=prefix, MaxKeys=1),
        )
        if listed.get("Contents"):
            raise ModelworksError(
                f"the registry of {self.environment} has no version of {model}, and its store has the lineage of some: "
                "the registry was lost",
                fix=f"Run `modelworks registry rebuild {self.environment}`. If they are to stay deleted, delete "
                f"s3://{self.bucket}/{prefix}.",
            )

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

    def restore(self, version: Version) -> None:
        """Name a version by the number, with the lineage and the aliases that it had in a registry that was lost.

        An interrupted try is completed. MLflow's run is lost with MLflow: the version keeps its id in its facts, and is
        not linked to it.

        Raises:
            ModelworksError: The registry is unreachable, or has given a higher number already.
        """
        self._ask(f"restoring {version.model} {version.version}", lambda: self._restore(version))

    def _restore(self, version: Version) -> None:
        model, number = version.model, str(version.version)
        self._make_model(model)
        numbers = {int(item.version) for item in self._mlflow.search_model_versions(f"name = '{model}'")}
        begun = version.version in numbers
        # MLflow counts versions. Numbers of versions that were never completed are used up, and their versions deleted.
        while not begun and (made := int(self._make_version(version.facts, complete=False).version)) != version.version:
            self._mlflow.delete_model_version(model, str(made))
            if made > version.version:
                raise ModelworksError(
                    f"{self.environment} has used up the number {number} of {model}: another version had it, and was "
                    "deleted",
                    fix=f"Delete the model {model} in MLflow, and rebuild it.",
                )
        for name, value in (_tags(version.facts) if begun else {}).items():
            self._mlflow.set_model_version_tag(model, number, name, value)
        self._mlflow.set_model_version_tag(model, number, _COMPLETE, "true")
        for alias in version.aliases:
            self._point(alias, version, model=model)

    # -- Bundles and data --------------------------------------------------------------------------------------------
    def has_bundle(self, model: str, digest: Digest) -> bool:
        """Whether the store holds the bundle."""
        return self._has(self.bucket, contract.bundle_key(model, digest))

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


def lineage_of(
    run: TrainedModel, bundle: Bundle, gates: GateReport, *, project: Digest, mlflow_run: str = ""
) -> dict[str, Any]:
    """The facts that a version carries: what went in, what came out, what it proved, and who did it."""
    return {
        "model": run.model,
        "bundle": bundle.digest,
        "served": bundle.served,
        "run": run.run,
        "mlflow_run": mlflow_run,
        "data": run.inputs["data"],
        "code": run.inputs["code"],
        "lock": run.inputs["lock"],
        "project": project,
        "parameters": run.inputs["parameters"],
        "seed": run.inputs["seed"],
        "commit": run.origin.get("commit", ""),
        "dirty": bool(run.origin.get("dirty", True)),
        "metrics": run.metrics,
        "gates": [lineage_verdict(asdict(item)) for item in gates.results],
        "champion": gates.champion,
        "overrides": [{"environment": gates.target, **plain(asdict(gates.override))}] if gates.override else [],
        "registered_by": run.origin.get("by", ""),
    }


def _tags(facts: dict[str, Any]) -> dict[str, str]:
    return {f"{_TAG}{name}": _tag(value) for name, value in facts.items()}


def _tag(value: Any) -> str:
    """A fact as JSON; compressed where MLflow refuses it as too long, such as the verdicts on hundreds of slices."""
    text = json.dumps(value, sort_keys=True)
    return text if len(text) <= _LONGEST_TAG else _COMPRESSED + b64encode(zlib.compress(text.encode(), 9)).decode()


def _fact(tag: str) -> Any:
    packed = tag.startswith(_COMPRESSED)
    return json.loads(zlib.decompress(b64decode(tag.removeprefix(_COMPRESSED))) if packed else tag)


def _facts(tags: dict[str, str]) -> dict[str, Any]:
    return {
        name.removeprefix(_TAG): _fact(value)
        for name, value in tags.items()
        if name.startswith(_TAG) and name != _COMPLETE
    }
