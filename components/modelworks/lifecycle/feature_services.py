"""The stored features that a version reads, compared with what an environment gives its endpoint.

A stack declares the tables of the feature services that an endpoint names, by the committed manifest of definitions. A
version that reads another service has no tables there; one that was trained with other definitions would read values of
another meaning.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelworks._spelling import did_you_mean
from modelworks.errors import ModelworksError
from modelworks.feature_manifest import PATH, read_manifest
from modelworks.lifecycle.bundle import verify_bundle
from modelworks.project import project_root
from modelworks.stack_config import load

if TYPE_CHECKING:
    from modelworks.lifecycle.bundle import Bundle
    from modelworks.lifecycle.runs import TrainedModel
    from modelworks.lifecycle.version import Version


def features_of(run: TrainedModel, bundle: Bundle) -> dict[str, Any]:
    """The fact `features` of a version's lineage: service and views, each with its digest; none where none are stored.

    Raises:
        ModelworksError: The bundle was changed.
    """
    if "features" not in run.inputs:
        return {}
    stored = verify_bundle(bundle.path, bundle.digest, bundle.model).stored
    if stored is None:
        return {}
    views = {view.name: view.digest for view in stored.views} | {view.name: view.digest for view in stored.on_demand}
    return {"features": {"service": stored.service, "views": views}}


def require_features(version: Version, stack_file: Path) -> None:
    """Require an environment to have the features that a version reads, as they were when it was trained.

    Args:
        version: The version.
        stack_file: The environment's, inside of the project that it declares.

    Raises:
        ModelworksError: Its endpoint does not name the feature service, or a view is defined otherwise.
    """
    require_service(version, stack_file)
    read = version.facts.get("features")
    if not read:
        return
    service, manifest = read["service"], read_manifest(project_root(stack_file.parent))
    if service not in manifest.services:
        raise ModelworksError(
            f"{_named(version)} reads the feature service {service!r}, and {PATH} has none of that name"
            f"{did_you_mean(service, manifest.services)}",
            fix="Restore its definition in models/*/features.py and run `modelworks features apply`, or train again.",
        )
    views = {*manifest.services[service].features, *manifest.views_read(service)}
    digests = {
        **{name: view.digest for name, view in manifest.views.items() if name in views},
        **{name: view.digest for name, view in manifest.on_demand.items() if name in views},
    }
    problems = [
        f"{name!r} is not in the service any more" if name not in views else f"{name!r} is defined otherwise"
        for name, digest in read["views"].items()
        if digests.get(name) != digest
    ]
    if problems:
        raise ModelworksError(
            f"{_named(version)} was trained with other views of the feature service {service!r} than {PATH} has: "
            f"{', '.join(problems)}",
            fix="Train again with the definitions of now, or restore those of then in models/*/features.py and run "
            "`modelworks features apply`.",
        )


def require_service(version: Version, stack_file: Path) -> None:
    """Require an endpoint to name the feature service that a version reads.

    Args:
        version: The version.
        stack_file: The environment's.

    Raises:
        ModelworksError: It does not, or the file breaks a rule.
    """
    read = version.facts.get("features")
    if not read:
        return
    service, settings = read["service"], load(stack_file).settings
    endpoint = settings.endpoints.get(version.model)
    if endpoint is None or service in endpoint.feature_services:
        return  # a release without an endpoint breaks a rule of the file itself
    services = ", ".join([*endpoint.feature_services, service])
    store = "" if settings.features else " and modelworks:settings.features to {}"
    raise ModelworksError(
        f"{_named(version)} reads the feature service {service!r}, which its endpoint in {stack_file.name} does not "
        "name: its pods could read no table of it",
        fix=f"Set modelworks:settings.endpoints.{version.model}.feature_services to [{services}]{store} in "
        f"{stack_file}, and run this again.",
    )


def _named(version: Version) -> str:
    return f"{version.model} {version.version}"
