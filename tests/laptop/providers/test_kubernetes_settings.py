"""How the Kubernetes provider is told where its cluster is and what it may do."""

from __future__ import annotations

import base64

import pytest

from modelworks.errors import ModelworksError
from modelworks.laptop.providers.kubernetes.client import Unreachable, access, connect
from modelworks.laptop.providers.kubernetes.documents import decode_yaml
from modelworks.laptop.providers.kubernetes.settings import Settings
from modelworks.laptop.providers.plugin import InvalidInputs, ProviderError
from modelworks.laptop.providers.property_values import UNKNOWN

KUBECONFIG = """
apiVersion: v1
kind: Config
clusters:
- {name: here, cluster: {server: "http://127.0.0.1:1/"}}
- {name: there, cluster: {server: "http://127.0.0.1:2"}}
users:
- {name: me, user: {token: word}}
- {name: program, user: {exec: {command: aws}}}
contexts:
- {name: one, context: {cluster: here, user: me, namespace: mine}}
- {name: two, context: {cluster: here, user: program}}
current-context: one
"""


def test_a_kubeconfig_says_where_and_who(tmp_path):
    found = access(KUBECONFIG, tmp_path)
    assert (found.server, found.namespace) == ("http://127.0.0.1:1", "mine")
    assert found.headers == {"Authorization": "Bearer word"}
    assert "word" not in repr(found)


def test_another_cluster_of_the_kubeconfig_can_be_meant(tmp_path):
    assert access(KUBECONFIG, tmp_path, cluster="there").server == "http://127.0.0.1:2"


@pytest.mark.parametrize(
    ("text", "context", "message"),
    [
        (KUBECONFIG, "three", "has no context 'three'; it has one, two"),
        (KUBECONFIG, "two", "authenticated by a program"),
        ("a: [", "", "is not YAML"),
        ("just text", "", "holds no mapping"),
        ("clusters: []", "", "has no context ''; it has none"),
    ],
)
def test_a_kubeconfig_that_will_not_do_is_named(tmp_path, text, context, message):
    with pytest.raises(ModelworksError, match=message):
        access(text, tmp_path, context=context)


def test_a_kubeconfig_may_be_a_path_or_the_content_and_connects_once(tmp_path):
    path = tmp_path / "kubeconfig"
    path.write_text(KUBECONFIG)
    assert connect(f"/nowhere:{path}") is connect(str(path))
    assert connect(KUBECONFIG).access.server == "http://127.0.0.1:1"
    with pytest.raises(ModelworksError, match="there is no kubeconfig at '/nowhere'"):
        connect("/nowhere")


def test_an_api_server_that_is_not_there_is_unreachable():
    with pytest.raises(Unreachable, match=r"http://127\.0\.0\.1:1 cannot be reached"):
        connect(KUBECONFIG).request("GET", "/version", doing="asking")


def test_certificates_that_are_given_as_data_are_read(tmp_path):
    broken = base64.b64encode(b"no certificate").decode()
    text = f"""
clusters: [{{name: a, cluster: {{server: "https://127.0.0.1:1", certificate-authority-data: {broken}}}}}]
contexts: [{{name: a, context: {{cluster: a}}}}]
current-context: a
"""
    with pytest.raises(ModelworksError, match="certificates cannot be used"):
        access(text, tmp_path)


def test_settings_come_from_the_configuration_then_from_variables(monkeypatch):
    monkeypatch.setenv("PULUMI_K8S_ENABLE_PATCH_FORCE", "true")
    monkeypatch.setenv("PULUMI_K8S_DELETE_UNREACHABLE", "true")
    settings = Settings.of({"namespace": "a", "deleteUnreachable": "false"}, kubeconfig="default")
    assert settings == Settings(kubeconfig="default", namespace="a", enable_patch_force=True)


def test_a_setting_that_cannot_be_honoured_fails_the_check():
    wrong = {"renderYamlToDirectory": "out", "enablePatchForce": "maybe", "nameSpace": "a"}
    with pytest.raises(InvalidInputs) as refused:
        Settings.checked({**wrong, "namespace": UNKNOWN, "clusterIdentifier": "a", "kubeconfig": KUBECONFIG})
    assert {path[0]: reason[:20] for path, reason in refused.value.failures} == {
        "renderYamlToDirectory": "the laptop's provide",
        "enablePatchForce": "true or false was ex",
        "nameSpace": "not a setting of the",
    }


def test_yaml_is_read_as_kubernetes_reads_it():
    text = "kind: ConfigMap\ndata: {day: 2026-11-23}\n---\n---\nkind: List\nitems: [{kind: Pod}, {kind: Secret}]\n"
    assert decode_yaml(text, "inside") == [
        {"kind": "ConfigMap", "data": {"day": "2026-11-23"}, "metadata": {"namespace": "inside"}},
        {"kind": "Pod", "metadata": {"namespace": "inside"}},
        {"kind": "Secret", "metadata": {"namespace": "inside"}},
    ]


@pytest.mark.parametrize(("text", "message"), [("a: [", "is not YAML"), ("- 1", "a manifest was expected, got list")])
def test_yaml_that_is_no_manifest_is_refused(text, message):
    with pytest.raises(ProviderError, match=message):
        decode_yaml(text)
