"""Decide how a failed transfer is settled: retried later, failed, or paused with its migration.

Decided here: the settlement of a failed transfer. Never here: what a refusal concerns
(`refusals.py`)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from relay.engine.outcome import Outcome
from relay.engine.transfer.transfer import Transfer
from relay.engine.tree_listing import error_members
from relay.engine.worker.migration_cache import MigrationCache
from relay.engine.worker.refusals import AGAIN_SECONDS, RefusalJudge, Verdict
from relay.errors import KeyCollision, LeaseLost, LedgerFailed, RelayError
from relay.ledger.claim_values import Claim, Settlement
from relay.ledger.ledger import Ledger
from relay.ledger.states import TransferVerb


class FailurePolicy:
    """Settles the failed transfers of one process."""

    def __init__(
        self,
        ledger: Ledger,
        jobs: MigrationCache,
        judge: RefusalJudge,
        ended: Callable[[Claim, Outcome | RelayError], None],
    ) -> None:
        """`ended` is called with each transfer that failed for good."""
        self._ledger = ledger
        self._jobs = jobs
        self._judge = judge
        self._ended = ended

    def settle(
        self, claim: Claim, transfer: Transfer | None, error: RelayError, *, stopped: bool
    ) -> Settlement:
        """Return the settlement of a transfer that ended with `error`; `transfer` is None if it
        failed before it was made. `stopped` says that this process cancelled it: then it is handed
        back."""
        if isinstance(error, KeyCollision) and not (transfer and transfer.has_sent):
            # It was refused before its first byte, so the other objects of its folded name need not
            # consider it. If this fails the object counts as sent, which is the safe side.
            with suppress(LedgerFailed, LeaseLost):
                self._ledger.destinations.leave_folded(claim)
        if stopped or isinstance(error, LedgerFailed):
            return hand_back(claim, transfer, error)
        has_sent = transfer is None or not transfer.has_sent_nothing
        verdict, error = self._judge.judge(claim, error, has_sent=has_sent)
        if verdict is Verdict.LATER:
            wait = self._judge.seconds_to_wait(claim)
            return hand_back(claim, transfer, error, wait=max(wait, AGAIN_SECONDS))
        if verdict is Verdict.ALL:
            # Every other object would fail the same way, so the migration waits for new credentials
            # or for free space.
            self._jobs.pause(claim, error)
            return hand_back(claim, transfer, error)
        self._ended(claim, error)
        return replace(
            hand_back(claim, transfer, error),
            verb=TransferVerb.FAILED,
            seconds=transfer.meter.seconds() if transfer else None,
            error=error_members(error),
        )


def hand_back(
    claim: Claim, transfer: Transfer | None, error: RelayError, wait: float = 0.0
) -> Settlement:
    """Return the settlement of a claim that is handed back because of an error, to be claimed again
    after `wait` seconds at the earliest."""
    end = Settlement(claim, TransferVerb.HAND_BACK, wait=wait, remains=error.remains)
    if transfer is None:
        return end
    return replace(
        end,
        resent=transfer.resent,
        unsent=transfer.unsent,
        rid=transfer.frees_slot,
        untouched=transfer.has_sent_nothing,
    )
