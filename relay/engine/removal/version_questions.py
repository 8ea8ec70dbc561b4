"""What a receipt proves about an object that is to be deleted at its source.

Decided here: when a receipt, or a pair of versions, allows a deletion. Never here: requests
(`source_removal.py`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from relay.digest import compare
from relay.ledger.deletion_values import (
    Candidate,
    DeletionBasis,
    DeletionEnd,
    DeletionState,
    KeptReason,
    version_of_json,
)
from relay.ledger.pages import TransferRow
from relay.ledger.states import TransferState
from relay.receipt import Level, Version
from relay.stores.local_upload import UNDATED, UNSAFE
from relay.stores.version_checks import difference

_LOSSES: Final = (
    "does not keep ",
    "does not take the object's tags",
    "does not return",
    "tags can't be read",
    UNDATED,
    UNSAFE,
)
"""Texts in a receipt's notes about what only the source still has, and about a copy that a power
loss may destroy."""


def kept_end(name: str, reason: KeptReason, detail: str) -> DeletionEnd:
    """Return the end of an object that is kept."""
    return DeletionEnd(name, DeletionState.KEPT, reason=reason, detail=detail[:500])


def receipt_of(row: TransferRow) -> dict[str, Any] | None:
    """Return the receipt of an object that was proved; None for another one. (An object that was
    there already has notes in place of a receipt.)"""
    return row.receipt if row.state == TransferState.VERIFIED else None


def judge_receipt(row: TransferRow, loses_metadata: bool) -> Candidate | DeletionEnd:
    """Return the version that may be deleted by the receipt of an object, or why it is kept. Only a
    verified object may be deleted by its receipt."""
    receipt = receipt_of(row)
    if receipt is None or Level.SIZE.value in (row.level, receipt["level"]):
        return kept_end(row.name, KeptReason.UNPROVED, "nothing but its size was proved")
    lost = losses_of(receipt["notes"])
    if lost and not loses_metadata:
        return kept_end(row.name, KeptReason.METADATA_LOST, "; ".join(lost))
    version = version_of_json(receipt["source"])
    if version.strong_etag is None:
        return kept_end(row.name, KeptReason.NO_VERSION, "the source named no version of it")
    if row.bytes != receipt["bytes"] or version.size not in (None, receipt["bytes"]):
        return kept_end(row.name, KeptReason.UNPROVED, "its receipt has another length")
    return Candidate(row.name, version, DeletionBasis.RECEIPT)


def losses_of(notes: Iterable[str]) -> list[str]:
    """Return those notes of a receipt that name a loss."""
    return [note for note in notes if any(loss in note for loss in _LOSSES)]


def destination_doubt(receipt: Mapping[str, Any], there: Version) -> str | None:
    """Return in words why the object at the destination may not be the one of a receipt; None if it
    is that one."""
    written = version_of_json(receipt["destination"])
    size = receipt["bytes"]
    if there.size not in (None, size):
        return f"the destination has {there.size} bytes, and {size} were proved"
    # R2 answers an upload with an id, and no other request.
    if None in (written.id, there.id):
        written, there = _without_id(written), _without_id(there)
    return difference(written, there)


def _without_id(version: Version) -> Version:
    return Version(
        version.size, version.etag, version.last_modified, digests=version.digests, id=None
    )


def common_digest(here: Version, there: Version) -> str | None:
    """Return the digest that proves two objects the same: both stores report it, no other digest
    differs, and the sizes are known and equal. None without one."""
    if here.size is None or here.size != there.size:
        return None
    agreeing, differing = compare(here.digests, there.digests)
    return None if differing else agreeing
