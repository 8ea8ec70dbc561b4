"""The totals of a ledger, in both databases: counts by state, which migrations need a person, and
what a process has counted."""

from __future__ import annotations

import pytest

from relay.errors import ConfigError, LedgerFailed, StoreFull, StoreTimeout, Unauthenticated
from relay.ledger.claim_values import Settlement
from relay.ledger.claims import ClaimRequest
from relay.ledger.states import MigrationState, MigrationVerb
from relay.ledger.totals import REASONS
from tests.ledgers import Opened, tree, verified_end


def test_an_empty_ledger_shows_zeros(open_ledger: Opened) -> None:
    """Each state and each reason is there, so that the first one is an increase."""
    found = open_ledger().totals()
    assert dict(found.states) == dict.fromkeys(map(str, MigrationState), 0)
    assert dict(found.attention) == dict.fromkeys(REASONS, 0)
    assert found.bytes > 0
    assert found.free_bytes is None or found.free_bytes > 0


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (Unauthenticated.code, "credentials"),
        (StoreFull.code, "full"),
        (ConfigError.code, "settings"),
        (StoreTimeout.code, "other"),
        ("of-a-later-version", "other"),
    ],
)
def test_a_migration_that_relay_paused_waits(open_ledger: Opened, code: str, reason: str) -> None:
    """By its reason; one that its user paused waits for nobody."""
    ledger = open_ledger()
    ledger.act(tree(ledger, 1), MigrationVerb.PAUSE)
    error = {"code": code, "side": "source", "detail": "", "hint": ""}
    ledger.pause_for(tree(ledger, 1, 2), error)
    found = ledger.totals()
    assert found.states["paused"] == 2
    assert {name: count for name, count in found.attention.items() if count} == {reason: 1}


def test_a_failed_migration_waits_for_a_person(open_ledger: Opened) -> None:
    """Until one of them has acknowledged its failures, however long that takes."""
    ledger = open_ledger()
    ids = [tree(ledger, *range(size)) for size in (1, 2)]
    error = {"code": "not-found", "side": "source"}
    *lost, moved = sorted(ledger.claims.claim(3), key=lambda claim: ids.index(claim.migration_id))
    ledger.claims.settle([Settlement(claim, "failed", error=error) for claim in lost])
    ledger.claims.settle([verified_end(moved)])
    ledger.finish()
    found = ledger.totals()
    assert (found.states["failed"], found.states["partial"]) == (1, 1)
    assert (found.attention["failed"], found.attention["partial"]) == (1, 1)
    ledger.acknowledge(ids[0])
    found = ledger.totals()
    assert (found.states["failed"], found.states["partial"]) == (1, 1)
    assert (found.attention["failed"], found.attention["partial"]) == (0, 1)


def test_stored_settlements_are_counted_and_lost_ones_not(open_ledger: Opened) -> None:
    """What the ledger took, once; a claim that is handed back has not ended."""
    ledger, other = open_ledger(), open_ledger()
    tree(ledger, 1, 2, 3, 4)
    done, failed, back, lost = ledger.claims.claim(4)
    tallies = ledger.database.tallies
    ledger.leases.leave()  # hands all back, so the claims are lost
    ledger.claims.settle([verified_end(lost)])
    assert not tallies.transfers
    ledger.leases.renew()
    done, failed, back, _ = ledger.claims.claim(4)
    error = {"code": "not-found", "side": "source"}
    ends = [verified_end(done), Settlement(failed, "failed", error=error)]
    ledger.claims.settle_and_claim(
        [*ends, Settlement(back, "hand_back")], ClaimRequest(all=0, large=0, only_large=0)
    )
    assert dict(tallies.transfers) == {("verified", "whole_digest"): 1, ("failed", "none"): 1}
    assert dict(tallies.transfer_failures) == {("source", "not-found"): 1}
    assert other.database.tallies is not tallies


def test_transactions_are_timed_and_failures_counted(open_ledger: Opened) -> None:
    """By what they are for, and by the code of the error."""
    ledger = open_ledger()
    tree(ledger, 1)
    ledger.claims.claim(1)
    ledger.finish()
    timed = {
        operation: sum(found.counts)
        for (operation,), found in ledger.database.tallies.ledger_seconds.items()
    }
    assert timed["turn"] >= 1 and timed["look"] >= 1 and timed["other"] >= 1

    def fail(_: object) -> None:
        raise LedgerFailed("away")

    with pytest.raises(LedgerFailed):
        ledger.database.run(fail)
    assert dict(ledger.database.tallies.ledger_errors) == {(LedgerFailed.code,): 1}
