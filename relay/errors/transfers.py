"""Errors of the bytes: they differ from what was promised, at the source, in transit, or at the
destination.

Decided here: the failures of an object. Never here: how they are detected."""

from __future__ import annotations

from typing import ClassVar

from relay.errors.root import RelayError, Side


class TransferError(RelayError):
    """The bytes are not what was promised."""

    code, title, status = "transfer-failed", "The transfer failed", 502
    default_side: ClassVar[Side] = "source"


class SourceTruncated(TransferError):
    """The source ended before its promised length, or without its end marker."""

    code, title = "source-truncated", "The source ended too early"
    default_retryable = True
    default_hint = "Try again; if it always ends at the same byte, the source's object is damaged."


class SourceOverrun(TransferError):
    """The source sent more than it promised."""

    code, title = "source-overrun", "The source sent more than it promised"
    default_hint = "The length that the source declares is wrong; check the server there."


class SourceChanged(TransferError):
    """The source has another version, or another size, than the pinned one."""

    code, title = "source-changed", "The source changed while it was read"
    default_retryable = True
    default_hint = "Try again when nothing writes to the source."


class DestinationChanged(TransferError):
    """Another writer has changed an object at the destination since relay wrote it there, and the
    source has changed as well. Neither replaces the other."""

    code, title = "destination-changed", "Another writer has changed the object at the destination"
    default_side: ClassVar[Side] = "destination"
    default_hint = (
        "Compare both. To replace the objects that were refused so far, add --overwrite-changed to"
        " `relay follow` in the terminal."
    )


class SourceUnstable(TransferError):
    """Two reads of the source returned different bytes under the same ETag. It is unknown which
    are right."""

    code, title = "source-unstable", "Each read of the source returns different bytes"
    default_hint = (
        "The source, or a proxy in front of it, is damaged; check the object there, and its digest."
    )


class SourceDigestWrong(TransferError):
    """Two reads of the source returned the same bytes, and they do not match a digest that the
    source, or its list, declares. So nothing was damaged in transit: the digest is wrong, or the
    source's object."""

    code, title = "source-digest-wrong", "The source's bytes do not match its digest"
    default_side: ClassVar[Side] = "source"
    default_hint = (
        "Nothing was damaged in transit. Check the object at its source. If it is damaged, restore"
        " it; if it is right, correct its digest (in the list, or by storing it there again), or"
        " choose 'verify': 'size', which leaves it unverified."
    )


class PlanStale(TransferError):
    """One of the two objects is not the one that the migration's plan has seen."""

    code, title, status = "plan-stale", "The plan does not fit any more", 409
    default_hint = "Nothing was sent. Make a new plan, and migrate by that one."


class IntegrityMismatch(TransferError):
    """The bytes that relay moved do not match a digest or size that was declared or read back.

    `seen` describes what the side at fault had instead, if that is known.
    """

    code, title = "digest-mismatch", "The bytes do not match their digest"
    default_retryable = True
    default_hint = (
        "Bytes were damaged in transit or in the store. Damaged objects were deleted, except those"
        " that this error names."
    )

    def __init__(
        self,
        message: str,
        *,
        side: Side | None = None,
        retryable: bool | None = None,
        hint: str | None = None,
        seen: str | None = None,
    ) -> None:
        super().__init__(message, side=side, retryable=retryable, hint=hint)
        self.seen = seen


class DestinationLost(TransferError):
    """The destination acknowledged the object, and does not return it."""

    code, title = "destination-lost", "The destination does not show the object"
    default_side: ClassVar[Side] = "destination"
    default_retryable = True
    default_hint = "Check that the object can be read at the URL that it was uploaded to."


class DestinationMutates(TransferError):
    """The destination changes what it stores: two uploads of the same bytes were altered alike."""

    code, title = "destination-mutates", "The destination changes what it stores"
    default_side: ClassVar[Side] = "destination"
    default_hint = (
        "It rewrites objects of this type; put them into an archive, or choose another store."
    )


class Cancelled(TransferError):
    """A user cancelled the transfer, or the server is stopping."""

    code, title, status = "cancelled", "The transfer was cancelled", 503
    default_side: ClassVar[Side] = "relay"
    default_retryable = True
    default_hint = "Send the request again."
