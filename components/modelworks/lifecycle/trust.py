"""Which types a skops file may hold: scikit-learn's own, and those that a spec names."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from modelworks.errors import ModelworksError

TRUSTED_PREFIXES = ("sklearn.", "numpy.", "scipy.", "builtins.")
"""Libraries whose types a bundle may hold without the spec naming them."""


def load_estimator(file: Path, trusted: Collection[str]) -> Any:
    """The model in a skops file.

    Args:
        file: The file.
        trusted: Types that the spec vouches for, by full name.

    Raises:
        ModelworksError: It holds types that nobody vouched for.
    """
    import skops.io  # brings scikit-learn

    content = file.read_bytes()
    return skops.io.loads(content, trusted=trusted_types(content, trusted))


def trusted_types(content: bytes, trusted: Collection[str], *, where: str = "") -> list[str]:
    """Types in a skops file that are beyond skops' own list, all of them vouched for.

    Args:
        content: The file's bytes.
        trusted: Types that the spec vouches for, by full name.
        where: File and line of the spec that names them, for the message.

    Raises:
        ModelworksError: It holds types that nobody vouched for.
    """
    import skops.io  # brings scikit-learn

    found = sorted(skops.io.get_untrusted_types(data=content))
    foreign = [each for each in found if not each.startswith(TRUSTED_PREFIXES) and each not in trusted]
    if foreign:
        raise ModelworksError(
            f"{where and where + ': '}the model holds types that are not scikit-learn's: {', '.join(foreign)}",
            fix="Leave them out, or name them in Service(trusted=...) and their package in packages; "
            "your own code needs a custom service (Service(code=...)).",
        )
    return found
