"""Multipart uploads as plain values: an upload, its parts, their movers, and orphans."""

from __future__ import annotations

from dataclasses import dataclass

from relay.ledger.claim_values import Claim
from relay.ledger.prior_state_values import PriorState
from relay.receipt import Version


@dataclass(frozen=True, kw_only=True)
class UploadRecord:
    """A multipart upload in the ledger, with the parts that the destination has acknowledged."""

    upload_id: str
    """Empty if the upload was about to be created, and its id was never recorded."""
    checked: bool
    place: str
    etag: str
    size: int
    part_bytes: int
    digest: str | None = None
    parts: tuple[StoredPart, ...] = ()
    at: float = 0.0
    """When it was recorded (seconds since 1970)."""
    total: int = 0
    """Number of parts of the object."""
    digested: bool = True
    """Whether a digest of each part is wanted."""
    pinned: Version | None = None
    """The version of the source, which helpers must read; None: no helper may join."""


@dataclass(frozen=True)
class PartLease:
    """The right to move some parts of another worker's object: first part `first`, and then the
    remaining ones. `claim` is the other worker's."""

    claim: Claim
    upload: UploadRecord
    first: int


@dataclass(frozen=True, kw_only=True)
class StoredPart:
    """A part that the destination has; `digest` is the CRC64NVME of the sent bytes in hex, or
    empty."""

    number: int
    size: int
    etag: str
    digest: str
    checked: bool


@dataclass(frozen=True)
class Orphan:
    """A transfer that no worker will resume, as its last claim, and its multipart upload, if any.

    `before` is the destination's state before the first byte was sent, recorded or assumed; None if
    no byte was sent. `ended` is when its last claim ended (seconds since 1970), None if unknown."""

    claim: Claim
    upload: UploadRecord | None
    before: PriorState | None = None
    ended: float | None = None
