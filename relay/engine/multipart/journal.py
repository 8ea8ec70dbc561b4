"""The journal of a transfer: intent before an effect, fact after it, so that another process can
resume.

Decided here: what is worth writing, and what may be kept of an upload that somebody else began.
Never here: where it is written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from relay.ledger.rows import PriorState, StoredPart, UploadRecord
from relay.stores.interfaces import Part


class Journal(Protocol):
    """The durable notes of one transfer. A call has happened when it returns; it raises LeaseLost,
    LedgerFailed."""

    def recorded_upload(self) -> UploadRecord | None:
        """Return the upload in parts that was begun, with the parts that were acknowledged, or
        None."""

    def begin(self, upload: UploadRecord) -> None:
        """An upload in parts was begun; one without an id is about to be."""

    def resume(self, upload_id: str, gone: frozenset[int], total: int) -> None:
        """An upload of `total` parts is gone on with; `gone` are those that are to be sent
        again."""

    def take(self, upload_id: str, done: StoredPart | None) -> int | None:
        """The destination has the part `done`; return the number of one that nobody has, ours from
        now on, or None.

        Raises UploadGone where the upload is not the one that is written down any more.
        """

    def outstanding_parts(self) -> Mapping[int, bool]:
        """Return the numbers of the parts that are somebody's and not there yet, or nobody's; True:
        they are ours."""

    def release_parts(self) -> None:
        """The parts that were ours, and are not there yet, are nobody's now."""

    def note(self, before: PriorState) -> None:
        """Bytes are about to go to the destination, where this was before any of ours; or it is
        known by now what the destination calls what it took."""

    def note_link(self, link: str, target: str, there: str) -> Mapping[str, str]:
        """A link of the destination's tree leads the object elsewhere; return the others that go
        there as well, with their states, by their names."""

    def objects_at_link(self, link: str, there: str, tree: str) -> Mapping[str, str]:
        """Return the other objects that go where a link of the destination's tree leads this one,
        or lie there in the tree itself; as `note_link`, which writes the link down."""

    def commit(self, digest: str) -> None:
        """The upload is about to be completed; `digest` is the whole's, in hex, or empty."""

    def forget(self) -> None:
        """The upload is no more."""

    def check_lease(self) -> None:
        """Raise LeaseLost if somebody else may have the transfer by now; say it before what can't
        be taken back."""


def confirmed_parts(written: UploadRecord, listed: tuple[Part, ...]) -> tuple[StoredPart, ...]:
    """Return the parts that need not be sent again: those that both the notes and the destination
    have, and alike.

    One that only the destination has may be half of something; one that only the notes have is
    gone. Both are sent."""
    there = {part.number: part for part in listed}
    return tuple(
        part
        for part in written.parts
        if (other := there.get(part.number)) is not None
        and (other.size, other.etag) == (part.size, part.etag)
    )


def can_resume(
    written: UploadRecord | None, place: str, etag: str | None, size: int | None, step: int
) -> bool:
    """Say if an upload that was begun is one of this version of the source, to this place, in this
    cut."""
    return written is not None and (
        written.place,
        written.etag,
        written.size,
        written.part_bytes,
    ) == (
        place,
        etag,
        size,
        step,
    )
