"""Resolve names to addresses by the system's rules.

Theory of operation. The system's resolver blocks its thread, for half a minute if the servers of a
name are silent, and can't be stopped. So lookups have threads of their own, apart from those that
write files, and at most `most`. A second request for a name waits for the lookup that runs, even if
the first caller has given up meanwhile: one silent name takes one thread, however often it is
requested.

Decided here: the threads of lookups. Never here: which addresses may be dialled.
"""

from __future__ import annotations

import socket as _socket
from collections.abc import Callable, Sequence
from typing import Any, cast

from gevent.event import AsyncResult
from gevent.monkey import get_original
from gevent.threadpool import ThreadPool

from relay.process.native_threads import catch

Addresses = Sequence[tuple[Any, ...]]
Resolver = Callable[[str, int], Addresses]
"""What `socket.getaddrinfo(host, port, type=SOCK_STREAM)` returns. May raise OSError or
UnicodeError."""

_getaddrinfo: Callable[..., Addresses] = get_original("socket", "getaddrinfo")


def look_up(host: str, port: int) -> Addresses:
    """Ask the system's resolver; blocks the thread. Raises OSError, UnicodeError."""
    return _getaddrinfo(host, port, type=_socket.SOCK_STREAM)


class Names:
    """The lookups of one process: call it as a Resolver. A caller that gives up leaves the lookup
    to others."""

    def __init__(self, most: int, look_up: Resolver = look_up) -> None:
        """Run at most `most` lookups concurrently; a further name waits until one has ended."""
        self._most, self._look_up = most, look_up
        self._pool: Any = None
        self._lookups: dict[tuple[str, int], AsyncResult[Any]] = {}

    def __call__(self, host: str, port: int) -> Addresses:
        """Return the addresses of a name. Raises as the resolver does."""
        asked = (host, port)
        waiting = self._lookups.get(asked)
        if waiting is None:
            # Not before it is needed: a worker is forked before it has a loop.
            if self._pool is None:
                self._pool = ThreadPool(self._most)
            begun: AsyncResult[Any] = self._pool.spawn(catch, lambda: self._look_up(host, port))
            waiting = begun
            # `spawn` may have waited for a thread, and another caller has begun the same lookup.
            if not waiting.ready() and asked not in self._lookups:
                self._lookups[asked] = waiting
                waiting.rawlink(lambda _: self._lookups.pop(asked, None))
        found, error = cast(Any, waiting.get())
        if error is not None:
            raise error
        return cast(Addresses, found)
