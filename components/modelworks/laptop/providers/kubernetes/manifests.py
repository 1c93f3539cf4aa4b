"""Manifests as programs write them, as the API server keeps them, and as Pulumi's state records them. Pure."""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from modelworks.laptop.providers.plugin import Change, Naming
from modelworks.laptop.providers.property_values import UNKNOWN, Path, Secret, has_unknowns

Manifest = dict[str, Any]

AUTONAMED: Final = "pulumi.com/autonamed"
SKIP_AWAIT: Final = "pulumi.com/skipAwait"
WAIT_FOR: Final = "pulumi.com/waitFor"
TIMEOUT_SECONDS: Final = "pulumi.com/timeoutSeconds"
PATCH_FORCE: Final = "pulumi.com/patchForce"
PATCH_FIELD_MANAGER: Final = "pulumi.com/patchFieldManager"
DELETION_PROPAGATION: Final = "pulumi.com/deletionPropagationPolicy"
REPLACE_UNREADY: Final = "pulumi.com/replaceUnready"

# Beside the live object, the real provider keeps these in a resource's state; so do we, and a stack can change hands.
INPUTS: Final = "__inputs"
INITIAL_API_VERSION: Final = "__initialApiVersion"
FIELD_MANAGER: Final = "__fieldManager"

_SERVER_SET: Final = (  # noqa: SIM905  words read best as words
    "creationTimestamp deletionGracePeriodSeconds deletionTimestamp generation managedFields resourceVersion selfLink "
    "uid"
).split()
_LAST_APPLIED: Final = "kubectl.kubernetes.io/last-applied-configuration"
# SDKs cannot have dashes in the names of a schema's extensions.
_DASHED: Final = {
    name.replace("-", "_"): name
    for name in (  # noqa: SIM905
        "x-kubernetes-embedded-resource x-kubernetes-int-or-string x-kubernetes-list-map-keys x-kubernetes-list-type "
        "x-kubernetes-map-type x-kubernetes-preserve-unknown-fields x-kubernetes-validations"
    ).split()
}
_UNDERSCORED: Final = {dashed: name for name, dashed in _DASHED.items()}


# ----------------------------------------------------------------------------------------------- reading a manifest


def at(manifest: Any, *path: str | int, default: Any = None) -> Any:
    """What stands at `path`, or `default` where any step is missing."""
    for step in path:
        inside = isinstance(manifest, list) and isinstance(step, int) and -len(manifest) <= step < len(manifest)
        if not inside and not (isinstance(manifest, Mapping) and step in manifest):
            return default
        manifest = manifest[step]
    return manifest


def states(manifest: Any, *path: str | int) -> bool:
    """Whether something stands at `path`, be it not known yet."""
    value = at(manifest, *path)
    return value is UNKNOWN or bool(value)


def name_of(manifest: Mapping[str, Any]) -> str:
    """The object's name; empty where there is none, or none known yet."""
    name = at(manifest, "metadata", "name")
    return name if isinstance(name, str) else ""


def namespace_of(manifest: Mapping[str, Any]) -> str:
    """The object's namespace; empty where there is none, or none known yet."""
    namespace = at(manifest, "metadata", "namespace")
    return namespace if isinstance(namespace, str) else ""


def annotation(manifest: Mapping[str, Any], key: str) -> str:
    """The annotation's value; empty where there is none, or none known yet."""
    value = at(manifest, "metadata", "annotations", key)
    return value if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else ""


def id_of(manifest: Mapping[str, Any]) -> str:
    """The resource's id: `namespace/name`, or the name alone."""
    namespace, name = namespace_of(manifest), name_of(manifest)
    return f"{namespace}/{name}" if namespace else name


def parse_id(id_: str) -> tuple[str, str]:
    """Namespace (empty where there is none) and name of an id."""
    namespace, _, name = id_.rpartition("/")
    return namespace, name


# ---------------------------------------------------------------------------------------------------------- naming


def named(inputs: Manifest, old: Mapping[str, Any], naming: Naming) -> Manifest:
    """`inputs` with a name: their own, the one given before, or a new one that is marked as made up.

    Raises:
        ValueError: The program gives no name and forbids making one up.
    """
    metadata = inputs.get("metadata")
    if metadata is UNKNOWN or states(metadata, "name") or states(metadata, "generateName"):
        return inputs
    if name_of(old) and annotation(old, AUTONAMED) == "true":
        name = name_of(old)
    elif naming.disabled:
        raise ValueError(
            "metadata.name is missing, and the program's `pulumi:autonaming` configuration forbids to make one up"
        )
    elif naming.proposed:
        name = naming.proposed
    else:
        name = f"{naming.name}-{_suffix(naming)}"
    annotations = at(metadata, "annotations", default={})
    marked = annotations if annotations is UNKNOWN else {**annotations, AUTONAMED: "true"}
    return {**inputs, "metadata": {**(metadata or {}), "name": name, "annotations": marked}}


def field_manager(old_state: Mapping[str, Any], inputs: Mapping[str, Any], *, server_side: bool = True) -> str:
    """Under which name the API server records what this resource owns: stays the same over the resource's life."""
    if not server_side:
        return "pulumi-kubernetes"
    return (
        annotation(inputs, PATCH_FIELD_MANAGER)
        or old_state.get(FIELD_MANAGER)
        or f"pulumi-kubernetes-{secrets.token_hex(4)}"
    )


def _suffix(naming: Naming) -> str:
    if not naming.seed:
        return secrets.token_hex(4)
    return hashlib.sha256(naming.seed + naming.name.encode()).hexdigest()[:8]


# --------------------------------------------------------------------------------------------------- inputs and state


def cleaned(inputs: Mapping[str, Any]) -> Manifest:
    """`inputs` as the API server expects them: without nulls, without what only it may set, with real names."""
    manifest: Manifest = _renamed(_without_nulls(dict(inputs)), _DASHED)
    for key in (INPUTS, INITIAL_API_VERSION, FIELD_MANAGER):
        manifest.pop(key, None)
    if isinstance(manifest.get("metadata"), dict):
        manifest["metadata"] = {key: value for key, value in manifest["metadata"].items() if key not in _SERVER_SET}
    return manifest


def recorded(live: Mapping[str, Any], inputs: Mapping[str, Any], *, initial_api_version: str, manager: str) -> Manifest:
    """What Pulumi's state keeps of an object: the object itself, and beside it what the provider must remember.

    One difference to the real provider: `metadata.managedFields` is left out. It is long, and always asked for anew.
    """
    state: Manifest = _renamed(copy.deepcopy(dict(live)), _UNDERSCORED)
    at(state, "metadata", default={}).pop("managedFields", None)
    kept: Manifest = _renamed(copy.deepcopy(dict(inputs)), _UNDERSCORED)
    if live.get("kind") == "Secret":
        state, kept = hidden(state), hidden({**kept, "apiVersion": live.get("apiVersion"), "kind": "Secret"})
        at(state, "metadata", "annotations", default={}).pop(_LAST_APPLIED, None)  # it has the content in it
    return {**state, INPUTS: kept, INITIAL_API_VERSION: initial_api_version, FIELD_MANAGER: manager}


def hidden(manifest: Manifest) -> Manifest:
    """`manifest`, and if it is a Secret, then with its content marked as secret."""
    if manifest.get("kind") != "Secret" or manifest.get("apiVersion") != "v1":
        return manifest
    return {**manifest, **{key: Secret(manifest[key]) for key in ("data", "stringData") if states(manifest, key)}}


def live_in(state: Mapping[str, Any]) -> Manifest:
    """The object as `recorded` knew it."""
    return {
        key: value
        for key, value in _renamed(dict(state), _DASHED).items()
        if key not in {INPUTS, INITIAL_API_VERSION, FIELD_MANAGER}
    }


def predicted(dry: Mapping[str, Any], inputs: Mapping[str, Any], *, new: bool) -> Manifest:
    """What a preview may promise of an object that a dry run returned.

    A dry run makes up an identity (uid, times, addresses) that the real object will not have.
    """
    manifest = copy.deepcopy(dict(dry))
    manifest.pop("status", None)
    metadata = at(manifest, "metadata", default={})
    unsure = ["resourceVersion", "generation", *(("uid", "creationTimestamp") if new else ())]
    metadata.update({key: UNKNOWN for key in unsure if key in metadata})
    metadata.pop("managedFields", None)
    if new and manifest.get("kind") == "Service" and isinstance(manifest.get("spec"), dict):
        for key in ("clusterIP", "clusterIPs"):
            if key in manifest["spec"] and at(inputs, "spec", key) is None:
                manifest["spec"][key] = UNKNOWN
    return manifest


def imported(live: Mapping[str, Any]) -> Manifest:
    """Inputs that would declare an object of which only the live form is known."""
    inputs = cleaned({key: copy.deepcopy(value) for key, value in live.items() if key != "status"})
    annotations = at(inputs, "metadata", "annotations")
    if annotations:
        kept = {
            key: value
            for key, value in annotations.items()
            if key not in {"deployment.kubernetes.io/revision", _LAST_APPLIED}
        }
        inputs["metadata"].pop("annotations") if not kept else inputs["metadata"].update(annotations=kept)
    return inputs


def drifted(inputs: Any, before: Any, now: Any) -> Any:
    """`inputs` as if the program had declared what happened to its fields between `before` and `now`.

    Comparing two live forms, instead of inputs with a live form, tells what someone changed from what the API server
    merely writes in another way (`1024Mi`, empty maps, dropped defaults). Fields that the program does not set are not
    its business.
    """
    if now == before:
        return inputs
    if isinstance(inputs, dict) and isinstance(now, dict):
        result = {}
        for key, value in inputs.items():
            was, is_ = at(before, key), at(now, key)
            if is_ is None and was is not None:
                continue
            result[key] = drifted(value, was, is_)
        return result
    if isinstance(inputs, list) and isinstance(now, list):
        keys = _merge_key([inputs, now])
        if keys is None:
            return (
                inputs
                if len(inputs) == len(now) == len(before or ()) and inputs == now
                else _plain_list(inputs, before, now)
            )
        old, new = _by_key(before if isinstance(before, list) else [], keys), _by_key(now, keys)
        kept = [(item, tuple(item.get(key) for key in keys)) for item in inputs]
        return [drifted(item, old.get(key), new[key]) for item, key in kept if key in new]
    return now if now is not None else inputs


def _plain_list(inputs: list[Any], before: Any, now: list[Any]) -> list[Any]:
    if isinstance(before, list) and len(before) == len(inputs) == len(now):
        return [drifted(item, before[index], now[index]) for index, item in enumerate(inputs)]
    return now


# A list of objects is one by one compared where a field identifies them, as server-side apply does for typed lists.
_MERGE_KEYS: Final = (
    ("name",),
    ("mountPath",),
    ("containerPort", "protocol"),
    ("port", "protocol"),
    ("key",),
    ("type",),
    ("ip",),
)


def _merge_key(lists: Iterable[list[Any]]) -> tuple[str, ...] | None:
    lists = list(lists)
    if not all(isinstance(item, dict) for items in lists for item in items):
        return None
    for keys in _MERGE_KEYS:
        if all(keys[0] in item for items in lists for item in items) and all(
            len({tuple(item.get(key) for key in keys) for item in items}) == len(items) for items in lists
        ):
            return keys
    return None


def _by_key(items: list[dict[str, Any]], keys: tuple[str, ...]) -> dict[tuple[Any, ...], dict[str, Any]]:
    return {tuple(item.get(key) for key in keys): item for item in items}


# ---------------------------------------------------------------------------------------------------------------- diff


def differences(old: Any, new: Any, path: Path = ()) -> Iterator[tuple[Path, Change]]:
    """Where `new` inputs differ from `old` ones, leaf by leaf."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            if key not in new:
                yield (*path, key), Change("delete")
            elif key not in old:
                yield (*path, key), Change("add")
            else:
                yield from differences(old[key], new[key], (*path, key))
    elif isinstance(old, list) and isinstance(new, list):
        for index in range(max(len(old), len(new))):
            if index >= len(new):
                yield (*path, index), Change("delete")
            elif index >= len(old):
                yield (*path, index), Change("add")
            else:
                yield from differences(old[index], new[index], (*path, index))
    elif old is UNKNOWN or new is UNKNOWN or old != new or isinstance(old, bool) != isinstance(new, bool):
        yield path, Change("update")


def normalized(inputs: Mapping[str, Any]) -> Manifest:
    """`inputs` in the one form in which they are compared: what means the same compares equal."""
    manifest = cleaned(inputs)
    if manifest.get("kind") == "Secret" and not has_unknowns(manifest.get("stringData")):
        # The API server turns `stringData` into `data`; whether a program writes the one or the other changes nothing.
        text = manifest.pop("stringData", None) or {}
        encoded = {key: base64.b64encode(str(value).encode()).decode() for key, value in text.items()}
        if encoded and isinstance(manifest.get("data", {}), dict):
            manifest["data"] = {**manifest.get("data", {}), **encoded}
    return manifest


# ------------------------------------------------------------------------------------------------- field ownership


def owned(
    managed_fields: Sequence[Mapping[str, Any]], path: Path, *, by: str | None = None, but: str | None = None
) -> bool:
    """Whether a field manager (`by` that name, or any `but` that one) owns the field at `path`."""
    for entry in managed_fields:
        manager = entry.get("manager")
        if (by is not None and manager != by) or (but is not None and manager == but):
            continue
        fields: Any = entry.get("fieldsV1", {})
        for step in path:
            fields = fields.get(f"f:{step}") if isinstance(fields, dict) else None
            if fields is None:
                break
        else:
            return True
    return False


def adopted_manager(managed_fields: Sequence[Mapping[str, Any]]) -> str | None:
    """The field manager of an earlier Pulumi resource of this object, where there is exactly one.

    Whoever imports an object that Pulumi made (an `up` that was killed half-way) goes on under its old name, or it
    would be in conflict with itself.
    """
    names = {
        entry["manager"]
        for entry in managed_fields
        if entry.get("operation") == "Apply" and str(entry.get("manager", "")).startswith("pulumi-kubernetes-")
    }
    return names.pop() if len(names) == 1 else None


# From the real provider: what `kubectl apply` and Pulumi without server-side apply leave behind.
_CLIENT_SIDE: Final = {
    ("kubectl", "Apply"),
    ("kubectl", "Update"),
    ("kubectl-client-side-apply", "Update"),
    ("before-first-apply", "Update"),
    ("pulumi-kubernetes", "Update"),
    ("pulumi-resource-kubernetes", "Update"),
}


def taken_over(managed_fields: Sequence[Mapping[str, Any]], manager: str) -> list[dict[str, Any]] | None:
    """`managed_fields` after `manager` took what client-side apply owned; `None` where that changes nothing.

    Without it, the first server-side apply would be in conflict with the client-side one before it.
    """

    def theirs(entry: Mapping[str, Any]) -> bool:
        return (entry.get("manager"), entry.get("operation")) in _CLIENT_SIDE and not entry.get("subresource")

    if not any(theirs(entry) for entry in managed_fields):
        return None
    fields: dict[str, Any] = {}
    kept, api_version = [], ""
    for entry in managed_fields:
        mine = entry.get("manager") == manager and entry.get("operation") == "Apply" and not entry.get("subresource")
        if mine or theirs(entry):
            fields = _merged(fields, entry.get("fieldsV1", {}))
            api_version = api_version or entry.get("apiVersion", "")
        else:
            kept.append(dict(entry))
    ours = {
        "manager": manager,
        "operation": "Apply",
        "apiVersion": api_version,
        "fieldsType": "FieldsV1",
        "fieldsV1": fields,
    }
    return [*kept, ours]


def _merged(left: Mapping[str, Any], right: Mapping[str, Any]) -> dict[str, Any]:
    return {**left, **{key: _merged(left.get(key, {}), value) for key, value in right.items()}}


def left_to_others(inputs: Manifest, live: Mapping[str, Any], ignored: Iterable[Path], manager: str) -> Manifest:
    """`inputs` without the ignored fields that someone else owns, and with the live value of the other ignored ones."""
    managed = at(live, "metadata", "managedFields", default=[])
    result = copy.deepcopy(inputs)
    for path in ignored:
        parent = at(result, *path[:-1])
        if not isinstance(parent, dict):
            continue
        if owned(managed, path, but=manager) and not owned(managed, path, by=manager):
            parent.pop(path[-1], None)
        elif (value := at(live, *path)) is not None:
            parent[path[-1]] = copy.deepcopy(value)
    return result


# ------------------------------------------------------------------------------------------------------------- small


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(each) for key, each in value.items() if each is not None}
    if isinstance(value, list):
        return [_without_nulls(each) for each in value]
    return value


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {names.get(key, key): _renamed(each, names) for key, each in value.items()}
    if isinstance(value, list):
        return [_renamed(each, names) for each in value]
    return value


def merge_patch(old: Mapping[str, Any], new: Mapping[str, Any]) -> Manifest:
    """The JSON merge patch (RFC 7386) from `old` to `new`."""
    patch: Manifest = {key: None for key in old if key not in new}
    for key, value in new.items():
        if key not in old:
            patch[key] = value
        elif isinstance(value, dict) and isinstance(old[key], dict):
            if nested := merge_patch(old[key], value):
                patch[key] = nested
        elif json.dumps(value, sort_keys=True) != json.dumps(old[key], sort_keys=True):
            patch[key] = value
    return patch
