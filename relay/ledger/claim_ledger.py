"""The public interface of the ledger for claims: every call is one transaction, and raises as those
of `Ledger`."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from relay.ledger import claims, ledger_log, poll, retried, settling
from relay.ledger.claim_values import Claim, PollResult, Settlement
from relay.ledger.counters import CounterDelta
from relay.ledger.distrust import distrust_recent_commits
from relay.ledger.ledger_access import LedgerAccess
from relay.ledger.releases import release_unknown_claims
from relay.ledger.states import TransferVerb
from relay.logs.emitter import is_written
from relay.logs.event_table import LogEvent


@dataclass(frozen=True)
class ClaimLedger:
    """The claims of one worker."""

    access: LedgerAccess

    def settle_and_claim(
        self,
        ends: Sequence[Settlement],
        wanted: claims.ClaimRequest,
        only: str | None = None,
        watched: Iterable[str] = (),
    ) -> PollResult:
        """As poll.settle_and_claim; reads first if there is nothing to settle."""
        worker = self.access.worker
        if not ends:
            seen = self.access.read(
                lambda c: poll.peek(c, worker, wanted, only, watched), operation="turn"
            )
            if seen is not None:
                return seen
        result = self.access.write(
            lambda c: poll.settle_and_claim(c, worker, ends, wanted, only=only, watched=watched),
            operation="turn",
        )
        self._count(ends, result.lost)
        return result

    def claim(
        self,
        limit: int,
        only: str | None = None,
        alone: bool = True,
        large: int | None = None,
        only_large: int | None = None,
    ) -> list[Claim]:
        """As claims.claim; by default large transfers are not limited further."""
        wanted = claims.ClaimRequest(
            all=limit,
            large=limit if large is None else large,
            only_large=limit if only_large is None else only_large,
            alone=alone,
        )
        return list(self.settle_and_claim((), wanted, only).claims)

    def settle(self, ends: Sequence[Settlement]) -> list[Claim]:
        """As settling.settle."""

        def settle_claims(connection: Connection) -> list[Claim]:
            changes = CounterDelta()
            lost = settling.settle(connection, self.access.worker, ends, changes)
            changes.write(connection)
            return lost

        lost = self.access.write(settle_claims)
        self._count(ends, lost)
        return lost

    def check(self, claim: Claim) -> None:
        """As claims.check_claim."""
        self.access.read(lambda c: claims.check_claim(c, self.access.worker, claim))

    def note_retried(self, troubles: Sequence[tuple[Claim, Mapping[str, Any] | None]]) -> None:
        """As retried.note."""
        self.access.write(lambda c: retried.note(c, self.access.worker.id, troubles))

    def release_unknown(self, kept: Iterable[Claim], shared: Iterable[int] = ()) -> int:
        """As release_unknown_claims, and distrust recent commits: the database that failed
        may have been replaced by an older copy."""

        def release(connection: Connection) -> int:
            distrust_recent_commits(connection, ended=False)
            return release_unknown_claims(connection, self.access.worker, kept, shared)

        return self.access.write(release)

    def _count(self, ends: Sequence[Settlement], lost: Collection[Claim]) -> None:
        """Count and log the objects whose settlements were stored: those of claims that were not
        `lost`."""
        tallies = self.access.database.tallies
        refused = {(claim.id, claim.fence) for claim in lost}
        is_shown = is_written(LogEvent.TRANSFER_SETTLED)
        for end in ends:
            settled = end.verb != TransferVerb.HAND_BACK
            if not settled or (end.claim.id, end.claim.fence) in refused:
                continue
            tallies.end_transfer(end.verb, end.level, end.bytes, end.seconds)
            if end.verb == TransferVerb.FAILED and end.error is not None:
                tallies.fail_transfer(end.error.get("side", "relay"), end.error["code"])
                ledger_log.log_failure(end.claim, end.error)
            elif is_shown:
                ledger_log.log_success(end)
