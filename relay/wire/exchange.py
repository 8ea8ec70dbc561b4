"""One HTTP/1.1 exchange: take a connection, write the head, move the body, read the head of the
answer.

Theory of operation. `Wire.exchange` does exactly one exchange and reports exactly its outcome. If
an answer comes while the body is still being sent, that answer is reported (RFC 9112 section 9.5),
never the broken pipe that follows it; but a 2xx at that time is a failure, since it can't be about
bytes that were never sent.

A kept-alive connection may have been closed by the peer in the very moment we use it, or carry the
rest of an earlier answer. Then the exchange is done on a fresh connection, if the request only
reads, or if no byte of its body was sent. This does not count as a retry: nothing was lost, and the
server can't have acted (RFC 9112 section 9.3.1). A request on which the server may have acted is
never sent again here, even if it is idempotent: the second may meet the effect of the first.

Never here: retries, redirects, what a status means to a store.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass, replace
from random import randrange
from time import monotonic
from typing import Any, Final

from relay import __version__
from relay.errors import ConnectionLost, PrematureResponse, ProtocolViolation, Side, StoreTimeout
from relay.location import Origin
from relay.process.failpoints import reach
from relay.throttle import AdaptiveLimiter
from relay.transfer_limits import Limits
from relay.wire.body import Body
from relay.wire.capabilities import CapabilityCache
from relay.wire.dial import Pool
from relay.wire.http1 import Fields, Head, framing_of, lower_names, request_head
from relay.wire.pump import BodyWriter, pump
from relay.wire.response_reader import ResponseReader
from relay.wire.stream import ReuseDoubt, Stream
from relay.wire.watchdog import Watchdog

USER_AGENT = f"relay/{__version__}"
_ALWAYS = {
    "user-agent": ("User-Agent", USER_AGENT),
    "accept": ("Accept", "*/*"),
    "accept-encoding": ("Accept-Encoding", "identity"),
}
"""Fields of every request, unless its caller sets them."""
SAFE = frozenset({"GET", "HEAD", "OPTIONS", "PROPFIND"})
"""The methods that change nothing (RFC 9110 section 9.2.1, RFC 4918 section 9.1)."""
SENT = {"PUT": "after-put-sent", "POST": "after-complete-sent"}
SENT_BARE = {"POST": "after-begin-sent", "MOVE": "after-move-sent", "DELETE": "after-abort-sent"}
"""The failpoints between a request and its answer: of requests with a body, and of those
without."""

Payload = Body | bytes | memoryview | Iterable[bytes] | None


@dataclass(frozen=True)
class Wrapping:
    """Bytes around a Body in the content of its request, as in S3's `aws-chunked` coding.

    `after` is called when the last byte of the Body was sent, so that it can contain a digest; it
    returns `after_bytes` bytes."""

    before: bytes
    after: Callable[[], bytes]
    after_bytes: int


@dataclass(slots=True)
class Request:
    """One request. `target` is path and query as in the request line; `fields` are the caller's
    own.

    `body` is a Body (pumped), bytes or a view of them, or an iterable of bytes (sent chunked unless
    `length` is given). `expect` asks with `Expect: 100-continue` before the body. `side` is the
    side to which its failures belong."""

    method: str
    origin: Origin
    host: str
    target: str
    _: KW_ONLY
    side: Side
    meter: Watchdog
    fields: Fields = ()
    body: Payload = None
    length: int | None = None
    expect: bool = False
    wrapping: Wrapping | None = None
    """Only around a Body of known length."""

    @property
    def body_length(self) -> int | None:
        """The length in bytes that is announced, or None where the body goes chunked."""
        if self.body is None:
            return 0
        if isinstance(self.body, Body):
            around = len(self.wrapping.before) + self.wrapping.after_bytes if self.wrapping else 0
            return None if self.body.length is None else self.body.length + around
        return len(self.body) if isinstance(self.body, bytes | memoryview) else self.length


@dataclass(slots=True)
class Response:
    """The head of the final answer, its body still to be read, and how much of the request's body
    went out."""

    head: Head
    body: Body
    sent: int = 0
    early: bool = False
    """The destination answered before it had the whole body."""


HEADS: Final = 3
"""Number of answers to HEAD after which an origin is asked for a byte of an object. One object
alone has fewer."""
LIMITERS = 1024
"""Maximum number of limiters that are kept; at this number the unused ones are dropped."""


class Wire:
    """Does exchanges over one pool of connections."""

    def __init__(self, pool: Pool, limits: Limits) -> None:
        self.pool, self.limits = pool, limits
        self._ignores_expect: dict[Origin, float] = {}
        self._limiters: dict[tuple[Origin, Side], AdaptiveLimiter] = {}
        self._heads: Counter[Origin] = Counter()
        """Number of answers to HEAD from origins that the pool does not know."""
        self.complaints = 0
        """Number of answers by which stores asked for fewer requests."""
        self.memory = CapabilityCache()
        self.kept: dict[str, Any] = {}
        """What a store that is not one of HTTP keeps from one transfer to the next, by the store's
        name: connections."""

    def limiter(self, origin: Origin, side: Side) -> AdaptiveLimiter:
        """Return the limiter of the requests to one side of one store, which all transfers
        share."""
        found = self._limiters.get((origin, side))
        if found is None:
            if len(self._limiters) >= LIMITERS:
                self._limiters = {
                    key: flow for key, flow in self._limiters.items() if flow.under_way
                }
            found = self._limiters[origin, side] = AdaptiveLimiter()
        return found

    def limiters(self) -> Iterator[tuple[Origin, Side, AdaptiveLimiter]]:
        """Yield the limiters of all requests, with the origin and the side of each."""
        for (origin, side), limiter in self._limiters.items():
            yield origin, side, limiter

    def exchange(self, request: Request) -> Response:
        """Do one exchange.

        Raises EgressDenied, ConnectFailed, ConnectionLost, CertificateRefused, StoreTimeout,
        Stalled, Cancelled, ProtocolViolation, PrematureResponse, and the errors of a Body that is
        sent. On any of them the connection is closed; a Body that is sent is left to its owner to
        close. ValueError for a Body that was read already."""
        if isinstance(request.body, Body):
            if request.body.count:
                raise ValueError("a body can be sent once")
            request.body.await_end()
        # Step 1: on an idle connection, if the pool has one.
        response = self._attempt(request, fresh=False)
        # Step 2: that connection was dead or out of step, so once more on a fresh one.
        if response is None or self._may_be_another(request, response):
            first = response
            response = self._attempt(request, fresh=True)
            if (
                first is not None
                and response is not None
                and first.head.length == response.head.length
            ):
                self.pool.trust(request.origin)  # its HEAD gives another length
        # Step 3: the server refuses the `Expect` (RFC 9110 section 15.5.18), so the body goes
        # without asking. No byte of it was sent.
        if (
            response is not None
            and response.head.status == 417
            and request.expect
            and not response.sent
        ):
            response.body.close()
            response = self._attempt(replace(request, expect=False), fresh=True)
        if response is None:
            raise ConnectionLost(
                "a fresh connection was closed without an answer", side=request.side
            )
        if request.method == "HEAD":
            self._end_doubt(request, response)
        return response

    def _attempt(self, request: Request, fresh: bool) -> Response | None:
        """Do the exchange on one connection; None if a kept-alive one turned out to be dead, or out
        of step."""
        stream, reused = self.pool.take(request.origin, request.side, fresh, request.target)
        exchange = _Exchange(self, request, stream)
        try:
            return exchange.run()
        except (ConnectionLost, ProtocolViolation) as error:
            self.pool.discard(stream)
            # Only a failure of the peer of a used connection can be about an earlier exchange. The
            # side is another one where the source of the sent body failed.
            if not reused or exchange.answers.final is not None or error.side != request.side:
                raise
            if exchange.is_untouched:
                return None
            if isinstance(error, ConnectionLost):
                raise
            # The bytes may be the rest of an earlier answer: they prove nothing about this request.
            raise ConnectionLost(
                f"a connection that was used before is out of step: {error.message}",
                side=error.side,
            ) from None
        except BaseException:
            self.pool.discard(stream)
            raise

    def _may_be_another(self, request: Request, response: Response) -> bool:
        """Return whether the answer to a GET may in truth be part of a body that came late behind
        an answer to HEAD. Such an answer announces fewer bytes than HEAD did, and is discarded. An
        answer of the length that HEAD announced is the right one."""
        doubt, head = response.body.connection.doubt, response.head
        if doubt is None or doubt.length is None or request.method != "GET" or head.status != 200:
            return False
        if any(name.lower() == "range" for name, _ in request.fields):
            return False
        if head.length == doubt.length:
            self.pool.trust(request.origin)
            return False
        response.body.close()
        return True

    def _end_doubt(self, request: Request, response: Response) -> None:
        """Ask an origin once for a byte of an object, on a connection that had an answer to HEAD.

        If the answer is about that byte, and of an object of the length that HEAD announced, no
        body came in between, and the connections of this origin may be used again. Otherwise each
        answer to HEAD costs a connection until one of them was quiet for a moment.

        The byte is chosen at random: the bytes of the object may look like an answer, but can't
        know which. A signed request is not changed, since its signature is of HEAD alone."""
        origin, stream = request.origin, response.body.connection
        if stream.doubt is None or not stream.doubt.length or response.head.status != 200:
            return
        if self.pool.knows(origin) or _is_signed(request):
            return
        if len(self._heads) > LIMITERS:
            self._heads.clear()
        self._heads[origin] += 1
        if self._heads[origin] != HEADS:
            return
        if not self.pool.take_back(stream):
            return
        length = stream.doubt.length
        place = randrange(length)
        fields = (*request.fields, ("Range", f"bytes={place}-{place}"))
        try:
            answer = _Exchange(self, replace(request, method="GET", fields=fields), stream).run()
        except (ConnectionLost, ProtocolViolation, StoreTimeout):
            self.pool.discard(stream)
            return
        except BaseException:
            self.pool.discard(stream)
            raise
        # RFC 9110 section 14.4
        found = answer.head.get("content-range")
        if answer.head.status == 206 and found == f"bytes {place}-{place}/{length}":
            self.pool.trust(origin)
        answer.body.close()

    def ignores_expect(self, origin: Origin) -> bool:
        """Return whether this origin lately ignored an `Expect`."""
        return monotonic() - self._ignores_expect.get(origin, -1e9) <= 300

    def note_ignores_expect(self, origin: Origin) -> None:
        """Remember that this origin answers no Expect."""
        if len(self._ignores_expect) > 1000:
            self._ignores_expect.clear()
        self._ignores_expect[origin] = monotonic()


def _is_signed(request: Request) -> bool:
    """Return whether a signature covers the method: of AWS's kind, or in the URL."""
    signed = any(
        name.lower() == "authorization" and value.startswith("AWS")
        for name, value in request.fields
    )
    return signed or "?" in request.target


def _pump_wrapped(wrapping: Wrapping, body: Body, outlet: BodyWriter) -> bool:
    """Send a Body and the end of its wrapping, which is sent only after a whole Body. The beginning
    went with the request's head."""

    def after() -> bytes:
        text = wrapping.after()
        if len(text) != wrapping.after_bytes:
            raise ValueError(
                f"the tail of the body has {len(text)} bytes, not {wrapping.after_bytes}"
            )
        return text

    outlet.tail, outlet.sent = after, len(wrapping.before)
    return pump(body, outlet)


class _Exchange:
    """One exchange on one connection."""

    def __init__(self, wire: Wire, request: Request, stream: Stream) -> None:
        self.wire, self.request, self.stream = wire, request, stream
        self.limits, self.meter = wire.limits, request.meter
        self.answers = ResponseReader(stream, request.meter)
        self.length = request.body_length
        self.sent = 0
        self._pushed = stream.pushed
        """Number of bytes that the connection had carried before the exchange, and later before the
        body."""
        self._began = False

    @property
    def is_untouched(self) -> bool:
        """Say that the peer can't have acted, and that no byte of our body was taken."""
        if self.request.method in SAFE:
            # A Body that was begun can't be read again.
            return not self._began or isinstance(self.request.body, bytes | memoryview)
        if self.length == 0 and self.stream.pushed > self._pushed:
            return False  # its head was all of it
        # Without a byte of the announced body, the server can't have acted on the head.
        return not self._began or (
            isinstance(self.request.body, bytes | memoryview) and self.stream.pushed == self._pushed
        )

    def run(self) -> Response:
        """Do the exchange. Raises as `Wire.exchange`."""
        expect = self.request.expect and not self.wire.ignores_expect(self.request.origin)
        self._write_head(expect)
        if self.length == 0 or self.request.body is None:
            return self._response(self._final(SENT_BARE))
        if expect:
            if not self._ask_first():
                return self._early_response()
            self._write(self._wrapping_before(), follows=True)
        return self._response(self._final(SENT)) if self._send_body() else self._early_response()

    def _final(self, failpoints: Mapping[str, str]) -> Head:
        if self.request.method in failpoints:
            reach(failpoints[self.request.method])
        head = self.answers.wait(self.limits.head_seconds)
        assert head is not None  # without `until`, wait returns a head or raises
        return head

    # -- the request

    def _write_head(self, expect: bool) -> None:
        """Write the head. If the body follows at once, both go together, and the beginning of its
        wrapping too."""
        request = self.request
        head = request_head(request.method, request.target, self._fields(expect))
        follows = not expect and request.body is not None and self.length != 0
        self._write(head + self._wrapping_before() if follows else head, follows)

    def _wrapping_before(self) -> bytes:
        return self.request.wrapping.before if self.request.wrapping else b""

    def _write(self, text: bytes, follows: bool) -> None:
        """Write bytes that precede the payload; `follows` says that more comes at once."""
        data, deadline = memoryview(text), self.meter.clock() + self.limits.head_seconds
        # If the payload follows at once, the stream may keep a short head to send both together;
        # otherwise the head must be in the socket.
        while data or not (follows or self.stream.flush_now()):
            sent = self.stream.write_now(data, follows) if data else 0
            data = data[sent:]
            if not sent and not self.stream.wait_writable(self.meter.tick_seconds):
                self.meter.check()
            if (data or not sent) and self.meter.clock() > deadline:
                raise StoreTimeout(
                    "the request's head could not be sent in time", side=self.request.side
                )

    def _fields(self, expect: bool) -> list[tuple[str, str]]:
        request = self.request
        own = lower_names(request.fields)
        fields = [("Host", request.host)]
        fields += [pair for name, pair in _ALWAYS.items() if name not in own]
        fields += request.fields
        if self.length is None:
            fields.append(("Transfer-Encoding", "chunked"))
        # A length of 0 is announced where the method has a body (RFC 9110 section 8.6).
        elif request.body is not None or request.method in ("POST", "PUT", "PATCH"):
            fields.append(("Content-Length", str(self.length)))
        if expect:
            fields.append(("Expect", "100-continue"))
        return fields

    def _ask_first(self) -> bool:
        """Wait for `100 Continue`; False if a final answer came instead. Silence means that the
        body may be sent."""
        try:
            self.answers.wait(self.limits.expect_seconds, until=lambda: self.answers.continued)
        except StoreTimeout:
            self.wire.note_ignores_expect(self.request.origin)
        return self.answers.final is None

    def _send_body(self) -> bool:
        """Send the body; False if the destination answered, or hung up, before it had the whole
        body."""
        outlet = BodyWriter(self.stream, self.meter, self.answers, chunked=self.length is None)
        self._began, self._pushed = True, self.stream.pushed
        try:
            self.stream.abort_on_close(True)
            whole = self._pump(outlet)
            self.stream.abort_on_close(not whole)
            return whole
        except ConnectionLost as error:
            # A server that refuses may answer and close while we write: then its answer is already
            # here, although our write failed (RFC 9112 section 9.5).
            if error.side != self.request.side or not self._read_refusal():
                raise
            return False
        finally:
            self.sent = outlet.sent

    def _pump(self, outlet: BodyWriter) -> bool:
        body = self.request.body
        if isinstance(body, Body):
            wrapping = self.request.wrapping
            return _pump_wrapped(wrapping, body, outlet) if wrapping else pump(body, outlet)
        at_hand = isinstance(body, bytes | memoryview)
        pieces: Iterable[bytes | memoryview] = (
            (body,) if isinstance(body, bytes | memoryview) else body or ()
        )
        if not at_hand:
            self.stream.flush_now()  # the first piece may be slow to arrive, so the head goes now
        for piece in pieces:
            if piece and not outlet.write(memoryview(piece)):
                return False
        if not outlet.finish():
            return False
        if self.length not in (None, outlet.sent):
            raise ValueError(f"a body of {self.length} bytes gave {outlet.sent}")
        return True

    def _read_refusal(self) -> bool:
        """Check for an answer on a connection that broke while we sent: True if there is a final
        one."""
        try:
            self.answers.wait(self.limits.early_seconds)
        except (ConnectionLost, StoreTimeout):
            return False
        return True

    # -- the answer

    def _early_response(self) -> Response:
        """Report the answer that came before the body was through. Raises PrematureResponse for a
        success."""
        head = self.answers.final
        if head is None:
            raise ConnectionLost(
                f"the connection was closed after {self.sent} bytes of the upload",
                side=self.request.side,
            )
        if 200 <= head.status < 300:
            raise PrematureResponse(
                f"answered {head.status} after {self.sent} of {self.length} bytes",
                side=self.request.side,
            )
        return self._response(head, early=True)

    def _response(self, head: Head, early: bool = False) -> Response:
        framing = framing_of(self.request.method, head, self.request.side)
        if self.request.method == "HEAD" and head.length != 0 and head.status not in (204, 304):
            self.stream.doubt = ReuseDoubt(self.request.target, head.length)

        def release(stream: Stream, reusable: bool) -> None:
            # After an early answer the server still expects the rest of the body: it would read the
            # next request as that.
            self.wire.pool.give(self.request.origin, stream, reusable and not early)

        return Response(
            head, Body(self.stream, framing, head, self.meter, release), self.sent, early
        )
