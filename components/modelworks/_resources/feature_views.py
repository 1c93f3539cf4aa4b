"""Private: the feature views of a store, and the names that they have in it."""

import re
from collections.abc import Sequence
from typing import NotRequired, TypedDict

_VIEW = re.compile("[A-Za-z0-9_.-]+")


class FeatureViewArgs(TypedDict):
    """A feature view that the store keeps: one of Feast, without what only Feast needs."""

    name: str
    """Name of the view: letters, digits, `_`, `-` and `.`."""

    columns: dict[str, str]
    """Columns of its source and their Athena types: keys, features, event time and creation time."""

    path: NotRequired[str | None]
    """Folder of its source under the store's `location`. Default: none, and no table in the catalog."""

    online: NotRequired[bool]
    """Whether its newest values are kept in DynamoDB. Default true."""


def require_sound_views(project: str, views: Sequence[FeatureViewArgs]) -> None:
    """Refuse views whose names, columns or paths cannot be.

    Raises:
        ValueError: Something is wrong with one, or two have one name.
    """
    taken: dict[str, str] = {}
    for view in views:
        name = view["name"]
        if not _VIEW.fullmatch(name) or len(f"{project}.{name}") > 255:
            raise ValueError(
                f"a view's name must be letters, digits, _, - and ., with the project at most 255, got {name!r}"
            )
        entry = catalog_name(name)
        if entry in taken:
            raise ValueError(f"view {name!r} has the name of {taken[entry]!r} in the catalog")
        taken[entry] = name
        if not view["columns"]:
            raise ValueError(f"view {name!r} has no columns")
        if view["path"] is not None and (not view["path"].strip("/") or ".." in view["path"].split("/")):
            raise ValueError(
                f"path of view {name!r} must name a folder under the store's location, got {view['path']!r}"
            )


def catalog_name(view: str) -> str:
    """A view's name as Glue and Athena take it."""
    return re.sub("[^a-z0-9_]", "_", view.lower())
