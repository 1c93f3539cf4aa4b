"""The laptop's `kubernetes` provider: any kind of object of the local API server, by the real provider's rules.

What the real provider does, what this one does, and the test that shows it: `docs/guides/laptop-kubernetes.md`.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from modelworks.laptop.providers.kubernetes.provider import KubernetesProvider
from modelworks.laptop.providers.kubernetes.settings import Settings
from modelworks.laptop.providers.plugin import Plugin

__all__ = ["KubernetesProvider", "Settings", "plugin"]


def plugin(facts: Mapping[str, Any], folder: Path) -> Plugin:
    """The plugin of one environment.

    Args:
        facts: The environment's facts. A `namespace` there is not the provider's: it is the program that says where
            things go.
        folder: The environment's folder; its `kubeconfig` is what a program without provider configuration uses.
    """
    kubeconfig = str(facts.get("kubeconfig") or folder / "kubeconfig")
    return Plugin(
        "kubernetes",
        version("pulumi-kubernetes"),
        lambda configuration: KubernetesProvider(Settings.of(configuration, kubeconfig=kubeconfig)),
        check_config=Settings.checked,
        # Another cluster: what the old one holds cannot be updated, only made anew. (The real provider compares the
        # servers that two kubeconfigs name; `cluster_identifier`, where given, decides alone there and here.)
        replaces_provider=("clusterIdentifier", "context", "cluster"),
    )
