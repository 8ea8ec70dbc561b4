"""The outcome of a transfer that succeeded.

Decided here: how it is reported. Never here: whether the transfer succeeded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from relay.location import Location
from relay.receipt import Receipt, State


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The result of a successful transfer. `receipt` is None if the object was skipped."""

    id: str
    state: State
    source: Location
    destination: Location
    bytes: int
    seconds: float
    receipt: Receipt | None
    notes: tuple[str, ...] = ()
    """The reasons of a skip."""
    remains: Mapping[str, str] = field(default_factory=dict)
    """Sentences about the leftovers of earlier attempts, by place."""

    def to_json(self) -> Mapping[str, Any]:
        """Return it as JSON values, as the API and the command line print it; locations without
        their secrets."""
        return {
            "id": self.id,
            "state": self.state.value,
            "source": str(self.source),
            "destination": str(self.destination),
            "bytes": self.bytes,
            "seconds": round(self.seconds, 3),
            "receipt": None if self.receipt is None else self.receipt.to_json(),
        }
