"""The registry of an environment: the versions that MLflow keeps of each model, over its stores of bundles and data.

Bundle and data are in the stores before a version names them, a version is complete before an alias points at it, and
every step finds what an earlier, broken try left: registering twice is registering once. Lineage and aliases are in the
bundle store too, written after MLflow has them: `rebuild` restores a lost registry from there.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from modelworks import contract
from modelworks._files import digest_of_file
from modelworks.contract import Digest
from modelworks.errors import ModelworksError
from modelworks.lifecycle.bundle import Bundle
from modelworks.lifecycle.runs import TrainedModel
from modelworks.lifecycle.store import Store
from modelworks.lifecycle.tracking import track
from modelworks.lifecycle.version import COMPLETE, TAG, Version, facts_of, tag_of, tags_of

_SHORTEST_START = 6
"""Hex digits that the start of a digest has at least."""


@dataclass(frozen=True)
class Registry:
    """The registry of one environment.

    Args:
        uri: Where MLflow answers.
        password: Of the user `admin`.
        store: The environment's stores of bundles and data.
    """

    uri: str
    password: str
    store: Store

    @property
    def environment(self) -> str:
        """The environment's name."""
        return self.store.environment

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

    def _ask(self, doing: str, call: Any) -> Any:
        """Run one call to MLflow; its failure is the registry's."""
        from mlflow.exceptions import MlflowException

        try:
            return call()
        except (MlflowException, OSError) as error:
            raise ModelworksError(
                f"{doing}: the registry of {self.environment} at {self.uri} failed: {str(error).splitlines()[0]}",
                fix="Check that it runs (`modelworks status`), and retry: no step is repeated.",
            ) from error

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
            Version(model, int(item.version), facts_of(item.tags), tuple(sorted(aliases.get(str(item.version), []))))
            for item in found
            if item.tags.get(COMPLETE) == "true"
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
        self.store.require_trust(model, digest, signature.read_bytes() if signature else None)
        self.store.put_bundle(model, digest, bundle, signature)

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
            f"s3://{self.store.bucket}/{contract.bundle_key(model, digest)}",
            run_id=mlflow_run or None,
            tags=tags_of(facts) | ({COMPLETE: "true"} if complete else {}),
            await_creation_for=0,
        )

    def note(self, version: Version, **facts: Any) -> Version:
        """Add facts to a version's lineage: who released it, where and when. Returns it with them."""
        for name, value in facts.items():
            self._ask(
                f"noting {name} of {version.model} {version.version}",
                lambda name=name, value=value: self._mlflow.set_model_version_tag(
                    version.model, str(version.version), f"{TAG}{name}", tag_of(value)
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
            self.store.write_lineage(version)
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
        self.store.write_lineage(replace(version, facts=facts_of(item.tags)))
        return version

    def _keep_aliases(self, model: str) -> None:
        aliases = {alias: version.digest for version in self.versions(model) for alias in version.aliases}
        self.store.write_aliases(model, aliases)

    def _require_not_lost(self, model: str) -> None:
        """Refuse to number the versions of a model from 1 again, and to write over the lineage that it had."""
        if self.store.has_lineage(model):
            raise ModelworksError(
                f"the registry of {self.environment} has no version of {model}, and its store has the lineage of some: "
                "the registry was lost",
                fix=f"Run `modelworks registry rebuild {self.environment}`. If they are to stay deleted, delete "
                f"s3://{self.store.bucket}/{contract.LINEAGE_PREFIX}/{model}/.",
            )

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
        for name, value in (tags_of(version.facts) if begun else {}).items():
            self._mlflow.set_model_version_tag(model, number, name, value)
        self._mlflow.set_model_version_tag(model, number, COMPLETE, "true")
        for alias in version.aliases:
            self._point(alias, version, model=model)
