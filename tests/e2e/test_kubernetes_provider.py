"""The Kubernetes provider against a real API server, by its own methods."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import pytest

from modelworks.laptop import supervisor
from modelworks.laptop.providers.kubernetes import KubernetesProvider, Settings
from modelworks.laptop.providers.kubernetes.client import Refused, Unreachable
from modelworks.laptop.providers.plugin import Call, Found, Incomplete, InvalidInputs, Naming, ProviderError
from modelworks.laptop.providers.property_values import UNKNOWN, Secret, revealed
from modelworks.laptop.state_dir import Place

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

CONFIG_MAP = "kubernetes:core/v1:ConfigMap"
DEPLOYMENT = "kubernetes:apps/v1:Deployment"
NAMESPACE = "kubernetes:core/v1:Namespace"


@dataclass
class Declared:
    """A resource as the engine would hold it."""

    id: str
    inputs: dict[str, Any]
    state: dict[str, Any]


@dataclass
class Cloud:
    """Stands where plugin and engine stand, for one provider."""

    provider: KubernetesProvider
    said: list[str] = field(default_factory=list)
    cancelled: threading.Event = field(default_factory=threading.Event)

    def call(self, type_: str, name: str = "thing", **more: Any) -> Call:
        show = lambda message, severity, passing: self.said.append(message)  # noqa: E731
        return Call(type=type_, name=name, urn=f"urn:{name}", cancelled=self.cancelled, show=show, **more)

    def check(self, type_: str, inputs: dict[str, Any], old: dict[str, Any] | None = None, name: str = "thing"):
        naming = Naming(name, seed=os.urandom(8))
        return dict(self.provider.check(self.call(type_, name), old or {}, inputs, naming))

    def create(self, type_: str, inputs: dict[str, Any], name: str = "thing", **more: Any) -> Declared:
        checked = self.check(type_, inputs, name=name)
        id_, state = self.provider.create(self.call(type_, name, **more), checked)
        return Declared(id_, checked, revealed(dict(state)))

    def preview(self, type_: str, inputs: dict[str, Any]) -> dict[str, Any]:
        return self.create(type_, inputs, preview=True).state

    def diff(self, type_: str, was: Declared, inputs: dict[str, Any]):
        checked = self.check(type_, inputs, was.inputs)
        return self.provider.diff(self.call(type_), was.id, was.inputs, was.state, checked)

    def update(self, type_: str, was: Declared, inputs: dict[str, Any], **more: Any) -> Declared:
        checked = self.check(type_, inputs, was.inputs)
        state = self.provider.update(self.call(type_, **more), was.id, was.inputs, was.state, checked)
        return Declared(was.id, checked, revealed(dict(state)))

    def read(self, type_: str, was: Declared) -> Found | None:
        return self.provider.read(self.call(type_), was.id, was.inputs, was.state)

    def delete(self, type_: str, was: Declared, **more: Any) -> None:
        self.provider.delete(self.call(type_, **more), was.id, was.inputs, was.state)


@pytest.fixture
def cloud(laptop, kubectl):
    """A provider whose default namespace is the test's own."""
    namespace = f"test-{os.urandom(4).hex()}"
    kubectl("create", "namespace", namespace)
    settings = Settings(kubeconfig=str(laptop.cluster / "admin.kubeconfig"), namespace=namespace)
    cloud = Cloud(KubernetesProvider(settings))
    yield cloud
    cloud.cancelled.set()
    kubectl("delete", "namespace", namespace, "--wait=false")


def _ns(cloud: Cloud) -> str:
    return cloud.provider._settings.namespace


def deployment(command: str = "sleep 1000", replicas: int = 1, **annotations: str) -> dict[str, Any]:
    return {
        "metadata": {"annotations": {f"pulumi.com/{key}": value for key, value in annotations.items()}},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "template": _template(command)},
    }


CRASH = "exit 3"
# Without a probe, a container that dies at once is ready for a moment, and its Deployment available.
NEVER_READY = {"exec": {"command": ["false"]}}


def _template(command: str, **spec: Any) -> dict[str, Any]:
    container: dict[str, Any] = {"name": "web", "image": "example/web", "command": ["sh", "-c", command]}
    if command == CRASH:
        container["readinessProbe"] = NEVER_READY
    return {
        "metadata": {"labels": {"app": "web"}},
        "spec": {"containers": [container], "terminationGracePeriodSeconds": 1, **spec},
    }


# ---- preview


def test_preview_shows_what_the_api_server_would_refuse(cloud):
    wrong = deployment()
    wrong["spec"]["selector"]["matchLabels"] = {"app": "other"}
    with pytest.raises(Refused, match="`selector` does not match template `labels`"):
        cloud.preview(DEPLOYMENT, wrong)


def test_preview_shows_the_servers_defaults_and_no_made_up_identity(cloud):
    shown = cloud.preview(DEPLOYMENT, deployment())
    assert shown["spec"]["strategy"]["type"] == "RollingUpdate"
    assert shown["metadata"]["uid"] is UNKNOWN
    assert "status" not in shown


def test_preview_leaves_nothing_behind(cloud, kubectl):
    cloud.preview(CONFIG_MAP, {"metadata": {"name": "only-shown"}, "data": {"a": "1"}})
    assert "only-shown" not in kubectl("get", "configmaps", "-n", _ns(cloud), "-o", "name")


def test_preview_falls_back_to_the_inputs_where_a_value_is_unknown(cloud):
    shown = cloud.preview(CONFIG_MAP, {"data": {"a": UNKNOWN}})
    assert shown["data"] == {"a": UNKNOWN}


def test_preview_falls_back_to_the_inputs_where_the_namespace_is_not_there_yet(cloud):
    shown = cloud.preview(CONFIG_MAP, {"metadata": {"name": "a", "namespace": "to-come"}, "data": {"a": "1"}})
    assert shown["data"] == {"a": "1"}


def test_preview_falls_back_to_the_inputs_where_the_kind_is_not_there_yet(cloud):
    inputs = {"apiVersion": "to.come/v1", "kind": "Thing", "spec": {"a": 1}}
    assert cloud.preview("kubernetes:to.come/v1:Thing", inputs)["spec"] == {"a": 1}


def test_preview_of_a_replacement_under_the_same_name_is_checked_too(cloud):
    cloud.create(
        DEPLOYMENT,
        {**deployment(skipAwait="true"), "metadata": {"name": "web", **deployment(skipAwait="true")["metadata"]}},
    )
    other = deployment(skipAwait="true")
    other["metadata"]["name"] = "web"
    other["spec"]["selector"]["matchLabels"] = other["spec"]["template"]["metadata"]["labels"] = {"app": "two"}
    assert cloud.preview(DEPLOYMENT, other)["metadata"]["name"] == "web"


def test_preview_says_what_is_forbidden(cloud, kubectl):
    kubectl("label", "namespace", _ns(cloud), "pod-security.kubernetes.io/enforce=restricted")
    cloud.preview("kubernetes:core/v1:Pod", {"spec": _template("sleep 1000")["spec"]})
    assert any("violates PodSecurity" in said for said in cloud.said)


# ---- names and replacement


def test_a_name_is_made_up_and_survives_an_update(cloud):
    made = cloud.create(DEPLOYMENT, deployment(), name="web")
    assert made.state["metadata"]["name"].startswith("web-")
    assert (
        cloud.update(DEPLOYMENT, made, deployment(replicas=2)).state["metadata"]["name"]
        == made.state["metadata"]["name"]
    )


def test_what_exists_already_is_not_taken_over(cloud):
    inputs = {"metadata": {"name": "mine"}, "data": {"a": "1"}}
    cloud.create(CONFIG_MAP, inputs)
    with pytest.raises(ProviderError, match="already exists") as refused:
        cloud.create(CONFIG_MAP, inputs)
    assert "pulumi import" in refused.value.fix


def test_a_name_that_is_being_given_up_is_waited_for(cloud, kubectl):
    inputs = {"metadata": {"name": "mine", "finalizers": ["example.com/hold"]}, "data": {"a": "1"}}
    cloud.create(CONFIG_MAP, inputs)
    kubectl("-n", _ns(cloud), "delete", "configmap", "mine", "--wait=false")
    release = lambda: kubectl("-n", _ns(cloud), "patch", "cm", "mine", "-p", '{"metadata":{"finalizers":null}}')  # noqa: E731
    timer = threading.Timer(0.5, release)
    timer.start()
    assert cloud.create(CONFIG_MAP, {"metadata": {"name": "mine"}, "data": {"a": "2"}}).state["data"] == {"a": "2"}
    timer.join()


def test_what_exists_already_is_taken_over_where_the_provider_says_so(cloud):
    inputs = {"metadata": {"name": "mine"}, "data": {"a": "1"}}
    cloud.create(CONFIG_MAP, inputs)
    willing = Settings(
        **{**vars(cloud.provider._settings), "upsert_existing_objects": True, "enable_patch_force": True}
    )
    assert Cloud(KubernetesProvider(willing)).create(CONFIG_MAP, {**inputs, "data": {"a": "2"}}).state["data"] == {
        "a": "2"
    }


def test_a_made_up_name_is_replaced_by_another_and_a_given_one_after_deletion(cloud):
    made_up = cloud.create(CONFIG_MAP, {"data": {"a": "1"}})
    diff = cloud.diff(CONFIG_MAP, made_up, {"data": {"a": "2"}})
    assert [change.replaces for change in diff.changes.values()] == [True]
    assert not diff.delete_before_replace
    given = cloud.create(CONFIG_MAP, {"metadata": {"name": "given"}, "data": {"a": "1"}})
    assert cloud.diff(CONFIG_MAP, given, {"metadata": {"name": "given"}, "data": {"a": "2"}}).delete_before_replace


def test_a_generated_name_is_refused(cloud):
    with pytest.raises(InvalidInputs, match="generateName: not supported with server-side apply"):
        cloud.check(CONFIG_MAP, {"metadata": {"generateName": "a-"}})


def test_nothing_changed_is_no_difference(cloud):
    made = cloud.create(DEPLOYMENT, deployment())
    assert cloud.diff(DEPLOYMENT, made, deployment()).changes == {}


def test_an_immutable_field_that_no_table_knows_is_refused_with_the_way_to_replace(cloud):
    token = "kubernetes:networking.k8s.io/v1:IngressClass"
    name = f"class-{os.urandom(3).hex()}"
    made = cloud.create(token, {"metadata": {"name": name}, "spec": {"controller": "a.io/b"}})
    with pytest.raises(Refused, match="immutable") as refused:
        cloud.update(token, made, {"metadata": {"name": name}, "spec": {"controller": "a.io/c"}}, preview=True)
    assert 'replace_on_changes=["spec.controller"]' in refused.value.fix
    cloud.delete(token, made)


# ---- field ownership


def test_a_conflict_names_the_field_its_manager_and_the_way_out(cloud, kubectl):
    made = cloud.create(DEPLOYMENT, deployment())
    name = made.state["metadata"]["name"]
    kubectl("-n", _ns(cloud), "scale", "deployment", name, "--replicas=3")
    with pytest.raises(Refused, match=r'\.spec\.replicas \(conflict with "kubectl"') as refused:
        cloud.update(DEPLOYMENT, made, deployment(replicas=2))
    assert "pulumi.com/patchForce" in refused.value.fix
    assert 'ignore_changes=["spec.replicas"]' in refused.value.fix
    assert cloud.update(DEPLOYMENT, made, deployment(replicas=2, patchForce="true")).state["spec"]["replicas"] == 2


def test_an_ignored_field_is_left_to_its_owner(cloud, kubectl):
    made = cloud.create(DEPLOYMENT, deployment())
    kubectl("-n", _ns(cloud), "scale", "deployment", made.state["metadata"]["name"], "--replicas=3")
    wanted = deployment()
    wanted["spec"]["minReadySeconds"] = 0
    wanted["spec"]["template"]["metadata"]["labels"]["more"] = "yes"
    after = cloud.update(DEPLOYMENT, made, wanted, ignored=[("spec", "replicas")])
    assert after.state["spec"]["replicas"] == 3


def test_a_field_that_the_program_drops_is_removed(cloud):
    mutable = Settings(**{**vars(cloud.provider._settings), "enable_config_map_mutable": True})
    other = Cloud(KubernetesProvider(mutable))
    made = other.create(CONFIG_MAP, {"data": {"a": "1", "b": "2"}})
    assert other.update(CONFIG_MAP, made, {"data": {"a": "1"}}).state["data"] == {"a": "1"}


def test_an_object_of_kubectl_apply_can_be_imported_and_changed(cloud, kubectl):
    manifest = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "old"}, "spec": {"ports": [{"port": 80}]}}
    kubectl("-n", _ns(cloud), "apply", "-f", "-", stdin=json.dumps(manifest))
    token = "kubernetes:core/v1:Service"
    found = cloud.read(token, Declared(f"{_ns(cloud)}/old", {}, {}))
    assert found.inputs["spec"]["ports"][0]["port"] == 80
    assert "last-applied" not in json.dumps(found.inputs)
    inputs = {"metadata": {"name": "old"}, "spec": {"ports": [{"port": 81}]}}
    after = cloud.update(token, Declared(found.id, dict(found.inputs), revealed(dict(found.state))), inputs)
    assert [port["port"] for port in after.state["spec"]["ports"]] == [81]


def test_a_patch_adds_to_an_object_and_takes_only_that_away(cloud, kubectl):
    kubectl("-n", _ns(cloud), "create", "configmap", "shared", "--from-literal=theirs=1")
    token = "kubernetes:core/v1:ConfigMapPatch"
    inputs = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "shared"}, "data": {"ours": "2"}}
    made = cloud.create(token, inputs)
    assert made.state["data"] == {"theirs": "1", "ours": "2"}
    cloud.delete(token, made)
    assert json.loads(kubectl("-n", _ns(cloud), "get", "cm", "shared", "-o", "jsonpath={.data}")) == {"theirs": "1"}


def test_without_server_side_apply_objects_are_created_and_patched(cloud):
    settings = Settings(**{**vars(cloud.provider._settings), "enable_server_side_apply": False})
    other = Cloud(KubernetesProvider(settings))
    made = other.create(DEPLOYMENT, deployment())
    after = other.update(DEPLOYMENT, made, deployment(replicas=2))
    assert after.state["spec"]["replicas"] == 2
    assert after.state["__fieldManager"] == "pulumi-kubernetes"


# ---- refresh and import


def test_refresh_sees_what_changed_and_what_is_gone(cloud, kubectl):
    made = cloud.create(CONFIG_MAP, {"data": {"a": "1"}})
    name = made.state["metadata"]["name"]
    assert cloud.read(CONFIG_MAP, made).inputs == made.inputs
    kubectl("-n", _ns(cloud), "patch", "configmap", name, "-p", '{"data":{"a":"9","b":"not ours"}}')
    assert cloud.read(CONFIG_MAP, made).inputs["data"] == {"a": "9"}
    kubectl("-n", _ns(cloud), "delete", "configmap", name)
    assert cloud.read(CONFIG_MAP, made) is None


def test_refresh_tells_of_a_deployment_that_is_not_ready(cloud):
    made = cloud.create(DEPLOYMENT, deployment(CRASH, skipAwait="true"))
    ready_wanted = {**made.inputs, "metadata": {**made.inputs["metadata"], "annotations": {}}}
    with pytest.raises(Incomplete, match="is not ready"):
        cloud.read(DEPLOYMENT, Declared(made.id, ready_wanted, made.state))


def test_an_imported_secret_is_secret_at_once(cloud, kubectl):
    kubectl("-n", _ns(cloud), "create", "secret", "generic", "login", "--from-literal=a=v")
    found = cloud.read("kubernetes:core/v1:Secret", Declared(f"{_ns(cloud)}/login", {}, {}))
    assert found.inputs["data"] == found.state["data"] == Secret({"a": "dg=="})


def test_what_is_imported_can_be_declared_without_a_difference(cloud):
    made = cloud.create(DEPLOYMENT, deployment())
    found = cloud.read(DEPLOYMENT, Declared(made.id, {}, {}))
    assert found.state["__fieldManager"] == made.state["__fieldManager"]
    assert "status" not in found.inputs
    taken = Declared(found.id, dict(found.inputs), revealed(dict(found.state)))
    assert cloud.diff(DEPLOYMENT, taken, dict(found.inputs)).changes == {}


# ---- waiting


def test_a_deployment_that_crashes_is_recorded_and_says_why(cloud):
    with pytest.raises(Incomplete) as incomplete:
        cloud.create(DEPLOYMENT, deployment(CRASH, timeoutSeconds="8"))
    reasons = "\n".join(incomplete.value.reasons)
    assert "timed out after 8 s" in reasons
    assert "exit code 3" in reasons
    assert incomplete.value.id.startswith(f"{_ns(cloud)}/thing-")
    assert incomplete.value.state["__inputs"]["spec"]["replicas"] == 1


def test_pods_that_are_refused_are_told_from_the_replica_sets_events(cloud, kubectl):
    kubectl("label", "namespace", _ns(cloud), "pod-security.kubernetes.io/enforce=restricted")
    with pytest.raises(Incomplete, match="violates PodSecurity"):
        cloud.create(DEPLOYMENT, deployment(timeoutSeconds="3"))


def test_custom_timeouts_come_before_the_annotation(cloud):
    with pytest.raises(Incomplete, match="timed out after 1 s"):
        cloud.create(DEPLOYMENT, deployment(CRASH, timeoutSeconds="600"), timeout=1.0)


def test_an_update_waits_for_the_new_pods(cloud):
    made = cloud.create(DEPLOYMENT, deployment())
    after = cloud.update(DEPLOYMENT, made, deployment("sleep 1001", replicas=2))
    assert after.state["status"]["updatedReplicas"] == 2
    with pytest.raises(Incomplete, match="waiting for its pods"):
        cloud.update(DEPLOYMENT, after, deployment(CRASH, timeoutSeconds="3"))


def test_skip_await_does_not_wait(cloud):
    made = cloud.create(DEPLOYMENT, deployment(CRASH, skipAwait="true"))
    assert made.state["status"].get("readyReplicas", 0) == 0


def test_wait_for_waits_for_what_it_says(cloud, kubectl):
    inputs = {"metadata": {"name": "a", "annotations": {"pulumi.com/waitFor": "jsonpath={.data.done}=yes"}}, "data": {}}
    timer = threading.Timer(1, lambda: kubectl("-n", _ns(cloud), "patch", "cm", "a", "-p", '{"data":{"done":"yes"}}'))
    timer.start()
    assert cloud.create(CONFIG_MAP, inputs).state["data"] == {"done": "yes"}
    timer.join()
    assert any("waiting for jsonpath={.data.done}=yes (found nothing)" in said for said in cloud.said)


def test_a_wait_for_that_makes_no_sense_fails_the_check(cloud):
    with pytest.raises(InvalidInputs, match=r"expected jsonpath=.* or condition="):
        cloud.check(CONFIG_MAP, {"metadata": {"annotations": {"pulumi.com/waitFor": "Ready"}}})


def test_a_job_is_waited_for_and_its_failure_told(cloud):
    token = "kubernetes:batch/v1:Job"
    done = cloud.create(token, {"spec": {"template": _template("exit 0", restartPolicy="Never"), "backoffLimit": 0}})
    assert done.state["status"]["succeeded"] == 1
    with pytest.raises(Incomplete, match="BackoffLimitExceeded"):
        cloud.create(token, {"spec": {"template": _template("exit 4", restartPolicy="Never"), "backoffLimit": 0}})


def test_a_failed_job_is_replaced_where_it_asks_for_it(cloud):
    token = "kubernetes:batch/v1:Job"
    job = {
        "metadata": {"annotations": {"pulumi.com/replaceUnready": "true"}},
        "spec": {"template": _template("exit 4", restartPolicy="Never"), "backoffLimit": 0},
    }
    checked = cloud.check(token, job)
    with pytest.raises(Incomplete) as failed:
        cloud.provider.create(cloud.call(token), checked)
    was = Declared(failed.value.id, checked, revealed(dict(failed.value.state)))
    assert [change.replaces for change in cloud.diff(token, was, job).changes.values()] == [True]


def test_a_service_waits_for_a_ready_pod_that_it_targets(cloud):
    token = "kubernetes:core/v1:Service"
    service = {"spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}}
    with pytest.raises(Incomplete, match="does not target any ready pod"):
        cloud.create(token, service, timeout=1.0)
    cloud.create(DEPLOYMENT, deployment())
    assert cloud.create(token, service).state["spec"]["selector"] == {"app": "web"}


def test_a_stateful_set_and_a_pod_are_waited_for(cloud):
    spec = {"serviceName": "web", "replicas": 2, "selector": {"matchLabels": {"app": "web"}}}
    made = cloud.create("kubernetes:apps/v1:StatefulSet", {"spec": {**spec, "template": _template("sleep 1000")}})
    assert made.state["status"]["readyReplicas"] == 2
    pod = cloud.create("kubernetes:core/v1:Pod", {"spec": _template("sleep 1000")["spec"]})
    assert pod.state["status"]["phase"] == "Running"


def test_a_claim_for_the_first_consumer_is_not_waited_for(cloud):
    name = f"later-{os.urandom(3).hex()}"
    storage = "kubernetes:storage.k8s.io/v1:StorageClass"
    later = {"metadata": {"name": name}, "provisioner": "none.io/none", "volumeBindingMode": "WaitForFirstConsumer"}
    made = cloud.create(storage, later)
    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}, "storageClassName": name}
    token = "kubernetes:core/v1:PersistentVolumeClaim"
    assert cloud.create(token, {"spec": claim}).state["status"]["phase"] == "Pending"
    with pytest.raises(Incomplete, match="waiting for it to be bound"):
        cloud.create(token, {"spec": {**claim, "storageClassName": "missing"}}, timeout=1.0)
    cloud.delete(storage, made)


def test_ctrl_c_ends_a_wait_at_once(cloud):
    threading.Timer(0.5, cloud.cancelled.set).start()
    began = time.monotonic()
    with pytest.raises(Incomplete, match="cancelled while waiting"):
        cloud.create(DEPLOYMENT, deployment(CRASH))
    assert time.monotonic() - began < 60  # the wait itself would last ten minutes


def test_an_ingress_and_a_load_balancer_get_the_gateways_address(cloud):
    cloud.create(DEPLOYMENT, deployment())
    ports = [{"port": 80}]
    balancer = {"spec": {"type": "LoadBalancer", "selector": {"app": "web"}, "ports": ports}}
    made = cloud.create("kubernetes:core/v1:Service", balancer)
    assert made.state["status"]["loadBalancer"]["ingress"]
    backend = {"service": {"name": made.state["metadata"]["name"], "port": {"number": 80}}}
    path = {"path": "/", "pathType": "Prefix", "backend": backend}
    rules = [{"host": f"{_ns(cloud)}.localhost", "http": {"paths": [path]}}]
    ingress = cloud.create("kubernetes:networking.k8s.io/v1:Ingress", {"spec": {"rules": rules}})
    assert ingress.state["status"]["loadBalancer"]["ingress"]


# ---- custom resources


def _definition(group: str) -> dict[str, Any]:
    schema = {"type": "object", "x_kubernetes_preserve_unknown_fields": True}
    return {
        "metadata": {"name": f"widgets.{group}"},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"plural": "widgets", "singular": "widget", "kind": "Widget"},
            "versions": [{"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}],
        },
    }


def test_a_custom_resource_can_follow_its_definition_at_once(cloud):
    group = f"g{os.urandom(3).hex()}.example.com"
    definition = "kubernetes:apiextensions.k8s.io/v1:CustomResourceDefinition"
    made = cloud.create(definition, _definition(group))
    token = f"kubernetes:{group}/v1:Widget"
    widget = {"apiVersion": f"{group}/v1", "kind": "Widget", "spec": {"size": 3}}
    one = cloud.create(token, widget)
    assert one.state["spec"] == {"size": 3}
    assert cloud.diff(definition, made, _definition(group)).changes == {}
    cloud.delete(definition, made)
    assert cloud.read(token, one) is None
    cloud.delete(token, one)


def test_a_kind_that_never_comes_is_an_error_with_a_way_out(cloud, monkeypatch):
    monkeypatch.setattr("modelworks.laptop.providers.kubernetes.provider._CREATE_SECONDS", 0.5)
    with pytest.raises(ProviderError, match=r"has no kind Thing in to\.come/v1") as refused:
        cloud.create("kubernetes:to.come/v1:Thing", {"apiVersion": "to.come/v1", "kind": "Thing"})
    assert "CustomResourceDefinition" in refused.value.fix


# ---- deletion


def test_deletion_waits_for_finalizers_and_names_them(cloud, kubectl):
    made = cloud.create(CONFIG_MAP, {"metadata": {"name": "held", "finalizers": ["example.com/hold"]}})
    with pytest.raises(ProviderError, match=r"finalizers example\.com/hold"):
        cloud.delete(CONFIG_MAP, made, timeout=1.0)
    release = lambda: kubectl("-n", _ns(cloud), "patch", "cm", "held", "-p", '{"metadata":{"finalizers":null}}')  # noqa: E731
    timer = threading.Timer(0.5, release)
    timer.start()
    cloud.delete(CONFIG_MAP, made)
    timer.join()
    assert cloud.read(CONFIG_MAP, made) is None


def test_a_deployment_is_gone_with_its_pods(cloud, kubectl):
    made = cloud.create(DEPLOYMENT, deployment())
    cloud.delete(DEPLOYMENT, made)
    assert kubectl("-n", _ns(cloud), "get", "replicasets", "-o", "name") == ""


def test_orphans_are_left_where_the_annotation_says_so(cloud, kubectl):
    made = cloud.create(DEPLOYMENT, deployment(deletionPropagationPolicy="orphan"))
    cloud.delete(DEPLOYMENT, made)
    assert kubectl("-n", _ns(cloud), "get", "replicasets", "-o", "name") != ""


def test_a_namespace_is_gone_with_all_that_is_in_it(cloud):
    name = f"gone-{os.urandom(3).hex()}"
    made = cloud.create(NAMESPACE, {"metadata": {"name": name}})
    inside = cloud.create(CONFIG_MAP, {"metadata": {"namespace": name}, "data": {"a": "1"}})
    cloud.delete(NAMESPACE, made)
    assert cloud.read(NAMESPACE, made) is None
    assert cloud.read(CONFIG_MAP, inside) is None
    cloud.delete(CONFIG_MAP, inside)


def test_skip_await_does_not_wait_for_the_deletion_of_a_namespace(cloud):
    annotations = {"pulumi.com/skipAwait": "true"}
    made = cloud.create(NAMESPACE, {"metadata": {"name": f"gone-{os.urandom(3).hex()}", "annotations": annotations}})
    cloud.create(CONFIG_MAP, {"metadata": {"namespace": made.id, "finalizers": ["example.com/hold"], "name": "held"}})
    began = time.monotonic()
    cloud.delete(NAMESPACE, made)
    assert time.monotonic() - began < 60  # its content would hold it for ever
    held = cloud.read(CONFIG_MAP, Declared(f"{made.id}/held", {}, {}))
    assert held is not None
    freed = {"metadata": {"name": "held", "namespace": made.id}}
    cloud.update(CONFIG_MAP, Declared(held.id, dict(held.inputs), revealed(dict(held.state))), freed)


def test_what_may_not_be_deleted_is_given_up(cloud, kubectl):
    willing = Settings(**{**vars(cloud.provider._settings), "upsert_existing_objects": True})
    other = Cloud(KubernetesProvider(willing))
    made = other.create(NAMESPACE, {"metadata": {"name": "default", "labels": {"ours": "yes"}}})
    other.delete(NAMESPACE, made)
    assert "ours" not in kubectl("get", "namespace", "default", "-o", "jsonpath={.metadata.labels}")


# ---- configuration


def test_a_kubeconfig_may_be_given_as_its_content(laptop, cloud):
    content = (laptop.cluster / "admin.kubeconfig").read_text()
    other = Cloud(KubernetesProvider(Settings(kubeconfig=content, namespace=_ns(cloud))))
    assert other.create(CONFIG_MAP, {"data": {"a": "1"}}).id.startswith(_ns(cloud))


def test_an_unreachable_cluster_fails_reads_unless_told_to_forget():
    nowhere = "apiVersion: v1\nclusters: [{name: a, cluster: {server: 'http://127.0.0.1:1'}}]\n"
    settings = Settings(kubeconfig=nowhere, cluster="a")
    was = Declared("default/a", {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}}, {"x": 1})
    with pytest.raises(Unreachable, match="cannot be reached"):
        Cloud(KubernetesProvider(settings)).read(CONFIG_MAP, was)
    forgetful = Settings(kubeconfig=nowhere, cluster="a", delete_unreachable=True)
    assert Cloud(KubernetesProvider(forgetful)).read(CONFIG_MAP, was) is None
    Cloud(KubernetesProvider(forgetful)).delete(CONFIG_MAP, was)
    keeping = Settings(kubeconfig=nowhere, cluster="a", skip_update_unreachable=True)
    assert Cloud(KubernetesProvider(keeping)).read(CONFIG_MAP, was).state == {"x": 1}
    shown = Cloud(KubernetesProvider(settings)).preview(CONFIG_MAP, {"data": {"a": "1"}})
    assert shown["data"] == {"a": "1"}


def test_a_wait_survives_a_restarted_api_server(laptop, cloud, kubectl):
    inputs = {"metadata": {"name": "a", "annotations": {"pulumi.com/waitFor": "jsonpath={.data.done}=yes"}}, "data": {}}
    made: list[Declared] = []
    waiter = threading.Thread(target=lambda: made.append(cloud.create(CONFIG_MAP, inputs)))
    waiter.start()
    _until(lambda: any("waiting for jsonpath" in said for said in cloud.said))
    os.kill(_api_server(laptop), signal.SIGKILL)
    _until(lambda: _answers(kubectl, "-n", _ns(cloud), "patch", "cm", "a", "-p", '{"data":{"done":"yes"}}'))
    waiter.join(60)
    assert made[0].state["data"] == {"done": "yes"}


def _api_server(laptop: Place) -> int:
    return next(info["pid"] for info in supervisor.processes(laptop) if info["name"] == "apiserver")


def _answers(kubectl, *arguments: str) -> bool:
    try:
        kubectl(*arguments)
    except AssertionError:
        return False
    return True


def _until(condition, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.1)
