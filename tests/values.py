"""Values for tests that need some of their members only: claims, jobs, outcomes and uploads."""

from __future__ import annotations

from typing import Any

from relay.engine.migration_request import MigrationJob
from relay.engine.outcome import Outcome
from relay.engine.plan import IfExists, Verify
from relay.ledger.claim_values import Claim
from relay.ledger.upload_values import StoredPart, UploadRecord
from relay.location import Location
from relay.receipt import State

CLAIM: dict[str, Any] = {
    "id": 1,
    "migration_id": "1",
    "fence": 1,
    "url": None,
    "size": None,
    "etag": None,
    "modified": None,
    "attempts": 1,
    "crash_count": 0,
    "resent": 0,
}
UPLOAD = UploadRecord(
    upload_id="upload-1",
    checked=True,
    place="s3://b/x",
    etag='"e"',
    size=30,
    part_bytes=10,
    total=3,
)
"""A multipart upload of an object of 30 bytes, in three parts."""
PART = StoredPart(number=1, size=10, etag='"p1"', digest="0123456789abcdef", checked=True)


def claim_of(name: str = "a", **members: Any) -> Claim:
    """Return the first claim of an object of unknown size."""
    return Claim(**{**CLAIM, "name": name, **members})


def tree_job(source: Location, destination: Location, **members: Any) -> MigrationJob:
    """Return the job of a tree with the default options."""
    values: dict[str, Any] = {
        "id": "1",
        "recursive": True,
        "verify": Verify.AUTO,
        "if_exists": IfExists.CHANGED,
        **members,
    }
    return MigrationJob(source=source, destination=destination, **values)


def outcome_of(state: State, source: Location, destination: Location, **members: Any) -> Outcome:
    """Return the outcome of an object of one byte, without a receipt."""
    values: dict[str, Any] = {"id": "1", "bytes": 1, "seconds": 0.1, "receipt": None, **members}
    return Outcome(state=state, source=source, destination=destination, **values)
