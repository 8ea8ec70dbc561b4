"""What can go wrong, whose fault it is, and what to do about it.

Decided here: every error that may leave any part of relay. Never here: HTTP, sockets, retries.

Rule 1: an error says which *side* it is on, whether trying again makes sense, and what to do (law 2).
Rule 2: no `RelayError` derives from `OSError` or from a foreign library's error. A peer's reset that is raised
while our upload reads from its source would otherwise be taken for a broken upload, and blamed on the wrong side.
Rule 3: nothing secret goes in. Locations print themselves redacted, so put a Location in the text, never a URL.

The tree:

    RelayError
    ├─ ConfigError               start-up only
    ├─ RequestError              the caller's mistake, found before anything was dialled
    │  ├─ MalformedRequest 400   ├─ InvalidRequest 422      ├─ UnsupportedMediaType 415   ├─ RequestTooLarge 413
    │  ├─ RequestTimeout 408     ├─ Unauthorized 401        └─ Forbidden 403
    ├─ EgressDenied 403          the address policy said no
    ├─ Overloaded 503            no slot, or the server is draining
    │  └─ TooManyFiles 503       no more files can be opened
    ├─ LedgerFailed 503 (LedgerBusy)   MigrationUnknown 404   IllegalTransition 409   LeaseLost
    ├─ ServerUnreachable  NotRelay  ServerRefused   the terminal's own, of a server that it speaks to
    ├─ StoreError                what a store said, or how its connection failed
    │  ├─ NotFound (UploadGone)  ├─ AlreadyExists  ├─ PreconditionFailed  ├─ PermissionDenied
    │  ├─ Unauthenticated (CredentialsWithdrawn)
    │  ├─ Rejected (StoreFull)  ├─ RangeIgnored  ├─ LengthRequired  ├─ RedirectRefused  ├─ TooManyRedirects
    │  ├─ Throttled  ├─ Unavailable (Locked)  ├─ ConnectFailed  ├─ ConnectionLost  ├─ CertificateRefused
    │  ├─ StoreTimeout (Stalled)  └─ ProtocolViolation  └─ PrematureResponse
    └─ TransferError             the bytes
       ├─ SourceTruncated  ├─ SourceOverrun  ├─ SourceChanged  ├─ SourceUnstable  ├─ IntegrityMismatch
       └─ DestinationLost  └─ DestinationMutates  └─ Cancelled
"""

from __future__ import annotations

from typing import ClassVar, Literal

Side = Literal["source", "destination", "relay", "request"]


class RelayError(Exception):
    """Base of every error of relay's own.

    `code` is the slug that stands in the problem's `type`; `title` the same in words; `status` the HTTP status
    that a server answers with; `message` the fact with its numbers; `hint` what the reader can do.
    """

    code: ClassVar[str] = "relay-error"
    title: ClassVar[str] = "Relay failed"
    status: ClassVar[int] = 500
    default_side: ClassVar[Side] = "relay"
    default_retryable: ClassVar[bool] = False
    default_hint: ClassVar[str] = "This is a bug in relay. Please report it with the receipt or the log line."

    def __init__(
        self,
        message: str,
        *,
        side: Side | None = None,
        retryable: bool | None = None,
        hint: str | None = None,
        retry_after: float | None = None,
        pointer: str | None = None,
    ) -> None:
        """Keep the fact; `retry_after` is in seconds, `pointer` a JSON Pointer into the request."""
        super().__init__(message)
        self.message = message
        self.side: Side = side or self.default_side
        self.retryable = self.default_retryable if retryable is None else retryable
        self.hint = hint or self.default_hint
        self.retry_after = retry_after
        self.pointer = pointer

    def __str__(self) -> str:
        """One line: the side and the fact."""
        return f"{self.side}: {self.message}"


class ConfigError(RelayError):
    """A setting is wrong. Raised at start-up only; the command line exits with 2."""

    code, title, status = "config-error", "A setting is wrong", 500
    default_hint = "Correct the setting that is named and start again."


# -- the caller's mistakes -----------------------------------------------------------------------------------


class RequestError(RelayError):
    """The request itself is at fault; nothing was dialled."""

    code, title, status = "invalid-request", "The request is not acceptable", 422
    default_side: ClassVar[Side] = "request"
    default_hint = "Correct the request; /openapi.json says what it may hold."


class MalformedRequest(RequestError):
    """The body cannot be parsed, or can be parsed in more than one way."""

    code, title, status = "malformed-json", "The request is not well-formed JSON", 400


class DuplicateMember(RequestError):
    """A JSON object names one member twice; which one was meant?"""

    code, title, status = "duplicate-json-member", "A JSON member stands twice", 400


class JsonTooDeep(RequestError):
    """The JSON is nested deeper than anything this server asks for."""

    code, title, status = "json-too-deep", "The JSON is nested too deeply", 400


class UnsupportedMediaType(RequestError):
    """The body is not declared as plain, unencoded JSON."""

    code, title, status = "unsupported-media-type", "The body must be application/json", 415
    default_hint = "Send the body as JSON with 'Content-Type: application/json' and no Content-Encoding."


class RequestTooLarge(RequestError):
    """The body is larger than the limit."""

    code, title, status = "request-too-large", "The request is too large", 413


class RequestTimeout(RequestError):
    """The body did not arrive in time."""

    code, title, status = "request-timeout", "The request did not arrive in time", 408
    default_retryable = True


class Unauthorized(RequestError):
    """No token, or one that is not known."""

    code, title, status = "unauthorized", "A token is needed", 401
    default_hint = "Send 'Authorization: Bearer <token>' with one of the tokens in RELAY_TOKENS_FILE."


class Forbidden(RequestError):
    """The server may not answer this caller at all."""

    code, title, status = "forbidden", "Not allowed from here", 403


class UnknownMember(RequestError):
    """A member that this server does not know: a typo must not mean a default."""

    code, title = "unknown-member", "A member is not known"


class MissingMember(RequestError):
    """A member that must be there is not."""

    code, title = "missing-member", "A member is missing"


class InvalidType(RequestError):
    """A member has the wrong type, or a value that is not allowed."""

    code, title = "invalid-type", "A member has the wrong type or value"


class NamesUnknown(RequestError):
    """A list of fresh URLs names objects that are not in the migration."""

    code, title = "names-unknown", "The list names objects that are not in the migration"
    default_hint = (
        "Give the names that the migration has (`relay report`, or GET …/transfers), best in a CSV file with columns "
        "'name' and 'url'. What is new is a migration of its own."
    )


class InvalidURL(RequestError):
    """A URL that is not absolute, or that two parsers could read differently."""

    code, title = "invalid-url", "The URL is not acceptable"
    default_hint = "Give one absolute http:// or https:// URL, percent-encoded, without spaces or backslashes."


class UnsupportedScheme(RequestError):
    """A scheme that no store answers to."""

    code, title = "unsupported-scheme", "The scheme is not supported"
    default_hint = "Use https://, http://, s3://, webdav+https:// or webdav://, or a remote: `relay remotes`."


class CredentialsInURL(RequestError):
    """A user name or password inside the URL, where logs would show it."""

    code, title = "credentials-in-url", "Credentials do not belong in a URL"
    default_hint = 'Send them as a header: {"url": …, "headers": {"Authorization": …}}.'


class URLTooLong(RequestError):
    """A URL beyond the limit."""

    code, title = "url-too-long", "The URL is too long"


class InvalidHeader(RequestError):
    """A header that cannot be sent safely."""

    code, title = "invalid-header", "A header is not acceptable"


class ForbiddenHeader(RequestError):
    """A header that belongs to relay: it frames the message or names the hop."""

    code, title = "forbidden-header", "That header is relay's own to set"
    default_hint = "Leave the header out; relay sets it."


class UnsafeKey(RequestError):
    """A path that servers and proxies may fold onto another one."""

    code, title = "unsafe-key", "The path is not safe"
    default_hint = "Take out '.' and '..' segments, backslashes, control characters and empty segments."


class KeyTooLong(UnsafeKey):
    """A name that the destination has no room for: too many bytes, or too many folders."""

    code, title = "key-too-long", "The name is too long"
    default_hint = "Choose a shorter name at the destination, or another destination."


class ReservedKey(UnsafeKey):
    """A name that only relay's own unfinished uploads have."""

    code, title = "reserved-key", "The name is reserved"
    default_hint = "Rename the object: names like .relay-….part are those of unfinished uploads."


class SameObject(RequestError):
    """Source and destination are the same object."""

    code, title = "same-object", "Source and destination are the same object"
    default_hint = "Give a destination that is not the source."


class VerificationUnavailable(RequestError):
    """A level of proof that this destination can never give: better said now than after the last byte."""

    code, title = "verification-unavailable", "This proof can't be had there"
    default_hint = "Ask for 'auto', or choose another destination."


class Unsupported(RequestError):
    """Something that relay knows of, and that these two stores can't do."""

    code, title, status = "unsupported", "Not supported here", 501


class EgressDenied(RelayError):
    """The address policy refused to connect. The text never names the address that a name resolved to."""

    code, title, status = "egress-denied", "The address is not allowed", 403
    default_side: ClassVar[Side] = "request"
    default_hint = "Only public addresses are allowed; the operator can add a host or CIDR to RELAY_EGRESS_ALLOW."


class LocalDenied(EgressDenied):
    """A folder of the server's own machine that nobody allowed."""

    code, title = "local-folder-denied", "This folder is not allowed"
    default_hint = "The operator may allow folders with RELAY_LOCAL_FOLDERS; the terminal may read and write all."


class PortDenied(EgressDenied):
    """The address policy refused the port."""

    code, title = "port-denied", "The port is not allowed"
    default_hint = "Ports 80, 443, 8080 and 8443 are open; the operator can add others to RELAY_EGRESS_PORTS."


class Overloaded(RelayError):
    """No slot came free in time, the line is full, or the server is draining."""

    code, title, status = "overloaded", "No slot is free", 503
    default_retryable = True
    default_hint = "Try again after the seconds that Retry-After names."


class TooManyFiles(Overloaded):
    """This process, or this machine, may open no more files and connections."""

    code, title = "too-many-files", "No more files can be opened"
    default_hint = "Raise the limit of open files (LimitNOFILE, `ulimit -n`), or lower RELAY_SLOTS."


class LedgerFailed(RelayError):
    """The ledger can't be read or written; nothing that depends on it is acknowledged."""

    code, title, status = "ledger-failed", "The ledger failed", 503
    default_hint = "Look at the disk or the database that RELAY_LEDGER names; relay goes on when it is back."


class LedgerBusy(LedgerFailed):
    """Another process keeps the ledger locked."""

    code, title = "ledger-busy", "The ledger is busy"
    default_retryable = True
    default_hint = "Try again; if it keeps happening, look at who else has the file open."


class MigrationUnknown(RelayError):
    """There is no migration, or no transfer, of this id."""

    code, title, status = "migration-unknown", "There is no such migration", 404
    default_side: ClassVar[Side] = "request"
    default_hint = "GET /migrations, or `relay status`, lists those that are there."


class IllegalTransition(RelayError):
    """Something that may not happen in this state."""

    code, title, status = "illegal-transition", "Not possible in this state", 409
    default_side: ClassVar[Side] = "request"
    default_hint = "Look at its state."


class KeyReused(RequestError):
    """An Idempotency-Key came again, with another request."""

    code, title = "idempotency-key-reused", "The Idempotency-Key was used for another request"
    default_hint = "Use a new key for a new request."


class LeaseLost(RelayError):
    """A claim is not ours any more: this process was thought dead. What it did meanwhile changes nothing."""

    code, title = "lease-lost", "The claim is not ours any more"
    default_hint = "Another worker goes on with it; this machine may be short of CPU."


class ServerUnreachable(RelayError):
    """The server that the terminal was told of does not answer, or broke off."""

    code, title, status = "server-unreachable", "The server does not answer", 502
    default_retryable = True
    default_hint = "Check RELAY_URL (or --url), and that `relay serve` runs there."


class NotRelay(RelayError):
    """What answers there is no relay, or something in front of one."""

    code, title, status = "not-relay", "No relay answers there", 502
    default_hint = "Check RELAY_URL (or --url): it is the address that `relay serve` prints when it starts."


class ServerRefused(RelayError):
    """The server refused with a problem that this relay has no name for."""

    code, title, status = "server-refused", "The server refused", 502
    default_hint = "The server may be of another version; its /openapi.json says what it takes."


# -- what a store said ---------------------------------------------------------------------------------------


class StoreError(RelayError):
    """A store refused, failed or broke the protocol. `store_status` is the status it answered, if it did."""

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
        super().__init__(message, side=side, retryable=retryable, hint=hint, retry_after=retry_after)
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
    """What the store allowed before it denies now: a signature has expired, or a key was withdrawn."""

    code, title = "store-credentials-withdrawn", "The store denies what it allowed before"
    default_hint = "Resume with fresh credentials, or a fresh presigned URL; what has arrived is kept."


class PermissionDenied(StoreError):
    """The store knows who asks, and says no."""

    code, title = "store-permission-denied", "The store denied permission"
    default_hint = "Check the permissions; a presigned URL may have expired or be for another method."


class Rejected(StoreError):
    """The store answered with a status that is not success, and that trying again will not change."""

    code, title = "store-rejected", "The store refused the request"


class StoreFull(Rejected):
    """The store has no room left: 507, a quota, a full disk. The next object would fare no better."""

    code, title = "store-full", "The store is full"
    default_hint = "Free space or raise the quota; nothing of this object was left. Then resume, or run it again."


class RangeIgnored(StoreError):
    """The store answered with another range than the one that was asked for, or with the whole object."""

    code, title = "range-ignored", "The store did not give the range that was asked for"
    default_hint = "The object is moved in one piece instead."


class LengthRequired(StoreError):
    """The destination needs a length, and the source has none."""

    code, title = "source-length-unknown", "The destination needs a length and the source has none"
    default_side: ClassVar[Side] = "destination"
    default_hint = "Use a source that sends Content-Length, or a destination that takes chunked uploads."


class RedirectRefused(StoreError):
    """The store sent us elsewhere, where we do not follow: on an upload, from https to http, to an odd URL."""

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
    default_hint = "Somebody has it open: close it there, or wait until the lock runs out, and try again."


class UploadGone(NotFound):
    """An upload in parts that was begun is not there any more: somebody aborted it, or it was too old."""

    code, title, status = "upload-gone", "The upload was thrown away meanwhile", 502
    default_side: ClassVar[Side] = "destination"
    default_retryable = True
    default_hint = "It was begun anew, and is gone again: look at the bucket's rules for unfinished uploads."


class ConnectFailed(StoreError):
    """No connection: the name does not resolve, or no address answers."""

    code, title = "connect-failed", "No connection to the store"
    default_retryable = True
    default_hint = "Check the host name, the port, and that the store is up."


class ConnectionLost(StoreError):
    """The connection broke in the middle."""

    code, title = "connection-lost", "The connection to the store broke"
    default_retryable = True
    default_hint = "Try again; if it keeps happening look at the network between here and the store."


class CertificateRefused(StoreError):
    """The store's certificate or its TLS is not acceptable."""

    code, title = "certificate-refused", "The store's TLS is not trusted"
    default_hint = "Check the host name and the certificate; a private authority goes in RELAY_CA_BUNDLE."


class StoreTimeout(StoreError):
    """The store did not connect, or did not answer, in time."""

    code, title, status = "store-timeout", "The store did not answer in time", 504
    default_retryable = True
    default_hint = "Try again; RELAY_CONNECT_SECONDS, RELAY_HEAD_SECONDS and RELAY_TOTAL_SECONDS are the limits."


class Stalled(StoreTimeout):
    """Fewer bytes moved than the stall rule asks for."""

    code, title = "store-stalled", "The store stopped moving bytes"
    default_hint = "Try again; RELAY_STALL_SECONDS and RELAY_STALL_BYTES are the limits."


class ProtocolViolation(StoreError):
    """What came is not HTTP/1.1 as RFC 9112 has it, or could be read in two ways."""

    code, title = "store-invalid-response", "The store broke the protocol"
    default_hint = "Something between here and the store is broken, or is attacking; look at what answers there."


class PrematureResponse(StoreError):
    """A 2xx before the whole body was sent: the destination cannot have the object."""

    code, title = "destination-premature-response", "The destination said yes before it had the object"
    default_side: ClassVar[Side] = "destination"
    default_retryable = True
    default_hint = "The destination does not read what it is sent; check its URL and method."


# -- the bytes -----------------------------------------------------------------------------------------------


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
    """The source gave other bytes the second time, under the same entity tag. Which are right nobody can tell."""

    code, title = "source-unstable", "The source gives other bytes each time"
    default_hint = "The source, or something before it, is damaged; look at the object there, and at its digest."


class IntegrityMismatch(TransferError):
    """A digest or a size that was declared, or read back, is not that of the bytes that passed.

    `seen` tells what the destination had instead, if it was looked at.
    """

    code, title = "digest-mismatch", "The bytes do not match their digest"
    default_retryable = True
    default_hint = "Bytes were damaged on the way or in the store. Nothing wrong was left behind unless it says so."

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
    default_hint = "It adds to, or rewrites, objects of this kind; put them into an archive, or choose another store."


class Cancelled(TransferError):
    """Somebody asked for the end, or the server is stopping."""

    code, title, status = "cancelled", "The transfer was cancelled", 503
    default_side: ClassVar[Side] = "relay"
    default_retryable = True
    default_hint = "Send the request again."
