"""The claims of one worker: those that it holds, and the settlements that are not yet stored.

Theory of operation. A claim is in hand from the poll that made it until its settlement is stored.
If the ledger fails, a claim may have been committed although its answer was lost. Before the next
poll the ledger then releases the claims that it holds for this worker and that are not in hand.

Decided here: which claims this worker holds. Never here: how many it claims (`worker.py`)."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from relay.engine.tree_listing import error_members
from relay.errors import LedgerRefused
from relay.ledger.claim_values import Claim, PollResult, Settlement
from relay.ledger.claims import SUSPECT, ClaimRequest, is_large
from relay.ledger.ledger import Ledger
from relay.ledger.states import TransferVerb
from relay.process.failpoints import reach


class ClaimsInHand:
    """The claims of one worker."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._claims: dict[int, Claim] = {}
        self._settlements: list[Settlement] = []
        self._may_be_incomplete = False

    @property
    def count(self) -> int:
        """Number of claims whose settlement is not stored yet."""
        return len(self._claims)

    @property
    def running(self) -> int:
        """Number of claims that are queued or run."""
        return len(self._claims) - len(self._settlements)

    @property
    def large(self) -> int:
        """Number of claims of large objects."""
        return sum(map(is_large, self._claims.values()))

    @property
    def has_suspect(self) -> bool:
        """True if workers were lost with one of the transfers: nothing may run beside it."""
        return max([claim.crash_count for claim in self._claims.values()], default=0) >= SUSPECT

    @property
    def settlements(self) -> tuple[Settlement, ...]:
        """The settlements that are not stored yet."""
        return tuple(self._settlements)

    def migrations(self) -> set[str]:
        """Return the ids of the migrations with a claim in hand."""
        return {claim.migration_id for claim in self._claims.values()}

    def add_settlement(self, end: Settlement) -> None:
        """Keep the settlement of a transfer that has ended, for the next poll."""
        self._settlements.append(end)

    def doubt(self) -> None:
        """Note that the ledger may hold a claim or a part for this worker that is not in hand."""
        self._may_be_incomplete = True

    def release_unknown(self, helped: Collection[int]) -> None:
        """After `doubt`, release the claims that are not in hand, and the parts of objects that are
        not `helped` with. Raises LedgerFailed."""
        if self._may_be_incomplete:
            self._ledger.claims.release_unknown(tuple(self._claims.values()), tuple(helped))
            self._may_be_incomplete = False

    def settle_and_claim(
        self,
        ends: Sequence[Settlement],
        request: ClaimRequest,
        only: str | None,
        watched: Collection[str],
    ) -> PollResult:
        """Store the settlements `ends`, and claim transfers, in one transaction. Raises
        LedgerFailed; if the ledger refuses a settlement, all are stored one by one before."""
        if ends:
            reach("before-settle")
        try:
            result = self._ledger.claims.settle_and_claim(ends, request, only, watched)
        except LedgerRefused:
            self._settle_each(ends)
            raise
        if ends:
            reach("after-settle")
        self._note_settled(ends)
        self._claims |= {claim.id: claim for claim in result.claims}
        if result.claims:
            reach("after-claim")
        return result

    def settle_all(self) -> None:
        """Store all settlements. Raises LedgerFailed."""
        ends = self.settlements
        if ends:
            reach("before-settle")
            self._ledger.claims.settle(ends)
            reach("after-settle")
        self._note_settled(ends)

    def _settle_each(self, ends: Sequence[Settlement]) -> None:
        """Settle one by one the claims that the ledger refuses together. A claim whose settlement
        the ledger can't store fails."""
        for end in ends:
            try:
                self._ledger.claims.settle([end])
            except LedgerRefused as error:
                members = error_members(error)
                # Without its receipt: a value in it may be the one that the database refuses.
                self._ledger.claims.settle(
                    [Settlement(end.claim, TransferVerb.FAILED, error=members)]
                )
            self._settlements.remove(end)
            self._forget(end.claim)

    def _note_settled(self, ends: Sequence[Settlement]) -> None:
        del self._settlements[: len(ends)]  # more may have been added while the ledger was asked
        for end in ends:
            self._forget(end.claim)

    def _forget(self, claim: Claim) -> None:
        """Remove a claim from those in hand, but not a newer claim of the same object."""
        held = self._claims.get(claim.id)
        if held is not None and held.fence == claim.fence:
            del self._claims[claim.id]
