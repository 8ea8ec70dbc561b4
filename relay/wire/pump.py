"""Move bytes from one socket to another: by splice, by copy, or through TLS.

Theory of operation. `pump` pulls from a Body and pushes into an Outlet until the body ends, by the
cheapest way that is allowed:

1. *splice*: both sides plain TCP, both framed by length, no digest asked for. The bytes never enter
the process.
2. *copy*: one pooled buffer, taken when bytes are ready and returned when they are sent. Digests
are the body's.
3. *TLS*: as copy; the streams encrypt and decrypt.

Back-pressure is TCP's: no queue, no second greenlet, one buffer. The piece that is read grows while
the destination takes all at once, and shrinks when it makes us wait, so that slow streams hold
little.

A fast socket never blocks, and would starve every other greenlet of the worker; so the pump yields
on its own clock. Before each write it checks whether the destination has answered already (413, or
an early 2xx).

Never here: what an answer means, and whether to try again.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from relay.errors import SourceTruncated
from relay.process.failpoints import reach
from relay.wire.body import Body
from relay.wire.buffers import BUFFERS, PIPE_BYTES, PIPES
from relay.wire.http1 import Framing
from relay.wire.response_reader import ResponseReader
from relay.wire.stream import RECEIVE_BYTES, Stream
from relay.wire.tls.stream import PIECE_BYTES
from relay.wire.watchdog import Watchdog
from relay.wire.yielding import YieldTimer

SMALLEST_PIECE = 16 * 1024
SPLICE_BYTES = PIPE_BYTES
"""How much is spliced at once: a whole pipe. A quarter of it costs 1.4 times the CPU, for four
times the calls."""
SPLICE_FLAGS = os.SPLICE_F_NONBLOCK | os.SPLICE_F_MOVE


class BodyWriter:
    """The body of one request on its way into a connection, by length or chunked.

    `sent` counts payload bytes handed to the socket (or to TLS). `answers` knows whether the
    destination sent its final answer, or hung up, before it had everything."""

    def __init__(
        self, stream: Stream, meter: Watchdog, answers: ResponseReader, chunked: bool
    ) -> None:
        self.stream = stream
        self.meter = meter
        self.answers = answers
        self.chunked = chunked
        self.sent = 0
        self.waited = False
        self.tail: Callable[[], bytes] | None = None
        """Returns the bytes that follow the last byte of the payload immediately, once that byte is
        here."""

    def write(self, view: memoryview, more: bool = False, last: bool = False) -> bool:
        """Send one piece of payload; False if the destination answered first (the piece may be half
        sent).

        `more` is as in Stream.write_now; after the `last` piece the `tail` is sent. Raises
        ConnectionLost and what the meter raises."""
        if last and self.tail is not None:
            return self._end(view)
        if self.chunked and not self._send(memoryview(b"%x\r\n" % len(view)), more=True):
            return False
        if not self._send(view, more or self.chunked, payload=True):
            return False
        return not self.chunked or self._send(memoryview(b"\r\n"))

    def _end(self, view: memoryview) -> bool:
        """Send the last piece and the tail, with one call where the socket takes both."""
        assert self.tail is not None, "there is one"
        tail, self.tail = self.tail(), None
        if self.answers.poll():
            return False
        sent = self.stream.write_both(view, tail)
        self._note_sent(min(sent, len(view)))
        if sent == len(view) + len(tail):
            return True
        rest = memoryview(tail)[max(0, sent - len(view)) :]
        if not self._send(view[sent:], more=True, payload=True):
            return False
        return self._send(rest)

    def finish(self) -> bool:
        """Send the end of the body, and wait until the socket has taken all; False if answered
        before."""
        if self.tail is not None and not self._end(memoryview(b"")):
            return False
        if self.chunked and not self._send(memoryview(b"0\r\n\r\n")):
            return False
        return self.flush()

    def flush(self) -> bool:
        """Wait until the socket has taken all; False if the destination answered before."""
        while not self.stream.flush_now():
            if self.answers.poll():
                # Over TLS `poll` reads, and such a read may have sent the rest
                # (`TlsStream._pull_for`).
                return not self.stream.unsent
            self.wait()
        return True

    def _send(self, view: memoryview, more: bool = False, payload: bool = False) -> bool:
        while view:
            if self.answers.poll():
                return False
            sent = self.stream.write_now(view, more)
            view = view[sent:]
            if payload:
                self._note_sent(sent)
            if view and not sent:
                self.wait()
        return True

    def _note_sent(self, sent: int) -> None:
        """Count payload as it goes: a slow destination takes minutes for one piece, without a
        stall."""
        self.sent += sent
        self.meter.moved += sent

    def wait(self) -> None:
        """Wait until the destination takes more, or answers. Raises what the meter raises."""
        self.waited = True
        while not self.stream.wait_writable(self.meter.tick_seconds):
            self.meter.check_progress(self.stream.side)


def pump(body: Body, outlet: BodyWriter) -> bool:
    """Move the whole of `body` into `outlet`; True when every byte was handed over, False if it
    answered first.

    Raises the body's errors (SourceTruncated and so on), ConnectionLost of either side, and what
    the meter raises. The end of the outlet's framing is sent only if the body was whole."""
    outlet.meter.restart()
    move = _splice if _may_splice(body, outlet) else _copy
    if not move(body, outlet):
        return False
    return outlet.finish()


def drain(body: Body) -> None:
    """Read the whole of `body` to compute its digests, and keep nothing. Raises the body's errors,
    and the meter's."""
    body.meter.restart()
    pace = YieldTimer(body.meter)
    while True:
        granted = pace.allowance(min(PIECE_BYTES, body.meter.limits.buffer_bytes))
        with BUFFERS.lend(granted) as view:
            count = body.read_now(view)
        pace.note_spent(granted, count)
        if count == 0:
            return
        if count is None:
            body.wait()
            pace.note_wait()
            continue
        body.meter.moved += count
        pace.step(body.connection)


def fill(body: Body, view: memoryview) -> int:
    """Read until `view` is full or the body has ended, and return how much that was. Raises as
    `drain`."""
    body.meter.restart()
    pace, done = YieldTimer(body.meter), 0
    while done < len(view):
        granted = pace.allowance(len(view) - done)
        count = body.read_now(view[done : done + granted])
        pace.note_spent(granted, count)
        if count == 0:
            break
        if count is None:
            body.wait()
            pace.note_wait()
            continue
        body.meter.moved += count
        done += count
        pace.step(body.connection)
    return done


def _may_splice(body: Body, outlet: BodyWriter) -> bool:
    by_length = body.framing is Framing.LENGTH and not outlet.chunked
    plain = not body.connection.secure and not outlet.stream.secure
    return by_length and plain and body.connection.splices and body.digester is None


def _copy(body: Body, outlet: BodyWriter) -> bool:
    """Copy through one buffer until the body ends; False if the destination answered first."""
    pace, limits = YieldTimer(outlet.meter), outlet.meter.limits
    largest = min(limits.buffer_bytes, PIECE_BYTES) if outlet.stream.secure else limits.buffer_bytes
    piece = min(RECEIVE_BYTES, largest)
    while True:
        granted = pace.allowance(piece)
        with BUFFERS.lend(granted) as view:
            count = body.read_now(view)
            pace.note_spent(granted, count)
            outlet.waited = False
            if count and not outlet.write(view[:count], last=body.remaining == 0):
                return False
        if body.complete:
            return True
        if count is None:
            # The source is slower: the destination gets now what was kept for the next piece.
            outlet.stream.flush_now()
            body.wait()
            pace.note_wait()
            if outlet.answers.poll():
                return False
            continue
        if outlet.waited:
            piece = max(piece // 2, SMALLEST_PIECE)
        elif count == piece:
            piece = min(piece * 2, largest)
        if body.remaining:
            reach("mid-part")
        pace.step(body.connection)


def _splice(body: Body, outlet: BodyWriter) -> bool:
    """Let the kernel move the rest; False if the destination answered first."""
    pace = YieldTimer(outlet.meter)
    # Splice passes by the two streams. So what one has read already goes first, and what the other
    # keeps is pushed into the socket: otherwise bytes would be lost or out of order.
    if not _send_leftover(body, outlet, pace) or not outlet.flush():
        return False
    while body.remaining:
        granted = pace.allowance(min(body.remaining, SPLICE_BYTES))
        ends = PIPES.take()
        empty = False
        try:
            count = _into_pipe(body, ends[1], granted)
            pace.note_spent(granted, count)
            if count == body.remaining:
                body.check_guard()  # the pipe holds them back until it has answered
            empty = count is None or _out_of_pipe(outlet, ends[0], count, body.remaining > count)
        finally:
            PIPES.give(ends, empty)
        # The destination answered before it took the whole pipe.
        if not empty:
            return False
        if count is None:
            body.wait()
            pace.note_wait()
        else:
            body.note_unseen_bytes(count)
            if body.remaining:
                reach("mid-part")
            pace.step(body.connection)
    return True


def _send_leftover(body: Body, outlet: BodyWriter, pace: YieldTimer) -> bool:
    """Forward the bytes of the body that the head parser had read."""
    while body.connection.leftover and body.remaining:
        granted = pace.allowance(RECEIVE_BYTES)
        with BUFFERS.lend(granted) as view:
            count = body.read_now(view)
            pace.note_spent(granted, count)
            if count and not outlet.write(view[:count]):
                return False
    return True


def _into_pipe(body: Body, pipe: int, most: int) -> int | None:
    """Splice from the source into an empty pipe: the count, or None if nothing has come yet."""
    try:
        count = os.splice(body.connection.fileno(), pipe, most, flags=SPLICE_FLAGS)
    except (BlockingIOError, InterruptedError):
        return None
    except OSError as error:
        body.close()
        raise body.connection.lost_error(error) from None
    if count == 0:
        body.close()
        raise SourceTruncated(
            f"ended after {body.count} of {body.length} bytes", side=body.connection.side
        )
    return count


def _out_of_pipe(outlet: BodyWriter, pipe: int, count: int, more: bool) -> bool:
    """Splice `count` bytes into the destination; False if it answered first (the pipe is not empty
    then).

    With `more` to follow the kernel fills its segments, for which it waits at most a fifth of a
    second (splice(2))."""
    flags = SPLICE_FLAGS | os.SPLICE_F_MORE if more else SPLICE_FLAGS
    while count:
        if outlet.answers.poll():
            return False
        try:
            moved = os.splice(pipe, outlet.stream.fileno(), count, flags=flags)
        except (BlockingIOError, InterruptedError):
            outlet.wait()
            continue
        except OSError as error:
            raise outlet.stream.lost_error(error) from None
        count -= moved
        outlet.sent += moved
        outlet.meter.moved += moved
    return True
