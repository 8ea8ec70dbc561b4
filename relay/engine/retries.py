"""The pending retries of a transfer: the operation, the reason, and the time.

Decided here: how a retry is reported, and which of several. Never here: whether, and when,
something is retried."""

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
    """A failure that is retried. `since` (the first failure) and `again` (the next attempt) are in
    seconds since 1970."""

    what: str
    code: str
    side: Side
    detail: str
    failures: int
    """Number of consecutive failures."""
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
    """The pending retries of one transfer: of the whole object, and of its parts."""

    clock: Callable[[], float] = time
    _of: dict[str, PendingRetry] = field(default_factory=dict)

    @property
    def worst(self) -> PendingRetry | None:
        """The retry that has lasted longest, or None."""
        return min(self._of.values(), key=lambda one: one.since, default=None)

    def note(self, what: str, error: RelayError, failures: int, wait: float) -> None:
        """Note that `what` has failed `failures` times in a row, and is retried in `wait`
        seconds."""
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
        """Note that `what` has succeeded, or is not retried."""
        self._of.pop(what, None)


def listing_trouble(meter: Watchdog) -> PendingRetry | None:
    """Return the pending retry of the listing that `meter` watches, or None."""
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
