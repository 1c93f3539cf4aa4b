"""`modelworks doctor`: what the account and the cluster of an environment lack, each with its repair."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import typer
import yaml
from rich.markup import escape

from modelworks._checks import Check, Status
from modelworks.cli.console import ENVIRONMENTS, Json, err, out, table
from modelworks.cli.context import EnvArgument, EnvironmentContext, EnvOption, environment_of
from modelworks.cli.exit_codes import ExitCode, epilog
from modelworks.cluster import requirements as of_the_cluster
from modelworks.errors import ModelworksError

if TYPE_CHECKING:
    from modelworks.cluster_settings import Cluster
    from modelworks.deploy.account import Account
    from modelworks.settings import StackConfig

_COLOURS = {"ok": "green", "missing": "red", "unknown": "yellow", "skipped": "dim"}
_FAILING = ("missing", "unknown")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("doctor", rich_help_panel=ENVIRONMENTS, epilog=epilog("doctor"))(_doctor)


def _doctor(environment: EnvArgument = "", *, env: EnvOption = "", as_json: Json = False) -> None:
    """List everything that the account and the cluster of ENV lack, each with the command or setting that repairs it.

    Nothing is changed, and the environment need not be up, nor its stack exist. A check that cannot be performed is
    `unknown` and fails the command; on the laptop, checks of what only AWS has are `skipped`.

    Example: `modelworks doctor staging`.
    """
    target = EnvironmentContext.of(environment_of(environment, env))
    found = list(examine(Needs(target)))
    if as_json:
        facts = {"environment": target.environment, "checks": [asdict(check) for check in found]}
        print(json.dumps(facts, indent=2, ensure_ascii=False))
    else:
        _print(found)
    if any(check.status in _FAILING for check in found):
        raise typer.Exit(ExitCode.FAILED)


def _print(found: list[Check]) -> None:
    shown = table("check", "status", "")
    for check in found:
        text = escape(check.message) + (f"\n[bold]fix:[/] {escape(check.fix)}" if check.fix else "")
        shown.add_row(escape(check.name), f"[{_COLOURS[check.status]}]{check.status}[/]", text)
    out.print(shown)


class Needs:
    """An environment as its stack's file states it, and the account and cluster that are to meet it.

    Each part is read once, at the first check that needs it.
    """

    def __init__(self, target: EnvironmentContext) -> None:
        self.target, self.engine = target, target.engine

    @cached_property
    def file(self) -> dict[str, Any]:
        """The stack's file, or on the laptop the template that it will be made from."""
        path = self.target.stack_file
        template = path.with_name(f"{self.target.environment}.template.yaml")
        for each in (path, template) if self.engine.on_laptop else (path,):
            if each.is_file():
                try:
                    found = yaml.safe_load(each.read_text("utf-8"))
                except yaml.YAMLError as error:
                    raise ModelworksError(f"{each} is not YAML: {error}") from error
                return found if isinstance(found, dict) else {}
        raise ModelworksError(f"{path} does not exist", fix="Check the environment's name.")

    @property
    def values(self) -> dict[str, Any]:
        """Its config by full key, as the file has it."""
        found = self.file.get("config")
        return {str(key): value for key, value in found.items()} if isinstance(found, dict) else {}

    @cached_property
    def config(self) -> StackConfig:
        """Its settings, without the secrets: whether these are set is the program's to check."""
        from modelworks.stack_config import parse, refuse_laptop

        config = self.values
        source = self.target.stack_file.name
        parsed = parse(config | {"modelworks:secrets": _stand_ins(config)}, source=source)
        if not self.engine.on_laptop:
            refuse_laptop(parsed, source=source)
        return parsed

    @cached_property
    def account(self) -> Account:
        """The account, by the plain settings of the file: the engine would need the stack and its key for more."""
        from modelworks.deploy.account import account_of

        plain = {key: each for key, each in self.values.items() if key.startswith("aws:")}
        if encrypted := [key for key, each in plain.items() if isinstance(each, dict) and set(each) == {"secure"}]:
            raise ModelworksError(
                f"{encrypted[0]} is encrypted, and the doctor decrypts nothing", fix="Use aws:profile."
            )
        return account_of(self.target.environment, {} if self.engine.on_laptop else plain, self.engine.variables)

    @cached_property
    def has_cluster(self) -> bool:
        """Whether the cluster that the environment makes is there, by the last update."""
        try:
            self.target.output("cluster")
        except ModelworksError:
            return False
        return True

    @cached_property
    def get(self) -> of_the_cluster.Get:
        """Reads the cluster."""
        return self.target.cluster("default").get


def _stand_ins(config: Mapping[str, Any]) -> dict[str, Any]:
    """Secrets in the place of those that are not set yet."""
    models = config.get("modelworks:releases") or {}
    return {
        "registry_password": "(not looked at)",
        "registry_database": "(not looked at)",
        "tokens": dict.fromkeys(models if isinstance(models, dict) else (), "(not looked at)"),
    }


def examine(needs: Needs) -> Iterator[Check]:
    """Every check, in the order of repair."""
    for name, check in {**_OF_THE_STACK, **_OF_THE_ACCOUNT, **_OF_THE_CLUSTER}.items():
        if needs.engine.on_laptop and name in _NOT_ON_A_LAPTOP:
            yield Check(name, "skipped", _NOT_ON_A_LAPTOP[name])
            continue
        if err.is_terminal:
            err.print(f"  {name} …", style="dim", end="\r")
        try:
            yield from check(needs)
        except ModelworksError as error:
            status: Status = "missing" if name in _REFUSALS else "unknown"
            yield Check(name, status, error.message, error.fix or "")


# -- The stack -------------------------------------------------------------------------------------------------------
def _settings(needs: Needs) -> Iterator[Check]:
    count = len(needs.config.settings.endpoints)
    yield Check(
        "settings", "ok", f"{needs.target.stack_file.name} is sound: {count} endpoint{'' if count == 1 else 's'}"
    )


def _state(needs: Needs) -> Iterator[Check]:
    environment, backend = needs.target.environment, needs.engine.variables.get("PULUMI_BACKEND_URL", "your login")
    if needs.engine.has_stack():
        yield Check("state", "ok", f"the stack is in {backend}")
    elif needs.engine.on_laptop:
        yield Check("state", "ok", f"{backend} answers; `modelworks up {environment}` creates the stack")
    else:
        fix = f"modelworks bootstrap {environment}"
        yield Check("state", "missing", f"{backend} answers, and has no stack {environment}", fix)


def _secrets_key(needs: Needs) -> Iterator[Check]:
    from modelworks.deploy.requirements import secrets_key

    region = str(needs.values.get("aws:region") or "")
    yield secrets_key(str(needs.file.get("secretsprovider") or ""), needs.engine.variables, region)


# -- The account -----------------------------------------------------------------------------------------------------
def _account(needs: Needs) -> Iterator[Check]:
    yield Check("account", "ok", f"the credentials are of {needs.account.id}, in {needs.account.region}")


def _environment_key(needs: Needs) -> Iterator[Check]:
    from modelworks.deploy.requirements import environment_key

    try:
        arn = needs.target.output("key_arn")
    except ModelworksError:
        yield Check("environment key", "skipped", "the environment is not up yet: `modelworks up` declares its key")
        return
    yield environment_key(needs.account, arn)


def _oidc_provider(needs: Needs) -> Iterator[Check]:
    from modelworks.deploy.requirements import oidc_provider

    cluster = needs.config.settings.cluster
    if needs.config.settings.registry and not cluster.eks:  # which brings its own
        yield oidc_provider(needs.account, cluster.oidc_issuer)


def _images(needs: Needs) -> Iterator[Check]:
    from modelworks.deploy.requirements import image

    for name, stated in needs.config.settings.images.items():
        if stated:  # one that is not is a mistake of the settings
            yield image(needs.account, f"cluster.{name}", stated)


def _certificates(needs: Needs) -> Iterator[Check]:
    from modelworks.deploy.requirements import certificate

    settings = needs.config.settings
    for path, ingress in settings.ingresses.items():
        model = path.partition(".")[2]
        own = settings.endpoints[model].host if model else None
        host = own or f"{model or 'registry'}.{settings.cluster.domain}"
        if ingress.certificate_arn:
            yield certificate(needs.account, f"{path}.ingress.certificate_arn", ingress.certificate_arn, host)


# -- The cluster -----------------------------------------------------------------------------------------------------
def _in_the_cluster(check: Callable[..., Check], needs: Needs, **facts: Callable[[Cluster], Any]) -> Iterator[Check]:
    settings = needs.config.settings
    if settings.registry and (not settings.cluster.eks or needs.has_cluster):
        yield check(needs.get, **{name: read(settings.cluster) for name, read in facts.items()})


def _cluster(needs: Needs) -> Iterator[Check]:
    if needs.config.settings.cluster.eks and not needs.has_cluster:
        yield Check("cluster", "skipped", "not made yet: `modelworks up` makes it, and all that it needs (cluster.eks)")
    yield from _in_the_cluster(of_the_cluster.reachable, needs)


def _volume_driver(needs: Needs) -> Iterator[Check]:
    registry = needs.config.settings.registry
    if registry and registry.database == "embedded":
        yield from _in_the_cluster(of_the_cluster.volume_driver, needs, driver=lambda cluster: cluster.volume_driver)


def _auto_mode(cluster: Cluster) -> bool:
    return cluster.auto_mode


_Checks = Mapping[str, Callable[[Needs], Iterator[Check]]]

_OF_THE_STACK: _Checks = {"settings": _settings, "state": _state, "secrets key": _secrets_key}
_OF_THE_ACCOUNT: _Checks = {
    "account": _account,
    "environment key": _environment_key,
    "oidc provider": _oidc_provider,
    "images": _images,
    "certificates": _certificates,
}
_OF_THE_CLUSTER: _Checks = {
    "cluster": _cluster,
    "ingress class": partial(
        _in_the_cluster,
        of_the_cluster.ingress_class,
        auto_mode=_auto_mode,
        installed_by_us=lambda cluster: cluster.install_ingress_class,
    ),
    "load balancer controller": partial(_in_the_cluster, of_the_cluster.load_balancer_controller, auto_mode=_auto_mode),
    "argo rollouts": partial(
        _in_the_cluster,
        of_the_cluster.argo_rollouts,
        installed_by_us=lambda cluster: cluster.install_argo_rollouts,
    ),
    "metrics server": partial(_in_the_cluster, of_the_cluster.metrics_server),
    "volume driver": _volume_driver,
    "pod identity agent": partial(_in_the_cluster, of_the_cluster.pod_identity_agent, auto_mode=_auto_mode),
    "network policies": partial(
        _in_the_cluster,
        of_the_cluster.network_policies,
        auto_mode=_auto_mode,
        installed_by_us=lambda cluster: cluster.enforce_network_policies,
    ),
}
_REFUSALS = ("settings", "account")
"""Checks whose error is a verdict: settings that are wrong, credentials that are of another account."""
_NOT_ON_A_LAPTOP: Mapping[str, str] = {
    "secrets key": "a passphrase of the laptop encrypts secrets",
    "oidc provider": "pods of a laptop have the laptop's credentials",
    "images": "a laptop runs commands as processes, and pulls no image",
    "certificates": "the gateway makes its own",
    "load balancer controller": "the gateway serves Ingresses",
    "argo rollouts": "a controller of the laptop's own serves each environment",
    "volume driver": "volumes are folders of the laptop",
    "pod identity agent": "pods of a laptop have the laptop's credentials",
    "network policies": "a laptop stores them and enforces none",
}
"""Why a check means nothing there."""
