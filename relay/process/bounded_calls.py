"""A call that is given up after a while: a mount whose server is away may not answer at all.

Never here: calls of a transfer, for which other greenlets must not wait (`wire/native.py`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


def call_within(seconds: float, do: Callable[[], T]) -> T:
    """Return the result of `do`, or raise its OSError. Raises TimeoutError once `seconds` are over:
    the thread of the call is left behind, since nothing ends it. The process does nothing else
    meanwhile."""
    # Imported here because a command without need of it starts faster.
    from gevent.monkey import get_original

    # A patched thread would be a greenlet, in which the call blocks the whole process.
    start_thread: Any = get_original("_thread", "start_new_thread")
    ended: Any = get_original("_thread", "allocate_lock")()
    results: list[T] = []
    errors: list[OSError] = []

    def run() -> None:
        try:
            results.append(do())
        except OSError as error:
            errors.append(error)
        finally:
            ended.release()

    ended.acquire()
    start_thread(run, ())
    if not ended.acquire(timeout=seconds):
        raise TimeoutError(f"no answer within {seconds:g} seconds")
    if errors:
        raise errors[0]
    return results[0]
