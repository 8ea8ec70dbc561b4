"""The journal of a transfer: it notes an intent before each effect and the fact after it, so that
another process can resume.

Decided here: the notes, and which parts of an earlier attempt's upload may be kept. Never here:
where the notes are stored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from relay.ledger.prior_state_values import PriorState
from relay.ledger.upload_values import StoredPart, UploadRecord
from relay.stores.interfaces import Part


class Journal(Protocol):
    """The durable notes of one transfer. A note is durable when the call returns. Every method
    raises LeaseLost and LedgerFailed."""

    def recorded_upload(self) -> UploadRecord | None:
        """Return the recorded multipart upload with its acknowledged parts, or None."""

    def begin(self, upload: UploadRecord) -> None:
        """Note a multipart upload that was created, or, without an id, one that is about to be."""

    def resume(self, upload_id: str, gone: frozenset[int], total: int) -> None:
        """Note that an upload of `total` parts is resumed. The parts `gone` must be sent again."""

    def take(self, upload_id: str, done: StoredPart | None) -> int | None:
        """Note that the destination has the part `done`. Claim an unclaimed part and return its
        number, or None if there is none.

        Raises UploadGone if another upload has been recorded since.
        """

    def outstanding_parts(self) -> Mapping[int, bool]:
        """Return the numbers of the parts that are not acknowledged yet; True for those claimed by
        us."""

    def release_parts(self) -> None:
        """Release our claims on parts that are not acknowledged yet."""

    def earlier_receipt(self) -> Mapping[str, Any] | None:
        """Return the receipt of the object from an earlier migration between the same two places,
        as plain values, or None."""

    def note(self, before: PriorState) -> None:
        """Note the state of the destination before we send the first byte. Called again with the
        version of our object, once the destination has given it one."""

    def note_link(
        self, link: str, target: str, there: str, tree: str | None = None
    ) -> Mapping[str, str]:
        """Note that a symbolic link in the destination's tree leads the object to `there`. Return
        the states of the other objects with that target, by name. With `tree`, the path of the tree
        itself, the object is skipped: then only uploaded objects count, and also the object whose
        place in the tree it is."""

    def commit(self, digest: str) -> None:
        """Note that the upload is about to be completed. `digest` is that of the whole object, in
        hex, or empty."""

    def forget(self) -> None:
        """Remove the note of the upload, which no longer exists."""

    def check_lease(self) -> None:
        """Raise LeaseLost if another worker may have claimed the transfer. Call it before every
        step that can't be undone."""


def confirmed_parts(written: UploadRecord, listed: tuple[Part, ...]) -> tuple[StoredPart, ...]:
    """Return the parts that need not be sent again: the journal and the destination agree on their
    size and ETag.

    A part that only the destination has may be incomplete, and one that only the journal has is
    lost. Both are sent again."""
    there = {part.number: (part.size, part.etag) for part in listed}
    return tuple(part for part in written.parts if there.get(part.number) == (part.size, part.etag))


def can_resume(
    written: UploadRecord | None, place: str, etag: str | None, size: int | None, step: int
) -> bool:
    """Return whether a recorded upload has this source version, this place and this part size
    (`step`, in bytes)."""
    if written is None:
        return False
    recorded = (written.place, written.etag, written.size, written.part_bytes)
    return recorded == (place, etag, size, step)
