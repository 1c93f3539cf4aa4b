"""A provider for every kind of Kubernetes object, by discovery and server-side apply."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final, NoReturn

import grpc

from modelworks.laptop.admission import LABEL
from modelworks.laptop.providers.kubernetes import manifests, waiting
from modelworks.laptop.providers.kubernetes.client import Refused, UnknownKind, Unreachable, connect
from modelworks.laptop.providers.kubernetes.documents import decode_yaml
from modelworks.laptop.providers.kubernetes.kinds import Kind, kind_of, replaces
from modelworks.laptop.providers.kubernetes.manifests import (
    Manifest,
    annotation,
    at,
    id_of,
    name_of,
    namespace_of,
    parse_id,
)
from modelworks.laptop.providers.kubernetes.readiness import (
    DELETION_TIMEOUT,
    RULES,
    SKIPS_DELETION,
    rule_for,
    wait_for,
)
from modelworks.laptop.providers.kubernetes.settings import Settings
from modelworks.laptop.providers.plugin import (
    Call,
    Change,
    Diff,
    Found,
    Incomplete,
    InvalidInputs,
    Naming,
    Provider,
    ProviderError,
)
from modelworks.laptop.providers.property_values import UNKNOWN, Path, has_unknowns

_APPLY: Final = "application/apply-patch+yaml"  # JSON is YAML
_CREATE_SECONDS = 15.0  # how long a missing namespace or kind may still come, as from a manifest applied beside
_ASK_SECONDS = 0.02  # rights in a new namespace take two or three of these
_NAMESPACE: Final = Kind("", "v1", "Namespace")


class KubernetesProvider(Provider):
    """One API server under one configuration.

    Args:
        settings: The configuration.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._cluster = connect(settings.kubeconfig, context=settings.context, cluster=settings.cluster)
        self._access = self._cluster.access

    # ------------------------------------------------------------------------------------------------------- check

    def check(self, call: Call, old: dict[str, Any], inputs: dict[str, Any], naming: Naming) -> Mapping[str, Any]:
        kind = kind_of(call.type, inputs)
        manifest = manifests.cleaned(inputs)
        manifest.setdefault("apiVersion", kind.api_version)
        manifest.setdefault("kind", kind.name)
        failures = self._failures(kind, manifest)
        if failures:
            raise InvalidInputs(failures)
        if not kind.patch:
            try:
                manifest = manifests.named(manifest, old, naming)
            except ValueError as error:
                raise InvalidInputs([(("metadata", "name"), str(error))]) from error
        namespace = self._settings.namespace or self._access.namespace
        metadata = manifest.get("metadata", {})
        if namespace and metadata is not UNKNOWN and metadata.get("namespace") is None and self._namespaced(kind):
            manifest = {**manifest, "metadata": {**metadata, "namespace": namespace}}
        if not self._settings.suppress_deprecation_warnings and kind.group == "extensions":
            call.say(f"{kind} is no longer served by Kubernetes", severity="warning")
        return manifests.hidden(manifest)

    def _failures(self, kind: Kind, manifest: Manifest) -> list[tuple[Path, str]]:
        failures: list[tuple[Path, str]] = []
        if kind.name.endswith("List") and isinstance(manifest.get("items", []), list) and not self._serves(kind):
            failures.append(((), "a list cannot be created; declare each of its items, or use `yaml.ConfigGroup`"))
        if kind.patch and not self._settings.enable_server_side_apply:
            failures.append(((), "patch resources need server-side apply (`enableServerSideApply`)"))
        metadata = manifest.get("metadata")
        if kind.patch and metadata is not UNKNOWN and not manifests.states(metadata, "name"):
            failures.append((("metadata", "name"), "a patch resource must name the object that it patches"))
        if manifests.states(metadata, "generateName") and not manifests.states(metadata, "name"):
            failures.append(
                (
                    ("metadata", "generateName"),
                    "not supported with server-side apply; leave the name out to have one made up",
                )
            )
        if wanted := annotation(manifest, manifests.WAIT_FOR):
            try:
                wait_for(wanted)
            except ValueError as error:
                failures.append((("metadata", "annotations", manifests.WAIT_FOR), str(error)))
        return failures

    # -------------------------------------------------------------------------------------------------------- diff

    def diff(
        self,
        call: Call,
        id_: str,
        old: dict[str, Any],
        state: dict[str, Any],  # noqa: ARG002  drift shows in the inputs that `read` finds
        inputs: dict[str, Any],
    ) -> Diff:
        kind = kind_of(call.type, inputs)
        before, after = manifests.normalized(old), manifests.normalized(inputs)
        for each in (before, after):
            if isinstance(each.get("metadata"), dict) and self._namespaced(kind):
                each["metadata"].setdefault("namespace", "default")
            elif isinstance(each.get("metadata"), dict):
                each["metadata"].pop("namespace", None)  # one that was assumed before the kind was known
        mutable = self._mutable(kind, inputs)
        changes = {
            path: Change(change.kind, replaces=replaces(kind, path, mutable_data=mutable))
            for path, change in manifests.differences(before, after)
        }
        if annotation(inputs, manifests.REPLACE_UNREADY) == "true":
            changes |= self._unready(call, kind, id_)
        must_replace = any(change.replaces for change in changes.values())
        return Diff(
            changes,
            delete_before_replace=must_replace
            and bool(name_of(after))
            and annotation(after, manifests.AUTONAMED) != "true"
            and (namespace_of(after), name_of(after)) == (namespace_of(before), name_of(before)),
        )

    def _mutable(self, kind: Kind, inputs: Manifest) -> bool:
        settings = self._settings
        allowed = {"ConfigMap": settings.enable_config_map_mutable, "Secret": settings.enable_secret_mutable}
        return allowed.get(kind.name, False) and not kind.group and inputs.get("immutable") is not True

    def _unready(self, call: Call, kind: Kind, id_: str) -> dict[Path, Change]:
        path: Path = ("metadata", "annotations", manifests.REPLACE_UNREADY)
        if kind.name != "Job":
            call.say(f"{manifests.REPLACE_UNREADY} has no meaning for a {kind.name}", severity="warning")
            return {}
        try:
            live = self._cluster.get(kind, *self._place(kind, id_))
        except (Refused, Unreachable):
            return {}  # what cannot be asked now shows when the job is read
        ready = live is not None and waiting.now(self._cluster, live, RULES["batch/v1", "Job"]) == []
        return {} if ready else {path: Change("update", replaces=True)}

    # ------------------------------------------------------------------------------------------------------ create

    def create(self, call: Call, inputs: dict[str, Any]) -> tuple[str, Mapping[str, Any]]:
        kind = kind_of(call.type, inputs)
        if call.preview and not self._can_rehearse(call, kind, inputs):
            return "", inputs
        manager = manifests.field_manager({}, inputs, server_side=self._settings.enable_server_side_apply)
        wanted = self._placed(kind, manifests.cleaned(inputs))
        if call.preview:
            return "", self._rehearsed_creation(call, kind, inputs, wanted, manager)
        if not kind.patch and not self._settings.upsert_existing_objects:
            self._refuse_existing(call, kind, wanted)
        live = self._made(call, kind, wanted, manager)
        if kind == _NAMESPACE and at(live, "metadata", "labels", LABEL):
            self._until_usable(call, name_of(live))
        return self._awaited(call, kind, live, inputs, str(inputs.get("apiVersion", kind.api_version)), manager)

    def _refuse_existing(self, call: Call, kind: Kind, wanted: Manifest) -> None:
        there = self._cluster.get(kind, namespace_of(wanted), name_of(wanted)) if self._serves(kind) else None
        if there and at(there, "metadata", "deletionTimestamp"):
            # It is going. To apply now would be to add to what goes.
            self._until_gone(call, kind, wanted, there)
        elif there:
            raise ProviderError(
                f"{_title(kind, wanted)} already exists",
                fix=f"Take it over with `pulumi import` (its id is {id_of(wanted)}) or the provider's "
                "upsertExistingObjects, or give this one another name. If the program renamed it, declare an alias.",
                code=grpc.StatusCode.ALREADY_EXISTS,
            )

    def _made(self, call: Call, kind: Kind, wanted: Manifest, manager: str) -> Manifest:
        deadline, pause = time.monotonic() + _CREATE_SECONDS, 0.25
        while True:
            try:
                return self._apply(call, kind, wanted, manager, creating=True)
            except (UnknownKind, Refused) as error:
                missing = isinstance(error, UnknownKind) or error.status == 404
                self._cluster.forget(kind)
                if not missing or time.monotonic() > deadline or call.cancelled.wait(pause):
                    raise
                call.say(f"trying again: {error.message}", passing=True)
                pause = min(pause * 2, 4)

    def _until_usable(self, call: Call, namespace: str) -> None:
        """Wait for the rights in a namespace that was just made: an environment is granted them a moment later."""
        question = {"spec": {"resourceAttributes": {"namespace": namespace, "verb": "patch", "resource": "configmaps"}}}
        deadline = time.monotonic() + _CREATE_SECONDS
        while not call.cancelled.wait(_ASK_SECONDS):
            answer = self._cluster.request(
                "POST",
                "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
                doing=f"asking for the rights in namespace {namespace}",
                body=question,
            )
            if at(answer, "status", "allowed"):
                return
            if time.monotonic() > deadline:
                call.say(
                    f"there are no rights in namespace {namespace} after {_CREATE_SECONDS:g} s", severity="warning"
                )
                return

    def _rehearsed_creation(self, call: Call, kind: Kind, inputs: Manifest, wanted: Manifest, manager: str) -> Manifest:
        # A replacement is previewed while the old object still has the name: an apply would merge with it.
        rehearsal = wanted
        if self._cluster.get(kind, namespace_of(wanted), name_of(wanted)):
            other = f"{name_of(wanted)[:54]}-preview"
            rehearsal = {**wanted, "metadata": {**wanted["metadata"], "name": other}}
        try:
            dry = self._apply(call, kind, rehearsal, manager, creating=True, dry=True, force=True)
        except Refused as error:
            if self._unrehearsable(call, error):
                return inputs
            raise
        dry["metadata"]["name"] = name_of(wanted)
        return manifests.predicted(dry, inputs, new=True)

    # ---------------------------------------------------------------------------------------------- read, and refresh

    def read(self, call: Call, id_: str, inputs: dict[str, Any], state: dict[str, Any]) -> Found | None:
        known = manifests.cleaned(inputs)
        before = manifests.live_in(state)
        kind = kind_of(call.type, known or before)
        try:
            live = self._cluster.get(kind, *self._place(kind, id_))
        except UnknownKind:
            return None  # the kind is gone, and with it every object of it
        except Unreachable as error:
            call.say(error.message, severity="warning")
            if self._settings.delete_unreachable:
                return None
            if self._settings.skip_update_unreachable:
                return Found(id_, inputs, state)
            raise
        if live is None:
            return None
        live.setdefault("apiVersion", kind.api_version)
        live.setdefault("kind", kind.name)
        now = manifests.drifted(known, before, live) if known and before else known or manifests.imported(live)
        manager = (
            state.get(manifests.FIELD_MANAGER)
            or manifests.adopted_manager(at(live, "metadata", "managedFields", default=[]))
            or manifests.field_manager({}, now, server_side=self._settings.enable_server_side_apply)
        )
        initial = str(state.get(manifests.INITIAL_API_VERSION) or kind.api_version)
        seen = manifests.recorded(live, now, initial_api_version=initial, manager=str(manager))
        how = None if kind.patch or not known else rule_for(known)
        if how and how.settles and (reasons := waiting.now(self._cluster, live, how)):
            summary = f"{_title(kind, live)} is not ready: {reasons[0]}"
            raise Incomplete(id_, seen, [summary, *reasons[1:]], inputs=manifests.hidden(now))
        return Found(id_, manifests.hidden(now), seen)

    # ------------------------------------------------------------------------------------------------------ update

    def update(
        self, call: Call, id_: str, old: dict[str, Any], state: dict[str, Any], inputs: dict[str, Any]
    ) -> Mapping[str, Any]:
        kind = kind_of(call.type, inputs)
        if call.preview and not self._can_rehearse(call, kind, inputs):
            return inputs
        wanted = self._placed(kind, manifests.cleaned(inputs), parse_id(id_)[0])
        server_side = self._settings.enable_server_side_apply
        manager = manifests.field_manager(state, wanted, server_side=server_side)
        live = self._cluster.get(kind, namespace_of(wanted), name_of(wanted))
        if live is None:
            raise ProviderError(
                f"{_title(kind, wanted)} does not exist any more", fix="Run `pulumi refresh`, then `pulumi up`."
            )
        if server_side and not kind.patch and not call.preview:
            live = self._taken_over(kind, live, manager)
        if call.ignored:
            wanted = manifests.left_to_others(wanted, live, call.ignored, manager)
        force = self._forced(wanted) or (call.preview and self._will_take_over(live))
        try:
            if server_side:
                after = self._apply(call, kind, wanted, manager, dry=call.preview, force=force)
            else:
                after = self._patched(kind, manifests.cleaned(old), wanted, manager, dry=call.preview)
        except Refused as error:
            if call.preview and self._unrehearsable(call, error):
                return inputs
            raise
        if call.preview:
            return manifests.predicted(after, inputs, new=False)
        initial = str(state.get(manifests.INITIAL_API_VERSION) or kind.api_version)
        _, seen = self._awaited(call, kind, after, inputs, initial, manager)
        was = manifests.field_manager(state, old, server_side=server_side)
        if server_side and was != manager and manifests.FIELD_MANAGER in state:
            self._relinquish(kind, live, was)
        return seen

    def _taken_over(self, kind: Kind, live: Manifest, manager: str) -> Manifest:
        managed = manifests.taken_over(at(live, "metadata", "managedFields", default=[]), manager)
        if managed is None:
            return live
        patch = [
            {"op": "replace", "path": "/metadata/managedFields", "value": managed},
            {"op": "replace", "path": "/metadata/resourceVersion", "value": live["metadata"]["resourceVersion"]},
        ]
        return self._cluster.request(
            "PATCH",
            self._cluster.url(kind, namespace_of(live), name_of(live)),
            doing=f"taking over {_title(kind, live)} from client-side apply",
            body=patch,
            content_type="application/json-patch+json",
        )

    def _will_take_over(self, live: Manifest) -> bool:
        return manifests.taken_over(at(live, "metadata", "managedFields", default=[]), "") is not None

    def _patched(self, kind: Kind, old: Manifest, wanted: Manifest, manager: str, *, dry: bool) -> Manifest:
        return self._cluster.request(
            "PATCH",
            self._cluster.url(kind, namespace_of(wanted), name_of(wanted)),
            doing=f"changing {_title(kind, wanted)}",
            params={"fieldManager": manager, **({"dryRun": "All"} if dry else {})},
            body=manifests.merge_patch(old, wanted),
            content_type="application/merge-patch+json",
        )

    # ------------------------------------------------------------------------------------------------------ delete

    def delete(self, call: Call, id_: str, inputs: dict[str, Any], state: dict[str, Any]) -> None:
        known = manifests.cleaned(inputs) or manifests.cleaned(state.get(manifests.INPUTS) or {})
        kind = kind_of(call.type, known)
        try:
            live = self._cluster.get(kind, *self._place(kind, id_))
            if live is None:
                return
            manager = manifests.field_manager(state, known, server_side=self._settings.enable_server_side_apply)
            if kind.patch:
                self._relinquish(kind, live, manager)
            else:
                self._deleted(call, kind, known, live, manager)
        except UnknownKind:
            return  # the kind is gone, and with it every object of it
        except Unreachable as error:
            if not self._settings.delete_unreachable:
                raise
            call.say(f"forgotten, not deleted: {error.message}", severity="warning")

    def _deleted(self, call: Call, kind: Kind, known: Manifest, live: Manifest, manager: str) -> None:
        policy = {"orphan": "Orphan", "background": "Background"}.get(
            annotation(known, manifests.DELETION_PROPAGATION).lower(), "Foreground"
        )
        try:
            self._cluster.request(
                "DELETE",
                self._cluster.url(kind, namespace_of(live), name_of(live)),
                doing=f"deleting {_title(kind, live)}",
                body={"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": policy},
            )
        except Refused as error:
            if error.status == 404:
                return
            if error.status == 403:
                # Some objects may not go (the namespace `default`): what is ours is withdrawn from them instead.
                call.say(f"{error.message}; its fields are given up instead", severity="warning")
                self._relinquish(kind, live, manager)
                return
            raise
        if annotation(known, manifests.SKIP_AWAIT) == "true" and kind.name in SKIPS_DELETION:
            return
        self._until_gone(call, kind, known, live)

    def _until_gone(self, call: Call, kind: Kind, known: Manifest, live: Manifest) -> None:
        timeout = self._timeout(call, known, DELETION_TIMEOUT.get(kind.name, 300))
        try:
            waiting.until_gone(self._cluster, call, kind, live, timeout)
        except waiting.NotReady as error:
            raise ProviderError(
                f"{_title(kind, live)} was told to go but is still there: {error.reasons[0]}",
                fix="See what holds it, then run the command again: it goes on waiting.",
                code=grpc.StatusCode.CANCELLED if call.cancelled.is_set() else grpc.StatusCode.DEADLINE_EXCEEDED,
            ) from error

    def _relinquish(self, kind: Kind, live: Manifest, manager: str) -> None:
        """Give up every field that `manager` owns: those that nobody else owns are removed."""
        empty = {
            "apiVersion": kind.api_version,
            "kind": kind.name,
            "metadata": {key: live["metadata"][key] for key in ("name", "namespace") if key in live["metadata"]},
        }
        try:
            self._cluster.request(
                "PATCH",
                self._cluster.url(kind, namespace_of(live), name_of(live)),
                doing=f"giving up the fields of {_title(kind, live)}",
                params={"fieldManager": manager},
                body=empty,
                content_type=_APPLY,
            )
        except Refused as error:
            held = [
                cause.get("field")
                for cause in error.details.get("causes", ())
                if cause.get("reason") == "FieldValueRequired"
            ]
            if not held:
                raise
            raise ProviderError(
                f"this patch of {_title(kind, live)} holds what the object must have: {', '.join(map(str, held))}",
                fix="Let someone else own the field first, or set `retain_on_delete`.",
            ) from error

    # ------------------------------------------------------------------------------------------------------ invoke

    def invoke(self, call: Call, args: dict[str, Any]) -> Mapping[str, Any]:
        if call.type == "kubernetes:yaml:decode":
            return {"result": decode_yaml(str(args.get("text", "")), str(args.get("defaultNamespace") or ""))}
        if call.type in {"kubernetes:helm:template", "kubernetes:kustomize:directory"}:
            tool = call.type.split(":")[1]
            command = "helm template" if tool == "helm" else "kubectl kustomize"
            raise ProviderError(
                f"{tool} is not part of the laptop's Kubernetes provider",
                fix=f"Render to YAML first (`{command}`) and declare that with `pulumi_kubernetes.yaml.ConfigFile`.",
                code=grpc.StatusCode.UNIMPLEMENTED,
            )
        raise ProviderError(
            f"the laptop's kubernetes provider has no function {call.type}", code=grpc.StatusCode.UNIMPLEMENTED
        )

    def construct(self, type_: str) -> NoReturn:
        fix = "Render it to YAML and declare that with `pulumi_kubernetes.yaml.ConfigFile`."
        if type_.startswith("kubernetes:yaml/v2:"):
            fix = "Use `pulumi_kubernetes.yaml.ConfigFile` or `ConfigGroup` instead of `pulumi_kubernetes.yaml.v2`."
        raise ProviderError(
            f"{type_} is a component that the real provider builds itself, which the laptop's does not",
            fix=fix,
            code=grpc.StatusCode.UNIMPLEMENTED,
        )

    # ------------------------------------------------------------------------------------------ shared by those above

    def _apply(
        self,
        call: Call,
        kind: Kind,
        wanted: Manifest,
        manager: str,
        *,
        creating: bool = False,
        dry: bool = False,
        force: bool | None = None,
    ) -> Manifest:
        doing = f"{'checking' if dry else 'creating' if creating else 'changing'} {_title(kind, wanted)}"
        params = {"fieldManager": manager, "fieldValidation": "Warn", **({"dryRun": "All"} if dry else {})}

        def warn(text: str) -> None:
            if not (self._settings.suppress_deprecation_warnings and "deprecated" in text):
                call.say(text, severity="warning")

        if not self._settings.enable_server_side_apply:  # only ever to create
            return self._cluster.request(
                "POST",
                self._cluster.url(kind, namespace_of(wanted)),
                doing=doing,
                params=params,
                body=wanted,
                warn=warn,
            )
        forced = self._forced(wanted) if force is None else force
        try:
            return self._cluster.request(
                "PATCH",
                self._cluster.url(kind, namespace_of(wanted), name_of(wanted)),
                doing=doing,
                params={**params, "force": "true" if forced else "false"},
                body=wanted,
                content_type=_APPLY,
                warn=warn,
            )
        except Refused as error:
            raise explained(error, _title(kind, wanted)) from error

    def _awaited(
        self, call: Call, kind: Kind, live: Manifest, inputs: Manifest, initial: str, manager: str
    ) -> tuple[str, Manifest]:
        def record(seen: Manifest) -> Manifest:
            seen = {"apiVersion": kind.api_version, "kind": kind.name, **seen}
            return manifests.recorded(seen, inputs, initial_api_version=initial, manager=manager)

        # The kind's own rule holds for what was applied; annotations are the program's.
        how = None if kind.patch else rule_for({**inputs, "apiVersion": kind.api_version, "kind": kind.name})
        if how is None:
            return id_of(live), record(live)
        try:
            timeout = self._timeout(call, inputs, how.timeout)
            live = waiting.until_ready(self._cluster, call, kind, live, how, timeout)
        except waiting.NotReady as error:
            summary = f"{_title(kind, live)} exists but is not ready: {error.reasons[0]}"
            raise Incomplete(id_of(live), record(error.seen), [summary, *error.reasons[1:]]) from error
        return id_of(live), record(live)

    def _placed(self, kind: Kind, wanted: Manifest, namespace: str = "") -> Manifest:
        """`wanted` with its namespace, or without one where its kind has none."""
        metadata = dict(wanted.get("metadata") or {})
        if not self._namespaced(kind):
            metadata.pop("namespace", None)
        elif not metadata.get("namespace"):
            metadata["namespace"] = namespace or self._settings.namespace or self._access.namespace or "default"
        return {**wanted, "apiVersion": kind.api_version, "kind": kind.name, "metadata": metadata}

    def _place(self, kind: Kind, id_: str) -> tuple[str, str]:
        """Namespace and name of the object with this id. An import may leave the namespace out."""
        namespace, name = parse_id(id_)
        if not namespace and self._cluster.endpoint(kind).namespaced:
            namespace = self._settings.namespace or self._access.namespace or "default"
        return namespace, name

    def _can_rehearse(self, call: Call, kind: Kind, inputs: Manifest) -> bool:
        """Whether the API server can be asked what it would do. If not, a preview shows the inputs."""
        if has_unknowns(inputs) or kind.patch or not self._settings.enable_server_side_apply:
            return False
        try:
            return self._cluster.serves(kind)
        except Unreachable as error:
            call.say(f"not checked by the API server: {error.message}", severity="warning")
            return False

    @staticmethod
    def _unrehearsable(call: Call, error: Refused) -> bool:
        """Whether a dry run failed for what says nothing about `up`; if so, a preview shows the inputs.

        A namespace that is not there yet will be; a webhook may not do dry runs. What is forbidden may be forbidden to
        the dry run only (as the real provider takes it), or to `up` as well, so it is said.
        """
        if error.status == 403:
            call.say(f"not checked by the API server: {error.message}", severity="warning")
        return error.status in {403, 404} or "dry run" in error.server_message

    def _serves(self, kind: Kind) -> bool:
        try:
            return self._cluster.serves(kind)
        except Unreachable:
            return False

    def _namespaced(self, kind: Kind) -> bool:
        try:
            return self._cluster.endpoint(kind).namespaced
        except (UnknownKind, Unreachable):
            return True  # as custom resources mostly are; put right when it is made

    def _forced(self, wanted: Manifest) -> bool:
        own = annotation(wanted, manifests.PATCH_FORCE)
        return own == "true" if own else self._settings.enable_patch_force

    @staticmethod
    def _timeout(call: Call, inputs: Manifest, default: float) -> float:
        if call.timeout:
            return call.timeout
        try:
            return float(annotation(inputs, manifests.TIMEOUT_SECONDS) or default)
        except ValueError:
            return default


def explained(error: Refused, title: str) -> Refused:
    """`error` with what to do about it, where that is known."""
    causes: Sequence[Mapping[str, Any]] = error.details.get("causes") or ()
    conflicts = [cause for cause in causes if cause.get("reason") == "FieldManagerConflict"]
    if error.status == 409 and conflicts:
        owners = "; ".join(f"{cause.get('field')} ({cause.get('message')})" for cause in conflicts)
        paths = ", ".join(f'"{str(cause.get("field")).lstrip(".")}"' for cause in conflicts)
        body = {
            "message": f"another field manager owns fields that this would change: {owners}",
            "reason": error.reason,
        }
        return Refused(
            error.status,
            {**body, "details": error.details},
            doing=f"applying {title}",
            fix=f'Take them over with the annotation {manifests.PATCH_FORCE}: "true", or leave them to the other with '
            f"ignore_changes=[{paths}].",
        )
    if error.status == 422 and "immutable" in error.server_message:
        paths = ", ".join(f'"{cause.get("field")}"' for cause in causes if "immutable" in str(cause.get("message")))
        error.fix = f"Let Pulumi replace it: ResourceOptions(replace_on_changes=[{paths}], delete_before_replace=True)."
    return error


def _title(kind: Kind, manifest: Mapping[str, Any]) -> str:
    return f"{kind.name} {id_of(manifest)}"
