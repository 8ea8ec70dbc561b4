"""A call that is given up after a while: a store or a mount whose server is away may never answer.

Theory of operation. Nothing ends a call that hangs inside the system, so it is left behind. There
are two ways to do that. A request's greenlet waits on the hub, and so does what it calls: the call
is another greenlet (`call_within`). The process that starts the workers reads settings before it
forks, and gevent's pools of threads do not survive a fork: a call in the child may wait for ever,
for a thread that only the parent has. So there the call has a bare thread (`block_within`).

Never here: a call of a transfer. It is not given up, since it holds a descriptor or a buffer
(`native_threads.py`)."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import copy_context
from typing import Any, TypeVar, cast

import gevent
from gevent.monkey import get_original

from relay.process.native_threads import catch

T = TypeVar("T")


def call_within(seconds: float, do: Callable[[], T]) -> T:
    """Return the result of `do`, or raise its exception; other greenlets run meanwhile. Raises
    TimeoutError once `seconds` are over; `do` gets a GreenletExit then, and may go on for any
    time."""
    job = gevent.spawn(copy_context().run, catch, do)
    try:
        job.join(seconds)
        if not job.ready():
            raise _late_error(seconds)
    finally:
        job.kill(block=False)
    return _result_of(job.get())


def block_within(seconds: float, do: Callable[[], T]) -> T:
    """Return the result of `do`, or raise its exception; this process does nothing else meanwhile.
    Raises TimeoutError once `seconds` are over; the thread of `do` may go on for any time."""
    # A patched thread would be a greenlet, in which the call blocks the whole process.
    start_thread: Any = get_original("_thread", "start_new_thread")
    ended: Any = get_original("_thread", "allocate_lock")()
    ends: list[tuple[T | None, BaseException | None]] = []

    def run() -> None:
        ends.append(catch(do))
        ended.release()

    ended.acquire()
    start_thread(run, ())
    if not ended.acquire(timeout=seconds):
        raise _late_error(seconds)
    return _result_of(ends[0])


def _late_error(seconds: float) -> TimeoutError:
    return TimeoutError(f"no answer within {seconds:g} seconds")


def _result_of(end: tuple[T | None, BaseException | None]) -> T:
    """Return the result of a call, or raise its exception."""
    result, error = end
    if error is not None:
        raise error
    return cast(T, result)
