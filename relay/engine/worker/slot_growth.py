"""How many slots a command takes if its user named no number: a hill climb.

Theory of operation. With distant stores a slot mostly waits for answers, so twice as many slots
move twice as many objects. With near stores, or on a full line, more slots move nothing more, and
cost CPU and memory. So the number doubles as long as the rate grows with it. A doubling without
gain is undone, and tried again later, after longer and longer times. A complaint halves the number.
If the rate falls to half, the objects or the stores are others than before, and the climb starts
again. While no object waits for a slot, the rate says nothing about their number.

The rate counts objects and bytes together, so that large objects on a full line show no gain.

Decided here: the number of slots. Never here: their greenlets (`worker.py`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from time import monotonic
from typing import Final

MOST_SLOTS: Final = 64
"""Maximum number of slots. A slot holds a connection to each store, and servers limit those: nginx
to 512 for a process, Apache to 256 or 400 for all clients together. The payload of 64 slots takes
up to 1.3 GiB of memory (`Settings.slot_bytes`)."""
OBJECT_BYTES: Final = 1 << 20
"""An object counts as much as this number of bytes: its requests cost about as much CPU."""
GAIN: Final = 0.25
"""Minimum gain of more slots, as a share of the gain without any bottleneck: twice as many slots
are kept if they move a quarter more."""
SHORTEST_SECONDS: Final = 0.5
"""Minimum time over which a rate is measured. Over a line of 40 ms, in which a slot ends a dozen
objects a second, the climb from 10 slots to 64 takes two seconds."""
LONGEST_SECONDS: Final = 5.0
"""Maximum such time, if few objects end."""
OBJECTS: Final = 2
"""Objects that a slot ends while a rate is measured, within LONGEST_SECONDS."""
BUSY: Final = 0.8
"""Share of one CPU from which this process is the bottleneck: relay's transfers share one CPU."""
FAILING: Final = 8
"""If one of this number of slots waits for a retry, the stores are in trouble, and not an
object."""
HOLD_SECONDS: Final = (10.0, 300.0)
"""First and longest time before the number grows again after a step back; it doubles each time."""
DEAF_SECONDS: Final = 1.0
"""Time after a complaint in which others count as the same: their requests were sent before."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """The work of a process so far, and its state. The first four only grow."""

    objects: int
    """Number of objects whose transfers have ended."""
    bytes: int
    cpu_seconds: float
    complaints: int
    """Number of answers 429 and 503."""
    failing: int = 0
    """Number of transfers that wait for a retry."""
    is_full: bool = True
    """Whether each slot has an object to move, and another object waits."""

    @property
    def work(self) -> float:
        """Objects and bytes as one number."""
        return self.objects + self.bytes / OBJECT_BYTES


@dataclass(eq=False, kw_only=True)
class SlotGrowth:
    """The number of slots, between `first` and `most`. `room` returns for how many further slots
    there is memory."""

    first: int
    most: int = MOST_SLOTS
    room: Callable[[], int] = lambda: MOST_SLOTS
    clock: Callable[[], float] = monotonic

    def __post_init__(self) -> None:
        """Start with the first number, without a measurement."""
        self.slots = self.first
        self._window: tuple[float, Load] | None = None
        self._is_settled = False
        self._usual_rate = 0.0
        """The highest rate over LONGEST_SECONDS with the number that is kept; 0 before the
        first."""
        self._tried_from: int | None = None
        """The number to which an unsuccessful trial returns; None without a trial."""
        self._rate_before = 0.0
        """The rate before the trial."""
        self._complaints = 0
        self._deaf_until = self._held_until = -inf
        self._hold_seconds = HOLD_SECONDS[0]

    def note(self, load: Load) -> int:
        """Note the present load, some times a second; return the number of slots from now on."""
        now = self.clock()
        if self._has_complaint(load, now):
            self._deaf_until = now + DEAF_SECONDS
            self._hold(now)
            self._keep(max(self.first, self.slots // 2))
        elif self._window is None or not load.is_full:
            self._open_window(now, load, is_settled=False)
        else:
            self._measure(*self._window, now, load)
        return self.slots

    def _has_complaint(self, load: Load, now: float) -> bool:
        complained = load.complaints > self._complaints
        self._complaints = load.complaints
        # One failing transfer alone may be its object's own trouble.
        failing = load.failing >= max(2, self.slots / FAILING)
        return (complained or failing) and now >= self._deaf_until

    def _measure(self, since: float, before: Load, now: float, load: Load) -> None:
        """Decide once the window is long enough. After a change of the number, the first objects
        are not measured: their slots open connections."""
        seconds, objects = now - since, load.objects - before.objects
        if not self._is_settled:
            if objects >= self.slots or seconds >= LONGEST_SECONDS:
                self._open_window(now, load, is_settled=True)
            return
        enough = seconds >= SHORTEST_SECONDS and objects >= OBJECTS * self.slots
        if seconds >= LONGEST_SECONDS or (enough and self._may_grow(now)):
            self._open_window(now, load, is_settled=True)
            rate = max(0.0, load.work - before.work) / seconds
            busy = (load.cpu_seconds - before.cpu_seconds) / seconds
            if self._tried_from is not None:
                self._judge_trial(now, rate, busy, self._tried_from)
            elif rate < self._usual_rate / 2:
                self._keep(self.first)
            else:
                # A shorter time may have an unusually high rate.
                self._usual_rate = max(self._usual_rate, rate * (seconds >= LONGEST_SECONDS))
                self._try_more(now, rate, busy)

    def _may_grow(self, now: float) -> bool:
        """Return whether a short time is enough for the next decision."""
        is_due = now >= self._held_until and self.slots < self.most
        return is_due or self._tried_from is not None

    def _judge_trial(self, now: float, rate: float, busy: float, before: int) -> None:
        """Keep the number if the rate has grown with it, else return to the one `before`."""
        if rate < self._rate_before * (1 + GAIN * (self.slots / before - 1)):
            self._hold(now)
            self._change(before)
            return
        self._keep(self.slots)
        self._hold_seconds = HOLD_SECONDS[0]
        self._try_more(now, rate, busy)

    def _try_more(self, now: float, rate: float, busy: float) -> None:
        """Try twice as many slots, unless they can't help. `busy` is the share of one CPU that this
        process took."""
        if not self._may_grow(now):
            return
        before, more = self.slots, min(2 * self.slots, self.most, self.slots + self.room())
        if rate <= 0 or busy >= BUSY or more <= before:
            self._held_until = now + LONGEST_SECONDS
            return
        self._change(more)
        self._tried_from, self._rate_before = before, rate

    def _hold(self, now: float) -> None:
        self._held_until = now + self._hold_seconds
        self._hold_seconds = min(2 * self._hold_seconds, HOLD_SECONDS[1])

    def _keep(self, slots: int) -> None:
        self._change(slots)
        self._usual_rate = 0.0

    def _change(self, slots: int) -> None:
        self.slots, self._tried_from, self._window = slots, None, None

    def _open_window(self, now: float, load: Load, is_settled: bool) -> None:
        self._window, self._is_settled = (now, load), is_settled
