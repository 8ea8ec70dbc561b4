"""Decide what a 401, or a 403 after a pause for credentials, or a full store means for the
migration: the refusal of one object, or of all.

Theory of operation. One protected object must not stop all others, and withdrawn credentials must
not fail every remaining object. A single 401 does not show which case it is, but other objects do:
a refused object is retried after a moment. If a transfer that began after the refusal succeeds, the
store accepts the credentials, and the refusal concerns that object only. If all transfers that run
have been refused as well, it concerns all objects, and the migration is paused. A full store is
judged in the same way: a folder may have a quota of its own, and a smaller object may fit.

Only a transfer that did what was refused proves something: a skipped object was inspected and not
sent, and an empty one needs no space.

Decided here: whether a refusal concerns one object or all. Never here: the retry and the pause
(`failure_policy.py`)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from enum import Enum
from math import inf
from typing import Final, Literal, Protocol, get_args

from relay.engine.outcome import Outcome
from relay.engine.worker.migration_cache import MigrationCache
from relay.errors import (
    CredentialsWithdrawn,
    LedgerFailed,
    PermissionDenied,
    RelayError,
    StoreError,
    StoreFull,
    Unauthenticated,
)
from relay.ledger.claim_values import Claim

PATIENCE: Final = 8
"""Number of objects refused in a row at which the refusal concerns all objects."""
AGAIN_SECONDS: Final = 1.0
"""Delay before a refused object is retried for the first time. It doubles with each retry."""
MAX_AGAIN_SECONDS: Final = 30.0
"""Maximum delay before a refused object is claimed again, since its case may be decided by then."""
KEPT: Final = 256
"""Maximum number of recorded successes."""

Need = Literal["source", "destination", "inspection", "space"]
"""What a store gives or refuses to a transfer: access to a side, a look at the destination before
anything is sent, or space there."""
NEEDS: Final[tuple[Need, ...]] = get_args(Need)
Key = tuple[str, int, Need]
"""A migration's id, the number of its credentials (`Claim.renewed`), and a need."""


class Verdict(Enum):
    """The scope of a refusal."""

    OWN = "own"
    """That object only."""
    LATER = "later"
    """Unknown so far: the object is retried."""
    ALL = "all"
    """All objects of the migration."""


@dataclass(eq=False)
class RefusalHistory:
    """The refusals and successes that this process has seen."""

    clock: Callable[[], float]
    _good: dict[Key, float] = field(default_factory=dict)
    _waiting: dict[Key, dict[int, tuple[float, float]]] = field(default_factory=dict)
    """The first and the last refusal of each object."""

    def note_success(self, claim: Claim, began: float, given: Collection[Need]) -> None:
        """Record that a transfer that `began` at a time of `clock` has succeeded, and that the
        stores have `given` these needs to it."""
        for need in NEEDS:
            key = (claim.migration_id, claim.renewed, need)
            if self._waiting:
                self._forget_refusal(key, claim)
            if need in given:
                # `pop` moves the key to the end: the one without a recent success is dropped.
                self._good[key] = max(began, self._good.pop(key, -inf))
        if len(self._good) > KEPT:
            del self._good[next(iter(self._good))]

    def has_succeeded(self, claim: Claim, need: Need) -> bool:
        """Return whether any transfer has been given this need with the credentials of this
        claim."""
        return (claim.migration_id, claim.renewed, need) in self._good

    def seconds_to_wait(self, claim: Claim, is_busy: Callable[[Collection[int]], bool]) -> float:
        """Return the delay before a claim is run, 0 unless it was refused. It doubles with each
        refusal, as long as `is_busy`: a store may refuse an object after its last byte."""
        for need in NEEDS if self._waiting else ():
            key = (claim.migration_id, claim.renewed, need)
            first, last = self._waiting.get(key, {}).get(claim.id, (-inf, -inf))
            refused = self._refused_claims(key)
            if claim.id in refused and is_busy(refused):
                due = last + max(last - first, AGAIN_SECONDS)
                return min(max(due - self.clock(), 0.0), MAX_AGAIN_SECONDS)
        return 0.0

    def judge(
        self, claim: Claim, need: Need, is_busy: Callable[[Collection[int]], bool]
    ) -> Verdict:
        """Judge the refusal of a claim. `is_busy` says if transfers of its migration are running
        that are not in a given collection of claims."""
        key, now = (claim.migration_id, claim.renewed, need), self.clock()
        waiting = self._waiting.setdefault(key, {})
        first, _ = waiting.get(claim.id, (now, now))
        waiting[claim.id] = (first, now)
        # A transfer that began after this object's first refusal has succeeded.
        if self._good.get(key, -inf) > first:
            self._forget_refusal(key, claim)
            return Verdict.OWN
        refused = self._refused_claims(key)
        # Below PATIENCE the first refusal of an object (`first == now`) decides nothing: others may
        # succeed while it waits for its retry.
        if len(refused) < PATIENCE and (first == now or is_busy(refused)):
            return Verdict.LATER
        del self._waiting[key]
        return Verdict.ALL

    def _refused_claims(self, key: Key) -> set[int]:
        """Return the claims that were refused since the last transfer that succeeded began."""
        good = self._good.get(key, -inf)
        return {id for id, (first, _) in self._waiting.get(key, {}).items() if first > good}

    def _forget_refusal(self, key: Key, claim: Claim) -> None:
        """Forget the earlier refusals of an object whose case is decided."""
        waiting = self._waiting.get(key, {})
        waiting.pop(claim.id, None)
        if not waiting:
            self._waiting.pop(key, None)


class UnderWay(Protocol):
    """A transfer that runs in this process."""

    @property
    def claim(self) -> Claim:
        """The claim of the transfer."""

    @property
    def began(self) -> float:
        """When the transfer began, by the judge's clock."""


class RefusalJudge:
    """Judges refusals, by the history in this process, the ledger, and the source's listing."""

    def __init__(
        self, jobs: MigrationCache, clock: Callable[[], float], active: Mapping[int, UnderWay]
    ) -> None:
        """`active` is the live mapping of the running transfers."""
        self._jobs, self._clock, self._active = jobs, clock, active
        self._refusals = RefusalHistory(clock)
        self._asked: dict[str, float] = {}

    def note_success(
        self, active: UnderWay, outcome: Outcome, *, is_read: bool, is_inspected: bool
    ) -> None:
        """Record that a transfer has succeeded; `is_read` says if its source has answered,
        `is_inspected` if its destination has described the place."""
        given: list[Need] = ["source"] if is_read else []
        if is_inspected or outcome.receipt is not None:
            given.append("inspection")
        if outcome.receipt is not None:
            given.append("destination")
            self._jobs.note_success(active.claim)
            if outcome.bytes:
                given.append("space")
        self._refusals.note_success(active.claim, active.began, given)

    def seconds_to_wait(self, claim: Claim) -> float:
        """Return the delay before a claim is run, 0 unless it was refused while others run."""
        return self._refusals.seconds_to_wait(claim, lambda refused: self._is_busy(claim, refused))

    def judge(
        self, claim: Claim, error: RelayError, *, has_sent: bool = True
    ) -> tuple[Verdict, RelayError]:
        """Return what an error concerns, and the error to report: a denial (403) of all objects is
        CredentialsWithdrawn. While the ledger does not answer, the verdict is LATER. `has_sent` is
        False if no claim has sent a byte: a destination has refused an inspection then."""
        need = _need_of(error, has_sent)
        try:
            if not isinstance(error, PermissionDenied | Unauthenticated | StoreFull):
                return Verdict.OWN, error
            if self._jobs.is_outdated(claim):
                return Verdict.LATER, error
            if isinstance(error, PermissionDenied):
                return self._judge_denial(claim, error, need)
            # A single object is the whole migration, and these credentials worked before.
            if not claim.name or isinstance(error, CredentialsWithdrawn):
                return Verdict.ALL, error
            return self._judge_refusal(claim, error, need), error
        except LedgerFailed:
            return Verdict.LATER, error

    def _judge_denial(
        self, claim: Claim, error: PermissionDenied, need: Need
    ) -> tuple[Verdict, RelayError]:
        """Judge a denial. It concerns that object only, unless the source denies its listing too.
        After a pause for credentials it may concern all, as long as nothing has succeeded with the
        new ones: then other objects decide, as for a 401. Raises LedgerFailed."""
        withdrawn = CredentialsWithdrawn(
            error.message, side=error.side, store_status=error.store_status
        )
        withdrawn.keep(error.remains)
        if self._source_denies(claim, error):
            return Verdict.ALL, withdrawn
        if not self._jobs.is_still_denied(claim, error.side):
            return Verdict.OWN, error
        verdict = self._judge_refusal(claim, error, need) if claim.name else Verdict.ALL
        return verdict, withdrawn if verdict is Verdict.ALL else error

    def _judge_refusal(self, claim: Claim, error: StoreError, need: Need) -> Verdict:
        """Judge a refusal by the other objects of the migration. Raises LedgerFailed."""
        verdict = self._refusals.judge(claim, need, lambda refused: self._is_busy(claim, refused))
        # The user has resumed the migration, and the source permits its listing: another pause
        # would ask for credentials that are right.
        if (
            verdict is Verdict.ALL
            and error.side == "source"
            and not self._refusals.has_succeeded(claim, "source")
            and self._is_resumed_by_user(claim)
        ):
            return Verdict.OWN
        return verdict

    def _is_busy(self, claim: Claim, refused: Collection[int]) -> bool:
        return any(
            one.claim.migration_id == claim.migration_id and one.claim.id not in refused
            for one in self._active.values()
        )

    def _is_resumed_by_user(self, claim: Claim) -> bool:
        """Return whether a migration was paused for credentials before and resumed by its user, and
        the source does not refuse its listing: then the refusal concerns that object, for good.
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

    def _source_denies(self, claim: Claim, error: PermissionDenied) -> bool:
        """Return whether the source denies not only this object, but also the listing that it
        allowed before."""
        id, now = claim.migration_id, self._clock()
        if error.side != "source" or not claim.name or claim.url or now < self._asked.get(id, -1.0):
            return False
        try:
            job = self._jobs.job(id, claim.renewed)
        except RelayError:
            return False
        if self._jobs.source_denies_listing(job):
            return True
        self._asked = {id: now + AGAIN_SECONDS}  # many objects may be denied in a row: ask once
        return False


def _need_of(error: RelayError, has_sent: bool) -> Need:
    """Return what a refusal did not give."""
    if isinstance(error, StoreFull):
        return "space"
    if error.side == "source":
        return "source"
    return "destination" if has_sent else "inspection"
