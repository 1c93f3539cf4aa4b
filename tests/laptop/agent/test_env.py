from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelworks.laptop.agent import env, quantity
from modelworks.laptop.agent.env import Surroundings, UnresolvedError

POD = {
    "metadata": {"name": "p", "namespace": "n", "uid": "u", "labels": {"a": 'x"y'}},
    "spec": {"nodeName": "laptop", "serviceAccountName": "sa", "containers": [], "enableServiceLinks": False},
}
AROUND = Surroundings(
    ip="127.77.0.2",
    config_maps={"conf": {"data": {"A": "1", "B": "2"}}},
    secrets={"safe": {"data": {"S": base64.b64encode(b"hush").decode()}}},
    cores=4,
    memory=8 * 2**30,
)


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("$(A)", "1"),
        ("$$(A)", "$(A)"),
        ("$(MISSING)", "$(MISSING)"),
        ("x$(A)y$(A)", "x1y1"),
        ("$A $", "$A $"),
        ("$$$(A)", "$1"),
    ],
)
def test_expansion(text, expanded):
    assert env.expand(text, {"A": "1"}) == expanded


@given(st.text(alphabet="ab(){}"))
def test_text_without_dollars_stays(text):
    assert env.expand(text, {"a": "1"}) == text


def variables(*stated, **container):
    return env.variables(POD, {"name": "c", "env": list(stated), **container}, AROUND)


def test_later_variables_see_earlier_ones():
    assert (
        variables({"name": "X", "value": "1"}, {"name": "Y", "value": "$(X)$(Z)"}, {"name": "Z", "value": "3"})["Y"]
        == "1$(Z)"
    )


def test_env_overrides_env_from():
    found = variables({"name": "A", "value": "9"}, envFrom=[{"configMapRef": {"name": "conf"}, "prefix": ""}])
    assert found == {"A": "9", "B": "2"}


def test_env_from_a_secret_with_a_prefix():
    assert variables(envFrom=[{"secretRef": {"name": "safe"}, "prefix": "MY_"}]) == {"MY_S": "hush"}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("status.podIP", "127.77.0.2"),
        ("metadata.labels['a']", 'x"y'),
        ("metadata.name", "p"),
        ("spec.serviceAccountName", "sa"),
        ("metadata.labels", 'a="x\\"y"'),
    ],
)
def test_field_references(path, value):
    assert variables({"name": "F", "valueFrom": {"fieldRef": {"fieldPath": path}}})["F"] == value


def test_resource_references():
    limits = {"resources": {"limits": {"memory": "1Gi", "cpu": "1500m"}}}

    def resource(name, **more):
        return variables({"name": "R", "valueFrom": {"resourceFieldRef": {"resource": name, **more}}}, **limits)["R"]

    assert resource("limits.memory", divisor="1Mi") == "1024"
    assert resource("limits.cpu") == "2"
    assert resource("limits.cpu", divisor="1m") == "1500"


def test_a_limit_that_is_not_stated_is_the_machines():
    assert variables({"name": "R", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}})["R"] == "4"


def test_what_is_missing_is_named():
    with pytest.raises(UnresolvedError, match='secret "none" not found'):
        variables({"name": "S", "valueFrom": {"secretKeyRef": {"name": "none", "key": "k"}}})
    with pytest.raises(UnresolvedError, match="couldn't find key Z in ConfigMap conf"):
        variables({"name": "S", "valueFrom": {"configMapKeyRef": {"name": "conf", "key": "Z"}}})


def test_what_is_optional_may_be_missing():
    assert variables({"name": "S", "valueFrom": {"secretKeyRef": {"name": "none", "key": "k", "optional": True}}}) == {}


def test_service_links():
    service = {
        "metadata": {"name": "my-db"},
        "spec": {"clusterIP": "10.0.0.9", "ports": [{"port": 5432, "name": "sql"}]},
    }
    assert env.service_links([service]) == {
        "MY_DB_SERVICE_HOST": "10.0.0.9",
        "MY_DB_SERVICE_PORT": "5432",
        "MY_DB_SERVICE_PORT_SQL": "5432",
    }


def test_arguments_are_expanded():
    assert env.argv({"command": ["run", "$(P)"], "args": ["$$(P)"]}, {"P": "80"}) == ["run", "80", "$(P)"]


def test_quantities():
    assert [int(quantity.parse(text)) for text in ("1Ki", "2M", "1e3", "1.5Gi")] == [1024, 2_000_000, 1000, 3 * 2**29]
    with pytest.raises(ValueError, match="not a Kubernetes quantity"):
        quantity.parse("lots")
