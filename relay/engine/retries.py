"""What is retried at the moment: the object, the reason, and the time of the next attempt.

Decided here: what is told of it, and of which of several. Never here: whether, and when, something
is tried again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from time import time
from typing import Any

from relay.errors import RelayError, Side
from relay.wire.watchdog import Watchdog

WHOLE = "the object"


@dataclass(frozen=True, kw_only=True)
class PendingRetry:
    """One thing that failed and is tried again. `again` and `since` are seconds since 1970."""

    what: str
    code: str
    side: Side
    detail: str
    failures: int
    """How many attempts have failed since the trouble began."""
    since: float
    again: float

    def to_json(self) -> Mapping[str, Any]:
        """Return it as plain values."""
        return {
            "what": self.what,
            "error": self.code,
            "side": self.side,
            "detail": self.detail,
            "failures": self.failures,
            "since": round(self.since, 3),
            "again": round(self.again, 3),
        }


@dataclass(eq=False)
class PendingRetries:
    """The troubles of one transfer: of the whole of it, and of its parts."""

    clock: Callable[[], float] = time
    _of: dict[str, PendingRetry] = field(default_factory=dict)

    @property
    def worst(self) -> PendingRetry | None:
        """Return the one that has lasted the longest, None while all goes well."""
        return min(self._of.values(), key=lambda one: one.since, default=None)

    def note(self, what: str, error: RelayError, failures: int, wait: float) -> None:
        """Take note that `what` failed, for the time number `failures`, and is tried again in
        `wait` seconds."""
        now, before = self.clock(), self._of.get(what)
        self._of[what] = PendingRetry(
            what=what,
            code=error.code,
            side=error.side,
            detail=error.message,
            failures=failures,
            since=before.since if before is not None and failures > 1 else now,
            again=now + wait,
        )

    def over(self, what: str) -> None:
        """Take note that `what` is well, or is not tried again."""
        self._of.pop(what, None)


def listing_trouble(meter: Watchdog) -> PendingRetry | None:
    """Return what of the listing that a meter measures is tried again at the moment, if anything
    is."""
    if meter.borne is None:
        return None
    error, failures, since, again = meter.borne
    return PendingRetry(
        what="the listing",
        code=error.code,
        side=error.side,
        detail=error.message,
        failures=failures,
        since=since,
        again=again,
    )
