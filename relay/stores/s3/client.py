"""Send one signed S3 request, and classify its refusal.

Decided here: how a request is signed, and when it is asked again (another region, another clock,
newer credentials). Never here: what is asked."""

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
"""The longest key."""
ELSEWHERE: Final = frozenset(
    {"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"}
)
"""The codes of a bucket that is in another region than the one that was asked."""
REASONED: Final = frozenset({301, 307, 400, 401, 403})
"""What HEAD is answered for several reasons: a denial, a token that expired, another region, a
clock that is off."""
EXPIRED: Final = frozenset(
    {"ExpiredToken", "InvalidToken", "TokenRefreshRequired", "InvalidAccessKeyId"}
)
"""The codes of credentials that were good once, perhaps, and that may have been replaced since."""
_AWS_HOST: Final = re.compile(
    r"(?P<bucket>.+\.)?s3\.(?P<region>[a-z0-9-]+)\.(?P<rest>amazonaws\.com(?:\.cn)?)"
)


@lru_cache(maxsize=256)
def aws_host(host: str) -> re.Match[str] | None:
    """Return the parts of the name of one of AWS's own hosts, or None. (Each object asks for it
    some six times.)"""
    return _AWS_HOST.fullmatch(host)


@dataclass(frozen=True)
class S3Account:
    """One bucket at one endpoint. `prefix` is what of a path stands before the key: '/bucket', or
    '' (virtual host)."""

    bucket: str
    prefix: str
    signer: Signer = field(compare=False, repr=False)
    endpoint: str = ""
    """Its URL, without the bucket: what lies at one endpoint may be copied there."""
    store: str = "s3"
    owner: str = field(default="", compare=False)
    """The profile of its credentials, and their key where that is none that expires."""
    uploaded: Fields = field(default=(), compare=False)
    """What goes along with each object that is written: how it is encrypted, its class, who may
    read it; ..."""
    asked: Fields = field(default=(), compare=False)
    """... and with every request."""

    def shown(self, path: str) -> str:
        """Return `s3://bucket/key`."""
        return f"s3://{self.bucket}{unquote(path.removeprefix(self.prefix))}"

    def check(self, path: str) -> None:
        """As Account.check (docs.aws.amazon.com, "Naming Amazon S3 objects")."""
        if len(path) <= KEY_BYTES:
            return  # decoded it is no longer
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
    """The region that the last request was signed for; others may have learned of another one
    meanwhile."""
    _signed_skew: timedelta = timedelta(0)
    """As far as that the clock by which it was signed was set."""

    def head(self, location: Location) -> ObjectInfo | UnknownObject:
        """As Source.head; keeps in mind that a destination's bucket answers."""
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
        """Never: S3 answers HEAD by the same rules as GET."""
        return False

    def _read(self, method: str, location: Location, fields: Fields) -> tuple[Response, Location]:
        """As HttpStore's, but nothing is followed: a redirect of S3's means another region, and
        another signature."""
        return self._send(method, location, fields), location

    def _endpoint(self, location: Location) -> EndpointQuirks:
        """Return what is known of where `location` is; made once for a transfer's own."""
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
        """As HttpStore's, signed. What can be sent again is, where the answer's head names the
        bucket's region."""
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
        """Return where a request goes, and the fields that sign it. Raises CredentialsWithdrawn
        where there are none to sign with now: they were to be renewed, which may work in a
        moment."""
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
        """As HttpStore's, with the token of credentials that are not ours for long."""
        token = self._signed_by.token if self._signed_by is not None else None
        fields = (*location.headers, *cast(S3Account, location.account).asked)
        return (*((token,) if token else ()), *secrets_of(fields, location.query))

    def _refusal(self, response: Response, method: str, location: Location) -> RelayError:
        """As HttpStore's, by the code that S3 names in the answer's text. HEAD has none: where the
        reason decides what is done about it, one byte is asked for, whose refusal has one."""
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
        """Return the error, to try again after, of a HEAD that was refused and is answered by now:
        the reason has passed, as a clock that was set. None where it is refused for good."""
        again = self._send("HEAD", location, self.asked)
        again.body.close()
        if again.head.status not in (200, 404):
            return None
        return Unavailable(f"HEAD {location} was refused, and is answered now", side=self._side)

    def _only_denied(self, location: Location) -> bool:
        """Say if a 403 can only mean that the object may not be read: one byte was denied since
        HEAD last found an object, or a bucket that has answered no HEAD has taken an upload. Of one
        that answers HEAD the credentials may have expired."""
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
                f"{method} {location}: the bucket is in {region}, and is asked there",
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
        """Say if the bucket is in another region than the one that was asked; it is asked there
        from now on."""
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
                f"{said}; it is asked with the credentials that there are now", side=self._side
            )
        if code == "PreconditionFailed" and method == "GET":
            return SourceChanged(
                f"{said}: it is another version than the one that was pinned", side=self._side
            )
        if issubclass(known.kind, IntegrityMismatch):
            return known.kind(said, side=self._side, hint=known.hint, retryable=known.retryable)
        after = retry_after(response.head.get("retry-after"))
        status = response.head.status
        return known.kind(
            said, side=self._side, store_status=status, retry_after=after, hint=known.hint
        )

    def _clock_set(self, response: Response, location: Location) -> bool:
        """Sign by the server's clock from now on; False where that was done, or it tells no
        time."""
        theirs = http_date(response.head.get("date"))
        signer = cast(S3Account, location.account).signer
        set_now = theirs is not None and signer.learn_time(theirs, self._signed_skew)
        if set_now:
            log.warning(
                "clock.adjusted",
                extra={"members": {"detail": f"{location.origin} says that it is {theirs}"}},
            )
        return set_now

    def _has_new_credentials(self, location: Location) -> bool:
        """Say if there are other credentials by now than those that were refused."""
        signer, refused = cast(S3Account, location.account).signer, self._signed_by
        try:
            return signer.renew(refused)
        except ConfigError:
            return False  # the store's refusal tells more

    # -- documents

    def _document(self, response: Response, method: str, location: Location) -> Element:
        """Return the answer's document. Raises by its code when it is an error, whatever the status
        says."""
        if response.head.status != 200:
            raise self._refusal(response, method, location)
        # A blank now and then says that the store is still at work; that is no stall.
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
        """Yield the children of an answer's document, as they come.

        Raises by its code when it is an error, whatever the status says; ProtocolViolation, which
        may pass, for a document that has not this root; ConnectionLost for one that is cut off, or
        is no XML."""
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
                    f"{method} {location} was answered with a document <{printable(name)}>, and no"
                    f" <{root}>"
                )
                raise ProtocolViolation(message, side=self._side, retryable=True)
            yield from document

    def _parse_document(self, text: str, location: Location) -> Element:
        root = parse_document(text)
        if root is None:
            raise ConnectionLost(
                f"{location}: the answer is cut off, or is no XML", side=self._side
            )
        return root


def _unreadable_fact(location: Location) -> str:
    """Return the fact that who may write to a bucket may not read there."""
    return f"unreadable {cast(S3Account, location.account).bucket}"


def _readable(location: Location) -> str:
    """Return the fact that a bucket says what is there, and what is not."""
    return f"readable {cast(S3Account, location.account).bucket}"


def key_of(location: Location) -> str:
    """Return the key of an object, or of a folder."""
    return unquote(
        location.path.removeprefix(cast(S3Account, location.account).prefix).removeprefix("/")
    )


def in_region(location: Location, region: str) -> Location:
    """Return the same at AWS's host of a region, if it is at AWS (docs.aws.amazon.com, "Amazon S3
    endpoints")."""
    found = aws_host(location.host)
    if found is None or found["region"] == region:
        return location
    return replace(location, host=f"{found['bucket'] or ''}s3.{region}.{found['rest']}")


def at_query(location: Location, query: str) -> Location:
    """Return the object's address with a query, in the order in which it is signed."""
    return replace(location, target=f"{location.path}?{query}")
