"""Errors of the caller's request, found before any connection is made.

Decided here: the reasons to refuse a request, and their HTTP statuses. Never here: the checks."""

from __future__ import annotations

from typing import ClassVar

from relay.errors.root import RelayError, Side


class RequestError(RelayError):
    """The request is wrong. No connection was made."""

    code, title, status = "invalid-request", "The request is not acceptable", 422
    default_side: ClassVar[Side] = "request"
    default_hint = "Correct the request; /openapi.json describes its members."


class MalformedRequest(RequestError):
    """The body cannot be parsed, or can be parsed in more than one way."""

    code, title, status = "malformed-json", "The request is not well-formed JSON", 400


class DuplicateMember(RequestError):
    """A JSON object has one member twice, so its meaning is ambiguous."""

    code, title, status = "duplicate-json-member", "A JSON member occurs twice", 400


class JsonTooDeep(RequestError):
    """The JSON is nested more deeply than any request of this server."""

    code, title, status = "json-too-deep", "The JSON is nested too deeply", 400


class UnsupportedMediaType(RequestError):
    """The body is not declared as plain, unencoded JSON."""

    code, title, status = "unsupported-media-type", "The body must be application/json", 415
    default_hint = (
        "Send the body as JSON with 'Content-Type: application/json' and no Content-Encoding."
    )


class RequestTooLarge(RequestError):
    """The body is larger than the limit."""

    code, title, status = "request-too-large", "The request is too large", 413


class RequestTimeout(RequestError):
    """The body did not arrive in time."""

    code, title, status = "request-timeout", "The request did not arrive in time", 408
    default_retryable = True


class Unauthorized(RequestError):
    """The request has no token, or an unknown one."""

    code, title, status = "unauthorized", "A valid token is needed", 401
    default_hint = "Send 'Authorization: Bearer <token>'; `relay token create NAME` makes a token."


class Forbidden(RequestError):
    """The server may not answer this caller at all."""

    code, title, status = "forbidden", "Not allowed from here", 403
    is_cross_site: bool = False
    """Whether a page of another site may have caused the request."""

    @classmethod
    def cross_site(cls, message: str, hint: str) -> Forbidden:
        """Return the error of a request that a page of another site may have caused."""
        made = cls(message, hint=hint)
        made.is_cross_site = True
        return made


class UnknownMember(RequestError):
    """The request has an unknown member. It is refused, since a typo must not mean a default."""

    code, title = "unknown-member", "A member is unknown"


class MissingMember(RequestError):
    """A required member is missing."""

    code, title = "missing-member", "A member is missing"


class InvalidType(RequestError):
    """A member has the wrong type, or a value that is not allowed."""

    code, title = "invalid-type", "A member has the wrong type or value"


class InvalidFilter(RequestError):
    """A filter is wrong, or contradicts another one."""

    code, title = "invalid-filter", "A filter is not valid"
    default_hint = (
        "Correct the filter; in the terminal, `relay ls -r` with `--dump-filters` shows the rules."
    )


class NamesUnknown(RequestError):
    """A list of fresh URLs names objects that are not in the migration."""

    code, title = "names-unknown", "The list names objects that are not in the migration"
    default_hint = (
        "Use the migration's own names (`relay report`, or GET …/transfers), best in a CSV file"
        " with columns 'name' and 'url'. Start another migration for new objects."
    )


class InvalidURL(RequestError):
    """A URL is not absolute, or two parsers could read it differently."""

    code, title = "invalid-url", "The URL is invalid"
    default_hint = (
        "Give one absolute http:// or https:// URL, percent-encoded, without spaces or backslashes."
    )


class UnsupportedScheme(RequestError):
    """No store has this scheme."""

    code, title = "unsupported-scheme", "The scheme is not supported"
    default_hint = (
        "Use https://, http://, s3://, webdav+https://, webdav:// or sftp://, or a remote: `relay"
        " remotes`."
    )


class CredentialsInURL(RequestError):
    """The URL has a user name or password, which logs would show."""

    code, title = "credentials-in-url", "Credentials do not belong in a URL"
    default_hint = 'Send them as a header: {"url": …, "headers": {"Authorization": …}}.'


class URLTooLong(RequestError):
    """The URL exceeds the limit."""

    code, title = "url-too-long", "The URL is too long"


class InvalidHeader(RequestError):
    """A header that cannot be sent safely."""

    code, title = "invalid-header", "A header is invalid"


class ForbiddenHeader(RequestError):
    """Only relay may set this header: it frames the message or belongs to the connection."""

    code, title = "forbidden-header", "Only relay sets that header"
    default_hint = "Leave the header out; relay sets it."


class UnsafeKey(RequestError):
    """A path that servers and proxies may fold onto another one."""

    code, title = "unsafe-key", "The path is not safe"
    default_hint = (
        "Take out '.' and '..' segments, backslashes, control characters and empty segments."
    )


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
    """The destination can never give the level of proof that was asked for. The request is refused
    before anything is sent."""

    code, title = "verification-unavailable", "The destination can't give this proof"
    default_hint = "Ask for 'verify': 'auto', or choose another destination."


class Unsupported(RequestError):
    """These two stores do not support the action."""

    code, title, status = "unsupported", "Not supported here", 501


class EgressDenied(RelayError):
    """The address policy refused the connection. The text never has the address that a host name
    resolved to."""

    code, title, status = "egress-denied", "The address is not allowed", 403
    default_side: ClassVar[Side] = "request"
    default_hint = (
        "Only public addresses are allowed; the operator can add a host or CIDR to"
        " RELAY_EGRESS_ALLOW."
    )


class LocalDenied(EgressDenied):
    """The operator has not allowed this folder of the server's own machine."""

    code, title = "local-folder-denied", "This folder is not allowed"
    default_hint = (
        "The operator can allow folders with RELAY_LOCAL_FOLDERS; the command line may use every"
        " folder."
    )


class PortDenied(EgressDenied):
    """The address policy refused the port."""

    code, title = "port-denied", "The port is not allowed"
    default_hint = (
        "Ports 80, 443, 8080 and 8443 are open; the operator can add others to RELAY_EGRESS_PORTS."
    )


class KeyReused(RequestError):
    """The Idempotency-Key was used before, for another request."""

    code, title = "idempotency-key-reused", "The Idempotency-Key was used for another request"
    default_hint = "Use a new key for a new request."
