"""Connect to the first address of a host that answers (RFC 8305, "Happy Eyeballs").

Theory of operation. A host may have an address that swallows packets: broken IPv6, a dead member of
a pool. Waiting for it would cost each connection seconds. So if an address has not answered within
ATTEMPT_SECONDS, the next one is tried beside it, and the first connection is used; after a failure
the next one is tried at once. If no file is left for a further attempt, those that run may still
answer. An address that another one has overtaken is tried last for a while.

Decided here: the order and the times of the attempts. Never here: how a connection is opened, and
which addresses are permitted (`dial.py`)."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import chain, zip_longest
from queue import Empty
from time import monotonic
from typing import Any, Final

import gevent
from gevent.queue import SimpleQueue

from relay.errors import ConnectFailed, RelayError, StoreTimeout, TooManyFiles
from relay.process.native_threads import catch

Address = tuple[Any, ...]
"""A family, and an address of it as `socket.connect` takes it."""
ATTEMPT_SECONDS: Final = 0.25
"""Time after which the next address is tried beside one that has not answered (RFC 8305 section 5,
"Connection Attempt Delay")."""
SILENT_SECONDS: Final = 300.0
"""How long an address that did not answer is tried after all others of its host."""
REMEMBERED: Final = 1000
"""Maximum number of remembered addresses."""


def interleave(addresses: Iterable[Address]) -> list[Address]:
    """Return the addresses with their families in turn, beginning with that of the first (RFC 8305
    section 4): if one family does not work, the second address is of the other."""
    families: dict[Any, list[Address]] = {}
    for address in addresses:
        families.setdefault(address[0], []).append(address)
    turns = chain.from_iterable(zip_longest(*families.values()))
    return [address for address in turns if address is not None]


class SilentAddresses:
    """The addresses that did not answer lately."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        """Start without knowledge."""
        self._clock = clock
        self._until: OrderedDict[Address, float] = OrderedDict()

    def last(self, addresses: Sequence[Address]) -> list[Address]:
        """Return the addresses, those that did not answer lately at the end."""
        now = self._clock()
        return sorted(addresses, key=lambda address: self._until.get(address, now) > now)

    def note_silent(self, address: Address) -> None:
        """Note that an address has not answered, or has refused."""
        self._until[address] = self._clock() + SILENT_SECONDS
        self._until.move_to_end(address)
        if len(self._until) > REMEMBERED:
            self._until.popitem(last=False)

    def note_answer(self, address: Address) -> None:
        """Note that an address has answered."""
        self._until.pop(address, None)


class AddressRace:
    """Attempts to connect to some addresses of one host. `connect` opens a connection to one, and
    raises; `attempt_seconds` is the time before the next address is tried too."""

    def __init__(
        self,
        connect: Callable[[Address], Any],
        silent: SilentAddresses,
        attempt_seconds: float = ATTEMPT_SECONDS,
    ) -> None:
        self._connect, self._silent = connect, silent
        self._attempt_seconds = attempt_seconds

    def run(self, addresses: Sequence[Address]) -> tuple[Address, Any]:
        """Return the address that answered first, and its connection. Raises the last failure if
        none did, and at once an error that is not the peer's; but TooManyFiles only when no other
        attempt runs any longer. No other connection is left open."""
        if len(addresses) == 1:
            return addresses[0], self._connect(addresses[0])
        waiting, running = deque(addresses), dict[Any, Address]()
        ended: SimpleQueue[Any] = SimpleQueue()
        failure: RelayError | None = None
        try:
            while waiting or running:
                if waiting:
                    self._start(waiting.popleft(), running, ended)
                try:
                    attempt = ended.get(timeout=self._attempt_seconds if waiting else None)
                except Empty:
                    continue
                address = running.pop(attempt)
                connection, error = attempt.value
                if error is None:
                    self._learn(address, addresses, running.values())
                    return address, connection
                if isinstance(error, TooManyFiles) and running:
                    waiting.clear()
                elif isinstance(error, ConnectFailed | StoreTimeout):
                    self._silent.note_silent(address)
                else:
                    raise error
                # The caller can close idle connections after TooManyFiles, and try all again.
                failure = failure if isinstance(failure, TooManyFiles) else error
        finally:
            _end(running)
        assert failure is not None, "there is at least one address"
        raise failure

    def _start(
        self, address: Address, running: dict[Any, Address], ended: SimpleQueue[Any]
    ) -> None:
        attempt = gevent.spawn(catch, partial(self._connect, address))
        running[attempt] = address
        attempt.link(ended.put)

    def _learn(
        self, winner: Address, addresses: Sequence[Address], running: Iterable[Address]
    ) -> None:
        """Remember that an address answered while ones that began earlier were still tried."""
        self._silent.note_answer(winner)
        place = addresses.index(winner)
        for other in running:
            if addresses.index(other) < place:
                self._silent.note_silent(other)


def _end(running: Iterable[Any]) -> None:
    """End the attempts that are not needed, and close the connection of one that succeeds yet."""
    for attempt in running:
        attempt.link(_close)
        attempt.kill(block=False)


def _close(attempt: Any) -> None:
    if isinstance(attempt.value, tuple) and attempt.value[0] is not None:
        attempt.value[0].close()
