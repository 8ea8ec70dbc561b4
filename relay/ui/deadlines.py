"""A limit for a store that a page waits for."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import copy_context
from typing import TypeVar, cast

import gevent

from relay.errors import StoreTimeout
from relay.ui import words
from relay.wire.native import catch

T = TypeVar("T")


def within(seconds: float, name: str, do: Callable[[], T]) -> T:
    """Return what `do` returns. Raises StoreTimeout, which calls the store `name`, once `seconds`
    are over.

    `do` runs in a greenlet of its own, which is left behind then: a call into a mount that hangs
    can't be ended."""
    job = gevent.spawn(copy_context().run, catch, do)
    try:
        job.join(seconds)
        if not job.ready():
            raise StoreTimeout(words.slow_store(name, seconds), side="source", hint="Try again.")
    finally:
        job.kill(block=False)
    result, error = job.get()
    if error is not None:
        raise error
    return cast(T, result)
