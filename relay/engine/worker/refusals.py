"""Decide what a 401 for one object means: that object's own refusal, or expired credentials for
all.

Theory of operation. One protected object must not stop all others, and withdrawn credentials must
not fail all that is left. One such answer does not tell which it is, but the others do: an object
that is refused waits a moment, and comes again. Where a transfer that began after the refusal has
ended well, the store knows the credentials, and the refusal is the object's own. Where nobody gets
through any more, it is everybody's, and the migration waits.

Decided here: that. Never here: who waits, and how (`claimer.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from math import inf
from typing import Final, Protocol

from relay.engine.worker.migration_cache import MigrationCache
from relay.errors import (
    CredentialsWithdrawn,
    LedgerFailed,
    PermissionDenied,
    RelayError,
    StoreFull,
    Unauthenticated,
)
from relay.ledger.rows import Claim

PATIENCE: Final = 8
"""So many objects in a row are refused before it is everybody's: more would only knock at a closed
door."""
AGAIN_SECONDS: Final = 1.0
"""How soon one that is refused comes again."""
KEPT: Final = 64
"""So many migrations are remembered."""

Key = tuple[str, int]
"""A migration, and which of its credentials."""


class Verdict(Enum):
    """What a refusal is."""

    OWN = "own"
    LATER = "later"
    """Nobody can tell yet."""
    ALL = "all"


@dataclass(eq=False)
class RefusalHistory:
    """What this process has seen of them."""

    clock: Callable[[], float]
    _good: dict[Key, float] = field(default_factory=dict)
    _waiting: dict[Key, dict[int, float]] = field(default_factory=dict)

    def note_success(self, claim: Claim, began: float) -> None:
        """Note that a transfer that began then has ended well."""
        key = (claim.migration_id, claim.renewed)
        self._good[key] = max(began, self._good.pop(key, -inf))
        if len(self._good) > KEPT:
            del self._good[next(iter(self._good))]

    def has_succeeded(self, claim: Claim) -> bool:
        """Say if any transfer has ended well with the credentials of this claim."""
        return (claim.migration_id, claim.renewed) in self._good

    def judge(self, claim: Claim, is_busy_since: Callable[[float], bool]) -> Verdict:
        """Judge the refusal of a claim. `is_busy_since` says if others of its migration, which
        began after a moment, are still under way."""
        key, now = (claim.migration_id, claim.renewed), self.clock()
        waiting = self._waiting.setdefault(key, {})
        first, good = waiting.setdefault(claim.id, now), self._good.get(key, -inf)
        if good > first:
            del waiting[claim.id]
            return Verdict.OWN
        in_a_row = sum(since > good for since in waiting.values())
        if in_a_row < PATIENCE and (first == now or is_busy_since(first)):
            return Verdict.LATER
        del self._waiting[key]
        return Verdict.ALL


class UnderWay(Protocol):
    """A transfer that runs in this process."""

    @property
    def claim(self) -> Claim:
        """What it was claimed as."""

    @property
    def began(self) -> float:
        """When it began, by the clock of who judges."""


class RefusalJudge:
    """Says what a refusal means, by what this process has seen, and what the ledger and the source
    say."""

    def __init__(
        self, jobs: MigrationCache, clock: Callable[[], float], active: Mapping[int, UnderWay]
    ) -> None:
        """`active` are the transfers that run here, as they are at each moment."""
        self._jobs, self._clock, self._active = jobs, clock, active
        self._refusals = RefusalHistory(clock)
        self._asked: dict[str, float] = {}

    def note_success(self, claim: Claim, began: float) -> None:
        """Note that a transfer that began then has ended well."""
        self._refusals.note_success(claim, began)

    def judge(self, claim: Claim, error: RelayError) -> Verdict | LedgerFailed:
        """Say if an error is the object's own, or everybody's. Or why the ledger did not tell."""
        if not isinstance(error, Unauthenticated | StoreFull):
            return Verdict.OWN
        if not claim.name or isinstance(error, CredentialsWithdrawn | StoreFull):
            return Verdict.ALL
        verdict = self._refusals.judge(claim, lambda moment: self._is_busy_since(claim, moment))
        if (
            verdict is Verdict.ALL
            and error.side == "source"
            and not self._refusals.has_succeeded(claim)
        ):
            try:
                return Verdict.OWN if self._is_told_to_go_on(claim) else verdict
            except LedgerFailed as failure:
                return failure
        return verdict

    def _is_busy_since(self, claim: Claim, moment: float) -> bool:
        others = [
            one for one in self._active.values() if one.claim.migration_id == claim.migration_id
        ]
        return any(one.began > moment and one.claim.id != claim.id for one in others)

    def _is_told_to_go_on(self, claim: Claim) -> bool:
        """Say if a migration has waited for credentials once, and was told to go on with those that
        it has: what the source refuses then, and it does not refuse to list, it refuses for good.
        Raises LedgerFailed."""
        if not self._jobs.has_waited(claim):
            return False
        if claim.url:
            return True
        try:
            return not self._jobs.source_denies_listing(
                self._jobs.job(claim.migration_id, claim.renewed)
            )
        except LedgerFailed:
            raise
        except RelayError:
            return False

    def classify_denial(self, claim: Claim, error: PermissionDenied) -> RelayError:
        """Return what a denial (403) means: of more than this object, that the credentials are not
        good any more. Or why the ledger did not tell."""
        try:
            if not (
                self._jobs.is_still_denied(claim, error.side) or self._source_denies(claim, error)
            ):
                return error
        except LedgerFailed as failure:
            return failure
        return CredentialsWithdrawn(error.message, side=error.side, store_status=error.store_status)

    def _source_denies(self, claim: Claim, error: PermissionDenied) -> bool:
        """Say if it is not this object alone that the source denies, but what it let us list
        before."""
        id, now = claim.migration_id, self._clock()
        if error.side != "source" or not claim.name or claim.url or now < self._asked.get(id, -1.0):
            return False
        try:
            job = self._jobs.job(id, claim.renewed)
        except RelayError:
            return False
        if self._jobs.source_denies_listing(job):
            return True
        self._asked = {id: now + AGAIN_SECONDS}  # so many may be denied, one after the other
        return False
