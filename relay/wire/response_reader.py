"""Read the heads of answers on one connection; skip interim ones.

Decided here: how long a head is waited for, and how many interim heads are accepted. Never here:
what a status means."""

from __future__ import annotations

from collections.abc import Callable

from relay.errors import ConnectionLost, ProtocolViolation, StoreTimeout
from relay.wire.http1 import Head, split_head
from relay.wire.stream import Stream
from relay.wire.watchdog import Watchdog


class ResponseReader:
    """Reads heads from one stream, for one request.

    `final` is the final head once it came. `bytes_received`: at least one byte of an answer came.
    `continued`: a `100 Continue` came. `closed_early`: the stream ended without a final head."""

    def __init__(self, stream: Stream, meter: Watchdog) -> None:
        self.stream, self.meter, self.limits = stream, meter, meter.limits
        self.final: Head | None = None
        self.bytes_received = self.continued = self.closed_early = False
        self._interim = 0

    def poll(self) -> bool:
        """Read the available bytes; True if there is a final head now, or never will be
        (`closed_early`).

        Raises ProtocolViolation. Costs half a microsecond if nothing came."""
        if not self.stream.has_arrived():
            return False
        return self._take()

    def _take(self) -> bool:
        """Read the available bytes. Returns and raises as `poll`."""
        try:
            filled = self.stream.fill()
        except ConnectionLost:
            # A head that came before the reset counts: it may be the reason for it.
            filled = False
        self._parse()
        self.closed_early = filled is False and self.final is None
        return self.final is not None or self.closed_early

    def _parse(self) -> None:
        while self.final is None and self.stream.leftover:
            self.bytes_received = True
            split = split_head(bytes(self.stream.leftover), self.limits, self.stream.side)
            if split is None:
                return
            head, rest = split
            self.stream.leftover = rest or b""  # an empty view would keep the head
            if head.interim:
                self._skip(head)
            else:
                self.final = head

    def _skip(self, head: Head) -> None:
        self.continued |= head.status == 100
        self._interim += 1
        if self._interim > self.limits.interim_heads:
            raise ProtocolViolation(
                f"more than {self.limits.interim_heads} interim answers", side=self.stream.side
            )

    def wait(self, seconds: float, until: Callable[[], bool] | None = None) -> Head | None:
        """Wait for the final head, or until `until()` holds (None then), at most `seconds`.

        Raises StoreTimeout, ConnectionLost when the connection ended first, ProtocolViolation, and
        what the meter raises."""
        deadline = self.meter.clock() + seconds
        # Mostly no bytes are there yet, so the first wait comes before the first read. (It also
        # reports bytes that TLS holds.)
        ended = self.final is not None or self.closed_early
        while not ended:
            if until is not None and until():
                return None
            left = deadline - self.meter.clock()
            if left <= 0:
                raise StoreTimeout(f"no answer within {seconds:g} s", side=self.stream.side)
            # `leftover` holds half a head; only the socket can bring the rest.
            came = self.stream.wait_for_more(min(left, self.meter.tick_seconds))
            self.meter.check()
            ended = self._take() if came else self.poll()
        if self.final is None:
            text = (
                "in the middle of its answer's head" if self.bytes_received else "without an answer"
            )
            raise ConnectionLost(f"the connection was closed {text}", side=self.stream.side)
        return self.final
