"""Send one signed S3 request, and classify its refusal.

Decided here: how a request is signed, and when it is sent again (another region, another clock,
newer credentials). Never here: what a request asks for."""

from __future__ import annotations

import logging
import re
from collections.abc import Generator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import lru_cache
from typing import Final, cast
from urllib.parse import unquote, unquote_to_bytes
from xml.etree.ElementTree import Element

from relay.errors import (
    ConfigError,
    ConnectionLost,
    CredentialsWithdrawn,
    IntegrityMismatch,
    KeyTooLong,
    NotFound,
    PermissionDenied,
    ProtocolViolation,
    Rejected,
    RelayError,
    SourceChanged,
    Unavailable,
)
from relay.location import Location
from relay.parsing import http_date
from relay.stores.error_messages import hide_secrets, message_of, secrets_of, without_query
from relay.stores.http import PAGE_BYTES, HttpStore
from relay.stores.http_fields import printable, retry_after
from relay.stores.interfaces import ObjectInfo, UnknownObject
from relay.stores.pieces import pieces_of
from relay.stores.s3.quirks import (
    KNOWN,
    NO_PART_TRAILERS,
    NO_TRAILERS,
    PART_TRAILERS,
    TRAILERS,
    EndpointQuirks,
)
from relay.stores.s3.responses import CODES, error_region, error_told, parse_document
from relay.stores.s3.sigv4 import UNSIGNED, UNSIGNED_TRAILER, AwsCredentials, Signer
from relay.stores.xml_documents import Document, plain_name
from relay.wire.body import Body
from relay.wire.exchange import Payload, Response, Wrapping
from relay.wire.http1 import Fields
from relay.wire.watchdog import Watchdog

log = logging.getLogger("relay.stores")

KEY_BYTES: Final = 1024
"""Maximum length of a key, in bytes."""
ELSEWHERE: Final = frozenset(
    {"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"}
)
"""Error codes for a bucket that is in another region."""
REASONED: Final = frozenset({301, 307, 400, 401, 403})
"""Statuses of HEAD with several possible reasons: a denial, an expired token, another region, a
wrong clock."""
EXPIRED: Final = frozenset(
    {"ExpiredToken", "InvalidToken", "TokenRefreshRequired", "InvalidAccessKeyId"}
)
"""Error codes for credentials that may have been valid once, and may have been replaced since."""
_AWS_HOST: Final = re.compile(
    r"(?P<bucket>.+\.)?s3\.(?P<region>[a-z0-9-]+)\.(?P<rest>amazonaws\.com(?:\.cn)?)"
)


@lru_cache(maxsize=256)
def aws_host(host: str) -> re.Match[str] | None:
    """Return the parts of the name of an AWS host, or None for another host. Cached, since each
    object needs it about six times."""
    return _AWS_HOST.fullmatch(host)


@dataclass(frozen=True)
class S3Account:
    """One bucket at one endpoint. `prefix` is the part of a path before the key: '/bucket', or ''
    with a virtual host."""

    bucket: str
    prefix: str
    signer: Signer = field(compare=False, repr=False)
    endpoint: str = ""
    """The endpoint's URL, without the bucket: objects can be copied within one endpoint."""
    store: str = "s3"
    owner: str = field(default="", compare=False)
    """The profile of its credentials, and their access key unless it is a temporary one."""
    uploaded: Fields = field(default=(), compare=False)
    """Fields of every upload: encryption, storage class, access control."""
    asked: Fields = field(default=(), compare=False)
    """Fields of every request."""

    def shown(self, path: str) -> str:
        """Return `s3://bucket/key`."""
        return f"s3://{self.bucket}{unquote(path.removeprefix(self.prefix))}"

    def check(self, path: str) -> None:
        """As Account.check (docs.aws.amazon.com, "Naming Amazon S3 objects")."""
        if len(path) <= KEY_BYTES:
            return  # decoding never makes it longer
        if len(unquote_to_bytes(path.removeprefix(self.prefix).removeprefix("/"))) > KEY_BYTES:
            raise KeyTooLong(f"the key has more than {KEY_BYTES} bytes")


class S3Client(HttpStore):
    """Requests to one bucket, for one transfer."""

    asked: Fields = (("x-amz-checksum-mode", "ENABLED"),)
    believed: Mapping[str, frozenset[int]] = {
        "HEAD": frozenset({200}),
        "GET": frozenset({200}),
        "PUT": frozenset({200}),
        "DELETE": frozenset({200, 204, 404}),
    }

    head_is_advice = False

    _near: tuple[Location, EndpointQuirks] | None = None
    _signed_by: AwsCredentials | None = None
    _signed_for: str = ""
    """The region that the last request was signed for. The signer is shared: another transfer may
    have learned a different region meanwhile."""
    _signed_skew: timedelta = timedelta(0)
    """The clock correction that the last request was signed with."""

    def head(self, location: Location) -> ObjectInfo | UnknownObject:
        """As Source.head. Remembers that HEAD of a destination's bucket gives an answer."""
        if self._side != "destination":
            return super().head(location)
        endpoint = self._endpoint(location)
        try:
            found = super().head(location)
        except NotFound:
            endpoint.learn(_readable(location))
            raise
        endpoint.learn(_readable(location))
        endpoint.memory.forget(location.origin, _unreadable_fact(location))
        return found

    def _is_head_uninformative(self, status: int) -> bool:
        """Return False: S3 answers HEAD by the same rules as GET."""
        return False

    def _read(self, method: str, location: Location, fields: Fields) -> tuple[Response, Location]:
        """As HttpStore's, but follows no redirects: a redirect from S3 means another region, and so
        another signature."""
        return self._send(method, location, fields), location

    def _endpoint(self, location: Location) -> EndpointQuirks:
        """Return the remembered quirks of the endpoint of `location`, cached for the last
        location."""
        if self._near is None or self._near[0] is not location:
            bucket = cast(S3Account, location.account).bucket
            self._near = (
                location,
                EndpointQuirks(self._wire.memory, location.origin, bucket, location.path),
            )
        return self._near[1]

    def _send(
        self,
        method: str,
        location: Location,
        fields: Fields,
        body: Payload = None,
        expect: bool = False,
        wrapping: Wrapping | None = None,
    ) -> Response:
        """As HttpStore's, signed. If the answer's head names the bucket's region, the request is
        sent again for that region, unless its body is a stream."""
        account = cast(S3Account, location.account)
        signer, fields = account.signer, fields + account.asked
        payload = UNSIGNED_TRAILER if wrapping else UNSIGNED
        while True:
            there, signed = self._signed(signer, method, location, fields, payload)
            response = super()._send(method, there, fields + signed, body, expect, wrapping)
            if response.head.status not in (301, 307, 400) or isinstance(body, Body):
                return response
            region = error_region(response.head, "")
            if region is None or not signer.learn_region(region, self._signed_for):
                return response
            response.body.close()

    def _signed(
        self, signer: Signer, method: str, location: Location, fields: Fields, payload: str
    ) -> tuple[Location, Fields]:
        """Return the location that a request is sent to, and the fields that sign it. Raises
        CredentialsWithdrawn (retryable) if there are no credentials now: they were about to be
        renewed, which may succeed in a moment."""
        try:
            self._signed_by, self._signed_for, self._signed_skew = (
                signer.credentials(),
                signer.region,
                signer.skew,
            )
            there = in_region(location, self._signed_for)
            return there, signer.fields(
                method, there.host_header, there.target, there.headers + fields, payload
            )
        except ConfigError as error:
            raise CredentialsWithdrawn(
                error.message, side=self._side, retryable=True, hint=error.hint
            ) from None

    # -- refusals

    def _secrets(self, location: Location) -> tuple[str, ...]:
        """As HttpStore's, and the session token of temporary credentials."""
        token = self._signed_by.token if self._signed_by is not None else None
        fields = (*location.headers, *cast(S3Account, location.account).asked)
        return (*((token,) if token else ()), *secrets_of(fields, location.query))

    def _refusal(self, response: Response, method: str, location: Location) -> RelayError:
        """As HttpStore's, by the error code in the answer's text. An answer to HEAD has no text: if
        the reason matters, a GET of one byte is sent, whose refusal has a code."""
        status = response.head.status
        if (
            method != "HEAD"
            or status not in REASONED
            or (status == 403 and self._only_denied(location))
        ):
            return self._error_of_code(response, method, location, self._text(response, method))
        response.body.close()
        asked = self._send("GET", location, (("Range", "bytes=0-0"),))
        if asked.head.status in (200, 206, 416):
            asked.body.close()
            return self._retryable_head_error(location) or self._error_of_code(
                response, method, location, ""
            )
        error = self._error_of_code(asked, "GET", location, self._text(asked, "GET"))
        if isinstance(error, PermissionDenied) and self._side == "destination":
            self._endpoint(location).learn(_unreadable_fact(location))
        return error

    def _retryable_head_error(self, location: Location) -> RelayError | None:
        """Send a refused HEAD again. Return a retryable error if it is answered now: the reason has
        passed, such as a wrong clock that was corrected. None if it is refused again."""
        again = self._send("HEAD", location, self.asked)
        again.body.close()
        if again.head.status not in (200, 404):
            return None
        return Unavailable(f"HEAD {location} was refused, but succeeds now", side=self._side)

    def _only_denied(self, location: Location) -> bool:
        """Say if a 403 can only mean that reading is not permitted: a GET of one byte was denied
        since the last successful HEAD, or the bucket accepted an upload and never answered a HEAD.
        In a bucket that did answer HEAD, a 403 may also mean expired credentials."""
        endpoint = self._endpoint(location)
        if self._side != "destination" or endpoint.has(_unreadable_fact(location)):
            return self._side == "destination"
        facts = (KNOWN, TRAILERS, NO_TRAILERS, PART_TRAILERS, NO_PART_TRAILERS)
        return not endpoint.has(_readable(location)) and any(endpoint.has(fact) for fact in facts)

    def _error_of_code(
        self, response: Response, method: str, location: Location, text: str
    ) -> RelayError:
        code, message = error_told(text)
        region = error_region(response.head, text)
        if self._is_elsewhere(location, code, region):
            response.body.close()
            return Unavailable(
                f"{method} {location}: the bucket is in {region}; the request is retried there",
                side=self._side,
            )
        known = self._by_code(response, method, location, code, message)
        if known is None:
            return self._unexpected_status(
                response, method, location, message_of(text, self._secrets(location))
            )
        response.body.close()
        return known

    def _is_elsewhere(self, location: Location, code: str, region: str | None) -> bool:
        """Say if the bucket is in another region. If so, later requests go to that region."""
        signer = cast(S3Account, location.account).signer
        return (
            code in ELSEWHERE
            and region is not None
            and signer.learn_region(region, self._signed_for)
        )

    def _by_code(
        self, response: Response, method: str, location: Location, code: str, message: str
    ) -> RelayError | None:
        known = CODES.get(code)
        if known is None:
            return None
        reported = printable(without_query(hide_secrets(message, self._secrets(location))))
        said = f"{method} {location} was answered {response.head.status} {code}" + (
            f" ({reported})" if reported else ""
        )
        if code == "RequestTimeTooSkewed" and not self._clock_set(response, location):
            return Rejected(said, side=self._side, hint=known.hint)
        if code in EXPIRED and self._has_new_credentials(location):
            return Unavailable(
                f"{said}; the request is retried with the new credentials", side=self._side
            )
        if code == "PreconditionFailed" and method == "GET":
            return SourceChanged(
                f"{said}: the object is no longer the pinned version", side=self._side
            )
        if issubclass(known.kind, IntegrityMismatch):
            return known.kind(said, side=self._side, hint=known.hint, retryable=known.retryable)
        after = retry_after(response.head.get("retry-after"))
        status = response.head.status
        return known.kind(
            said, side=self._side, store_status=status, retry_after=after, hint=known.hint
        )

    def _clock_set(self, response: Response, location: Location) -> bool:
        """Use the server's clock for signatures from now on. Return False if that was done before,
        or if the answer has no date."""
        theirs = http_date(response.head.get("date"))
        signer = cast(S3Account, location.account).signer
        set_now = theirs is not None and signer.learn_time(theirs, self._signed_skew)
        if set_now:
            log.warning(
                "clock.adjusted",
                extra={"members": {"detail": f"the clock of {location.origin} says {theirs}"}},
            )
        return set_now

    def _has_new_credentials(self, location: Location) -> bool:
        """Say if there are now other credentials than the refused ones."""
        signer, refused = cast(S3Account, location.account).signer, self._signed_by
        try:
            return signer.renew(refused)
        except ConfigError:
            return False  # the store's refusal says more than our own error

    # -- documents

    def _document(self, response: Response, method: str, location: Location) -> Element:
        """Return the answer's document. If the document is an error, raises by its code, even with
        status 200."""
        if response.head.status != 200:
            raise self._refusal(response, method, location)
        # The store sends a blank now and then while it works on a long request; few bytes are not
        # a stall here.
        response.body.meter = Watchdog(replace(self._wire.limits, stall_bytes=0), whole=self._meter)
        text = response.body.text(self._wire.limits)
        root = self._parse_document(text, location)
        if root.tag.rpartition("}")[2] == "Error":
            raise self._by_code(response, method, location, *error_told(text)) or Unavailable(
                f"{method} {location} was answered 200, and then an error"
                f" ({message_of(text, self._secrets(location))})",
                side=self._side,
            )
        return root

    def _document_rows(
        self, response: Response, method: str, location: Location, root: str
    ) -> Generator[Element, None, None]:
        """Yield the children of an answer's document as they arrive.

        If the document is an error, raises by its code, even with status 200. Raises
        ProtocolViolation (retryable) if the root element is another one, and ConnectionLost if the
        document is cut off or not XML."""
        if response.head.status != 200:
            raise self._refusal(response, method, location)
        with closing(pieces_of(response.body, self._meter, PAGE_BYTES)) as pieces:
            document = Document(pieces, f"{location}: the answer", self._side)
            name = plain_name(document.root)
            if name == "Error":
                reported = {plain_name(row.tag): (row.text or "").strip() for row in document}
                code, message = printable(reported.get("Code", "")), reported.get("Message", "")
                raise self._by_code(response, method, location, code, message) or Unavailable(
                    f"{method} {location} was answered 200, and then an error {code}",
                    side=self._side,
                )
            if name != root:
                message = (
                    f"{method} {location} was answered with a document <{printable(name)}> instead"
                    f" of <{root}>"
                )
                raise ProtocolViolation(message, side=self._side, retryable=True)
            yield from document

    def _parse_document(self, text: str, location: Location) -> Element:
        root = parse_document(text)
        if root is None:
            raise ConnectionLost(f"{location}: the answer is cut off or not XML", side=self._side)
        return root


def _unreadable_fact(location: Location) -> str:
    """Return the fact that these credentials may write to a bucket, but not read from it."""
    return f"unreadable {cast(S3Account, location.account).bucket}"


def _readable(location: Location) -> str:
    """Return the fact that HEAD says whether a bucket has an object."""
    return f"readable {cast(S3Account, location.account).bucket}"


def key_of(location: Location) -> str:
    """Return the key of an object, or of a folder."""
    return unquote(
        location.path.removeprefix(cast(S3Account, location.account).prefix).removeprefix("/")
    )


def in_region(location: Location, region: str) -> Location:
    """Return the location at the AWS host of a region, unchanged if it is not at AWS
    (docs.aws.amazon.com, "Amazon S3 endpoints")."""
    found = aws_host(location.host)
    if found is None or found["region"] == region:
        return location
    return replace(location, host=f"{found['bucket'] or ''}s3.{region}.{found['rest']}")


def at_query(location: Location, query: str) -> Location:
    """Return the object's location with a query, which must be in the order of the signature."""
    return replace(location, target=f"{location.path}?{query}")
