"""Errors of stores: refusals, failures, broken connections.

Decided here: the failures of one exchange with a store, and which are transient. Never here: which
status means which failure (`stores/`)."""

from __future__ import annotations

from typing import ClassVar

from relay.errors.root import RelayError, Side


class StoreError(RelayError):
    """A store refused, failed or broke the protocol. `store_status` is the HTTP status of its
    answer, or None if it did not answer."""

    code, title, status = "store-error", "A store failed", 502
    default_side: ClassVar[Side] = "source"
    default_hint = "The message has the store's own words."

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
    """The store has no object of this name."""

    code, title, status = "not-found", "The object does not exist", 404
    default_hint = "Check the URL; a presigned URL may be for another method or key."


class AlreadyExists(StoreError):
    """`if_exists` is `fail`, and the destination has an object of that name."""

    code, title, status = "destination-exists", "The destination exists already", 409
    default_side: ClassVar[Side] = "destination"
    default_hint = "Choose another destination, or 'if_exists': 'overwrite' or 'skip'."


class PreconditionFailed(StoreError):
    """The store answered 412: the object is not the version that was pinned."""

    code, title, status = "precondition-failed", "The object is another version now", 412


class Unauthenticated(StoreError):
    """The store requires credentials, or does not accept these (401)."""

    code, title = "store-unauthenticated", "The store requires valid credentials"
    default_hint = "Give the store's credentials in 'headers', or a fresh presigned URL."


class CredentialsWithdrawn(Unauthenticated):
    """The store denies what it allowed earlier: a signature has expired, or a key was revoked."""

    code, title = "store-credentials-withdrawn", "The store denies what it allowed before"
    default_hint = (
        "Resume with fresh credentials, or a fresh presigned URL. Arrived objects and parts stay."
    )


class PermissionDenied(StoreError):
    """The store recognizes the credentials, and they do not permit the request (403)."""

    code, title = "store-permission-denied", "The store denied permission"
    default_hint = (
        "Check the permissions; a presigned URL may have expired or be for another method."
    )


class Rejected(StoreError):
    """The store answered with a permanent failure: a retry will not change it."""

    code, title = "store-rejected", "The store refused the request"


class KeyCollision(Rejected):
    """The destination stores two objects under one name, since it ignores case or Unicode
    normalization, or takes one name for another."""

    code, title, status = "key-collision", "Two names are the same at the destination", 422
    default_side: ClassVar[Side] = "destination"


class StoreFull(Rejected):
    """The store is full, or the object's folder: 507, a quota, a full disk."""

    code, title = "store-full", "The store is full"
    default_hint = (
        "Free space or raise the quota, which may be one of the object's folder; then resume, or"
        " run it again. Nothing of this object was left."
    )


class MetadataUnkept(StoreError):
    """The destination can't keep all of the object's metadata, and 'metadata' is 'strict'. Nothing
    was sent, or only the upload showed what is missing."""

    code, title, status = (
        "metadata-unkept",
        "The destination can't keep all of the object's metadata",
        409,
    )
    default_side: ClassVar[Side] = "destination"
    default_hint = (
        "Leave out 'metadata': 'strict' to move the object anyway, with a note in its receipt, or"
        " choose another store."
    )


class RangeIgnored(StoreError):
    """The store answered with another range than requested, or with the whole object."""

    code, title = "range-ignored", "The store did not answer with the requested range"
    default_hint = "The object is moved in one request instead."


class LengthRequired(StoreError):
    """The destination requires a length, and the source does not declare one."""

    code, title = "source-length-unknown", "The destination needs a length and the source has none"
    default_side: ClassVar[Side] = "destination"
    default_hint = (
        "Use a source that sends Content-Length, or a destination that takes chunked uploads."
    )


class RedirectRefused(StoreError):
    """The store answered with a redirect that relay does not follow: of an upload, from https to
    http, or to an invalid URL."""

    code, title = "redirect-refused", "The redirect is not followed"
    default_hint = "If you trust the final URL, use it directly."


class TooManyRedirects(StoreError):
    """More than five redirects, or a loop."""

    code, title = "too-many-redirects", "Too many redirects"
    default_hint = "Use the final URL directly."


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
    """The store answered 423: another client holds a lock on the object, or on its folder."""

    code, title = "store-locked", "The object is locked"
    default_hint = (
        "Close the object where it is open, or wait until the lock expires, and try again."
    )


class UploadGone(NotFound):
    """A multipart upload no longer exists: another client aborted it, or the store expired it."""

    code, title, status = "upload-gone", "The multipart upload no longer exists", 502
    default_side: ClassVar[Side] = "destination"
    default_retryable = True
    default_hint = (
        "The upload was restarted, and is gone again: check the bucket's rules for incomplete"
        " multipart uploads."
    )


class ConnectFailed(StoreError):
    """The host name does not resolve, or none of its addresses answers."""

    code, title = "connect-failed", "No connection to the store"
    default_retryable = True
    default_hint = "Check the host name, the port, and that the store is up."


class ConnectionLost(StoreError):
    """The connection broke during an exchange."""

    code, title = "connection-lost", "The connection to the store broke"
    default_retryable = True
    default_hint = (
        "Try again; if it keeps happening, check the network between relay and the store."
    )


class CertificateRefused(StoreError):
    """The store's certificate is not trusted, or its TLS version is not accepted."""

    code, title = "certificate-refused", "The store's TLS is not trusted"
    default_hint = (
        "Check the host name and the certificate; RELAY_CA_BUNDLE adds a private certificate"
        " authority."
    )


class HostKeyRefused(StoreError):
    """The key of an SSH server is not known, or is another one than the known one."""

    code, title = "host-key-refused", "The server's host key is not trusted"
    default_hint = (
        "Compare the fingerprint with the one that the server's operator names, and add the key to"
        " ~/.ssh/known_hosts."
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
    """Fewer than RELAY_STALL_BYTES bytes moved in RELAY_STALL_SECONDS."""

    code, title = "store-stalled", "The store stopped moving bytes"
    default_hint = "Try again; RELAY_STALL_SECONDS and RELAY_STALL_BYTES are the limits."


class ProtocolViolation(StoreError):
    """The answer is not valid HTTP/1.1 (RFC 9112), or is ambiguous."""

    code, title = "store-invalid-response", "The store broke the protocol"
    default_hint = (
        "The store, or a proxy in front of it, is broken or malicious; check the server at this"
        " address."
    )


class PrematureResponse(StoreError):
    """The destination answered 2xx before the whole body was sent: it cannot have the object."""

    code, title = (
        "destination-premature-response",
        "The destination reported success before it had the object",
    )
    default_side: ClassVar[Side] = "destination"
    default_retryable = True
    default_hint = "The destination does not read the upload; check its URL and method."
