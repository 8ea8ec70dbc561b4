"""Send one signed S3 request, read its answer, and classify its refusal.

Decided here: what a refusal means, and which error an answer's document is. Never here: what a
request asks for, how it is signed (`signed_requests.py`)."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from dataclasses import replace
from typing import Final
from xml.etree.ElementTree import Element

from relay.errors import (
    ConnectionLost,
    IntegrityMismatch,
    PermissionDenied,
    ProtocolViolation,
    Rejected,
    RelayError,
    Side,
    SourceChanged,
    Unavailable,
)
from relay.location import Location
from relay.logs.emitter import emit
from relay.logs.event_table import LogEvent
from relay.parsing import http_date
from relay.stores.error_messages import hide_secrets, message_of, secrets_of, without_query
from relay.stores.http_client import HttpClient
from relay.stores.http_fields import printable, retry_after
from relay.stores.pieces import pieces_of
from relay.stores.s3.account import account_of
from relay.stores.s3.error_codes import CODES, code_and_message, error_region
from relay.stores.s3.quirks import NO_MODE, EndpointQuirks
from relay.stores.s3.responses import parse_document
from relay.stores.s3.signed_requests import SignedRequests
from relay.stores.xml_documents import Document, plain_name
from relay.wire.exchange import Response, Wire
from relay.wire.http1 import Fields
from relay.wire.watchdog import Watchdog

WITH_CHECKSUM: Final[Fields] = (("x-amz-checksum-mode", "ENABLED"),)
"""Field of HEAD and GET: the answer names the object's checksum."""
PAGE_BYTES: Final = 16 << 20
"""Maximum size of one page of a listing, in bytes: a thousand names of a kilobyte, and the same
size again for markup."""
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


class S3Client:
    """Requests to the buckets of one side of a transfer. `side` is the side that errors name;
    `meter` is the watchdog that every wait asks."""

    def __init__(self, wire: Wire, side: Side, meter: Watchdog) -> None:
        self.wire, self.side, self.meter = wire, side, meter
        self.http = HttpClient(wire, side, meter)
        self._requests = SignedRequests(self.http)
        self.send = self._requests.send
        self._quirks: tuple[Location, EndpointQuirks] | None = None

    def for_concurrent_use(self) -> S3Client:
        """Return a client for a request beside those of this one: its stalls are its own, and the
        deadline and a cancel are those of this one's watchdog."""
        meter = self.meter
        return S3Client(self.wire, self.side, Watchdog(meter.limits, meter.clock, whole=meter))

    def quirks(self, location: Location) -> EndpointQuirks:
        """Return what is remembered of the endpoint of `location`, cached for the last location."""
        if self._quirks is None or self._quirks[0] is not location:
            account = account_of(location)
            quirks = EndpointQuirks(
                memory=self.wire.memory,
                origin=location.origin,
                bucket=account.bucket,
                path=location.path,
                owner=account.owner,
            )
            self._quirks = (location, quirks)
        return self._quirks[1]

    # -- refusals

    def _secrets(self, location: Location) -> tuple[str, ...]:
        """Return the strings that no message may repeat."""
        secrets = secrets_of((*location.headers, *account_of(location).asked), location.query)
        token = self._requests.token
        return (token, *secrets) if token else secrets

    def refusal(self, response: Response, method: str, location: Location) -> RelayError:
        """Return the error for an answer that is not believed, by the error code in its text, and
        release its connection. An answer to HEAD has no text: if the reason matters, a GET of one
        byte is sent, whose refusal has a code."""
        status = response.head.status
        if (
            method != "HEAD"
            or status not in REASONED
            or (status == 403 and self._only_denied(location))
        ):
            text = self.http.refusal_text(response, method)
            return self.error_of_code(response, method, location, text)
        response.body.close()
        asked = self.send("GET", location, (("Range", "bytes=0-0"),))
        # 416 is the answer for an empty object, which may be read too.
        if asked.head.status in (200, 206, 416):
            asked.body.close()
            return self._retryable_head_error(location, status) or self.error_of_code(
                response, method, location, ""
            )
        error = self.error_of_code(asked, "GET", location, self.http.refusal_text(asked, "GET"))
        if isinstance(error, PermissionDenied) and self.side == "destination":
            quirks = self.quirks(location)
            quirks.learn(quirks.unreadable)
        return error

    def _retryable_head_error(self, location: Location, status: int) -> RelayError | None:
        """Send a refused HEAD again, without asking for a checksum, which some endpoints refuse
        (400). Return a retryable error if it is answered now, also if another reason has passed,
        such as a wrong clock that was corrected. None if it is refused again."""
        again = self.send("HEAD", location, ())
        again.body.close()
        if again.head.status not in (200, 404):
            return None
        if status == 400:
            self.quirks(location).learn(NO_MODE)
        return Unavailable(f"HEAD {location} was refused, but succeeds now", side=self.side)

    def _only_denied(self, location: Location) -> bool:
        """Return whether a 403 can only mean that reading is not permitted: a GET of one byte was
        denied since the last successful HEAD, or the bucket accepted an upload and never answered a
        HEAD. In a bucket that did answer HEAD, a 403 may also mean expired credentials."""
        if self.side != "destination":
            return False
        quirks = self.quirks(location)
        if quirks.has(quirks.unreadable):
            return True
        return quirks.has_accepted_upload and not quirks.has(quirks.readable)

    def error_of_code(
        self, response: Response, method: str, location: Location, text: str
    ) -> RelayError:
        """Return the error of a refusal with this `text`, and release its connection."""
        code, message = code_and_message(text)
        region = error_region(response.head, text)
        if self.is_elsewhere(location, code, region):
            response.body.close()
            return Unavailable(
                f"{method} {location}: the bucket is in {region}; the request is retried there",
                side=self.side,
            )
        known = self._by_code(response, method, location, code, message)
        if known is None:
            secrets = self._secrets(location)
            why = message_of(text, secrets)
            return self.http.status_error(response, method, location, why, secrets)
        response.body.close()
        return known

    def is_elsewhere(self, location: Location, code: str, region: str | None) -> bool:
        """Return whether the bucket is in another region. If so, later requests go to that
        region."""
        return code in ELSEWHERE and self._requests.learn_region(location, region)

    def _by_code(
        self, response: Response, method: str, location: Location, code: str, message: str
    ) -> RelayError | None:
        known = CODES.get(code)
        if known is None:
            return None
        text = printable(without_query(hide_secrets(message, self._secrets(location))))
        said = f"{method} {location} was answered {response.head.status} {code}" + (
            f" ({text})" if text else ""
        )
        if code == "RequestTimeTooSkewed" and not self._adjust_clock(response, location):
            return Rejected(said, side=self.side, hint=known.hint)
        if code in EXPIRED and self._requests.has_new_credentials(location):
            return Unavailable(
                f"{said}; the request is retried with the new credentials", side=self.side
            )
        # The only precondition of a GET is the pinned ETag.
        if code == "PreconditionFailed" and method == "GET":
            return SourceChanged(
                f"{said}: the object is no longer the pinned version", side=self.side
            )
        if issubclass(known.kind, IntegrityMismatch):
            return known.kind(said, side=self.side, hint=known.hint, retryable=known.retryable)
        after = retry_after(response.head.get("retry-after"))
        status = response.head.status
        return known.kind(
            said, side=self.side, store_status=status, retry_after=after, hint=known.hint
        )

    def _adjust_clock(self, response: Response, location: Location) -> bool:
        """Use the server's clock for signatures from now on. Return False if that was done before,
        or if the answer has no date."""
        theirs = http_date(response.head.get("date"))
        if theirs is None or not self._requests.learn_time(location, theirs):
            return False
        said = f"the clock of {location.origin} is at {theirs}"
        emit(LogEvent.CLOCK_ADJUSTED, detail=said)
        return True

    # -- documents

    def document(self, response: Response, method: str, location: Location) -> Element:
        """Return the answer's document. If the document is an error, raises by its code, even with
        status 200."""
        if response.head.status != 200:
            raise self.refusal(response, method, location)
        # The store sends a blank now and then while it works on a long request; few bytes are not
        # a stall here.
        response.body.meter = Watchdog(replace(self.wire.limits, stall_bytes=0), whole=self.meter)
        text = response.body.text(self.wire.limits)
        root = parse_document(text)
        if root is None:
            raise ConnectionLost(f"{location}: the answer is cut off or not XML", side=self.side)
        if root.tag.rpartition("}")[2] == "Error":
            raise self._by_code(response, method, location, *code_and_message(text)) or Unavailable(
                f"{method} {location} was answered 200, and then an error"
                f" ({message_of(text, self._secrets(location))})",
                side=self.side,
            )
        return root

    def document_rows(
        self, response: Response, method: str, location: Location, root: str | None
    ) -> Generator[Element, None, None]:
        """Yield the children of an answer's document as they arrive.

        If the document is an error, raises by its code, even with status 200. Raises
        ProtocolViolation (retryable) if the root element is not `root` (None: any), and
        ConnectionLost if the document is cut off or not XML."""
        if response.head.status != 200:
            raise self.refusal(response, method, location)
        with closing(pieces_of(response.body, self.meter, PAGE_BYTES)) as pieces:
            document = Document(pieces, f"{location}: the answer", self.side)
            name = plain_name(document.root)
            if name == "Error":
                members = {plain_name(row.tag): (row.text or "").strip() for row in document}
                code, message = printable(members.get("Code", "")), members.get("Message", "")
                raise self._by_code(response, method, location, code, message) or Unavailable(
                    f"{method} {location} was answered 200, and then an error {code}",
                    side=self.side,
                )
            if root is not None and name != root:
                message = (
                    f"{method} {location} was answered with a document <{printable(name)}> instead"
                    f" of <{root}>"
                )
                raise ProtocolViolation(message, side=self.side, retryable=True)
            yield from document
