"""YAML documents as Kubernetes reads them."""

from __future__ import annotations

from typing import Any

import yaml

from modelworks.laptop.providers.kubernetes.manifests import at
from modelworks.laptop.providers.plugin import ProviderError


def decode_yaml(text: str, namespace: str = "") -> list[dict[str, Any]]:
    """The manifests in `text`, lists unfolded, as `pulumi_kubernetes.yaml` wants them.

    Raises:
        ProviderError: It is not YAML, or a document is no manifest.
    """
    try:
        documents = [document for document in yaml.load_all(text, Loader=_Loader) if document]
    except yaml.YAMLError as error:
        raise ProviderError(f"the manifest is not YAML: {error}") from error
    found: list[dict[str, Any]] = []
    for document in documents:
        if not isinstance(document, dict):
            raise ProviderError(f"a manifest was expected, got {type(document).__name__}: {str(document)[:80]!r}")
        items = document.get("items") if str(document.get("kind", "")).endswith("List") else None
        for item in [document] if items is None else items:
            if namespace and not at(item, "metadata", "namespace"):
                item = {**item, "metadata": {**(item.get("metadata") or {}), "namespace": namespace}}  # noqa: PLW2901
            found.append(item)
    return found


class _Loader(yaml.SafeLoader):
    """YAML as Kubernetes reads it: a date stays text."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
