"""The outcome of a transfer that succeeded.

Decided here: what is told of it. Never here: whether it did.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from relay.location import Location
from relay.receipt import Receipt, State


@dataclass(frozen=True)
class Outcome:
    """How a transfer ended well. `receipt` is None for one that was skipped."""

    id: str
    state: State
    source: Location
    destination: Location
    bytes: int
    seconds: float
    receipt: Receipt | None
    notes: tuple[str, ...] = ()
    """Why it was skipped, where it was."""
    remains: Mapping[str, str] = field(default_factory=dict)
    """What attempts before the last one left, and nobody has removed: in words, by place."""

    def to_json(self) -> Mapping[str, Any]:
        """Return it as the API and the command line print it; locations without their secrets."""
        return {
            "id": self.id,
            "state": self.state.value,
            "source": str(self.source),
            "destination": str(self.destination),
            "bytes": self.bytes,
            "seconds": round(self.seconds, 3),
            "receipt": None if self.receipt is None else self.receipt.to_json(),
        }
