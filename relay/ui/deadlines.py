"""A limit for a store that a page waits for."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from relay.errors import StoreTimeout
from relay.process.bounded_calls import call_within
from relay.ui import words

T = TypeVar("T")


def call_store_within(seconds: float, name: str, do: Callable[[], T]) -> T:
    """As `call_within`; once `seconds` are over, raises StoreTimeout, which calls the store
    `name`."""
    try:
        return call_within(seconds, do)
    except TimeoutError:
        raise StoreTimeout(
            words.slow_store(name, seconds), side="source", hint="Try again."
        ) from None
