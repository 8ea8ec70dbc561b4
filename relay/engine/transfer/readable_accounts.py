"""Remember the destinations that let relay read what it sent; a later denial means withdrawn
credentials.

Decided here: which destinations are remembered. Never here: the meaning of a 403 (`finalize.py`).
"""

from __future__ import annotations

from relay.location import Account, Location

MOST = 64
"""Maximum number of remembered accounts; the oldest are dropped first."""


class ReadableAccounts:
    """The accounts that have read something at a destination, for the life of the process.

    Accounts are compared by identity: fresh credentials make a new account, even if it is equal. A
    plain HTTP server has no account and is never remembered, since each of its URLs may be signed
    for another method."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._accounts: dict[int, Account] = {}

    def note(self, place: Location) -> None:
        """Remember that this destination permits reading."""
        if place.account is None:
            return
        self._accounts[id(place.account)] = (
            place.account
        )  # the reference keeps the account alive, so that its id is not reused
        while len(self._accounts) > self._most:
            del self._accounts[next(iter(self._accounts))]

    def has(self, place: Location) -> bool:
        """Say if this destination has permitted reading before."""
        return id(place.account) in self._accounts
