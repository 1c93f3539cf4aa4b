"""Pulumi's analyzer of components: what they take, give and document."""

from __future__ import annotations

import gc

from pulumi.provider.experimental.analyzer import Analyzer


class ComponentAnalyzer(Analyzer):
    """It reads the description of every property, or raises.

    Pulumi's leaves out those of a class whose source cannot be parsed. Before CPython 3.11.8 that happens to any source
    if another parse begins meanwhile (its issue 106905), as it does where a collection of garbage logs a traceback.
    """

    def __init__(self) -> None:
        super().__init__("modelworks")

    def get_docstring(self, typ: type, name: str) -> str | None:
        """The description of a property of a class, if it has one.

        Raises:
            LookupError: The source of the class cannot be read.
        """
        collects = gc.isenabled()
        gc.disable()
        try:
            description = super().get_docstring(typ, name)
        finally:
            if collects:
                gc.enable()
        if typ.__name__ not in self.docstrings:
            raise LookupError(f"the source of {typ.__module__}.{typ.__qualname__} cannot be read")
        return description
