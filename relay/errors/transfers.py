"""Errors of the bytes: at the source, on the way, or at the destination, they are not what was
promised.

Decided here: the failures of an object, whatever its stores said. Never here: how that is found
out."""

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
    default_hint = "Try again; if it keeps ending at the same byte the source's object is damaged."


class SourceOverrun(TransferError):
    """The source sent more than it promised."""

    code, title = "source-overrun", "The source sent more than it promised"
    default_hint = "The source's length is wrong; look at what answers there."


class SourceChanged(TransferError):
    """The source is another version, or another size, than the one that was pinned."""

    code, title = "source-changed", "The source changed while it was read"
    default_retryable = True
    default_hint = "Try again when nothing writes to the source."


class SourceUnstable(TransferError):
    """The source gave other bytes the second time, under the same entity tag. Which are right
    nobody can tell."""

    code, title = "source-unstable", "The source gives other bytes each time"
    default_hint = (
        "The source, or something before it, is damaged; look at the object there, and at its"
        " digest."
    )


class SourceDigestWrong(TransferError):
    """The source gave the same bytes twice, and a digest that it, or its list, declares is not
    theirs: nothing was damaged on the way, and that digest proves nothing."""

    code, title = "source-digest-wrong", "The source's digest is not that of its bytes"
    default_side: ClassVar[Side] = "source"
    default_hint = (
        "Nothing was damaged on the way. Look at the object at its source. If it is damaged,"
        " restore it; if it is right, correct its digest (in the list, or by storing it there"
        " again), or choose 'verify': 'size', which leaves it unverified."
    )


class IntegrityMismatch(TransferError):
    """A digest or a size that was declared, or read back, is not that of the bytes that passed.

    `seen` tells what its side had instead, if that is known.
    """

    code, title = "digest-mismatch", "The bytes do not match their digest"
    default_retryable = True
    default_hint = (
        "Bytes were damaged on the way or in the store. Nothing wrong was left behind unless it"
        " says so."
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
    """The destination acknowledged the object and does not show it."""

    code, title = "destination-lost", "The destination does not show the object"
    default_side: ClassVar[Side] = "destination"
    default_retryable = True
    default_hint = "Check that the destination can be read at the same URL."


class DestinationMutates(TransferError):
    """The destination changes what it stores: the same bytes became the same other bytes again."""

    code, title = "destination-mutates", "The destination changes what it stores"
    default_side: ClassVar[Side] = "destination"
    default_hint = (
        "It adds to, or rewrites, objects of this kind; put them into an archive, or choose another"
        " store."
    )


class Cancelled(TransferError):
    """Somebody asked for the end, or the server is stopping."""

    code, title, status = "cancelled", "The transfer was cancelled", 503
    default_side: ClassVar[Side] = "relay"
    default_retryable = True
    default_hint = "Send the request again."
