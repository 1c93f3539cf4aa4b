"""Getting tools while something else runs that needs only some of them."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from modelworks.laptop.toolchain.cache import Toolchain
from modelworks.laptop.toolchain.progress import Report, narrate


class Obtaining:
    """Tools that a thread is getting. See `obtaining`."""

    def __init__(self, toolchain: Toolchain, names: Iterable[str], report: Report | None) -> None:
        self._toolchain, self._names, self._report = toolchain, list(names), report
        self._changed = threading.Condition()
        self._got: dict[str, Path] = {}
        self._error: BaseException | None = None
        self._over = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="toolchain", daemon=True)

    def wait(self, names: Iterable[str]) -> dict[str, Path]:
        """The executables of `names`, as soon as they can be started.

        Raises:
            ModelworksError: A tool cannot be had, even if it is another one.
        """
        wanted = set(names)
        with self._changed:
            self._changed.wait_for(lambda: self._over or wanted <= set(self._got))
            if self._error is not None:
                raise self._error
            return {name: self._got[name] for name in wanted}

    def wait_for_all(self) -> dict[str, Path]:
        """The executables of all, and of what they need besides."""
        with self._changed:
            self._changed.wait_for(lambda: self._over)
            if self._error is not None:
                raise self._error
            return dict(self._got)

    def begin(self) -> None:
        """Start getting them."""
        self._thread.start()

    def end(self) -> None:
        """Stop what is still running, and wait until nothing of it is left."""
        self._stop.set()
        self._thread.join()

    def _work(self) -> None:
        try:
            if self._report is not None:
                self._toolchain.ensure(self._names, self._report, self._ready, self._stop)
            else:
                with narrate() as report:
                    self._toolchain.ensure(self._names, report, self._ready, self._stop)
        except BaseException as error:  # noqa: BLE001 - whoever waits raises it
            self._error = error
        with self._changed:
            self._over = True
            self._changed.notify_all()

    def _ready(self, name: str, path: Path) -> None:
        with self._changed:
            self._got[name] = path
            self._changed.notify_all()


@contextmanager
def obtaining(toolchain: Toolchain, names: Iterable[str], report: Report | None = None) -> Iterator[Obtaining]:
    """Get the tools `names` in a thread while the block runs. Leaving the block early stops what is still running."""
    tools = Obtaining(toolchain, names, report)
    tools.begin()
    try:
        yield tools
    finally:
        tools.end()
