"""An environment as the command line reaches it: its stack, registry, cloud and cluster."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import typer
import yaml

from modelworks import contract
from modelworks.cluster.client import KubernetesClient
from modelworks.deploy.stack import StackEngine
from modelworks.errors import ModelworksError
from modelworks.laptop import toolchain
from modelworks.laptop.state_dir import StateDir
from modelworks.project import project_root

if TYPE_CHECKING:
    from modelworks.lifecycle.registry import Registry


def _complete(incomplete: str) -> list[str]:
    """Names of environments that a shell completes: those of the laptop, and those with a stack file."""
    try:
        stacks = [path.name.split(".")[1] for path in (project_root() / "stacks").glob("Pulumi.*.yaml")]
        names = {*StateDir.here().environments(), *stacks}
    except ModelworksError:
        return []  # outside of a project there is nothing to complete
    return sorted(name for name in names if name.startswith(incomplete))


# Every command takes --env. A command whose only subject is an environment takes it as an argument as well.
DEFAULT_ENVIRONMENT = "local"
Env = Annotated[str, typer.Option("--env", "-e", metavar="ENV", autocompletion=_complete, help="The environment.")]
EnvArgument = Annotated[
    str,
    typer.Argument(
        metavar="ENV",
        autocompletion=_complete,
        show_default=False,
        help=f"The environment. Default: {DEFAULT_ENVIRONMENT}.",
    ),
]
EnvOption = Annotated[
    str,
    typer.Option(
        "--env", "-e", metavar="ENV", autocompletion=_complete, show_default=False, help="The same as the argument."
    ),
]


def environment_of(argument: str, option: str) -> str:
    """The environment that a command was given, as its argument or with --env.

    Raises:
        ModelworksError: The argument and --env differ.
    """
    if argument and option and argument != option:
        raise ModelworksError(
            f"the argument names the environment {argument}, --env names {option}", fix="Give one of them."
        )
    return argument or option or DEFAULT_ENVIRONMENT


@dataclass(frozen=True)
class EnvironmentContext:
    """One environment, declared by its stack."""

    environment: str
    engine: StackEngine

    @classmethod
    def of(cls, environment: str) -> EnvironmentContext:
        """The environment of that name: the laptop's, if the laptop holds it, else the cloud's.

        Raises:
            ModelworksError: There is no project here, or no engine is available.
        """
        engine = engine_of(environment)
        if engine.on_laptop:
            from modelworks.laptop.environments import NO_PROXY  # heavy, and not for a real cloud

            # MLflow and botocore must not send what is meant for loopback through a proxy.
            os.environ.update({name: engine.variables[name] for name in NO_PROXY})
        return cls(environment, engine)

    def in_role(self, role: str) -> EnvironmentContext:
        """The same environment, with its state, secrets and account reached in a role instead of as the shell.

        Args:
            role: Its ARN.

        Raises:
            ModelworksError: The role cannot be assumed, or the environment is the laptop's.
        """
        if self.engine.on_laptop:
            raise ModelworksError(f"{self.environment} is an environment of the laptop, which has no roles to assume")
        from modelworks.deploy.account import variables_of_role  # slow

        variables = variables_of_role(role, self.engine.variables, region=self._config.get("aws:region", ""))
        return EnvironmentContext(self.environment, replace(self.engine, variables=variables))

    @property
    def stack_file(self) -> Path:
        """The stack's config file: settings and releases."""
        return self.engine.stack_file

    @cached_property
    def outputs(self) -> dict[str, Any]:
        """Outputs of the stack.

        Raises:
            ModelworksError: There is no such environment, or it was never brought up.
        """
        if not self.engine.on_laptop and not self.stack_file.is_file():
            raise ModelworksError(
                f"there is no environment {self.environment}: neither a {self.stack_file.name} nor one on the laptop",
                fix=f"Check its name, or rehearse it: `modelworks laptop up {self.environment}`.",
            )
        if not self._last_outputs:
            raise ModelworksError(
                f"the environment {self.environment} is not up", fix=f"Run `modelworks up {self.environment}`."
            )
        return self._last_outputs

    @cached_property
    def _last_outputs(self) -> dict[str, Any]:
        """Outputs of the last update; none before the first."""
        found: dict[str, Any] = json.loads(
            self.engine.ask("stack", "output", "--json", "--stack", self.environment) or "{}"
        )
        return found

    def output(self, name: str) -> Any:
        """One output of the stack.

        Raises:
            ModelworksError: The stack does not have that output.
        """
        if name not in self.outputs:
            raise ModelworksError(
                f"the environment {self.environment} has no {name.replace('_', ' ')}",
                fix=f"Declare it in {self.stack_file.name} and run `modelworks up {self.environment}`.",
            )
        return self.outputs[name]

    def secret(self, name: str) -> str:
        """A secret of the stack, decrypted.

        Raises:
            ModelworksError: It is not set, or cannot be decrypted here.
        """
        path = f"modelworks:secrets.{name}"
        return self.engine.ask("config", "get", "--path", path, "--stack", self.environment).strip()

    @cached_property
    def registry(self) -> Registry:
        """The environment's registry."""
        from modelworks.lifecycle.registry import Registry  # `up` goes without the extra `models`
        from modelworks.lifecycle.store import Store

        store = Store(
            self.environment,
            bucket=self.output("bundle_bucket"),
            artifacts=self.output("artifact_bucket"),
            session=self.session,
            trusted_keys=self.trusted_keys,
        )
        return Registry(self.address(self.output("registry_url")), self.secret("registry_password"), store)

    @property
    def trusted_keys(self) -> dict[str, str]:
        """The public keys that pods of the environment require a signature of, as its stack's file states them."""
        settings = self._config.get("modelworks:settings") or {}
        return {str(name): str(pem) for name, pem in (settings.get("trusted_keys") or {}).items()}

    @property
    def _config(self) -> dict[str, Any]:
        if not self.stack_file.is_file():
            return {}
        return (yaml.safe_load(self.stack_file.read_text(encoding="utf-8")) or {}).get("config") or {}

    @property
    def session(self) -> Any:
        """A boto3 session of the environment's account; clients made of it answer for this environment alone.

        Raises:
            ModelworksError: The account cannot be reached, or is not one that the stack allows.
        """
        return self.engine.account.session

    def address(self, url: str) -> str:
        """Where a URL of the environment answers from here: on the laptop, at an address that needs no resolver."""
        if not self.engine.on_laptop or not url:
            return url
        from modelworks.laptop.gateway import addresses  # a real cloud has no gateway of ours

        return addresses.url_of(StateDir.here(), urlsplit(url).hostname or "")

    def cluster(self, namespace: str = "") -> KubernetesClient:
        """The API server of the environment's cluster.

        On the laptop by the environment's own kubeconfig; elsewhere by what the stack's config names
        (`kubernetes:context`, `kubernetes:kubeconfig`), else by the stack's output `kubeconfig`, which is that of a
        cluster of its own; with whatever signs them in (`exec` programs included).

        Args:
            namespace: Default: where its endpoints are.

        Raises:
            ModelworksError: The environment was never brought up.
        """
        namespace = namespace or self.output("namespace")
        if not namespace:
            raise ModelworksError(
                f"the environment {self.environment} has no Kubernetes namespace",
                fix="Declare a registry and endpoints in its stack's file.",
            )
        if self.engine.on_laptop:
            return KubernetesClient(self.engine.variables["KUBECONFIG"], None, namespace)
        config = self._config
        kubeconfig, context = config.get("kubernetes:kubeconfig"), config.get("kubernetes:context")
        if not kubeconfig and not context:
            kubeconfig = self._last_outputs.get("kubeconfig")
        # As for Pulumi's provider, the text is a path or what is in the file; one that is encrypted is not read here.
        found = yaml.safe_load(kubeconfig) if isinstance(kubeconfig, str) else None
        return KubernetesClient(found, context, namespace)

    @property
    def models(self) -> Mapping[str, str]:
        """Where each released model answers, by its name."""
        return {model: self.address(url) for model, url in self.output("endpoints").items()}

    @property
    def mlflow_variables(self) -> dict[str, str]:
        """Variables that point MLflow's own client to the environment's registry.

        Raises:
            ModelworksError: The environment has no registry yet, or its password cannot be read.
        """
        values = (self.address(self.output("registry_url")), contract.REGISTRY_USER, self.secret("registry_password"))
        return dict(zip(contract.MLFLOW_VARIABLES, values, strict=True))

    def served(self, model: str) -> str:
        """The dimension value of what a stack's config releases; empty without a release."""
        from modelworks.lifecycle.release import read_releases

        release = read_releases(self.stack_file).get(model)
        return contract.short_digest(release.digest) if release else ""


def engine_of(environment: str) -> StackEngine:
    """The engine for `environment`: the laptop's, if the laptop holds it, else of the user's own backend and cloud.

    Raises:
        ModelworksError: There is no project here, or no `pulumi` is available.
    """
    project = project_root()
    place = StateDir.here()
    pulumi = toolchain.ensure(["pulumi"])["pulumi"]
    on_laptop = environment in place.environments()
    variables = dict(os.environ)
    if on_laptop:
        from modelworks.laptop import environments  # heavy, and not needed for a real cloud

        # Whatever the shell states about AWS (a token, the address of one service) is of another account.
        variables = {name: value for name, value in variables.items() if not name.startswith("AWS_")}
        variables |= environments.environment_variables(place, environment)
    else:
        variables["PATH"] = os.pathsep.join([str(pulumi.parent), variables.get("PATH", os.defpath)])
    variables["PULUMI_SKIP_UPDATE_CHECK"] = "true"
    return StackEngine(environment, project, pulumi, variables, place.folder(place.logs), on_laptop)


def check_engine(engine: StackEngine) -> None:
    """Fail at once if the laptop cloud that holds the environment cannot serve an update.

    Raises:
        ModelworksError: It is not running, or lacks a provider plugin.
    """
    engine.check()
    if engine.on_laptop:
        from modelworks.laptop import plugins

        plugins.check(StateDir.here(), engine.environment)
