"""One object's bytes on their way. *A body never just ends.*

Theory of operation. A Body reads one answer's payload from its connection, once and in order. It
ends in exactly one of two ways: `read_now` returns 0 after the framing's own end was seen, the
promised length came, and every expected digest matched; or it raises. The last byte is handed out
only after all of that, so a caller that forwards the pieces can't complete an upload of damaged
bytes, or of the first piece of a longer object.

A length that the framing itself announces is its end. A length that was promised elsewhere (a HEAD,
a listing, a range) is not: the last promised byte is held back until the last chunk, or the end of
the connection, was seen.

Decided here: completeness (law 1), and whether the connection is closed. Never here: where bytes
go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from relay.digest import Digester, Digests, as_hex, compare
from relay.errors import IntegrityMismatch, SourceOverrun, SourceTruncated
from relay.transfer_limits import Limits
from relay.wire.buffers import BUFFERS
from relay.wire.chunks import ChunkReader
from relay.wire.http1 import ChunkDecoder, Framing, Head
from relay.wire.stream import Stream
from relay.wire.watchdog import Watchdog
from relay.wire.yielding import YieldTimer


class Body:
    """The payload of one answer.

    `length` is the promised number of bytes, or None. `count` is the number of bytes handed out so
    far. `complete` says that the end was reached and proved by the framing (`ends_by_close` bodies
    of unknown length prove nothing, see there)."""

    def __init__(
        self,
        stream: Stream,
        framing: Framing,
        head: Head,
        meter: Watchdog,
        release: Callable[[Stream, bool], None],
    ) -> None:
        """Read from `stream` by `framing`; at the end call `release(stream, reusable)`, exactly
        once."""
        self.connection, self.framing, self.meter = stream, framing, meter
        self.length: int | None = None
        if framing is Framing.LENGTH:
            self.length = head.length
        elif framing is Framing.NONE:
            self.length = 0
        self.count = 0
        self.complete = False
        self.digester: Digester | None = None
        self.guard: Callable[[], None] | None = None
        """Called once, before the last bytes are handed out; an exception of it keeps them
        back."""
        self._expected: Digests = {}
        self._keeps_alive = head.keeps_alive and framing is not Framing.CLOSE
        self._release: Callable[[Stream, bool], None] | None = release
        self._held = b""
        """The last promised byte, while the framing's own end is not seen yet."""
        self._pace: YieldTimer | None = None
        self._chunks = (
            ChunkDecoder(meter.limits, stream.side) if framing is Framing.CHUNKED else None
        )
        self._chunked = ChunkReader(stream, self._chunks) if self._chunks else None
        if self.length == 0:
            self._note_end()
        else:
            meter.restart()

    # -- promises

    @property
    def len(self) -> int | None:
        """The promised length, under the name by which `requests` asks for it."""
        return self.length

    @property
    def ends_by_close(self) -> bool:
        """Return whether a whole body looks like a truncated one: it has no length, and ends with
        the connection."""
        return self.framing is Framing.CLOSE and self.length is None

    @property
    def trailers(self) -> tuple[tuple[str, str], ...]:
        """The trailer fields (RFC 9110 section 6.5), once complete."""
        return tuple(self._chunks.trailers) if self._chunks else ()

    def promise(self, length: int) -> None:
        """Require a length that was learned elsewhere, if the body's own framing has none."""
        if self.length is None:
            self.length = length

    def digest_with(self, names: tuple[str, ...], expected: Digests | None = None) -> None:
        """Compute these digests on the way, and raise IntegrityMismatch before the last piece if
        `expected` differ.

        Must be called before the first byte is read. Raises KeyError for an unknown name.
        """
        self._expected = dict(expected or {})
        self.digester = Digester((*names, *self._expected))
        # A body without bytes was complete before it had a digest to compare.
        if self.complete:
            self._check_last()

    def add_digest(self, name: str) -> None:
        """Compute one more digest, if some are computed and no byte was handed out yet."""
        if self.digester is not None and not self.count and name not in self.digester.names:
            self.digester = Digester((*self.digester.names, name))

    @property
    def digests(self) -> Digests:
        """The digests of the bytes that were handed out so far; empty if none are computed."""
        return self.digester.digests() if self.digester else {}

    @property
    def remaining(self) -> int | None:
        """Number of promised bytes that are still to come, or None."""
        return None if self.length is None else self.length - self.count

    # -- reading

    def read_now(self, view: memoryview) -> int | None:
        """Read the available bytes into `view`: the count, 0 at the proven end, None if nothing has
        come yet.

        Raises SourceTruncated, SourceOverrun, IntegrityMismatch, ProtocolViolation or
        ConnectionLost; the connection is closed then."""
        if self.complete:
            return 0
        try:
            # The last byte is held back only where a length was promised that the framing does not
            # end at.
            by_length = self.framing is Framing.LENGTH or self.length is None
            count = self._read_framed(view) if by_length else self._read_held(view)
            if count:
                self.note_bytes(view[:count])
            elif count == 0:
                if self.length is not None and self.count != self.length:
                    raise self._truncated_error()
                self._note_end()
            return count
        except BaseException:
            self.close()
            raise

    def note_bytes(self, piece: memoryview) -> None:
        """Account for bytes that were read. The last bytes of a known length are checked before
        they are handed out."""
        # `ended=False`: the end compares the digests, which must have this piece first.
        self.note_unseen_bytes(len(piece), ended=False)
        if self.digester is not None:
            self.digester.update(piece)
        if self.count == self.length:
            self._note_end()

    def note_unseen_bytes(self, count: int, ended: bool = True) -> None:
        """Account for `count` bytes that moved inside the kernel."""
        self.count += count
        if self.length is not None and self.count > self.length:
            raise self._overrun()
        if ended and self.count == self.length:
            self._note_end()

    def _read_held(self, view: memoryview) -> int | None:
        """As `_read_framed`, where the framing does not end at the promised length: holds the last
        promised byte back."""
        if self._held or not self.remaining:
            if not self._at_end():
                return None
            view[: len(self._held)] = self._held
            return len(self._held)
        count = self._read_framed(view[: self.remaining])
        # The end is asked for only behind the last promised byte: `_at_end` consumes what comes.
        if not count or count < self.remaining or self._at_end():
            return count
        self._held = bytes(view[count - 1 : count])
        # If the held byte is all that came, there is nothing to hand out yet; 0 would be the end.
        return count - 1 or None

    def _at_end(self) -> bool:
        """Return whether the framing's own end is here; False where it has yet to come. Raises
        SourceOverrun for more bytes."""
        more = self._read_framed(memoryview(bytearray(1)))
        if more:
            raise self._overrun()
        return more == 0

    def _overrun(self) -> SourceOverrun:
        return SourceOverrun(
            f"more than the promised {self.length} bytes came", side=self.connection.side
        )

    def await_end(self) -> None:
        """Wait for the framing's end of a body that promises no more bytes, because an upload of
        zero bytes is complete with its head. Raises as `readinto`, and SourceOverrun if more bytes
        come.
        """
        if not self.complete and self.remaining == 0:
            self.readinto(memoryview(bytearray(1)))

    def _read_framed(self, view: memoryview) -> int | None:
        """Read by the framing alone: the count, 0 at its own end, None if nothing has come yet."""
        if self._chunked is not None:
            return self._chunked.read(view)
        if self.framing is Framing.LENGTH and self.remaining is not None:
            view = view[: self.remaining]
        count = self.connection.read_now(view)
        if count == 0 and self.framing is not Framing.CLOSE:
            raise self._truncated_error()
        return count

    def _truncated_error(self) -> SourceTruncated:
        return SourceTruncated(
            f"ended after {self.count} of {self.length} bytes", side=self.connection.side
        )

    # -- the end

    def _note_end(self) -> None:
        self._check_last()
        self.complete = True
        # Bytes behind the end are a surplus (F08), and would be taken for the next answer.
        self._release_connection(self._keeps_alive and not self.connection.leftover)

    def _check_last(self) -> None:
        """Check the digests and the claim before the end is handed out, since the end may create
        the object."""
        self.check_guard()
        if not self._expected:
            return
        differing = compare(self.digests, self._expected)[1]
        if differing:
            raise IntegrityMismatch(
                f"after {self.count} bytes the {', '.join(differing)} is not the one that was"
                " declared",
                side=self.connection.side,
                seen=str(as_hex(self.digests)),
            )

    def check_guard(self) -> None:
        """Call the guard, once, before the last bytes are handed out. An exception of it closes the
        connection."""
        guard, self.guard = self.guard, None
        if guard is None:
            return
        try:
            guard()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Release the connection. It is closed if the body is not complete, except for a short one
        that came whole with its head and that is unread. May be called twice."""
        self._release_connection(self._release is not None and self._skip())

    def _skip(self) -> bool:
        """Discard a body that is here already; return whether the connection may be used again.

        Many servers answer a MOVE or a DELETE with a page of two lines (Apache: 201 Created), and a
        new connection for each object would cost more than the request."""
        stream = self.connection
        if self.framing is not Framing.LENGTH or self.count or not self._keeps_alive:
            return False
        if not self.length or len(stream.leftover) != self.length:
            return False
        stream.leftover = b""
        return True

    def on_close(self, do: Callable[[], None]) -> None:
        """Call `do` when the connection is released, or at once if it was released already."""
        release = self._release
        if release is None:
            return do()

        def both(stream: Stream, reusable: bool) -> None:
            try:
                release(stream, reusable)
            finally:
                do()

        self._release = both

    def _release_connection(self, reusable: bool) -> None:
        release, self._release = self._release, None
        if release is not None:
            release(self.connection, reusable)

    # -- the ordinary face, for `requests` and for small answers

    def wait(self) -> None:
        """Wait until `read_now` may give something. Raises what the meter raises: Stalled,
        Cancelled and so on."""
        try:
            # `leftover` holds half a line; only the socket can bring the rest.
            while not self.connection.wait_for_more(self.meter.tick_seconds):
                self.meter.check_progress(self.connection.side)
        except BaseException:
            self.close()
            raise

    def readinto(self, view: memoryview) -> int:
        """Read at least one byte, or return 0 at the proven end. Raises as `read_now` and `wait`
        do."""
        while (count := self.read_now(view)) is None:
            self.wait()
        self.meter.moved += count
        if self._pace is None:
            self._pace = YieldTimer(self.meter)
        elif count:
            self._pace.step(self.connection)  # a fast body never waits, and would starve the others
        return count

    def read(self, size: int = -1) -> bytes:
        """Read up to `size` bytes (fewer only at the end), or the whole body. The whole may be
        large: prefer `for`."""
        wanted = size if size >= 0 else None
        taken = bytearray()
        while wanted is None or len(taken) < wanted:
            with BUFFERS.lend(
                min(wanted - len(taken), 1 << 16) if wanted is not None else 1 << 16
            ) as view:
                count = self.readinto(view)
                taken += view[:count]
            if not count:
                break
        return bytes(taken)

    def __iter__(self) -> Iterator[bytes]:
        """Yield the bytes in pieces of up to 64 KiB."""
        while piece := self.read(1 << 16):
            yield piece

    def text(self, limits: Limits) -> str:
        """Read the start of a short answer as text, for an error's detail; the rest is discarded
        unread."""
        try:
            return self.read(limits.text_bytes).decode("utf-8", "replace")
        finally:
            self.close()
