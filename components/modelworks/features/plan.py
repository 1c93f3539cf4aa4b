"""Changes between definitions, and the models that they break. Pure: two manifests in, changes out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from modelworks.errors import ModelworksError
from modelworks.feature_manifest import FeatureManifest, OnDemandView, View

Action = Literal["add", "change", "remove"]


@dataclass(frozen=True)
class Change:
    """One difference between the definitions of before and the new ones."""

    action: Action
    subject: str
    """Such as `view weather` or `feature weather:wind_speed`."""
    detail: str
    breaks: tuple[str, ...] = ()
    """Models that use what is lost: theirs would get no value, or one of another type."""
    affects: tuple[str, ...] = ()
    """Models whose values may differ from those that they were trained on."""


def changes(old: FeatureManifest, new: FeatureManifest) -> list[Change]:
    """Every difference, in the order of names: first views, then services."""
    found: list[Change] = []
    before: dict[str, View | OnDemandView] = {**old.views, **old.on_demand}
    after: dict[str, View | OnDemandView] = {**new.views, **new.on_demand}
    for name in sorted({*before, *after}):
        found += _of_view(name, before.get(name), after.get(name), old)
    for name in sorted({*old.services, *new.services}):
        found += _of_service(name, old, new)
    return found


def refuse_breaking(planned: Iterable[Change], released: Mapping[str, tuple[str, ...]], allowed: Iterable[str]) -> None:
    """Refuse changes that break a released model.

    Args:
        planned: The changes.
        released: Environments that a model is released in, by the model's name.
        allowed: Models that may break: their released versions are known not to need what is lost.

    Raises:
        ModelworksError: A released model would break.
    """
    broken: dict[str, Change] = {}
    for change in planned:
        for model in set(change.breaks) & set(released) - set(allowed):
            broken.setdefault(model, change)
    if broken:
        lines = [
            f"{model}, released in {', '.join(released[model])}, would break: {change.action} {change.subject} "
            f"({change.detail})"
            for model, change in sorted(broken.items(), key=lambda item: item[0])
        ]
        raise ModelworksError(
            "\n".join(lines),
            fix="Keep it, beside the new one if need be, until no released version uses it; then pass "
            + " ".join(f"--allow-breaking {model}" for model in sorted(broken))
            + ".",
        )


def users(manifest: FeatureManifest, view: str, feature: str | None = None) -> tuple[str, ...]:
    """Models whose services use a view, or one feature of it, also through a view on demand."""
    found = {
        service.model
        for service in manifest.services.values()
        if view in service.features and (feature is None or feature in service.features[view])
    }
    for name, on_demand in manifest.on_demand.items():
        reads = any(
            entry == f"{view}:{feature}" if feature else entry.startswith(f"{view}:") for entry in on_demand.inputs
        )
        if reads and name != view:
            found.update(users(manifest, name))
    return tuple(sorted(found))


def _of_view(
    name: str, old: View | OnDemandView | None, new: View | OnDemandView | None, before: FeatureManifest
) -> Iterator[Change]:
    models = users(before, name)
    if old is None and new is not None:
        yield Change("add", f"view {name}", f"{len(new.features)} features")
    elif new is None:
        yield Change("remove", f"view {name}", "with all of its features", breaks=models)
    elif old is not None:
        yield from _of_features(name, old, new, before)
        if isinstance(old, View) and isinstance(new, View):
            yield from _of_definition(name, old, new, models)
        elif type(old) is not type(new):
            yield Change("change", f"view {name}", "kind of view", breaks=models)
        elif old.digest != new.digest and old.features == new.features:
            yield Change("change", f"view {name}", "how it is computed", affects=models)


def _of_features(
    name: str, old: View | OnDemandView, new: View | OnDemandView, before: FeatureManifest
) -> Iterator[Change]:
    for feature in sorted({*old.features, *new.features}):
        was, is_now, subject = old.features.get(feature), new.features.get(feature), f"feature {name}:{feature}"
        models = users(before, name, feature)
        if was is None:
            yield Change("add", subject, str(is_now))
        elif is_now is None:
            yield Change("remove", subject, was, breaks=models)
        elif was != is_now:
            yield Change("change", subject, f"{was} → {is_now}", breaks=models)


def _of_definition(name: str, old: View, new: View, models: tuple[str, ...]) -> Iterator[Change]:
    subject = f"view {name}"
    if (dict(old.keys), old.entities) != (dict(new.keys), new.entities):
        yield Change("change", subject, f"keys {_listed(old.keys)} → {_listed(new.keys)}", breaks=models)
    if old.online and not new.online:
        yield Change("change", subject, "no longer online", breaks=models)
    elif new.online and not old.online:
        yield Change("change", subject, "online from now on")
    for what in ("ttl_seconds", "source", "event_time", "created_time", "stored"):
        was, is_now = getattr(old, what), getattr(new, what)
        if was != is_now:
            yield Change("change", subject, f"{what} {was} → {is_now}", affects=models)


def _listed(keys: Mapping[str, str]) -> str:
    return ", ".join(f"{key} {kind}" for key, kind in sorted(keys.items())) or "none"


def _of_service(name: str, old: FeatureManifest, new: FeatureManifest) -> Iterator[Change]:
    was, is_now = old.services.get(name), new.services.get(name)
    subject = f"service {name}"
    if was is None:
        yield Change("add", subject, "")
        return
    if is_now is None:
        yield Change("remove", subject, "", breaks=(was.model,))
        return
    had = {f"{view}:{feature}" for view, features in was.features.items() for feature in features}
    has = {f"{view}:{feature}" for view, features in is_now.features.items() for feature in features}
    if lost := sorted(had - has):
        yield Change("change", subject, f"without {', '.join(lost)}", breaks=(was.model,))
    if gained := sorted(has - had):
        yield Change("change", subject, f"with {', '.join(gained)}")
