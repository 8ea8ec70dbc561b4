"""Limits of concurrency, request rate and bandwidth.

Decided here: how many transfers run, how many wait and how long; how many concurrent requests one
side of one store gets once it has asked us to slow down; the limits of one migration. Never here:
what a transfer is."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, asdict, dataclass, field
from functools import partial
from time import monotonic
from types import TracebackType
from typing import Final

import gevent
from gevent.event import Event
from gevent.lock import BoundedSemaphore

from relay.errors import Overloaded, Side


class Slots:
    """A bounded number of concurrent transfers, and a bounded queue of waiting ones.

    A slot belongs to the greenlet that holds the context open, and is released however that ends
    (`GreenletExit` and `gevent.Timeout` included)."""

    def __init__(self, slots: int, waiters: int, wait_seconds: float) -> None:
        """Allow `slots` transfers at a time; `waiters` more may wait, each at most
        `wait_seconds`."""
        self._semaphore = BoundedSemaphore(slots)
        self._slots, self._waiters, self._wait_seconds = slots, waiters, wait_seconds
        self.held = 0
        self.waiting = 0

    def slot(self, admitted: bool = False, tick: Callable[[], None] = lambda: None) -> HeldSlot:
        """Hold one slot for the time of a `with` block. Entering it raises Overloaded if the queue
        is full or the wait too long; no slot is held then.

        With `admitted`, for a transfer that held a slot before, neither limit applies. `tick` is
        called at least once a second while it waits, and may raise."""
        return HeldSlot(self, admitted, tick)

    def acquire(self, admitted: bool, tick: Callable[[], None]) -> None:
        """Take a slot; arguments and errors as those of `slot`."""
        if self.waiting:
            # A slot that this greenlet has just released is for the first one that waits, which
            # takes it once the hub runs.
            gevent.sleep(0)
        if not self._semaphore.acquire(blocking=False):
            self._wait(admitted, tick)
        self.held += 1

    def release(self) -> None:
        """Give a slot back."""
        self.held -= 1
        self._semaphore.release()

    def _wait(self, admitted: bool, tick: Callable[[], None]) -> None:
        if self.waiting >= self._waiters and not admitted:
            raise Overloaded(
                f"{self._slots} transfers run and {self.waiting} wait; the queue is full",
                retry_after=5.0,
            )
        deadline = monotonic() + self._wait_seconds
        self.waiting += 1
        try:
            while not self._semaphore.acquire(
                timeout=1.0 if admitted else min(1.0, max(deadline - monotonic(), 0.01))
            ):
                tick()
                if not admitted and monotonic() >= deadline:
                    raise Overloaded(
                        f"no slot became free within {self._wait_seconds:g} s", retry_after=5.0
                    )
        finally:
            self.waiting -= 1


class HeldSlot:
    """A slot for the time of a `with` block. (A generator would do, at twice the cost, for each
    object.)"""

    __slots__ = ("_admitted", "_slots", "_tick")

    def __init__(self, slots: Slots, admitted: bool, tick: Callable[[], None]) -> None:
        self._slots, self._admitted, self._tick = slots, admitted, tick

    def __enter__(self) -> None:
        """Take it."""
        self._slots.acquire(self._admitted, self._tick)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give it back."""
        self._slots.release()


HOLD_CEILING = 60.0
"""Maximum time that one Retry-After holds all requests, in seconds."""
ROUND_SECONDS = 0.25
"""Minimum time for the limit to grow by one, however fast a store answers: dozens of answers to
HEAD say little about how many uploads it can take."""
RELAXED = 256.0
"""The limit is removed when it grows to this: the store stopped complaining long ago."""


@dataclass(eq=False, kw_only=True)
class AdaptiveLimiter:
    """Limits concurrent requests to one side of one store: additive increase, multiplicative
    decrease.

    Requests are unlimited until the store complains (429, 503). Then the limit is half of the
    requests that were under way, and none starts before the Retry-After. Each round of answers
    without a complaint raises the limit by one. The complaints of one round halve it only once,
    since all of its requests were sent before the first complaint. (RFC 5681 section 3 does this
    with segments.)"""

    clock: Callable[[], float] = monotonic
    sleep: Callable[[float], None] = gevent.sleep
    limit: float | None = None
    """Maximum number of concurrent requests; None is unlimited."""
    under_way: int = 0
    remote: str = ""
    """The name under which the requests are counted; empty if they are not."""
    _held_until: float = field(default=0.0, repr=False)
    _round: int = field(default=0, repr=False)
    _grown_at: float = field(default=0.0, repr=False)

    def enter(self, look: Callable[[], None], tick_seconds: float) -> int:
        """Wait until a request may start; return its round, for `leave`. `look` is called at least
        once a `tick_seconds`, and may raise; the request does not count then."""
        if self.limit is not None:
            while self._must_wait():
                self.sleep(min(tick_seconds, 0.05))
                look()
        self.under_way += 1
        return self._round

    def _must_wait(self) -> bool:
        if self.limit is None:
            return False
        return self.clock() < self._held_until or self.under_way >= max(1, int(self.limit))

    def leave(self, turn: int, complained: bool = False, retry_after: float | None = None) -> None:
        """Note the end of a request, and adapt the limit to its answer."""
        under_way, self.under_way = self.under_way, self.under_way - 1
        if complained:
            if retry_after is not None:
                self._held_until = max(
                    self._held_until, self.clock() + min(retry_after, HOLD_CEILING)
                )
            if turn == self._round:
                self._round, self._grown_at = self._round + 1, self.clock()
                # If fewer requests ran than the limit allows, it is their number that was too high.
                self.limit = max(1.0, min(self.limit or under_way, under_way) / 2)
        elif self.limit is not None and turn == self._round:
            now = self.clock()
            # As many answers as the limit is high are one round, and add one together.
            self.limit += min(1 / self.limit, (now - self._grown_at) / ROUND_SECONDS)
            self._grown_at = now
            if self.limit >= RELAXED:
                self.limit = None


# -- the limits of one migration

BURST_SECONDS: Final = 0.25
"""Capacity of a bucket in seconds of its rate: it lets a greenlet that was woken late catch up."""
TIMER_SECONDS: Final = 0.001
SIPS: Final = 4
"""Minimum number of grants that empty a full bucket, so that streams share it in turn."""


@dataclass(frozen=True)
class Bounds:
    """The limits of one migration, for all workers together; None is unlimited.

    `slots`: maximum number of concurrent transfers. `bytes_per_second`: maximum rate of reads and
    read-backs. `connections`: maximum number of concurrent requests to each of its two sides."""

    slots: int | None = None
    bytes_per_second: int | None = None
    connections: int | None = None

    def to_json(self) -> dict[str, int | None]:
        """Return the limits as plain values."""
        return asdict(self)

    def set_limits(self) -> dict[str, int]:
        """Return the limits that are set."""
        return {name: most for name, most in self.to_json().items() if most is not None}

    @property
    def transfers(self) -> int | None:
        """Maximum number of concurrent transfers: each needs at least one connection."""
        if self.slots is None or self.connections is None:
            return self.slots if self.connections is None else self.connections
        return min(self.slots, self.connections)


@dataclass(eq=False)
class TokenBucket:
    """A token bucket (RFC 2697 section 3 has the terms) of bytes that may move, filled at a rate
    that may change. Bytes are taken before they are read, and those that did not come are put back.
    So in any interval no more bytes move than the rate allows, plus once the capacity of the bucket
    (`BURST_SECONDS` of the rate)."""

    clock: Callable[[], float] = monotonic
    rate: float | None = None
    """Bytes a second; None is unlimited."""
    _balance: float = field(default=0.0, repr=False)
    _filled: float = field(default=0.0, repr=False)

    def set_rate(self, rate: float | None) -> None:
        """Fill the bucket at another rate from now on. Its content is cut to the new capacity."""
        if rate == self.rate:
            return
        # The time until now is paid at the old rate.
        self._fill()
        self.rate, self._filled = rate, self.clock()
        self._balance = min(self._balance, self._capacity) if rate is not None else 0.0

    def take(self, wanted: int) -> int:
        """Take up to `wanted` bytes (at least one), and return how many; 0 if it is too early."""
        if self.rate is None:
            return wanted
        self._fill()
        least = self._min_grant(wanted)
        if self._balance < least:
            return 0
        self._balance -= least
        return least

    def put_back(self, count: int) -> None:
        """Put back bytes that were taken and did not move."""
        if self.rate is not None:
            self._balance = min(self._balance + count, self._capacity)

    def seconds_until_grant(self, wanted: int) -> float:
        """Return the seconds until `take` returns bytes, if no other greenlet takes them; at least
        the resolution of a timer."""
        if self.rate is None:
            return 0.0
        self._fill()
        return max(TIMER_SECONDS, (self._min_grant(wanted) - self._balance) / self.rate)

    @property
    def _capacity(self) -> float:
        return max(1.0, (self.rate or 0.0) * BURST_SECONDS)

    def _min_grant(self, wanted: int) -> int:
        return max(1, min(wanted, int(self._capacity / SIPS)))

    def _fill(self) -> None:
        if self.rate is not None:
            now = self.clock()
            self._balance = min(self._balance + (now - self._filled) * self.rate, self._capacity)
            self._filled = now


@dataclass(eq=False)
class ConcurrencyLimiter:
    """Limits concurrent requests to one side, first come, first served. The limit may change while
    requests wait.

    A further request of an owner that has one under way starts at once: the owner may need its
    answer to finish the first one (a HEAD beside its own open GET), which would be a deadlock."""

    limit: int | None = None
    _held: dict[object, int] = field(default_factory=dict, repr=False)
    _line: deque[Event] = field(default_factory=deque, repr=False)

    @property
    def under_way(self) -> int:
        """Number of owners with a request under way."""
        return len(self._held)

    def set_limit(self, limit: int | None) -> None:
        """Set the limit. Requests that are under way continue."""
        if limit != self.limit:
            self.limit = limit
            self._wake()

    def enter(self, owner: object, look: Callable[[], None], tick_seconds: float) -> None:
        """Wait until a request of the `owner` may start. `look` is called at least once a
        `tick_seconds`, and may raise; the request does not count then."""
        if owner not in self._held and (self._line or self._full()):
            self._wait(look, tick_seconds)
        self._held[owner] = self._held.get(owner, 0) + 1

    def leave(self, owner: object) -> None:
        """Note the end of a request of the `owner`."""
        self._held[owner] -= 1
        if not self._held[owner]:
            del self._held[owner]
            self._wake()

    def _full(self) -> bool:
        return self.limit is not None and len(self._held) >= self.limit

    def _wait(self, look: Callable[[], None], tick_seconds: float) -> None:
        turn = Event()
        self._line.append(turn)
        try:
            while self._line[0] is not turn or self._full():
                turn.wait(tick_seconds)
                turn.clear()
                look()
        finally:
            self._line.remove(turn)
            # Another request may start now, or a place that was granted to us is not used.
            self._wake()

    def _wake(self) -> None:
        if self._line:
            self._line[0].set()


@dataclass(eq=False)
class Throttle:
    """This process's share of the limits of one migration; `allow` changes it.

    The processes that work on a migration share its limits equally: each of `of` processes has an
    `of`-th of the bytes per second, and of the connections, at least one. The unused part of a
    share lies idle until its process has no work left; then the others get it, within about a
    second."""

    bucket: TokenBucket = field(default_factory=TokenBucket)
    _: KW_ONLY
    gates: Mapping[Side, ConcurrencyLimiter] = field(
        default_factory=lambda: {
            "source": ConcurrencyLimiter(),
            "destination": ConcurrencyLimiter(),
        }
    )
    sleep: Callable[[float], None] = gevent.sleep
    bounds: Bounds = Bounds()
    """The current limits of the whole migration."""
    _line: deque[Event] = field(default_factory=deque, repr=False)

    def allow(self, bounds: Bounds, place: int = 0, of: int = 1) -> None:
        """Set this process's share of the limits; it is number `place` (from 0) of `of`."""
        self.bounds, rate = bounds, bounds.bytes_per_second
        self.bucket.set_rate(None if rate is None else rate / of)
        most = bounds.connections
        share = None if most is None else max(1, most // of + (place < most % of))
        for gate in self.gates.values():
            gate.set_limit(share)

    def take(self, wanted: int, look: Callable[[], None], tick_seconds: float) -> int:
        """Take up to `wanted` bytes, and at least one, first come, first served. Only the first in
        the queue waits for the clock, so that a thousand slow streams wake one at a time. `look` is
        called at least once a `tick_seconds`, and may raise."""
        # A newcomer does not overtake those that wait.
        granted = 0 if self._line else self.bucket.take(wanted)
        return granted or self._wait(wanted, look, tick_seconds)

    def _wait(self, wanted: int, look: Callable[[], None], tick_seconds: float) -> int:
        turn, granted = Event(), 0
        self._line.append(turn)
        try:
            while not granted:
                look()
                if self._line[0] is not turn:
                    turn.wait(tick_seconds)
                    continue
                granted = self.bucket.take(wanted)
                if not granted:
                    self.sleep(min(self.bucket.seconds_until_grant(wanted), tick_seconds))
        finally:
            self._line.remove(turn)
            if self._line:
                self._line[0].set()
        return granted

    def enter(
        self, side: Side, owner: object, look: Callable[[], None], tick_seconds: float
    ) -> Callable[[], None]:
        """Wait until a request to a side may start, and return a function that ends it, to be
        called once."""
        gate = self.gates.get(side)
        if gate is None:
            return lambda: None
        gate.enter(owner, look, tick_seconds)
        return partial(gate.leave, owner)


def throttle_of(bounds: Bounds) -> Throttle | None:
    """Return a Throttle for one transfer with constant bounds, or None without bounds."""
    if bounds == Bounds():
        return None
    made = Throttle()
    made.allow(bounds)
    return made
