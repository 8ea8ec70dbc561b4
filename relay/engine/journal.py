"""What a transfer writes down on its way, so that another process can go on with it (intent before effect, fact after).

Decided here: what is worth writing, and what may be kept of an upload that somebody else began. Never here: where it
is written.
"""

from __future__ import annotations

from typing import Protocol

from relay.ledger.rows import Begun, StoredPart
from relay.stores.interfaces import Part


class Journal(Protocol):
    """The durable notes of one transfer. A call has happened when it returns; it raises LeaseLost, LedgerFailed."""

    def begun(self) -> Begun | None:
        """Return the upload in parts that was begun, with the parts that were acknowledged, or None."""

    def begin(self, upload: Begun) -> None:
        """An upload in parts was begun; one without an id is about to be."""

    def store(self, part: StoredPart) -> None:
        """The destination has a part."""

    def commit(self, digest: str) -> None:
        """The upload is about to be completed; `digest` is the whole's, in hex, or empty."""

    def forget(self) -> None:
        """The upload is no more."""

    def held(self) -> None:
        """Raise LeaseLost if somebody else may have the transfer by now; say it before what can't be taken back."""


def kept(written: Begun, listed: tuple[Part, ...]) -> tuple[StoredPart, ...]:
    """Return the parts that need not be sent again: those that both the notes and the destination have, and alike.

    One that only the destination has may be half of something; one that only the notes have is gone. Both are sent.
    """
    there = {part.number: part for part in listed}
    return tuple(
        part
        for part in written.parts
        if (other := there.get(part.number)) is not None and (other.size, other.etag) == (part.size, part.etag)
    )


def fits(written: Begun | None, place: str, etag: str | None, size: int | None, step: int) -> bool:
    """Say if an upload that was begun is one of this version of the source, to this place, in this cut."""
    return written is not None and (written.place, written.etag, written.size, written.part_bytes) == (
        place,
        etag,
        size,
        step,
    )
