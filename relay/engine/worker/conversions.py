"""Convert a claim to a transfer, and the end of a transfer to the settlement of its claim.

Decided here: which hints a row of the ledger gives about an object, and which results of its
transfer are stored. Never here: when an object is claimed (`worker.py`)."""

from __future__ import annotations

from relay.digest import Digests
from relay.engine.cleanup import lost_upload_tokens, upload_token
from relay.engine.outcome import Outcome
from relay.engine.transfer.context import ObjectHints
from relay.errors import Leftover, remaining
from relay.ledger.claim_values import Claim, Settlement
from relay.ledger.folded_names import MARKED
from relay.ledger.planned_values import PlannedPair
from relay.ledger.states import TransferVerb
from relay.parsing import http_text
from relay.receipt import State, Version


def hints_of_claim(claim: Claim) -> ObjectHints:
    """Return the hints about a claimed object for its transfer."""
    # A single object has no name in a tree, and no listing.
    listed = Version(claim.size, claim.etag, http_text(claim.modified)) if claim.name else None
    digests: Digests = {}
    if claim.digests:
        digests = {name: bytes.fromhex(value) for name, value in claim.digests.items()}
    return ObjectHints(
        listed=listed,
        promised=Version(claim.size, digests=digests) if claim.url else None,
        # Only for the first claim: an earlier one may have sent the object since the listing.
        absent=claim.empty and claim.fence == 1 and claim.planned is None,
        # An earlier claim may have sent the object, except where the ledger says that none has sent
        # a byte: of a marked transfer that was never entered, and of an untouched one.
        begun=(claim.fence > 1 or claim.attempts > 1)
        and claim.twins != MARKED
        and not claim.untouched,
        before=claim.before,
        after_crash=claim.crash_count > 0,
        planned=PlannedPair.from_text(claim.planned),
        token=upload_token(claim),
        lost=lost_upload_tokens(claim, claim.fence),
        remains=claim.remains,
        written=claim.written,
    )


def hand_back_unrun(claim: Claim, wait: float = 0.0) -> Settlement:
    """Return the settlement of a claim that was not run, to be claimed again after `wait` seconds
    at the earliest. It has sent nothing, so that the next claim need not look for its object."""
    untouched = not hints_of_claim(claim).begun
    return Settlement(claim, TransferVerb.HAND_BACK, wait=wait, untouched=untouched)


def settlement_of(claim: Claim, outcome: Outcome, resent: int) -> Settlement:
    """Return the settlement of a transfer that ended without an error."""
    proof = outcome.receipt
    receipt = None if proof is None else dict(proof.to_json())
    if receipt is None and outcome.notes:
        receipt = {"notes": list(outcome.notes)}
    remains = dict(outcome.remains)
    sent = None
    if outcome.state is State.UNVERIFIED:
        # Reported if the next attempt fails.
        place = outcome.destination
        remains[str(place)] = remaining(Leftover.SENT, place, "at most its length was proved")
        sent = proof.destination if proof else None
    return Settlement(
        claim,
        outcome.state.value,
        # A skipped object counts in the tally with its listed size.
        bytes=outcome.bytes if proof else claim.size,
        resent=resent,
        seconds=round(outcome.seconds, 3),
        level=proof.level.value if proof else None,
        receipt=receipt,
        remains=remains,
        sent=sent,
        place=None if claim.name or outcome.receipt else str(outcome.destination),
    )
