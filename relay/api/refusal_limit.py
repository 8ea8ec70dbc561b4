"""How many refused requests of one address are answered in full.

A refusal with its problem, its line in the log and its lingering close costs a few times as much as
a short one. Who sends many wrong requests gets short ones.

Decided here: which address has sent too many. Never here: which requests may be refused
(`first_bytes.py`, `early_answers.py`): one that would be answered never is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic
from typing import Final

from relay.api.proxies import address_group
from relay.errors import TooManyRequests

BURST_SECONDS: Final = 2.0
"""Refusals that may come at once, in seconds of the rate."""
MOST_ADDRESSES: Final = 1000
"""Addresses that are remembered; beyond them, all are forgotten."""


@dataclass
class RefusalLimit:
    """The refusals of each address, in one process. A token bucket (RFC 2697 section 3) for each of
    them."""

    per_second: int
    """0 disables the limit."""
    clock: Callable[[], float] = monotonic
    _filled: dict[str, tuple[float, float]] = field(default_factory=dict, repr=False)
    """Of each address: the content of its bucket, and when that was so."""

    def note(self, address: str) -> None:
        """Count a refusal that was answered in full."""
        if not self.per_second or not address:
            return
        address = address_group(address)
        if address not in self._filled and len(self._filled) >= MOST_ADDRESSES:
            self._filled.clear()
        now = self.clock()
        self._filled[address] = max(0.0, self._content(address, now) - 1), now

    def is_over(self, address: str) -> bool:
        """Return whether an address has had all full answers that it gets for now."""
        if not self._filled or not address:
            return False
        address = address_group(address)
        return address in self._filled and self._content(address, self.clock()) < 1

    def error(self) -> TooManyRequests:
        """Return the short refusal."""
        return TooManyRequests(
            f"more than {self.per_second} requests a second of this address were refused",
            retry_after=1.0,
        )

    def _content(self, address: str, now: float) -> float:
        full = self.per_second * BURST_SECONDS
        content, at = self._filled.get(address, (full, now))
        return min(full, content + (now - at) * self.per_second)
