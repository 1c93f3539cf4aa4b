"""Programs that use `pulumi_kubernetes`, through the real engine and the laptop's provider, on a real API server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from modelworks.laptop import environments
from modelworks.laptop.providers.kubernetes import plugin

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

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
            shown, _ = process.communicate(timeout=120)
        assert (process.returncode != 0) == fails, shown
        return shown

    def up(self, code: str | None = None, *, fails: bool = False) -> str:
        if code is not None:
            self.write(code)
        return self.pulumi("up", "--yes", "--skip-preview", "--stack", "dev", fails=fails)

    def unchanged(self) -> str:
        return self.pulumi("preview", "--expect-no-changes", "--stack", "dev")

    def outputs(self) -> dict[str, Any]:
        return json.loads(self.pulumi("stack", "output", "--json", "--stack", "dev", "--show-secrets"))

    def state(self) -> dict[str, Any]:
        return json.loads(self.pulumi("stack", "export", "--stack", "dev"))

    def remove(self) -> None:
        self.pulumi("destroy", "--yes", "--skip-preview", "--stack", "dev")
        self.pulumi("stack", "rm", "--yes", "--force", "dev")


@pytest.fixture(scope="module")
def served(laptop):
    """The plugin, served by this process with all rights, and the variables that point at it."""
    server, port = plugin({"kubeconfig": str(laptop.cluster / "admin.kubeconfig")}, laptop.environment("local")).serve()
    yield {**environments.environment_variables(laptop, "local"), "PULUMI_DEBUG_PROVIDERS": f"kubernetes:{port}"}
    server.stop(0).wait()


@pytest.fixture
def program(served, tmp_path):
    folder = tmp_path / f"program-{os.urandom(3).hex()}"
    folder.mkdir()
    program = Program(folder, served)
    yield program
    program.remove()


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
    pulumi.export("web", web.id)
    pulumi.export("settings", settings.metadata.name)
"""


def shop(colour: str = "red", command: str = "sleep 1000", timeout: int = 120) -> str:
    return (
        SHOP.replace('COLOUR"}', f'{colour}"}}')
        .replace("COMMAND", command)
        .replace("PROBE", "false" if command == CRASH else "true")
        .replace("TIMEOUT", str(timeout))
    )


def test_a_program_goes_up_stays_unchanged_and_leaves_nothing(program, kubectl):
    program.write(shop())
    assert "+ 4 to create" in program.pulumi("preview", "--stack", "dev")
    program.up()
    program.unchanged()
    namespace = program.outputs()["web"].split("/")[0]
    program.pulumi("destroy", "--yes", "--skip-preview", "--stack", "dev")
    assert namespace not in kubectl("get", "namespaces", "-o", "name")


def test_the_environments_own_provider_does_it_with_the_environments_own_rights(laptop, tmp_path):
    folder = tmp_path / f"program-{os.urandom(3).hex()}"
    folder.mkdir()
    program = Program(folder, environments.environment_variables(laptop, "local"))
    program.up(shop())
    program.unchanged()
    program.remove()


def test_new_data_replaces_the_config_map_and_rolls_the_deployment(program):
    program.up(shop("red"))
    before = program.outputs()
    assert "+-1 replaced" in program.up(shop("blue"))
    after = program.outputs()
    assert after["web"] == before["web"]
    assert after["settings"] != before["settings"]
    program.unchanged()


def test_a_failed_rollout_is_in_the_state_and_the_next_up_puts_it_right(program):
    shown = program.up(shop(command=CRASH, timeout=6), fails=True)
    assert "exists but is not ready: timed out after 6 s" in shown
    assert "exit code 3" in shown
    web = next(each for each in program.state()["deployment"]["resources"] if each["type"] == DEPLOYMENT)
    assert web["initErrors"]
    program.up(shop())
    program.unchanged()


def test_drift_and_loss_are_seen_by_refresh_and_put_right_by_up(program, kubectl):
    program.up(shop())
    namespace, name = program.outputs()["web"].split("/")
    kubectl("-n", namespace, "annotate", "deployment", name, "pulumi.com/timeoutSeconds=999", "--overwrite")
    kubectl("-n", namespace, "delete", "configmap", program.outputs()["settings"])
    shown = program.pulumi("refresh", "--yes", "--skip-preview", "--stack", "dev")
    assert "~ 1 updated" in shown
    assert "- 1 deleted" in shown
    conflict = program.up(fails=True)
    assert 'pulumi.com/timeoutSeconds (conflict with "kubectl-annotate"' in conflict
    program.up(
        shop().replace('"pulumi.com/timeoutSeconds"', '"pulumi.com/patchForce": "true", "pulumi.com/timeoutSeconds"')
    )
    program.unchanged()


def test_what_kubectl_made_is_imported_and_then_managed(program, kubectl):
    name = f"made-{os.urandom(3).hex()}"
    kubectl("-n", "default", "create", "configmap", name, "--from-literal=a=1")
    code = f"""
        k8s.core.v1.ConfigMap(
            "mine",
            metadata={{"name": "{name}", "namespace": "default"}},
            data={{"a": "1"}},
            opts=pulumi.ResourceOptions(IMPORT),
        )
    """
    assert "= 1 imported" in program.up(code.replace("IMPORT", f'import_="default/{name}"'))
    program.write(code.replace("IMPORT", ""))
    program.unchanged()
    program.pulumi("destroy", "--yes", "--skip-preview", "--stack", "dev")
    assert name not in kubectl("-n", "default", "get", "configmaps", "-o", "name")


def test_pulumi_import_writes_code_and_state(program, kubectl):
    name = f"made-{os.urandom(3).hex()}"
    kubectl("-n", "default", "create", "configmap", name, "--from-literal=a=1")
    program.pulumi(
        "import",
        CONFIG_MAP,
        "mine",
        f"default/{name}",
        "--yes",
        "--protect=false",
        "--generate-code=false",
        "--stack",
        "dev",
    )
    mine = next(each for each in program.state()["deployment"]["resources"] if each["type"] == CONFIG_MAP)
    assert mine["inputs"]["data"] == {"a": "1"}


def test_what_is_secret_stays_secret(program, kubectl):
    program.up("""
        word = pulumi.Output.secret("swordfish")
        secret = k8s.core.v1.Secret("login", string_data={"password": word})
        settings = k8s.core.v1.ConfigMap("plain", data={"word": word, "open": "sesame"})
        pulumi.export("login", secret.id)
        pulumi.export("open", settings.data["open"])
        pulumi.export("data", settings.data["word"])
    """)
    text = json.dumps(program.state()) + program.pulumi("stack", "--stack", "dev")
    assert "swordfish" not in text
    assert "c3dvcmRmaXNo" not in text
    assert program.outputs()["data"] == "swordfish"
    assert program.outputs()["open"] == "sesame"
    namespace, name = program.outputs()["login"].split("/")
    assert kubectl("-n", namespace, "get", "secret", name, "-o", "jsonpath={.data.password}") == "c3dvcmRmaXNo"
    program.unchanged()


def test_yaml_unfolds_into_resources(program):
    (program.folder / "all.yaml").write_text(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: from-file}\ndata: {day: 2026-11-23}\n---\n"
        "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: ConfigMap, metadata: {name: from-list}}\n"
    )
    shown = program.up('k8s.yaml.ConfigFile("all", "all.yaml")')
    assert "core/v1:ConfigMap from-file created" in shown
    assert "core/v1:ConfigMap from-list created" in shown
    program.unchanged()


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ('k8s.helm.v3.Release("r", chart="x")', "Helm is not part of the laptop's Kubernetes provider"),
        ('k8s.yaml.v2.ConfigFile("r", file="x.yaml")', "Use `pulumi_kubernetes.yaml.ConfigFile`"),
        ('k8s.core.v1.ConfigMapList("l", items=[])', "a list cannot be created"),
        ('k8s.Provider("p", render_yaml_to_directory="out")', "does not render YAML"),
        (
            'k8s.core.v1.ConfigMap("c", opts=pulumi.ResourceOptions(provider=k8s.Provider("p", context="none")))',
            "has no context 'none'",
        ),
    ],
)
def test_what_the_laptop_cannot_do_it_says(program, code, message):
    program.write(code)
    assert message in program.pulumi("preview", "--stack", "dev", fails=True)


def test_two_providers_of_one_program_do_not_mix(program, kubectl):
    one, two = (f"team-{os.urandom(3).hex()}" for _ in range(2))
    # An environment's user may write where its own program made the namespace, and nowhere else.
    program.up(f"""
        maker = pulumi.ResourceOptions(provider=k8s.Provider("maker"))
        for name in ("{one}", "{two}"):
            namespace = k8s.core.v1.Namespace(name, metadata={{"name": name}}, opts=maker)
            provider = k8s.Provider(name, namespace=namespace.metadata.name)
            settings = k8s.core.v1.ConfigMap(f"in-{{name}}", opts=pulumi.ResourceOptions(provider=provider))
            pulumi.export(name, settings.metadata.namespace)
    """)
    assert program.outputs() == {one: one, two: two}
    program.unchanged()


def test_another_context_replaces_the_provider(program):
    program.up('k8s.Provider("p", namespace="default")')
    program.write('k8s.Provider("p", namespace="other")')
    assert "~ 1 to update" in program.pulumi("preview", "--stack", "dev")
    program.write('k8s.Provider("p", namespace="default", cluster_identifier="another")')
    assert "+-1 to replace" in program.pulumi("preview", "--stack", "dev")


def test_a_definition_and_its_resource_go_up_in_one_program_and_a_rollout_is_not_waited_for(program):
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
        k8s.apiextensions.CustomResource(
            "widget",
            api_version="{group}/v1",
            kind="Widget",
            spec={{"size": 3}},
            opts=pulumi.ResourceOptions(depends_on=[definition]),
        )
        k8s.apiextensions.CustomResource(
            "rollout",
            api_version="argoproj.io/v1alpha1",
            kind="Rollout",
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


def test_ctrl_c_ends_an_up_that_waits(program):
    program.write(shop(command=CRASH, timeout=600))
    with program.start("up", "--yes", "--skip-preview", "--stack", "dev") as process:
        for line in process.stdout:
            if "waiting for its pods" in line:
                break
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        shown, _ = process.communicate(timeout=60)
    assert "cancelled while waiting" in shown
    assert process.returncode != 0
    assert time.monotonic() - began < 60  # the wait itself would last ten minutes
