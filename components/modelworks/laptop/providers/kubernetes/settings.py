"""The configuration of a Kubernetes provider, under the real provider's names. Pure but for environment variables."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from modelworks.laptop.providers.plugin import InvalidInputs, decoded
from modelworks.laptop.providers.property_values import UNKNOWN, Path


@dataclass(frozen=True)
class Settings:
    """A provider's configuration, under the real provider's names."""

    kubeconfig: str = ""
    context: str = ""
    cluster: str = ""
    namespace: str = ""
    enable_server_side_apply: bool = True
    enable_patch_force: bool = False
    enable_config_map_mutable: bool = False
    enable_secret_mutable: bool = False
    upsert_existing_objects: bool = False
    delete_unreachable: bool = False
    skip_update_unreachable: bool = False
    suppress_deprecation_warnings: bool = False

    # Understood by the real provider and without a meaning on the laptop.
    _IGNORED: ClassVar = (
        "clusterIdentifier",
        "helmReleaseSettings",
        "kubeClientSettings",
        "suppressHelmHookWarnings",
        "alwaysRender",
        "version",
    )

    @classmethod
    def of(cls, configuration: Mapping[str, Any], *, kubeconfig: str) -> Settings:
        """The settings of a checked configuration; what it leaves out comes from the environment, as in the real one.

        Args:
            configuration: Keys in camel case; booleans may be text.
            kubeconfig: The one to use where the configuration names none.
        """
        variables = {
            "enable_server_side_apply": "PULUMI_K8S_ENABLE_SERVER_SIDE_APPLY",
            "enable_patch_force": "PULUMI_K8S_ENABLE_PATCH_FORCE",
            "enable_config_map_mutable": "PULUMI_K8S_ENABLE_CONFIGMAP_MUTABLE",
            "enable_secret_mutable": "PULUMI_K8S_ENABLE_SECRET_MUTABLE",
            "upsert_existing_objects": "PULUMI_K8S_UPSERT_EXISTING_OBJECTS",
            "delete_unreachable": "PULUMI_K8S_DELETE_UNREACHABLE",
            "skip_update_unreachable": "PULUMI_K8S_SKIP_UPDATE_UNREACHABLE",
            "suppress_deprecation_warnings": "PULUMI_K8S_SUPPRESS_DEPRECATION_WARNINGS",
        }
        chosen: dict[str, Any] = {"kubeconfig": kubeconfig}
        for each in fields(cls):
            value = configuration.get(_camel(each.name))
            # A kubeconfig in one line is a path; decoding one written as JSON would break it.
            value = value if each.name in {"kubeconfig", "context", "cluster", "namespace"} else decoded(value)
            if value is None and each.name in variables and variables[each.name] in os.environ:
                value = os.environ[variables[each.name]].lower() == "true"
            if value not in (None, ""):
                chosen[each.name] = (
                    value if isinstance(value, bool) else value if isinstance(value, str) else decoded(value)
                )
        return cls(**chosen)

    @classmethod
    def checked(cls, configuration: Mapping[str, Any]) -> Mapping[str, Any]:
        """`configuration`, if the laptop's provider can honour it.

        Raises:
            InvalidInputs: It asks for something that is not there, or of the wrong type.
        """
        failures: list[tuple[Path, str]] = []
        kinds = {_camel(each.name): each.type for each in fields(cls)}
        for key, value in configuration.items():
            if value is None or value is UNKNOWN or key in cls._IGNORED:
                continue
            if key == "renderYamlToDirectory":
                failures.append(((key,), "the laptop's provider does not render YAML; use the real provider for that"))
            elif key not in kinds:
                failures.append(
                    ((key,), f"not a setting of the kubernetes provider; it has {', '.join(sorted(kinds))}")
                )
            elif kinds[key] == "bool" and not isinstance(decoded(value), bool):
                failures.append(((key,), f"true or false was expected, got {value!r}"))
        if failures:
            raise InvalidInputs(failures)
        return configuration


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)
