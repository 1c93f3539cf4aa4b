"""Feast's type checks, each prepared when it is first needed: they are three quarters of the time of Feast's import.

Feast decorates its classes with `typeguard.typechecked`, which parses a class's module again for each of its methods,
242 in all. A program calls some thirty. The checks themselves stay as they are.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any


def check_when_called() -> None:
    """Have the methods of Feast's classes instrumented at their first call, from the next import of Feast on."""
    try:
        import typeguard
    except ImportError:  # it comes with Feast, which is an extra
        return

    eager = typeguard.typechecked

    def typechecked(target: Any = None, **options: Any) -> Any:
        if not (inspect.isclass(target) and target.__module__.partition(".")[0] == "feast") or options:
            return eager(target, **options)
        later = functools.partial(_at_first_call, eager)
        for name, found in vars(target).copy().items():
            if inspect.isfunction(found) and found.__qualname__ == f"{target.__qualname__}.{name}":
                setattr(target, name, later(found))
            elif isinstance(found, (classmethod, staticmethod)):
                setattr(target, name, type(found)(later(found.__func__)))
            elif isinstance(found, property):
                fget, fset, fdel = (part and later(part) for part in (found.fget, found.fset, found.fdel))
                setattr(target, name, property(fget, fset, fdel, found.__doc__))
        return target

    typeguard.typechecked = typechecked


def _at_first_call(checked: Callable[[Any], Any], method: Callable[..., Any]) -> Callable[..., Any]:
    instrumented = functools.cache(lambda: checked(method))

    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        return instrumented()(*args, **kwargs)

    return call
