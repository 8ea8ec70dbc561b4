"""Makes this process cooperative: the standard library's sockets, threads and clocks wait on
gevent's hub.

Decided here: that it is done once, before anything else is imported, and without searching for
plugins; how often the garbage collector stops the hub. Never here: anything else, since this
module's imports are unpatched."""

from __future__ import annotations

import gc
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

COLLECT_AFTER = 20_000
"""Number of new objects after which the garbage collector scans the youngest generation; Python's
own default is 700.

A transfer makes some hundred objects and hardly a cycle: the default costs a fifteenth of the CPU
of small ones, and of every start. A scan of 50,000 objects holds up the hub for 30 to 46 ms; the
hub may be 20 ms late."""


def patch() -> None:
    """Patch everything; a second call does nothing."""
    collect_rarely()
    # Imported here because its own start makes thousands of objects.
    from gevent import monkey

    with _without_plugins():
        monkey.patch_all()


def collect_rarely() -> None:
    """Collect cycles less often than Python's default. Memory outside of cycles is freed at once,
    as ever."""
    gc.set_threshold(COLLECT_AFTER, *gc.get_threshold()[1:])


@contextmanager
def importing() -> Iterator[None]:
    """Run a block of imports without a collection. Their objects stay as long as the process does,
    so none is scanned later either. SQLAlchemy and the engine make 80,000 of them: each scan of
    20,000 takes 0.01 s."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@contextmanager
def _without_plugins() -> Iterator[None]:
    """Find no entry points for a while.

    gevent reads the metadata of every installed package again for each of the 25 modules that it
    patches, in case one has a plugin: a tenth of a second of each start. A substitute finds none;
    importing the real module would take a hundredth."""
    package: Any = importlib
    found = getattr(package, "metadata", None)
    package.metadata = substitute = SimpleNamespace(entry_points=lambda **_: ())
    try:
        yield
    finally:
        if found is not None:
            package.metadata = found
        elif package.metadata is substitute:  # else it was imported meanwhile
            del package.metadata
