"""Programs that use `pulumi_kubernetes`, through the real engine and the real provider, as an environment's own user.

What the provider does is its makers' to test. These claims are about it and this cluster together: rights, waiting, and
the laptop's node and gateway.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import textwrap
from pathlib import Path
from typing import Any

import pytest

from modelworks.laptop import environments

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

CONFIG_MAP = "kubernetes:core/v1:ConfigMap"
DEPLOYMENT = "kubernetes:apps/v1:Deployment"
CRASH = "exit 3"


class Program:
    """A Pulumi program of one file, with a stack of its own."""

    def __init__(self, folder: Path, variables: dict[str, str]) -> None:
        self.folder, self.variables = folder, {**os.environ, **variables}
        (folder / "Pulumi.yaml").write_text(f"name: {folder.name}\nruntime: python\n")
        self.write("")
        self.pulumi("stack", "init", "dev")

    def write(self, code: str) -> None:
        heading = "import pulumi\nimport pulumi_kubernetes as k8s\n"
        (self.folder / "__main__.py").write_text(heading + textwrap.dedent(code))

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["pulumi", *arguments, "--non-interactive", "--color", "never"],
            cwd=self.folder,
            env=self.variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def pulumi(self, *arguments: str, fails: bool = False) -> str:
        with self.start(*arguments) as process:
            shown, _ = process.communicate(timeout=300)
        assert (process.returncode != 0) == fails, shown
        return shown

    def up(self, code: str | None = None, *, fails: bool = False) -> str:
        if code is not None:
            self.write(code)
        return self.pulumi("up", "--yes", "--skip-preview", "--stack", "dev", fails=fails)

    def unchanged(self) -> str:
        return self.pulumi("preview", "--expect-no-changes", "--stack", "dev")

    def destroy(self, *, fails: bool = False) -> str:
        return self.pulumi("destroy", "--yes", "--skip-preview", "--stack", "dev", fails=fails)

    def outputs(self) -> dict[str, Any]:
        return json.loads(self.pulumi("stack", "output", "--json", "--stack", "dev", "--show-secrets"))

    def resource(self, type_: str) -> dict[str, Any]:
        state = json.loads(self.pulumi("stack", "export", "--stack", "dev"))
        return next(each for each in state["deployment"]["resources"] if each["type"] == type_)

    def remove(self) -> None:
        self.destroy()
        self.pulumi("stack", "rm", "--yes", "--force", "dev")


@pytest.fixture
def variables(laptop):
    return environments.environment_variables(laptop, "local")


@pytest.fixture
def program(variables, tmp_path):
    folder = tmp_path / f"program-{os.urandom(3).hex()}"
    folder.mkdir()
    program = Program(folder, variables)
    yield program
    program.remove()


@pytest.fixture
def ours(variables):
    """kubectl as the environment's own user; what it prints."""

    def run(*arguments: str) -> str:
        done = subprocess.run(
            ["kubectl", *arguments],
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return run


@pytest.fixture
def namespace(ours):
    """A namespace that the environment made, and not with Pulumi. Ask for it before `program`, which it outlives."""
    name = f"made-{os.urandom(3).hex()}"
    ours("create", "namespace", name)
    yield name
    ours("delete", "namespace", name, "--wait=false")


SHOP = """
    namespace = k8s.core.v1.Namespace("shop")
    inside = {"namespace": namespace.metadata.name}
    settings = k8s.core.v1.ConfigMap("settings", metadata=inside, data={"colour": "COLOUR"})
    labels = {"app": "web"}
    container = {
        "name": "web",
        "image": "example/web",
        "command": ["sh", "-c", "COMMAND"],
        "readiness_probe": {"exec": {"command": ["PROBE"]}},
        "env_from": [{"config_map_ref": {"name": settings.metadata.name}}],
    }
    web = k8s.apps.v1.Deployment(
        "web",
        metadata={**inside, "annotations": {"pulumi.com/timeoutSeconds": "TIMEOUT"}},
        spec={
            "selector": {"match_labels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [container], "termination_grace_period_seconds": 1},
            },
        },
    )
    pulumi.export("namespace", namespace.metadata.name)
    pulumi.export("web", web.metadata.name)
    pulumi.export("settings", settings.metadata.name)
"""


def shop(colour: str = "red", command: str = "sleep 1000", timeout: int = 240) -> str:
    return (
        SHOP.replace('COLOUR"}', f'{colour}"}}')
        .replace("COMMAND", command)
        .replace("PROBE", "false" if command == CRASH else "true")
        .replace("TIMEOUT", str(timeout))
    )


def test_a_program_goes_up_stays_unchanged_and_leaves_nothing(program, ours):
    program.write(shop())
    assert "+ 4 to create" in program.pulumi("preview", "--stack", "dev")
    shown = program.up()
    assert "$PATH" not in shown, "the engine takes the plugin from its home, as an installed one"
    assert "expected to have version" not in shown
    program.unchanged()
    namespace = program.outputs()["namespace"]
    program.destroy()
    assert namespace not in ours("get", "namespaces", "-o", "name")


def test_new_data_replaces_the_config_map_and_rolls_the_deployment(program):
    program.up(shop("red"))
    before = program.outputs()
    assert "+-1 replaced" in program.up(shop("blue"))
    after = program.outputs()
    assert after["web"] == before["web"]
    assert after["settings"] != before["settings"]
    program.unchanged()


def test_a_deployment_that_crashes_is_in_the_state_and_the_next_up_puts_it_right(program):
    assert "timed out" in program.up(shop(command=CRASH, timeout=10), fails=True)
    assert program.resource(DEPLOYMENT)["initErrors"]
    program.up(shop())
    program.unchanged()


def test_drift_and_loss_are_seen_by_refresh_and_put_right_by_up(program, ours):
    program.up(shop())
    made = program.outputs()
    ours("-n", made["namespace"], "annotate", "deployment", made["web"], "pulumi.com/timeoutSeconds=999", "--overwrite")
    ours("-n", made["namespace"], "delete", "configmap", made["settings"])
    shown = program.pulumi("refresh", "--yes", "--skip-preview", "--stack", "dev")
    assert "~ 1 updated" in shown
    assert "- 1 deleted" in shown
    program.up()  # what kubectl changed by hand, the provider takes over
    annotations = ours(
        "-n", made["namespace"], "get", "deployment", made["web"], "-o", "jsonpath={.metadata.annotations}"
    )
    assert json.loads(annotations)["pulumi.com/timeoutSeconds"] == "240"
    program.unchanged()


WORK = """
    namespace = k8s.core.v1.Namespace("work")
    inside = {"namespace": namespace.metadata.name}
    container = {"name": "c", "image": "example/c", "command": ["sh", "-c", "COMMAND"]}
    job = k8s.batch.v1.Job(
        "job",
        metadata=inside,
        spec={"backoff_limit": 0, "template": {"spec": {"containers": [container], "restart_policy": "Never"}}},
    )
    service = k8s.core.v1.Service("service", metadata=inside, spec={"selector": {"app": "x"}, "ports": [{"port": 80}]})
    pulumi.export("succeeded", job.status.succeeded)
    pulumi.export("address", service.spec.cluster_ip)
"""


def test_a_job_and_a_service_are_waited_for(program):
    program.up(WORK.replace("COMMAND", "true"))
    assert program.outputs()["succeeded"] == 1
    assert program.outputs()["address"].startswith("127.")
    program.unchanged()


def test_a_job_that_fails_fails_the_update(program):
    assert "BackoffLimitExceeded" in program.up(WORK.replace("COMMAND", CRASH), fails=True)


def test_a_patch_adds_to_an_object_and_takes_only_that_away(namespace, program, ours):
    ours("-n", namespace, "create", "configmap", "theirs", "--from-literal=a=1")
    program.up(f"""
        metadata = {{"name": "theirs", "namespace": "{namespace}"}}
        k8s.core.v1.ConfigMapPatch("added", metadata=metadata, data={{"b": "2"}})
    """)
    program.unchanged()
    data = ("-n", namespace, "get", "configmap", "theirs", "-o", "jsonpath={.data}")
    assert json.loads(ours(*data)) == {"a": "1", "b": "2"}
    program.up("")
    assert json.loads(ours(*data)) == {"a": "1"}


def test_import_writes_code_that_needs_no_change(namespace, program, ours):
    ours("-n", namespace, "create", "configmap", "made", "--from-literal=a=1")
    where = ("mine", f"{namespace}/made", "--yes", "--protect=false", "--out", "code.py", "--stack", "dev")
    program.pulumi("import", CONFIG_MAP, *where)
    assert program.resource(CONFIG_MAP)["inputs"]["data"] == {"a": "1"}
    program.write((program.folder / "code.py").read_text())
    program.unchanged()


def test_what_is_secret_stays_secret(namespace, program):
    program.up(f"""
        word = pulumi.Output.secret("swordfish")
        inside = {{"namespace": "{namespace}"}}
        secret = k8s.core.v1.Secret("login", metadata=inside, string_data={{"password": word}})
        settings = k8s.core.v1.ConfigMap("plain", metadata=inside, data={{"word": word}})
        pulumi.export("data", settings.data["word"])
    """)
    text = program.pulumi("stack", "export", "--stack", "dev") + program.pulumi("stack", "--stack", "dev")
    assert "swordfish" not in text
    assert "c3dvcmRmaXNo" not in text
    assert program.outputs()["data"] == "swordfish"
    program.unchanged()


def manifest(name: str, namespace: str) -> str:
    return f"apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, namespace: {namespace}}}\ndata: {{a: '1'}}\n"


def test_helm_kustomize_and_yaml_come_from_local_files(namespace, program, ours):
    chart = program.folder / "chart"
    (chart / "templates").mkdir(parents=True)
    (chart / "Chart.yaml").write_text("apiVersion: v2\nname: chart\nversion: 1.0.0\n")
    (chart / "templates" / "all.yaml").write_text(manifest("of-{{ .Release.Name }}", "{{ .Release.Namespace }}"))
    (program.folder / "base").mkdir()
    (program.folder / "base" / "kustomization.yaml").write_text("namePrefix: of-\nresources: [all.yaml]\n")
    (program.folder / "base" / "all.yaml").write_text(manifest("kustomize", namespace))
    (program.folder / "all.yaml").write_text(manifest("of-yaml", namespace))
    (program.folder / "two.yaml").write_text(manifest("of-yaml2", namespace))
    program.up(f"""
        k8s.helm.v3.Release("release", name="release", chart="./chart", namespace="{namespace}")
        k8s.helm.v4.Chart("chart", chart="./chart", namespace="{namespace}")
        k8s.kustomize.v2.Directory("kustomize", directory="./base")
        k8s.yaml.ConfigFile("yaml", "all.yaml")
        k8s.yaml.v2.ConfigFile("yaml2", file="two.yaml")
    """)
    made = {name.rpartition("/")[2] for name in ours("-n", namespace, "get", "configmaps", "-o", "name").split()}
    assert {"of-release", "of-chart", "of-kustomize", "of-yaml", "of-yaml2"} <= made
    program.unchanged()


def test_two_providers_of_one_program_do_not_mix(program):
    one, two = (f"team-{os.urandom(3).hex()}" for _ in range(2))
    program.up(f"""
        for name in ("{one}", "{two}"):
            namespace = k8s.core.v1.Namespace(name, metadata={{"name": name}})
            provider = k8s.Provider(name, namespace=namespace.metadata.name)
            settings = k8s.core.v1.ConfigMap(f"in-{{name}}", opts=pulumi.ResourceOptions(provider=provider))
            pulumi.export(name, settings.metadata.namespace)
    """)
    assert program.outputs() == {one: one, two: two}
    program.unchanged()


def test_a_definition_and_its_resource_go_up_in_one_program_and_a_rollout_is_not_waited_for(namespace, program):
    group = f"g{os.urandom(3).hex()}.example.com"
    program.up(f"""
        schema = {{"type": "object", "x_kubernetes_preserve_unknown_fields": True}}
        names = {{"plural": "widgets", "singular": "widget", "kind": "Widget"}}
        version = {{"name": "v1", "served": True, "storage": True, "schema": {{"open_apiv3_schema": schema}}}}
        definition = k8s.apiextensions.v1.CustomResourceDefinition(
            "widgets",
            metadata={{"name": "widgets.{group}"}},
            spec={{"group": "{group}", "scope": "Namespaced", "names": names, "versions": [version]}},
        )
        inside = {{"namespace": "{namespace}"}}
        k8s.apiextensions.CustomResource(
            "widget",
            api_version="{group}/v1",
            kind="Widget",
            metadata=inside,
            spec={{"size": 3}},
            opts=pulumi.ResourceOptions(depends_on=[definition]),
        )
        k8s.apiextensions.CustomResource(
            "rollout",
            api_version="argoproj.io/v1alpha1",
            kind="Rollout",
            metadata=inside,
            spec={{
                "replicas": 0,
                "selector": {{"matchLabels": {{"app": "r"}}}},
                "strategy": {{"canary": {{"steps": [{{"setWeight": 20}}]}}}},
                "template": {{
                    "metadata": {{"labels": {{"app": "r"}}}},
                    "spec": {{"containers": [{{"name": "r", "image": "example/r", "command": ["sleep", "9"]}}]}},
                }},
            }},
        )
    """)
    program.unchanged()
    program.pulumi("refresh", "--yes", "--skip-preview", "--stack", "dev")
    program.unchanged()


def test_deletion_waits_for_finalizers(namespace, program, ours):
    program.up(f"""
        metadata = {{"name": "held", "namespace": "{namespace}", "finalizers": ["example.com/hold"]}}
        short = pulumi.ResourceOptions(custom_timeouts=pulumi.CustomTimeouts(delete="5s"))
        k8s.core.v1.ConfigMap("held", metadata=metadata, opts=short)
    """)
    assert "timed out" in program.destroy(fails=True)
    ours("-n", namespace, "patch", "configmap", "held", "--type=merge", '-p={"metadata":{"finalizers":null}}')
    program.destroy()


def test_an_unreachable_cluster_is_named(program, variables):
    nobody = re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:1", Path(variables["KUBECONFIG"]).read_text())
    (program.folder / "gone.kubeconfig").write_text(nobody)
    program.write("""
        provider = k8s.Provider("gone", kubeconfig="gone.kubeconfig")
        k8s.core.v1.ConfigMap("c", opts=pulumi.ResourceOptions(provider=provider))
    """)
    assert "cluster is unreachable" in program.up(fails=True)


def test_ctrl_c_ends_an_up_that_waits(program):
    program.up(shop())
    program.write(shop(command=CRASH, timeout=1200))
    with program.start("up", "--yes", "--skip-preview", "--stack", "dev") as process:
        for line in process.stdout:
            if "[1/2]" in line or "unready" in line:
                break
        process.send_signal(signal.SIGINT)
        shown, _ = process.communicate(timeout=120)  # the wait itself would last twenty minutes
    assert process.returncode != 0, shown
