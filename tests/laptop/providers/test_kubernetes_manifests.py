"""What the Kubernetes provider decides without a cluster: kinds, names, drift, differences, ownership."""

from __future__ import annotations

import copy
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelworks.laptop.providers.kubernetes import manifests
from modelworks.laptop.providers.kubernetes.kinds import Kind, kind_of, replaces
from modelworks.laptop.providers.plugin import Naming, ProviderError
from modelworks.laptop.providers.property_values import UNKNOWN, Secret

DEPLOYMENT = kind_of("kubernetes:apps/v1:Deployment")


# ---------------------------------------------------------------------------------------------------------------- kinds


@pytest.mark.parametrize(
    ("token", "inputs", "kind"),
    [
        ("kubernetes:core/v1:Pod", {}, Kind("", "v1", "Pod")),
        ("kubernetes:apps/v1:Deployment", {}, Kind("apps", "v1", "Deployment")),
        ("kubernetes:rbac.authorization.k8s.io/v1:Role", {}, Kind("rbac.authorization.k8s.io", "v1", "Role")),
        ("kubernetes:argoproj.io/v1alpha1:Rollout", {}, Kind("argoproj.io", "v1alpha1", "Rollout")),
        ("kubernetes:core/v1:ConfigMapPatch", {"kind": "ConfigMap"}, Kind("", "v1", "ConfigMap", patch=True)),
        ("kubernetes:core/v1:ConfigMapPatch", {}, Kind("", "v1", "ConfigMap", patch=True)),
        ("kubernetes:x.io/v1:ServerPatch", {"kind": "ServerPatch"}, Kind("x.io", "v1", "ServerPatch")),
        ("kubernetes:x.io/v1:ServerPatchPatch", {"kind": "ServerPatch"}, Kind("x.io", "v1", "ServerPatch", patch=True)),
    ],
)
def test_a_type_token_names_a_kind(token, inputs, kind):
    assert kind_of(token, inputs) == kind


def test_helm_is_refused_with_a_way_out():
    with pytest.raises(ProviderError, match="Helm is not part") as refused:
        kind_of("kubernetes:helm.sh/v3:Release")
    assert "helm template" in refused.value.fix


@pytest.mark.parametrize(
    ("token", "path", "replaced"),
    [
        ("kubernetes:apps/v1:Deployment", ("spec", "selector", "matchLabels", "app"), True),
        ("kubernetes:apps/v1:Deployment", ("spec", "replicas"), False),
        ("kubernetes:apps/v1:Deployment", ("metadata", "name"), True),
        ("kubernetes:apps/v1:Deployment", ("metadata", "namespace"), True),
        ("kubernetes:apps/v1:Deployment", ("metadata", "labels", "a"), False),
        ("kubernetes:apps/v1:StatefulSet", ("spec", "volumeClaimTemplates", 0, "spec"), True),
        ("kubernetes:batch/v1:Job", ("spec", "template", "spec", "containers", 0, "image"), True),
        ("kubernetes:batch/v1:Job", ("spec", "ttlSecondsAfterFinished"), False),
        ("kubernetes:batch/v1:CronJob", ("spec", "jobTemplate", "spec", "template"), False),
        ("kubernetes:core/v1:ConfigMap", ("data", "a"), True),
        ("kubernetes:core/v1:Pod", ("spec", "containers", 1, "image"), True),
        ("kubernetes:core/v1:Pod", ("spec", "containers", 1, "name"), False),
        ("kubernetes:core/v1:Pod", ("spec",), True),
        ("kubernetes:core/v1:Service", ("spec", "clusterIP"), True),
        ("kubernetes:core/v1:Service", ("spec", "ports", 0), False),
        ("kubernetes:core/v1:PersistentVolumeClaim", ("spec", "resources", "requests", "storage"), True),
        ("kubernetes:rbac.authorization.k8s.io/v1:RoleBinding", ("roleRef", "name"), True),
        ("kubernetes:rbac.authorization.k8s.io/v1:RoleBinding", ("subjects", 0), False),
        ("kubernetes:storage.k8s.io/v1:StorageClass", ("provisioner",), True),
        ("kubernetes:argoproj.io/v1alpha1:Rollout", ("spec", "selector"), False),
        ("kubernetes:core/v1:ConfigMapPatch", ("data", "a"), False),
        ("kubernetes:core/v1:ConfigMapPatch", ("metadata", "name"), True),
    ],
)
def test_what_cannot_change_in_place_is_replaced(token, path, replaced):
    assert replaces(kind_of(token), path) is replaced


def test_config_maps_change_in_place_where_the_provider_says_so():
    assert not replaces(kind_of("kubernetes:core/v1:ConfigMap"), ("data", "a"), mutable_data=True)


# --------------------------------------------------------------------------------------------------------------- naming


def test_a_missing_name_is_made_up_from_the_resource_and_marked():
    named = manifests.named({"kind": "Pod"}, {}, Naming("web", seed=b"1"))
    assert named["metadata"]["name"].startswith("web-")
    assert named["metadata"]["annotations"] == {"pulumi.com/autonamed": "true"}


def test_the_same_seed_makes_up_the_same_name():
    assert manifests.named({}, {}, Naming("web", seed=b"1")) == manifests.named({}, {}, Naming("web", seed=b"1"))


def test_a_made_up_name_is_kept():
    first = manifests.named({}, {}, Naming("web", seed=b"1"))
    assert manifests.named({}, first, Naming("web", seed=b"2")) == first


def test_a_given_name_is_not_kept_when_it_is_taken_away():
    named = manifests.named({}, {"metadata": {"name": "mine"}}, Naming("web", seed=b"1"))
    assert named["metadata"]["name"].startswith("web-")


@pytest.mark.parametrize("metadata", [UNKNOWN, {"name": UNKNOWN}, {"name": "mine"}])
def test_a_name_that_is_given_or_not_known_yet_stays(metadata):
    assert manifests.named({"metadata": metadata}, {}, Naming("web")) == {"metadata": metadata}


def test_the_programs_own_naming_is_followed():
    assert manifests.named({}, {}, Naming("web", proposed="web-prod"))["metadata"]["name"] == "web-prod"
    with pytest.raises(ValueError, match="autonaming"):
        manifests.named({}, {}, Naming("web", disabled=True))


# ---------------------------------------------------------------------------------------------------- inputs and state


def test_inputs_lose_nulls_and_what_only_the_api_server_sets():
    inputs = {"metadata": {"name": "a", "uid": "1", "resourceVersion": "2"}, "spec": {"a": None, "b": [{"c": None}]}}
    assert manifests.cleaned(inputs) == {"metadata": {"name": "a"}, "spec": {"b": [{}]}}


def test_schema_extensions_get_their_dashes_and_lose_them_again():
    inputs = {"spec": {"schema": [{"x_kubernetes_preserve_unknown_fields": True}]}}
    sent = manifests.cleaned(inputs)
    assert sent == {"spec": {"schema": [{"x-kubernetes-preserve-unknown-fields": True}]}}
    assert manifests.recorded(sent, sent, initial_api_version="v1", manager="m")["spec"] == inputs["spec"]


def test_state_is_the_object_and_what_the_real_provider_keeps_beside_it():
    live = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "managedFields": [{}]}, "status": {}}
    inputs = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}}
    state = manifests.recorded(live, inputs, initial_api_version="v1", manager="pulumi-kubernetes-1")
    assert state == {
        **live,
        "metadata": {"name": "a"},
        "__inputs": inputs,
        "__initialApiVersion": "v1",
        "__fieldManager": "pulumi-kubernetes-1",
    }
    assert manifests.live_in(state) == {**live, "metadata": {"name": "a"}}


def test_a_secrets_content_is_secret_in_state_whatever_the_program_marked():
    live = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}, "data": {"k": "dg=="}}
    inputs = {"kind": "Secret", "stringData": {"k": "v"}}
    state = manifests.recorded(live, inputs, initial_api_version="v1", manager="m")
    assert state["data"] == Secret({"k": "dg=="})
    assert state["__inputs"]["stringData"] == Secret({"k": "v"})


def test_a_preview_promises_no_identity():
    dry = {
        "kind": "Service",
        "metadata": {"name": "a", "uid": "made-up", "creationTimestamp": "now", "managedFields": []},
        "spec": {"clusterIP": "10.0.0.7", "clusterIPs": ["10.0.0.7"], "type": "ClusterIP"},
        "status": {"loadBalancer": {}},
    }
    assert manifests.predicted(dry, {"spec": {}}, new=True) == {
        "kind": "Service",
        "metadata": {"name": "a", "uid": UNKNOWN, "creationTimestamp": UNKNOWN},
        "spec": {"clusterIP": UNKNOWN, "clusterIPs": UNKNOWN, "type": "ClusterIP"},
    }


def test_an_import_leaves_out_what_a_program_would_not_write():
    live = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": "a",
            "uid": "1",
            "generation": 3,
            "annotations": {"deployment.kubernetes.io/revision": "2", "team": "b"},
        },
        "spec": {"replicas": 1},
        "status": {"replicas": 1},
    }
    assert manifests.imported(live) == {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "a", "annotations": {"team": "b"}},
        "spec": {"replicas": 1},
    }


# ---------------------------------------------------------------------------------------------------------------- drift


def test_drift_is_what_changed_and_not_what_the_server_writes_differently():
    inputs = {"spec": {"limit": "1024Mi", "empty": {}, "replicas": 2}}
    before = {"spec": {"limit": "1Gi", "replicas": 2, "strategy": "Rolling"}}
    now = {"spec": {"limit": "1Gi", "replicas": 3, "strategy": "Other"}}
    assert manifests.drifted(inputs, before, now) == {"spec": {"limit": "1024Mi", "empty": {}, "replicas": 3}}


def test_a_field_that_someone_removed_is_drift():
    assert manifests.drifted({"data": {"a": "1", "b": "2"}}, {"data": {"a": "1", "b": "2"}}, {"data": {"a": "1"}}) == {
        "data": {"a": "1"}
    }


def test_a_container_that_someone_added_in_front_is_not_ours():
    inputs = {"containers": [{"name": "web", "image": "a"}]}
    before = {"containers": [{"name": "web", "image": "a", "pull": "Always"}]}
    now = {"containers": [{"name": "sidecar", "image": "x"}, {"name": "web", "image": "b", "pull": "Always"}]}
    assert manifests.drifted(inputs, before, now) == {"containers": [{"name": "web", "image": "b"}]}


def test_a_plain_list_that_changed_is_drift():
    assert manifests.drifted({"args": ["a"]}, {"args": ["a"]}, {"args": ["a", "b"]}) == {"args": ["a", "b"]}


trees = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(string.ascii_letters, max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=12,
)
maps = st.dictionaries(st.sampled_from("abc"), trees, max_size=3)


@given(maps, maps)
def test_nothing_changed_is_never_drift(inputs, live):
    assert manifests.drifted(inputs, live, copy.deepcopy(live)) == inputs


@given(maps, maps)
def test_differences_are_none_exactly_for_equals(old, new):
    paths = [path for path, _ in manifests.differences(old, new)]
    assert (paths == []) == (repr(_sorted(old)) == repr(_sorted(new)))


@given(maps, maps)
def test_a_merge_patch_leads_from_the_one_to_the_other(old, new):
    old, new = manifests._without_nulls(old), manifests._without_nulls(new)
    assert _patched(old, manifests.merge_patch(old, new)) == new


def _sorted(value):
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    return [_sorted(each) for each in value] if isinstance(value, list) else value


def _patched(value, patch):
    result = dict(value)
    for key, each in patch.items():
        if each is None:
            result.pop(key, None)
        elif isinstance(each, dict) and isinstance(result.get(key), dict):
            result[key] = _patched(result[key], each)
        else:
            result[key] = each
    return result


def test_string_data_and_data_of_a_secret_compare_equal():
    text = manifests.normalized({"kind": "Secret", "stringData": {"a": "v"}})
    assert text == manifests.normalized({"kind": "Secret", "data": {"a": "dg=="}})


# -------------------------------------------------------------------------------------------------- field ownership

MANAGED = [
    {"manager": "pulumi-kubernetes-1", "operation": "Apply", "fieldsV1": {"f:spec": {"f:template": {}}}},
    {"manager": "argo", "operation": "Update", "fieldsV1": {"f:spec": {"f:replicas": {}}}},
]


def test_an_ignored_field_of_someone_else_is_left_out_and_ones_own_keeps_its_live_value():
    wanted = {"spec": {"replicas": 1, "template": "new", "paused": True}}
    live = {"metadata": {"managedFields": MANAGED}, "spec": {"replicas": 5, "template": "old", "paused": False}}
    ignored = [("spec", "replicas"), ("spec", "template"), ("spec", "missing", "deep")]
    assert manifests.left_to_others(wanted, live, ignored, "pulumi-kubernetes-1") == {
        "spec": {"template": "old", "paused": True}
    }


def test_an_imported_object_keeps_its_field_manager():
    assert manifests.adopted_manager(MANAGED) == "pulumi-kubernetes-1"
    assert manifests.adopted_manager([*MANAGED, {"manager": "pulumi-kubernetes-2", "operation": "Apply"}]) is None


def test_client_side_apply_hands_its_fields_over():
    managed = [
        {"manager": "kubectl-client-side-apply", "operation": "Update", "fieldsV1": {"f:data": {"f:a": {}}}},
        {"manager": "me", "operation": "Apply", "apiVersion": "v1", "fieldsV1": {"f:data": {"f:b": {}}}},
        {"manager": "other", "operation": "Update", "fieldsV1": {"f:data": {"f:c": {}}}},
    ]
    other, mine = manifests.taken_over(managed, "me")
    assert other["manager"] == "other"
    assert mine == {
        "manager": "me",
        "operation": "Apply",
        "apiVersion": "v1",
        "fieldsType": "FieldsV1",
        "fieldsV1": {"f:data": {"f:a": {}, "f:b": {}}},
    }
    assert manifests.taken_over([other, mine], "me") is None
