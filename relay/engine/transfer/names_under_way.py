"""The names that one process sends at the moment, so that none is sent beside its cut name.

Theory of operation. Whether a server cuts a name at a delimiter (`cut_names.py`) shows once the
object is there. Until that is known, the object `a` may be sent and proved while the object `a?b`
is under way, which then replaces it. So a name waits until no other transfer sends its cut name, or
another name that is cut so. Names without a delimiter wait for no other name without one. The
other one may move for hours, so a claimed object is handed back after PATIENCE_SECONDS: its slot is
free for others meanwhile.

Decided here: which transfers wait for each other. Never here: whether a name is cut."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from gevent.event import Event

from relay.errors import Cancelled
from relay.location import Location, Origin

PATIENCE_SECONDS: Final = 5.0
"""How long a claimed object waits with its slot for another name."""
Key = tuple[Origin, str]


class NameUnderWay(Cancelled):
    """Another transfer of this process still sends an object that may be the same. The claim is
    handed back, and no attempt follows before that."""

    default_retryable = False


class Sending:
    """One name that is being sent, with its cut names."""

    __slots__ = ("ended", "name", "rests")

    def __init__(self, name: Key, rests: tuple[Key, ...]) -> None:
        self.name, self.rests = name, rests
        self.ended: Event | None = None

    def wait(self, seconds: float) -> bool:
        """Wait for the end; return whether it has come."""
        if self.ended is None:
            self.ended = Event()
        return self.ended.wait(seconds)


class NamesUnderWay:
    """The names that the transfers of one process send."""

    def __init__(self) -> None:
        """Start without names."""
        self._names: dict[Key, list[Sending]] = {}
        self._rests: dict[Key, Sending] = {}

    def enter(
        self,
        place: Location,
        cut_names: Callable[[], Sequence[Location]],
        tick: Callable[[], None],
        tick_seconds: float,
    ) -> Sending:
        """Add a place, whose name may be cut to one of `cut_names`; `leave` must follow. If another
        transfer may send the same object, wait for its end, with a `tick` every `tick_seconds`: the
        server's ways may be known then, and no cut name be left. Raises as `tick`."""
        name = _key_of(place)
        while True:
            rests = tuple(_key_of(rest) for rest in cut_names())
            rival = self._rival_of(name, rests)
            if rival is None:
                break
            while not rival.wait(tick_seconds):
                tick()
        sending = Sending(name, rests)
        self._names.setdefault(name, []).append(sending)
        for rest in rests:
            self._rests[rest] = sending
        return sending

    def leave(self, sending: Sending) -> None:
        """Remove a name, and let others go on."""
        self.release_rests(sending)
        same = self._names[sending.name]
        same.remove(sending)
        if not same:
            del self._names[sending.name]
        if sending.ended is not None:
            sending.ended.set()

    def release_rests(self, sending: Sending) -> None:
        """Let others send the cut names of this one, since nothing shows whether it is cut."""
        for rest in sending.rests:
            del self._rests[rest]
        sending.rests = ()
        if sending.ended is not None:
            sending.ended.set()
            sending.ended = None

    def _rival_of(self, name: Key, rests: tuple[Key, ...]) -> Sending | None:
        """Return a transfer that may send the same object by another name, or None."""
        for key in (name, *rests):
            if key in self._rests:
                return self._rests[key]
        return next((self._names[rest][0] for rest in rests if rest in self._names), None)


def _key_of(place: Location) -> Key:
    return place.origin, place.target
