"""A limit for a store that a page waits for."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import gevent

from relay.errors import StoreTimeout
from relay.ui import words

T = TypeVar("T")


def within(seconds: float, name: str, do: Callable[[], T]) -> T:
    """Return what `do` returns. Raises StoreTimeout, which calls the store `name`, once `seconds`
    are over.

    gevent.Timeout is a BaseException, so that no code on the way takes it for an answer of the
    store."""
    limit = gevent.Timeout(seconds)
    try:
        with limit:
            return do()
    except gevent.Timeout as fired:
        if fired is not limit:
            raise
        raise StoreTimeout(
            words.slow_store(name, seconds), side="source", hint="Try again."
        ) from None
