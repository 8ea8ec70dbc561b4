"""Run blocking calls in a native thread (law 10).

Never here: a call that is given up (`bounded_calls.py`). One in a native thread holds its
descriptor or its buffer until it ends, so its caller waits for that."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final, TypeVar, cast
from weakref import WeakKeyDictionary

import gevent
from gevent.event import AsyncResult
from gevent.monkey import get_original
from gevent.threadpool import ThreadPool

T = TypeVar("T")
AREA_THREADS: Final = 10
"""Maximum number of threads that the calls of one area may hold, as many as all other calls."""
AREAS: Final = 32
"""Maximum number of areas with threads of their own; further ones share the threads of one area."""
_SHARED: Final = ""
IDLE_SECONDS: Final = 60
"""How long a thread of an area waits for another call."""
close_descriptor: Callable[[int], None] = get_original("os", "close")
"""Close a file or a folder: no watcher of the hub waits for it. gevent's `os.close` looks for one
with two more system calls, a sixteenth of the CPU of a small local object."""


class AreaPools:
    """The threads of each area. A call that hangs holds a thread of its area, and of no other."""

    def __init__(self, most: int = AREAS, threads: int = AREA_THREADS) -> None:
        """Start without threads."""
        self._most, self._threads = most, threads
        self._of_hub: WeakKeyDictionary[Any, OrderedDict[str, Any]] = WeakKeyDictionary()

    def pool_of(self, hub: Any, area: str) -> Any:
        """Return the pool of an area, for calls of this hub's greenlets."""
        if not area:
            return hub.threadpool
        pools = self._of_hub.setdefault(hub, OrderedDict())
        if area not in pools:
            self._forget_idle(pools)
            if len(pools) >= self._most:
                area = _SHARED
        pool = pools.get(area)
        if pool is None:
            pool = pools[area] = ThreadPool(self._threads, hub, IDLE_SECONDS)
        pools.move_to_end(area)
        return pool

    def _forget_idle(self, pools: OrderedDict[str, Any]) -> None:
        """Drop the pool that was not used for longest and has no calls, if there are too many."""
        if len(pools) < self._most:
            return
        idle = next((area for area, pool in pools.items() if area and not len(pool)), None)
        if idle is not None:
            gevent.spawn(pools.pop(idle).kill)  # which waits until its threads have ended


POOLS = AreaPools()


def in_native_thread(do: Callable[[], T], area: str = "", pools: AreaPools = POOLS) -> T:
    """Return the result of `do`, or raise its exception; other greenlets run meanwhile. Ends when
    `do` has ended, even if the caller's greenlet is killed or its time is up: a thread can't be
    stopped, and its descriptor or buffer belongs to the caller again only then.

    Calls that may hang together, such as those into one mount, have an `area`: they wait for each
    other, and delay no call of another area.
    """
    pool = pools.pool_of(gevent.get_hub(), area)
    waiting: AsyncResult[Any] = pool.spawn(catch, do)
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
