"""A stack's config, read: from the engine's values or a file into the models of `settings.py`, and its JSON Schema.

A mistake is reported with its path in the file, the rule, what was found, and the nearest key that exists.
"""

from __future__ import annotations

import difflib
import json
import re
import types
import typing
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ValidationError

from modelworks import defaults
from modelworks._spelling import did_you_mean
from modelworks.errors import ModelworksError
from modelworks.settings import ACCOUNTS_KEY, RELEASES_KEY, SECRETS_KEY, SETTINGS_KEY, Settings, StackConfig

_KEYS = {"settings": SETTINGS_KEY, "releases": RELEASES_KEY, "account_ids": ACCOUNTS_KEY, "secrets": SECRETS_KEY}


def parse(config: Mapping[str, Any], *, source: str, secret_keys: Collection[str] = ()) -> StackConfig:
    """The settings in a stack's config.

    Args:
        config: Config values by full key (`modelworks:settings`, ...); keys of others are left alone.
        source: Where the config comes from, for messages, such as `stacks/Pulumi.dev.yaml`.
        secret_keys: Keys that the engine decrypted; messages never show what they hold, nor what our secrets hold.

    Raises:
        ModelworksError: Something is missing, unknown or out of range. All mistakes are listed at once.
    """
    found = {field: config[key] for field, key in _KEYS.items() if key in config}
    if found.get("releases", {}) is None:  # every line under it is a comment
        del found["releases"]
    strays = [key for key in config if key.startswith("modelworks:") and key not in _KEYS.values()]
    problems = [_unknown(f"config.{key}", key, list(_KEYS.values())) for key in strays]
    try:
        parsed = StackConfig.model_validate(found)
    except ValidationError as error:
        problems += [_problem(item, found, {SECRETS_KEY, *secret_keys}) for item in error.errors(include_url=False)]
    if problems:
        raise ModelworksError(
            "\n".join(f"{source}: {problem}" for problem in problems),
            fix="`modelworks schema` prints every setting with its meaning, unit and default.",
        )
    return parsed


def load(path: Path) -> StackConfig:
    """The settings in a stack's config file.

    Raises:
        ModelworksError: The file is not there, is not YAML, or `parse` finds a mistake.
    """
    return parse(_with_placeholders(read_config(path)), source=str(path))


def read_config(path: Path) -> dict[str, Any]:
    """The config in a stack's file, unchecked.

    Raises:
        ModelworksError: The file is not there, or is not YAML.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ModelworksError(f"{path} does not exist", fix="Check the environment's name.") from error
    except UnicodeDecodeError as error:
        raise ModelworksError(f"{path} is not YAML: {error}") from error
    return _config_in(text, source=str(path))


def parse_yaml(text: str, *, source: str) -> StackConfig:
    """The settings in the text of a stack's config file.

    Args:
        text: YAML, as Pulumi keeps a stack's config.
        source: Where it comes from, for messages.

    Raises:
        ModelworksError: It is not YAML, or `parse` finds a mistake.
    """
    return parse(_with_placeholders(_config_in(text, source=source)), source=source)


def _config_in(text: str, *, source: str) -> dict[str, Any]:
    from ruamel.yaml import YAML  # a Pulumi program gets its config from the engine, and never pays
    from ruamel.yaml.error import YAMLError

    try:
        document = YAML(typ="safe").load(text)
    except YAMLError as error:
        raise ModelworksError(f"{source} is not YAML: {error}") from error
    config = document.get("config") if isinstance(document, dict) else None
    if not isinstance(config, dict):
        raise ModelworksError(f"{source}: config: expected a mapping of keys to values, found {_kind(config)}")
    return config


def _with_placeholders(value: Any) -> Any:
    """`value` without what only the engine can decrypt: `{secure: …}` becomes a text in its place."""
    if isinstance(value, dict):
        return "(encrypted value)" if set(value) == {"secure"} else {k: _with_placeholders(v) for k, v in value.items()}
    return [_with_placeholders(item) for item in value] if isinstance(value, list) else value


def refuse_laptop(config: StackConfig, *, source: str) -> None:
    """Refuse what only a laptop serves: a host, an image or an issuer of its own, stated or left as it is by default.

    Args:
        config: The parsed config.
        source: Where it comes from, for messages.

    Raises:
        ModelworksError: There is some; all of it is listed at once.
    """
    if found := list(_of_laptop(config.settings)):
        raise ModelworksError(
            "\n".join(f"{source}: config.{SETTINGS_KEY}.{path}: {why}, and AWS is a real one" for path, why in found),
            fix=f"State them in {source}, or rehearse the stack on the laptop: `modelworks laptop up STACK`.",
        )


def _of_laptop(settings: Settings) -> Iterator[tuple[str, str]]:
    """Each setting that only a laptop serves: its path, and what it is."""
    if not settings.registry:
        return  # nothing of it is in a cluster
    cluster = settings.cluster
    if cluster.eks is None and cluster.oidc_issuer == defaults.LAPTOP_ISSUER:
        yield "cluster.oidc_issuer", f"{cluster.oidc_issuer} is the laptop's"
    hosts = {f"endpoints.{name}.host": endpoint.host for name, endpoint in settings.endpoints.items() if endpoint.host}
    for path, host in {"cluster.domain": cluster.domain or "localhost", **hosts}.items():
        if f".{host}".endswith(".localhost"):
            yield path, f"hosts under {host} are on a laptop alone"
    sent = {"registry": "its password"}
    sent |= {f"endpoints.{name}": "its tokens" for name, each in settings.endpoints.items() if not each.allow_anonymous}
    for path, what in sent.items():
        if settings.ingresses[path].certificate_arn is None:
            where = "neither it nor cluster.ingress has one"
            yield f"{path}.ingress.certificate_arn", f"{where}, so that {what} would be sent as plain text"
    for name, endpoint in settings.endpoints.items():
        path = f"endpoints.{name}"
        if endpoint.grpc and endpoint.allow_anonymous and settings.ingresses[path].certificate_arn is None:
            where = "neither it nor cluster.ingress has one"
            yield f"{path}.ingress.certificate_arn", f"{where}, and a load balancer takes gRPC over TLS alone"
        if (seconds := endpoint.limits.period_seconds) < 60:
            yield (
                f"endpoints.{name}.limits.period_seconds",
                f"datapoints of {seconds} s are judged before CloudWatch shows them, except on a laptop",
            )
        if (step := endpoint.canary.step_seconds) < (least := defaults.CLOUD_STEP_SECONDS):
            yield (
                f"endpoints.{name}.canary.step_seconds",
                f"must be at least {least}, got {step}: CloudWatch may take two minutes to show a new release",
            )
    for name, image in settings.images.items():
        if not image or image.startswith(f"{defaults.LAPTOP_IMAGES}/"):
            yield f"cluster.{name}", "the stand-in of the laptop, which its default is, cannot be pulled"


def schema() -> dict[str, Any]:
    """JSON Schema of a stack's config file, for editors: our keys strictly, everything else as Pulumi has it."""
    parts = StackConfig.model_json_schema(ref_template="#/$defs/{model}")
    properties = parts["properties"]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "modelworks stack config",
        "type": "object",
        "properties": {
            "config": {
                "type": "object",
                "properties": {key: properties[field] for field, key in _KEYS.items()},
                "required": [_KEYS[field] for field in parts["required"]],
            }
        },
        "required": ["config"],
        "$defs": parts["$defs"],
    }


# -- Messages --------------------------------------------------------------------------------------------------------
_UNITS = {
    "usd": "US dollars",
    "seconds": "seconds",
    "days": "days",
    "mib": "MiB",
    "gib": "GiB",
    "millicores": "thousandths of a core",
    "ms": "milliseconds",
    "percent": "per cent",
    "ratio": "a share from 0 to 1",
}


def _problem(error: Any, found: Mapping[str, Any], secret_keys: Collection[str]) -> str:
    location: tuple[str | int, ...] = error["loc"]
    path = _yaml_path(location)
    kind = error["type"]
    if kind == "extra_forbidden":
        return _unknown(path, str(location[-1]), _siblings(location[:-1]))
    if kind == "missing":
        hint = _misspelt(location, found)
        return f"{path}: is required and missing{hint}{_meaning(location)}"
    if kind == "value_error":
        return f"{path}: {error['ctx']['error']}"
    rule = re.sub(r"^[A-Z][a-z]+ should", "should", error["msg"])
    secret = bool(location) and _KEYS.get(str(location[0])) in secret_keys
    found_value = "a secret" if secret else _shown(error["input"])
    return f"{path}: {rule}{_unit(location)}, found {found_value}{_meaning(location)}"


def _yaml_path(location: tuple[str | int, ...]) -> str:
    if not location:
        return "config"
    head = _KEYS.get(str(location[0]), str(location[0]))
    path = f"config.{head}"
    for part in location[1:]:
        if part == "[key]":
            continue
        path += f"[{part}]" if isinstance(part, int) else f".{part}"
    return path


def _unknown(path: str, key: str, known: list[str]) -> str:
    return f"{path}: unknown key{did_you_mean(key, known)}"


def _misspelt(location: tuple[str | int, ...], found: Mapping[str, Any]) -> str:
    value: Any = found
    for part in location[:-1]:
        value = value.get(part) if isinstance(value, Mapping) else None
    strangers = [key for key in value if key not in _siblings(location[:-1])] if isinstance(value, Mapping) else []
    near = difflib.get_close_matches(str(location[-1]), [str(key) for key in strangers], n=1, cutoff=0.5)
    return f" ({near[0]!r} is there; is it meant?)" if near else ""


def _models(location: tuple[str | int, ...]) -> Iterator[tuple[type[BaseModel] | None, str | int]]:
    """Pairs of the model that a step of `location` starts from, and the step; None inside a mapping or a list."""
    annotation: Any = StackConfig
    for part in location:
        model = _model_in(annotation)
        yield model, part
        if model is not None:
            field = model.model_fields.get(str(part))
            annotation = field.annotation if field else None
        else:
            arguments = [item for item in typing.get_args(_unwrapped(annotation)) if item is not type(None)]
            annotation = arguments[-1] if arguments else None


def _unwrapped(annotation: Any) -> Any:
    while typing.get_origin(annotation) is Annotated:
        annotation = typing.get_args(annotation)[0]
    return annotation


def _model_in(annotation: Any) -> type[BaseModel] | None:
    annotation = _unwrapped(annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        return next((model for item in typing.get_args(annotation) if (model := _model_in(item))), None)
    return None


def _siblings(location: tuple[str | int, ...]) -> list[str]:
    model = next((model for model, part in _models((*location, "")) if part == ""), None)
    return list(model.model_fields) if model else []


def _meaning(location: tuple[str | int, ...]) -> str:
    steps = list(_models(location))
    model, part = steps[-1] if steps else (None, "")
    field = model.model_fields.get(str(part)) if model else None
    return f" ({field.description.splitlines()[0].rstrip('.')})" if field and field.description else ""


def _unit(location: tuple[str | int, ...]) -> str:
    words = str(location[-1]).split("_")
    unit = next((_UNITS[word] for word in words if word in _UNITS), None)
    return f" in {unit}, without a suffix" if unit else ""


def _shown(value: Any) -> str:
    text = json.dumps(value, default=str, ensure_ascii=False)
    return f"{_kind(value)} {text if len(text) <= 60 else text[:57] + '...'}"


def _kind(value: Any) -> str:
    names = {dict: "a mapping", list: "a list", str: "the text", bool: "the truth value", type(None): "nothing"}
    return names.get(type(value), "the number" if isinstance(value, int | float) else type(value).__name__)
