"""Remember the destinations that let relay read what it sent; a later denial means withdrawn
credentials.

Decided here: whom that is remembered of. Never here: what a denial means (`acceptance.py`).
"""

from __future__ import annotations

from relay.location import Account, Location

MOST = 64
"""So many are remembered; the oldest are forgotten first."""


class ReadableAccounts:
    """The accounts under which something was read at a destination, as long as the process lives.

    An account is remembered for what it is, not for what it equals: one that was made of fresh
    credentials is another. A plain HTTP server has none, and each of its URLs may be signed for
    something else: it is never remembered."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._accounts: dict[int, Account] = {}

    def note(self, place: Location) -> None:
        """Keep in mind that this destination let us read."""
        if place.account is None:
            return
        self._accounts[id(place.account)] = (
            place.account
        )  # which keeps it, so that no other gets its id
        while len(self._accounts) > self._most:
            del self._accounts[next(iter(self._accounts))]

    def has(self, place: Location) -> bool:
        """Say if it let us read before."""
        return id(place.account) in self._accounts
