"""Send one HTTP request of a store, and turn its refusal into an error.

Decided here: which limits a request waits for, and the error of each status. Never here: which
statuses a verb may have (`http.py`, and the other stores over HTTP)."""

from __future__ import annotations

from collections.abc import Mapping
from time import monotonic

from relay.digest import Digests, compare
from relay.errors import (
    Leftover,
    LengthRequired,
    Locked,
    NotFound,
    PermissionDenied,
    PreconditionFailed,
    RedirectRefused,
    Rejected,
    RelayError,
    Side,
    SourceChanged,
    StoreError,
    StoreFull,
    Throttled,
    Unauthenticated,
    Unavailable,
)
from relay.location import Location
from relay.logs.emitter import emit
from relay.logs.event_table import LogEvent
from relay.redirects import redirect_target
from relay.stores.error_messages import hide_secrets, may_have_message, message_of, secrets_of
from relay.stores.http_fields import FINAL, printable, retry_after
from relay.stores.listing_retries import ListingRetries
from relay.tallies import RouteTally
from relay.throttle import AdaptiveLimiter
from relay.wire.body import Body
from relay.wire.exchange import Payload, Request, Response, Wire, Wrapping
from relay.wire.http1 import Fields, Framing
from relay.wire.watchdog import Watchdog

MOVED = frozenset({301, 302, 303, 307, 308})
COMPLAINTS = frozenset({429, 503})
"""Statuses of a store that limits the request rate; S3's SlowDown is a 503."""

ERRORS: Mapping[int, type[StoreError]] = {
    401: Unauthenticated,
    403: PermissionDenied,
    404: NotFound,
    408: Unavailable,
    410: NotFound,
    411: LengthRequired,
    412: PreconditionFailed,
    423: Locked,
    425: Unavailable,
    429: Throttled,
    500: Unavailable,
    502: Unavailable,
    503: Unavailable,
    504: Unavailable,
    507: StoreFull,
}
"""The error of each status that has one of its own."""


def error_kind(status: int) -> type[StoreError]:
    """Return the error of a status. An unknown one counts as 400, which is final, or as 500 (RFC
    9110 section 15), such as those of Cloudflare in front of a server that does not answer (520 to
    527)."""
    unknown = Unavailable if 500 <= status < 600 and status not in FINAL else Rejected
    return ERRORS.get(status, unknown)


class HttpClient:
    """The requests of one side of a transfer. `side` is the side that errors name; `meter` is the
    watchdog that every wait asks."""

    def __init__(self, wire: Wire, side: Side, meter: Watchdog) -> None:
        self.wire, self.side, self.meter = wire, side, meter

    def send(
        self,
        method: str,
        location: Location,
        fields: Fields,
        body: Payload = None,
        *,
        expect: bool = False,
        wrapping: Wrapping | None = None,
    ) -> Response:
        """Send a request, and return its answer with any status; the caller closes the answer's
        body. Raises the errors of the exchange; then nothing is left open."""
        request = Request(
            method=method,
            origin=location.origin,
            host=location.host_header,
            target=location.target,
            side=self.side,
            meter=self.meter,
            fields=location.headers + fields,
            body=body,
            expect=expect,
            wrapping=wrapping,
        )
        throttle = self.meter.throttle
        if throttle is None:
            return self._exchange(request)
        # Wait for the migration's own limit first: a request that waits for it must not occupy a
        # slot of the store's limit.
        leave = throttle.enter(self.side, self.meter, self.meter.check, self.meter.tick_seconds)
        try:
            response = self._exchange(request)
        except BaseException:
            leave()
            raise
        response.body.on_close(leave)  # a request is under way until its answer was read
        return response

    def _exchange(self, request: Request) -> Response:
        """Do the exchange when the concurrency limit of this side of the store permits it."""
        flow = self.wire.limiter(request.origin, self.side)
        turn = flow.enter(self.meter.check, self.meter.tick_seconds)
        began, limited = monotonic(), flow.limit is not None
        status, complained, after = None, False, None
        try:
            response = self.wire.exchange(request)
            status = response.head.status
            complained = status in COMPLAINTS
            if complained:
                self.wire.complaints += 1
                after = retry_after(response.head.get("retry-after"))
        finally:
            flow.leave(turn, complained, after)
            if complained or (limited and flow.limit is None):
                self._log_flow(flow, status if complained else None)
            if self.meter.tally is not None:
                self._count(self.meter.tally, request, flow, status, monotonic() - began)
        return response

    def _log_flow(self, flow: AdaptiveLimiter, status: int | None) -> None:
        """Log that the store asks for fewer requests, or, without a `status`, that it has not done
        so for long."""
        tally = self.meter.tally
        remote = flow.remote if tally is None else tally.remote(self.side)
        if status is None:
            emit(LogEvent.STORE_RECOVERED, remote=remote, side=self.side)
            return
        emit(
            LogEvent.STORE_THROTTLED,
            remote=remote,
            side=self.side,
            status=status,
            allowed=max(1, int(flow.limit or 1)),
            wanted=flow.under_way + 1,
        )

    def _count(
        self,
        tally: RouteTally,
        request: Request,
        flow: AdaptiveLimiter,
        status: int | None,
        seconds: float,
    ) -> None:
        """Count a request. The time to the first byte of an answer says little where a body was
        sent before it."""
        first_byte = seconds if request.body is None and status is not None else None
        tally.note_request(self.side, request.method, status, first_byte)
        if status in COMPLAINTS:
            tally.note_complaint(self.side)
        if not flow.remote:
            flow.remote = tally.remote(self.side)

    def expects_continue(self, body: Body) -> bool:
        """Return whether an upload of `body` sends `Expect: 100-continue`, since a refusal after
        the bytes would waste them."""
        return body.length is None or body.length >= self.wire.limits.expect_bytes

    def listing_retries(self) -> ListingRetries:
        """Return the retries of one page of a listing."""
        return ListingRetries(self.wire.limits.listing_seconds, self.meter)

    def drain(self, response: Response) -> bool:
        """Read the answer to a request that was done if it is short, so that the connection can be
        reused; return whether it had content."""
        body, limit = response.body, self.wire.limits.text_bytes
        if body.complete and not body.count:  # nearly all answers have no content
            return False
        if body.framing is Framing.CLOSE or (body.length or 0) > limit:
            body.close()
            return True
        try:
            # One byte more than the limit, so that the end of an answer of that length is seen.
            return bool(body.read(limit + 1))
        except RelayError:
            # Only the answer's head counts; a truncated text changes nothing about the object.
            return True
        finally:
            body.close()

    def trust_proved(
        self, response: Response, location: Location, ours: Digests, theirs: Digests
    ) -> None:
        """Learn from the answer to an upload whose bytes had the digests `ours`. If it reports one
        of them, it is the answer to this very request, and not a body that came late behind an
        answer to HEAD: its server sends none, so its connections need not be quiet first."""
        if response.body.connection.doubt is None:
            return
        agreeing, differing = compare(ours, theirs)
        if agreeing is not None and not differing:
            self.wire.pool.trust(location.origin)

    # -- refusals

    def refusal(self, response: Response, method: str, location: Location) -> RelayError:
        """Return the error for an answer that is not believed, and release its connection."""
        secrets = secrets_of(location.headers, location.query)
        why = message_of(self.refusal_text(response, method), secrets)
        return self.status_error(response, method, location, why, secrets)

    def refusal_text(self, response: Response, method: str) -> str:
        """Return the text of a refusal; empty if there is none, or if it breaks off."""
        if method == "HEAD" or not may_have_message(response.head):
            return ""
        try:
            return response.body.text(self.wire.limits)
        except RelayError:
            return ""  # the status is enough

    def status_error(
        self,
        response: Response,
        method: str,
        location: Location,
        why: str,
        secrets: tuple[str, ...],
    ) -> RelayError:
        """Return the error of the answer's status, with the store's own message `why`, and release
        its connection. The message repeats none of the `secrets`."""
        response.body.close()
        status, reason = response.head.status, hide_secrets(response.head.reason, secrets)
        said = f"{method} {location} was answered {status} {printable(reason)}".rstrip()
        if response.early:
            said += f" after {response.sent} bytes of the upload"
        said += f" ({why})" if why else ""
        if status in MOVED:
            return RedirectRefused(
                f"{said}{_redirected_to(location, response, self.side)}; relay follows only the"
                " redirects of reads by plain HTTP",
                side=self.side,
                store_status=status,
            )
        if 200 <= status < 300:
            undone = Rejected(
                f"{said}, which does not confirm that it is done",
                side=self.side,
                store_status=status,
            )
            if method in ("PUT", "POST"):
                undone.leave(
                    Leftover.SENT, location, "the server may store it, but did not confirm it"
                )
            return undone
        if status == 412 and method == "GET":
            return SourceChanged(
                f"{said}: the object is no longer the pinned version", side=self.side
            )
        kind = error_kind(status)
        after = retry_after(response.head.get("retry-after"))
        # A store that names a time asks for fewer requests; without one it may just be down.
        if status == 503 and after is not None:
            kind = Throttled
        return kind(said, side=self.side, store_status=status, retry_after=after)


def _redirected_to(location: Location, response: Response, side: Side) -> str:
    """Return where an answer redirects, for a message; '' if that is not a URL."""
    target = response.head.get("location")
    try:
        return f", to {redirect_target(location, target, side)}" if target else ""
    except RedirectRefused:
        return ""
