"""The identity that a strict laptop gives a pod: that of EKS's webhook."""

from __future__ import annotations

from modelworks.laptop.agent import identity, volumes

ROLE = "arn:aws:iam::000000000000:role/serving"
POD = {
    "metadata": {"name": "a", "namespace": "models"},
    "spec": {
        "initContainers": [{"name": "fetch"}],
        "containers": [{"name": "serve", "env": [{"name": "AWS_REGION", "value": "own"}],
                        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}]}],
        "volumes": [{"name": "tmp", "emptyDir": {}}],
    },
}  # fmt: skip


def account(**annotations):
    return {"metadata": {"name": "serving", "annotations": annotations}}


def variables(container):
    return {entry["name"]: entry["value"] for entry in container["env"]}


def test_a_pod_whose_service_account_names_a_role_has_its_token_in_every_container():
    admitted = identity.admitted(POD, account(**{identity.ROLE: ROLE}), "eu-central-1")
    assert volumes.token_requests(admitted) == {("sts.amazonaws.com", 86_400)}
    for container in (admitted["spec"]["initContainers"][0], admitted["spec"]["containers"][0]):
        found = variables(container)
        assert found["AWS_ROLE_ARN"] == ROLE
        folder = container["volumeMounts"][-1]["mountPath"]
        assert found["AWS_WEB_IDENTITY_TOKEN_FILE"] == f"{folder}/token"
    assert [volume["name"] for volume in admitted["spec"]["volumes"]] == ["tmp", "aws-iam-token"]


def test_a_variable_of_the_containers_own_wins():
    admitted = identity.admitted(POD, account(**{identity.ROLE: ROLE}), "eu-central-1")
    fetch, serve = admitted["spec"]["initContainers"][0], admitted["spec"]["containers"][0]
    assert (variables(fetch)["AWS_REGION"], variables(serve)["AWS_REGION"]) == ("eu-central-1", "own")


def test_a_pod_without_a_role_stays_as_it_is_and_so_does_one_that_is_admitted_already():
    assert identity.admitted(POD, account(), "eu-central-1") == POD
    admitted = identity.admitted(POD, account(**{identity.ROLE: ROLE}), "eu-central-1")
    assert identity.admitted(admitted, account(**{identity.ROLE: ROLE}), "eu-central-1") == admitted
