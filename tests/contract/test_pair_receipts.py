"""The receipt of an object that an earlier migration moved between the same two places."""

from __future__ import annotations

from dataclasses import replace

from relay.ledger.ledger import Ledger
from tests.contract.test_ledger_siblings import ELSEWHERE, OTHER, SMALL, WHOLE, claim_of, list_tree
from tests.ledgers import verified_end


def move(ledger: Ledger, level: str, *, tenant: str = "default") -> None:
    """Move the object `a` of a tree; its receipt has this level."""
    claim = claim_of(ledger, list_tree(ledger, WHOLE, "a", tenant=tenant), "a")
    end = replace(verified_end(claim), receipt={"level": level})
    ledger.claims.settle([end])


def test_the_newest_receipt_of_the_pair_counts(ledger: Ledger) -> None:
    """Whatever the options are, but not of another place, tenant or name, and not of an object
    that was not verified."""
    move(ledger, "first")
    move(ledger, "newest")
    move(ledger, "acme's", tenant="acme")
    failed = claim_of(ledger, list_tree(ledger, SMALL, "a"), "a")
    error = {"code": "x", "side": "source", "detail": "", "hint": ""}
    ledger.claims.settle([replace(verified_end(failed), verb="failed", receipt=None, error=error)])
    for spec, expected in ((SMALL, "newest"), (OTHER, None), (ELSEWHERE, None)):
        claim = claim_of(ledger, list_tree(ledger, spec, "a"), "a")
        found = ledger.destinations.earlier_receipt(claim)
        assert (found or {}).get("level") == expected, spec
        found = ledger.destinations.receipt_of_spec(spec, "default", "a")
        assert (found or {}).get("level") == expected, spec
    assert (ledger.destinations.receipt_of_spec(WHOLE, "acme", "a") or {})["level"] == "acme's"
    assert ledger.destinations.receipt_of_spec(WHOLE, "default", "b") is None
