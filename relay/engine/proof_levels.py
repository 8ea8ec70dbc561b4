"""Predict the level of proof that a destination can give, before anything is sent.

Decided here: the level that `relay plan` predicts, and which requests are refused. Never here: what
was proved (`transfer/verify.py`); what only a trial shows (`relay doctor`)."""

from __future__ import annotations

from typing import Final
from urllib.parse import unquote

from relay.engine.plan import Verify
from relay.errors import VerificationUnavailable
from relay.location import Location
from relay.receipt import Level

TELLING: Final = frozenset({"s3"})
"""The stores whose answer to an upload has a digest of the whole object."""
_BY_METHOD: Final = (
    frozenset({"x-amz-signature"}),
    frozenset({"x-goog-signature"}),
    frozenset({"signature", "awsaccesskeyid"}),
    frozenset({"signature", "googleaccessid"}),
)
"""Query parameters of URLs whose signature includes the method (docs.aws.amazon.com,
"Signature Version 4: query string parameters", and of version 2; cloud.google.com, "V4 signing
process")."""


def unreadable_reason(place: Location) -> str | None:
    """Return the reason why a destination can never be read, or None if it may be readable."""
    if place.account is not None:
        return None
    pairs = [part.partition("=") for part in place.query.split("&")]
    query = {unquote(name).lower(): unquote(value) for name, _, value in pairs}
    if any(names <= query.keys() for names in _BY_METHOD):
        return "its URL is signed for the upload alone"
    if {"sig", "sv", "sp"} <= query.keys() and "r" not in query[
        "sp"
    ]:  # learn.microsoft.com, "Create a service SAS"
        return "its URL's signature does not permit reading"
    return None


def refuse_unprovable(verify: Verify, place: Location) -> None:
    """Raise VerificationUnavailable if the destination can never give this level of proof."""
    why = unreadable_reason(place) if verify is Verify.READ_BACK else None
    if why is not None:
        raise VerificationUnavailable(
            f"read_back can't be had of {place}: {why}",
            hint=(
                "Ask for 'verify': 'auto': by the store's own digest if its answer tells one, else"
                " by size alone, which is unverified. A destination with credentials (s3://…, a"
                " remote) can be read back."
            ),
            pointer="/verify",
        )


def predict_level(verify: Verify, place: Location, reported: bool) -> Level:
    """Return the level that receipts will most likely have. `reported` says that the destination
    has shown a digest of an existing object."""
    if verify is Verify.SIZE:
        return Level.SIZE
    if verify is Verify.AUTO and (reported or place.store in TELLING):
        return Level.WHOLE_DIGEST
    return Level.SIZE if unreadable_reason(place) else Level.READ_BACK
