"""Run blocking calls in a native thread (law 10)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import gevent
from gevent.event import AsyncResult

T = TypeVar("T")


def in_native_thread(do: Callable[[], T]) -> T:
    """Return the result of `do`, or raise its exception; other greenlets run meanwhile. Ends when
    `do` has ended, even if the caller's greenlet is killed or its time is up: a thread can't be
    stopped, and its descriptor or buffer belongs to the caller again only then.
    """
    waiting: AsyncResult[Any] = gevent.get_hub().threadpool.spawn(catch, do)
    try:
        result, error = cast(Any, waiting.get())
    except BaseException:
        _wait_uninterrupted(waiting)
        raise
    if error is not None:
        raise error
    return cast(T, result)


def _wait_uninterrupted(waiting: AsyncResult[Any]) -> None:
    """Wait until the thread is done, even if exceptions are thrown into this greenlet."""
    while not waiting.ready():
        try:
            waiting.wait()
        except BaseException:  # noqa: BLE001, S112 - what was thrown first is raised again by the caller
            continue


def catch(do: Callable[[], T]) -> tuple[T | None, BaseException | None]:
    """Return the result of `do`, or its exception: a thread pool prints every exception that it
    gets."""
    try:
        return do(), None
    except BaseException as error:  # noqa: BLE001 - raised again where it belongs
        return None, error
