"""What would block the hub is done in a native thread (law 10): a disk's wait, an import, another's settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import gevent

T = TypeVar("T")


def in_native_thread(do: Callable[[], T]) -> T:
    """Return what `do` returns, or raise what it raises; other greenlets run meanwhile.

    Not `threadpool.apply` alone: that prints every exception before it hands it over.
    """
    result, error = gevent.get_hub().threadpool.apply(_caught, (do,))
    if error is not None:
        raise error
    return cast(T, result)


def _caught(do: Callable[[], T]) -> tuple[T | None, BaseException | None]:
    try:
        return do(), None
    except BaseException as error:  # noqa: BLE001 - raised again where it belongs
        return None, error
