"""Makes this process cooperative: the standard library's sockets, threads and clocks wait on gevent's hub.

Decided here: that it is done once, before anything else is imported, and without asking for plugins. Never here:
anything else, since whatever this module imports is imported unpatched.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from typing import Any

from gevent import monkey


def patch() -> None:
    """Patch everything; a second call does nothing."""
    with _without_plugins():
        monkey.patch_all()


@contextmanager
def _without_plugins() -> Iterator[None]:
    """Find no entry points for a while.

    gevent reads the metadata of every installed package anew for each of the 25 things that it patches, in case one of
    them wants to be told: a tenth of a second of each start.
    """
    found: Any = metadata.entry_points
    metadata.entry_points = lambda **_: metadata.EntryPoints(())  # type: ignore[assignment]
    try:
        yield
    finally:
        metadata.entry_points = found
