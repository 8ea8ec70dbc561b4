"""Errors of stores: refusals, failures, broken connections.

Decided here: the failures of one exchange with a store, and which of them pass by themselves. Never
here: which status means which (`stores/`)."""

from __future__ import annotations

from typing import ClassVar

from relay.errors.root import RelayError, Side


class StoreError(RelayError):
    """A store refused, failed or broke the protocol. `store_status` is the status it answered, if
    it did."""

    code, title, status = "store-error", "A store failed", 502
    default_side: ClassVar[Side] = "source"
    default_hint = "Look at what the store said."

    def __init__(
        self,
        message: str,
        *,
        side: Side | None = None,
        retryable: bool | None = None,
        hint: str | None = None,
        retry_after: float | None = None,
        store_status: int | None = None,
    ) -> None:
        super().__init__(
            message, side=side, retryable=retryable, hint=hint, retry_after=retry_after
        )
        self.store_status = store_status


class NotFound(StoreError):
    """The object is not there."""

    code, title, status = "not-found", "The object is not there", 404
    default_hint = "Check the URL; a presigned one may be for another method or key."


class AlreadyExists(StoreError):
    """`if_exists` is `fail`, and the destination has an object of that name."""

    code, title, status = "destination-exists", "The destination exists already", 409
    default_side: ClassVar[Side] = "destination"
    default_hint = "Choose another destination, or 'if_exists': 'overwrite' or 'skip'."


class PreconditionFailed(StoreError):
    """The store answered 412: the object is not the version that was pinned."""

    code, title, status = "precondition-failed", "The object is another version now", 412


class Unauthenticated(StoreError):
    """The store wants credentials, or does not know these."""

    code, title = "store-unauthenticated", "The store wants valid credentials"
    default_hint = "Give the store's credentials in 'headers', or a fresh presigned URL."


class CredentialsWithdrawn(Unauthenticated):
    """What the store allowed before it denies now: a signature has expired, or a key was
    withdrawn."""

    code, title = "store-credentials-withdrawn", "The store denies what it allowed before"
    default_hint = (
        "Resume with fresh credentials, or a fresh presigned URL; what has arrived is kept."
    )


class PermissionDenied(StoreError):
    """The store knows who asks, and says no."""

    code, title = "store-permission-denied", "The store denied permission"
    default_hint = (
        "Check the permissions; a presigned URL may have expired or be for another method."
    )


class Rejected(StoreError):
    """The store answered with a status that is not success, and that trying again will not
    change."""

    code, title = "store-rejected", "The store refused the request"


class KeyCollision(Rejected):
    """The destination has one name for two objects of a tree: case, or the form of letters, does
    not count there."""

    code, title, status = "key-collision", "Two names are one at the destination", 422
    default_side: ClassVar[Side] = "destination"


class StoreFull(Rejected):
    """The store has no room left: 507, a quota, a full disk. The next object would fare no
    better."""

    code, title = "store-full", "The store is full"
    default_hint = (
        "Free space or raise the quota; nothing of this object was left. Then resume, or run it"
        " again."
    )


class MetadataUnkept(StoreError):
    """The destination can't keep all that describes the object, and all of it is wanted. Nothing
    was sent, or it showed only there what is missing."""

    code, title, status = (
        "metadata-unkept",
        "The destination can't keep all of the object's metadata",
        409,
    )
    default_side: ClassVar[Side] = "destination"
    default_hint = (
        "Without 'metadata': 'strict' it is moved all the same, and its receipt has a note; or"
        " choose another store."
    )


class RangeIgnored(StoreError):
    """The store answered with another range than the one that was asked for, or with the whole
    object."""

    code, title = "range-ignored", "The store did not give the range that was asked for"
    default_hint = "The object is moved in one piece instead."


class LengthRequired(StoreError):
    """The destination needs a length, and the source has none."""

    code, title = "source-length-unknown", "The destination needs a length and the source has none"
    default_side: ClassVar[Side] = "destination"
    default_hint = (
        "Use a source that sends Content-Length, or a destination that takes chunked uploads."
    )


class RedirectRefused(StoreError):
    """The store sent us elsewhere, where we do not follow: on an upload, from https to http, to an
    odd URL."""

    code, title = "redirect-refused", "The redirect is not followed"
    default_hint = "Give the final URL yourself if you trust it."


class TooManyRedirects(StoreError):
    """More than five redirects, or a loop."""

    code, title = "too-many-redirects", "Too many redirects"
    default_hint = "Give the final URL yourself."


class Throttled(StoreError):
    """The store answered 429, or 503 with Retry-After."""

    code, title, status = "store-throttled", "The store asks us to slow down", 503
    default_retryable = True
    default_hint = "Try again after the time that the store named."


class Unavailable(StoreError):
    """The store answered 408 or 5xx."""

    code, title = "store-unavailable", "The store is not available"
    default_retryable = True
    default_hint = "Try again later."


class Locked(Unavailable):
    """The store answered 423: somebody holds a lock on the object, or on its folder."""

    code, title = "store-locked", "Somebody has locked the object"
    default_hint = (
        "Somebody has it open: close it there, or wait until the lock runs out, and try again."
    )


class UploadGone(NotFound):
    """An upload in parts that was begun is not there any more: somebody aborted it, or it was too
    old."""

    code, title, status = "upload-gone", "The upload was thrown away meanwhile", 502
    default_side: ClassVar[Side] = "destination"
    default_retryable = True
    default_hint = (
        "It was begun anew, and is gone again: look at the bucket's rules for unfinished uploads."
    )


class ConnectFailed(StoreError):
    """No connection: the name does not resolve, or no address answers."""

    code, title = "connect-failed", "No connection to the store"
    default_retryable = True
    default_hint = "Check the host name, the port, and that the store is up."


class ConnectionLost(StoreError):
    """The connection broke in the middle."""

    code, title = "connection-lost", "The connection to the store broke"
    default_retryable = True
    default_hint = (
        "Try again; if it keeps happening look at the network between here and the store."
    )


class CertificateRefused(StoreError):
    """The store's certificate or its TLS is not acceptable."""

    code, title = "certificate-refused", "The store's TLS is not trusted"
    default_hint = (
        "Check the host name and the certificate; a private authority goes in RELAY_CA_BUNDLE."
    )


class StoreTimeout(StoreError):
    """The store did not connect, or did not answer, in time."""

    code, title, status = "store-timeout", "The store did not answer in time", 504
    default_retryable = True
    default_hint = (
        "Try again; RELAY_CONNECT_SECONDS, RELAY_HEAD_SECONDS and RELAY_TOTAL_SECONDS are the"
        " limits."
    )


class Stalled(StoreTimeout):
    """Fewer bytes moved than the stall rule asks for."""

    code, title = "store-stalled", "The store stopped moving bytes"
    default_hint = "Try again; RELAY_STALL_SECONDS and RELAY_STALL_BYTES are the limits."


class ProtocolViolation(StoreError):
    """What came is not HTTP/1.1 as RFC 9112 has it, or could be read in two ways."""

    code, title = "store-invalid-response", "The store broke the protocol"
    default_hint = (
        "Something between here and the store is broken, or is attacking; look at what answers"
        " there."
    )


class PrematureResponse(StoreError):
    """A 2xx before the whole body was sent: the destination cannot have the object."""

    code, title = (
        "destination-premature-response",
        "The destination said yes before it had the object",
    )
    default_side: ClassVar[Side] = "destination"
    default_retryable = True
    default_hint = "The destination does not read what it is sent; check its URL and method."
