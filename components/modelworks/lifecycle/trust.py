"""The types that a model may be made of: those of the runtime's table, and those that its own service loads."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelworks.errors import ModelworksError
from modelworks.runtime.trust import NAMED, STANDARD

if TYPE_CHECKING:
    from modelworks.lifecycle.spec import Service


def load_estimator(file: Path, service: Service, package: str = "") -> Any:
    """The model in a skops file.

    Args:
        file: The file.
        service: How the model answers; it names types of other libraries.
        package: The package that the project's code is imported as.

    Raises:
        ModelworksError: It holds types that have no place in a bundle.
    """
    import skops.io  # brings scikit-learn

    content = file.read_bytes()
    return skops.io.loads(content, trusted=trusted_types(content, service, package))


def trusted_types(content: bytes, service: Service, package: str = "") -> list[str]:
    """Types in a skops file that are beyond skops' own list, each with a place in a bundle.

    Args:
        content: The file's bytes.
        service: How the model answers; it names types of other libraries.
        package: The package that the project's code is imported as.

    Raises:
        ModelworksError: It holds types that have none.
    """
    import skops.io  # brings scikit-learn

    found = sorted(skops.io.get_untrusted_types(data=content))
    # A lambda has no name that it could be found by.
    own = [each for each in found if package and each.startswith(f"{package}.") and "<" not in each]
    foreign = [
        each
        for each in found
        if not (each in STANDARD or each in own or (each in service.trusted and _may_be_named(each, service)))
    ]
    if foreign:
        raise ModelworksError(
            f"{service.where}: the model holds what has no place in a bundle: {', '.join(foreign)}",
            fix="Give a lambda a name, in a file beside model.py; leave functions of other libraries out. "
            "Name classes of LightGBM and XGBoost in Service(trusted=...) "
            "and their package in packages; what else there is, call from code of your own "
            "(Fitted(artifacts={...}, loader=...)).",
        )
    if own and not service.trusted_code:
        names = ", ".join(each.removeprefix(f"{package}.") for each in own)
        raise ModelworksError(
            f"{service.where}: the model holds functions or classes of yours, which the server must run: {names}",
            fix="State it: Service(trusted_code=True). Digest and signature of the bundle cover the code.",
        )
    if stated := [each for each in own if "." not in each.removeprefix(f"{package}.")]:
        raise ModelworksError(
            f"{service.where}: the model holds {', '.join(each.removeprefix(f'{package}.') for each in stated)} of "
            "model.py, which is not in the bundle: it imports what no server has",
            fix="Move it into a file of its own, such as features.py, and `from .features import ...`.",
        )
    return found


def _may_be_named(name: str, service: Service) -> bool:
    """Whether a spec's word is enough: for a class of the table, or any class that a custom service loads."""
    if name in NAMED:
        return True
    module, _, attribute = name.rpartition(".")
    return bool(service.code) and isinstance(getattr(importlib.import_module(module), attribute, None), type)
