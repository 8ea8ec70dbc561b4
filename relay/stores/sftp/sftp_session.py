"""Requests and replies of one SFTP session, many at a time.

Theory of operation. Each request has a number, and a reply names the number of its request; replies
may come in any order. A greenlet reads the replies and gives each to its caller. Requests are
written by the greenlets that make them, one at a time. What is outstanding is bounded by the
callers, by bytes: the session keeps a reply only until it is taken. Nothing is queued for the
server: a write waits until the pipe takes it.

A request that no caller waits for any more keeps its number until its reply comes. A handle that
such a reply has is closed. A packet that breaks the protocol, or a request that was written in
part, ends the session, and with it all its requests: a fresh one takes some tenths of a second.

Decided here: numbering, framing, the end of a session. Never here: files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from time import monotonic
from typing import Any, Final

import gevent
from gevent.event import Event
from gevent.lock import BoundedSemaphore

from relay.errors import (
    ConnectionLost,
    ProtocolViolation,
    RelayError,
    Side,
    StoreTimeout,
)
from relay.stores.sftp.account import SftpAccount
from relay.stores.sftp.packets import (
    ADVERTISED,
    HEAD,
    INIT,
    LIMITS,
    PACKET_BYTES,
    VERSION,
    BadPacket,
    PacketFields,
    PacketKind,
    PacketSizes,
    StatusCode,
    StatusReply,
    extensions_of,
    limits_of,
    request,
    status_of,
    text,
)
from relay.stores.sftp.ssh_child import SshChild, wait_ready
from relay.stores.sftp.ssh_errors import login_error, lost_error
from relay.stores.sftp.status_errors import status_error
from relay.transfer_limits import Limits
from relay.wire.buffers import BUFFERS
from relay.wire.stream import READ, WRITE
from relay.wire.watchdog import Watchdog
from relay.wire.yielding import yield_to_hub

SMALLEST: Final = PacketSizes(read=32768, write=32768)
"""What each server accepts (section 3)."""
LARGEST_BYTES: Final = 261120
"""Maximum length of a READ or a WRITE: that of OpenSSH, 255 KiB."""
INPUT_BYTES: Final = 64 << 10
YIELD_SECONDS: Final = 0.002


class Reply:
    """The reply to one request, once it is here: its `kind` and its `data`, or the failure of the
    session. `arrived` may be shared by several requests of one caller."""

    __slots__ = ("arrived", "buffer", "data", "is_here", "kind", "most", "on_late")

    def __init__(self, arrived: Event, most: int = 0) -> None:
        """`most` is the length that a READ asked for."""
        self.arrived, self.most = arrived, most
        self.is_here = False
        self.kind = 0
        self.data: Any = b""
        self.buffer: memoryview | None = None
        """The pool's buffer in which the bytes of a READ are, until `release`."""
        self.on_late: Callable[[Reply], None] | None = None
        """Called with the reply if no caller waits for it any more."""

    def release(self) -> None:
        """Return the buffer to its pool, once the bytes were taken. May be called twice."""
        self.data = b""
        if self.buffer is not None:
            BUFFERS.give(self.buffer)
            self.buffer = None


class SftpSession:
    """One session. Several greenlets may use it at once. `transfers` is the number of those that
    move an object now, by which a session is chosen."""

    def __init__(self, account: SftpAccount, clock: Callable[[], float] = monotonic) -> None:
        self.account, self._clock = account, clock
        self.extensions: dict[str, str] = {}
        self.sizes = SMALLEST
        self.transfers = 0
        self.idle_since = clock()
        self.is_late = False
        """Whether the server has not answered since a request that took too long."""
        self._child: SshChild | None = None
        self._replies: dict[int, Reply] = {}
        self._number = 0
        self._writing = BoundedSemaphore(1)
        self._failure: Callable[[Side], RelayError] | None = None
        self._version = Event()
        self._reader: Any = None
        self._limits = Limits()

    # -- its life

    def begin(self, child: SshChild, side: Side, meter: Watchdog, deadline: float) -> None:
        """Begin the session over a process, and learn what the server can do. Raises as
        `login_error`, ProtocolViolation and StoreTimeout."""
        self._child, self._limits = child, meter.limits
        self._reader = gevent.spawn(self._read_replies)
        try:
            self._write([INIT], meter, side)
            while not self._version.wait(meter.tick_seconds):
                meter.check()
                if self._clock() > deadline:
                    raise StoreTimeout(f"no login at {self.account.server} in time", side=side)
            if self._failure is not None:
                raise self._failure(side)
            if self.can(LIMITS):
                self._learn_sizes(meter, side)
        except BaseException:
            self.close()
            raise

    def can(self, extension: str) -> bool:
        """Return whether the server advertises an extension."""
        return extension in self.extensions

    @property
    def is_open(self) -> bool:
        """Whether requests can be made."""
        return self._failure is None and self._child is not None

    @property
    def pid(self) -> int:
        """The number of the process."""
        assert self._child is not None
        return self._child.pid

    def close(self) -> None:
        """End the session. Requests that are still waited for fail."""
        server = self.account.server
        self._fail(lambda side: ConnectionLost(f"the session at {server} was closed", side=side))

    def _learn_sizes(self, meter: Watchdog, side: Side) -> None:
        reply = self.send(PacketKind.EXTENDED, text(LIMITS.encode()), meter, side)
        data = self.expect(reply, PacketKind.EXTENDED_REPLY, "limits", meter, side)
        try:
            found = limits_of(data)
        except BadPacket as error:
            raise self._break_off(str(error))(side) from None
        self.sizes = PacketSizes(
            read=min(found.read or SMALLEST.read, LARGEST_BYTES),
            write=min(found.write or SMALLEST.write, LARGEST_BYTES),
        )

    # -- requests

    def send(
        self,
        kind: PacketKind,
        payload: bytes,
        meter: Watchdog,
        side: Side,
        *,
        data: memoryview | None = None,
        arrived: Event | None = None,
        most: int = 0,
    ) -> Reply:
        """Write a request, and return its reply, which is still to come. `data` goes behind the
        payload; it may be used again once this returns. Raises ConnectionLost, and what the meter
        raises."""
        if self._failure is not None:
            raise self._failure(side)
        reply = Reply(arrived or Event(), most)
        number = self._new_number()
        length = 0 if data is None else len(data)
        pieces: list[bytes | memoryview] = [request(kind, number, payload, length)]
        if data is not None and length:
            pieces.append(data)
        self._replies[number] = reply
        try:
            self._write(pieces, meter, side)
        except BaseException:
            self._replies.pop(number, None)
            raise
        return reply

    def expect(
        self, reply: Reply, kind: PacketKind, what: str, meter: Watchdog, side: Side
    ) -> bytes:
        """Wait for a reply of a kind, and return its content. Raises the error of a STATUS in its
        place; `what` names the operation."""
        self.wait(reply, meter, side)
        if reply.kind == kind and kind is not PacketKind.STATUS:
            content: bytes = reply.data
            return content
        status = self.status(reply, side)
        if kind is PacketKind.STATUS and status.code == StatusCode.OK:
            return b""
        if status.code == StatusCode.OK:
            raise self._break_off(f"OK in place of a reply of type {kind}")(side)
        raise status_error(status, what, side)

    def status(self, reply: Reply, side: Side) -> StatusReply:
        """Return the content of a STATUS that is here. Raises ProtocolViolation for another reply,
        and the failure of the session."""
        if reply.kind == 0:
            assert self._failure is not None
            raise self._failure(side)
        try:
            if reply.kind != PacketKind.STATUS:
                raise BadPacket(f"an unexpected reply of type {reply.kind}")
            return status_of(reply.data)
        except BadPacket as error:
            raise self._break_off(str(error))(side) from None

    def fields(self, data: bytes, read: Callable[[bytes], Any], side: Side) -> Any:
        """Return what `read` finds in a reply. Raises ProtocolViolation for a packet that is
        cut."""
        try:
            return read(data)
        except BadPacket as error:
            raise self._break_off(str(error))(side) from None

    def wait(self, reply: Reply, meter: Watchdog, side: Side, seconds: float | None = None) -> None:
        """Wait until a reply is here. Raises StoreTimeout after `seconds` (None: `head_seconds`),
        and what the meter raises: then the reply is dropped when it comes."""
        seconds = meter.limits.head_seconds if seconds is None else seconds
        deadline = self._clock() + seconds
        while not reply.is_here:
            reply.arrived.clear()
            if not reply.arrived.wait(meter.tick_seconds):
                meter.check()
                if self._clock() > deadline:
                    self.is_late = True
                    message = f"{self.account.server} did not answer within {seconds:g} s"
                    raise StoreTimeout(message, side=side)

    def abandon(self, reply: Reply, on_late: Callable[[Reply], None] | None = None) -> None:
        """Drop a reply when it comes, or pass it to `on_late`."""
        if reply.is_here:
            if on_late is not None and reply.kind:
                on_late(reply)
            reply.release()
            return
        reply.on_late = on_late or Reply.release

    def close_handle(self, reply: Reply) -> None:
        """Close the handle in a reply that no caller waits for, in a greenlet of its own."""
        if reply.kind == PacketKind.HANDLE and self._failure is None:
            gevent.spawn(self._close_late, reply.data)

    def _close_late(self, data: bytes) -> None:
        meter = Watchdog(self._limits)
        with suppress(RelayError, BadPacket):
            handle = PacketFields(data).text()
            self.abandon(self.send(PacketKind.CLOSE, text(handle), meter, "relay"))

    # -- writing

    def _new_number(self) -> int:
        while True:
            self._number = (self._number + 1) & 0xFFFFFFFF
            if self._number not in self._replies:
                return self._number

    def _write(self, pieces: list[bytes | memoryview], meter: Watchdog, side: Side) -> None:
        """Write all of some pieces. If that ends in the middle, the session ends."""
        assert self._child is not None
        with self._turn(meter, side):
            if self._failure is not None:
                raise self._failure(side)
            began = False
            try:
                while pieces:
                    count = self._push(pieces, side)
                    if count is None:
                        if not wait_ready(self._child.outgoing, WRITE, meter.tick_seconds):
                            meter.check_progress(side)
                        if self._failure is not None:
                            raise self._failure(side)
                        continue
                    began = True
                    while pieces and count >= len(pieces[0]):
                        count -= len(pieces.pop(0))
                    if count:
                        pieces[0] = memoryview(pieces[0])[count:]
            except BaseException:
                if began and pieces:
                    self.close()
                raise

    @contextmanager
    def _turn(self, meter: Watchdog, side: Side) -> Iterator[None]:
        """Wait for the turn to write."""
        while not self._writing.acquire(timeout=meter.tick_seconds):
            meter.check_progress(side)
        try:
            yield
        finally:
            self._writing.release()

    def _push(self, pieces: list[bytes | memoryview], side: Side) -> int | None:
        assert self._child is not None
        try:
            return os.writev(self._child.outgoing, pieces)
        except BlockingIOError:
            return None
        except OSError:
            self._note_end()
            assert self._failure is not None
            raise self._failure(side) from None

    # -- reading

    def _read_replies(self) -> None:
        """Read replies until the session ends. Runs in a greenlet of its own."""
        assert self._child is not None
        source = _PipeReader(self._child.incoming, self._clock)
        try:
            self._read_version(source)
            while True:
                head = source.take(HEAD.size)
                length, kind, number = HEAD.unpack(head)
                reply = self._replies.get(number)
                if reply is None:
                    raise BadPacket(f"a reply to request {number}, which was not made")
                if not 5 <= length <= PACKET_BYTES:
                    raise BadPacket(f"a packet of {length} bytes")
                self._read_reply(source, reply, kind, length - 5)
                del self._replies[number]
                reply.is_here, self.is_late = True, False
                if reply.on_late is not None:
                    reply.on_late(reply)
                else:
                    reply.arrived.set()
        except BadPacket as error:
            self._break_off(str(error))
        except _PipeEnd:
            self._note_end()
        finally:
            source.close()

    def _read_version(self, source: _PipeReader) -> None:
        length, kind, version = HEAD.unpack(source.take(HEAD.size))
        # A login script that prints something comes here first: "Welc" is a length of 1.5 GB.
        if kind != PacketKind.VERSION or not 5 <= length <= PACKET_BYTES:
            raise BadPacket("text in place of the protocol; the login script may print it")
        rest = source.take(length - 5)
        if version < VERSION:
            raise BadPacket(f"version {version}, where 3 is needed")
        found = extensions_of(bytes(rest))
        self.extensions = {name: value for name, value in found.items() if name in ADVERTISED}
        self._version.set()

    @staticmethod
    def _read_reply(source: _PipeReader, reply: Reply, kind: int, length: int) -> None:
        """Read the rest of a packet. The bytes of a file go straight into a buffer of their own."""
        if kind != PacketKind.DATA:
            reply.data = bytes(source.take(length))
        else:
            count = PacketFields(bytes(source.take(min(4, length)))).number()
            if count != length - 4 or not 0 < count <= max(reply.most, 0):
                raise BadPacket(f"{count} bytes in a packet of {length}, for {reply.most} bytes")
            reply.buffer = BUFFERS.take(count)
            reply.data = reply.buffer[:count]
            source.fill(reply.data)
        reply.kind = kind

    # -- the end

    def _break_off(self, fact: str) -> Callable[[Side], RelayError]:
        """End the session for a packet that breaks the protocol; return its error."""
        server = self.account.server

        def error(side: Side) -> RelayError:
            return ProtocolViolation(
                f"{server} broke the protocol of SFTP: {fact}",
                side=side,
                hint="Check the server. A login script (.bashrc) must not print anything.",
            )

        self._fail(error)
        return error

    def _note_end(self) -> None:
        """Note that the process has closed its pipe."""
        assert self._child is not None
        messages, account = self._child.last_words(), self.account
        make = lost_error if self._version.is_set() else login_error
        self._fail(lambda side: make(messages, account, side))

    def _fail(self, failure: Callable[[Side], RelayError]) -> None:
        """End the session with the error of all its requests, unless it has ended."""
        if self._failure is not None:
            return
        self._failure = failure
        if self._child is not None:
            self._child.terminate()
            gevent.spawn(self._close_pipes, self._child)
        for reply in self._replies.values():
            reply.is_here = True
            reply.arrived.set()
        self._replies.clear()
        self._version.set()

    def _close_pipes(self, child: SshChild) -> None:
        """Close the pipes once nothing waits for them: the system gives their numbers to the next
        file at once."""
        if self._reader is not None:
            self._reader.kill()
        with self._writing:
            child.close()


class _PipeEnd(Exception):
    """The pipe has ended."""


class _PipeReader:
    """Reads whole pieces from a pipe, through a buffer; yields to the hub where the pipe is never
    empty."""

    def __init__(self, descriptor: int, clock: Callable[[], float]) -> None:
        self._descriptor, self._clock = descriptor, clock
        self._hub = gevent.get_hub()
        # Kept, since a pipe is waited for at each 32 KiB of a fast line.
        self._watcher = self._hub.loop.io(descriptor, READ)
        self._buffer = memoryview(bytearray(INPUT_BYTES))
        self._first = self._end = 0
        self._yield_at = clock() + YIELD_SECONDS

    def close(self) -> None:
        """Stop watching the pipe, which its owner closes."""
        self._watcher.close()

    def take(self, count: int) -> memoryview | bytes:
        """Return the next `count` bytes. Raises _PipeEnd."""
        kept = self._end - self._first
        if count > kept:
            if count > INPUT_BYTES:
                data = memoryview(bytearray(count))
                self.fill(data)
                return data
            self._buffer[:kept] = bytes(self._buffer[self._first : self._end])
            self._first, self._end = 0, kept
            while self._end < count:
                self._end += self._read(self._buffer[self._end :])
        piece = bytes(self._buffer[self._first : self._first + count])
        self._first += count
        return piece

    def fill(self, view: memoryview) -> None:
        """Fill a view with the next bytes. Raises _PipeEnd."""
        kept = min(self._end - self._first, len(view))
        view[:kept] = self._buffer[self._first : self._first + kept]
        self._first += kept
        at = kept
        while at < len(view):
            at += self._read(view[at:])

    def _read(self, view: memoryview) -> int:
        while True:
            if self._clock() >= self._yield_at:
                yield_to_hub()
                self._yield_at = self._clock() + YIELD_SECONDS
            try:
                count = os.readv(self._descriptor, [view])
            except BlockingIOError:
                self._hub.wait(self._watcher)
                self._yield_at = self._clock() + YIELD_SECONDS
                continue
            except OSError:
                raise _PipeEnd from None
            if not count:
                raise _PipeEnd
            return count
