"""A file on an SFTP server as a source: its bytes, read ahead, in order.

Theory of operation. Several READs are outstanding, so that a line with a long round trip stays
full; their bytes are bounded (`WINDOW_BYTES` for one file, SESSION_BYTES for the files of one
session), and wait here until they are taken in order. A server may return fewer bytes than asked:
the rest is asked for again, before what follows. Before the last piece is returned, the open file
is inspected again: a file that has another size or time was changed, and the bytes may be a
mixture.

Decided here: how a file is read. Never here: which version (`sftp/store.py`)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import gevent
from gevent.event import Event

from relay.errors import ConnectionLost, RelayError, SourceChanged
from relay.receipt import Version
from relay.stores.file_bodies import CheckedStream
from relay.stores.sftp.packets import PacketKind, StatusCode, number, number_64, text
from relay.stores.sftp.remote_files import RemoteFiles, version_of_attributes
from relay.stores.sftp.sftp_session import Reply
from relay.stores.sftp.status_errors import status_error
from relay.wire.watchdog import Watchdog

WINDOW_BYTES: Final = 4 << 20
SESSION_BYTES: Final = 8 << 20


@dataclass
class _AskedBytes:
    """Bytes that were asked for: `length` of them from `first` on."""

    first: int
    length: int
    reply: Reply


class RemoteFileStream(CheckedStream):
    """An open file on a server, with the interface of a socket stream."""

    splices = False

    def __init__(
        self,
        files: RemoteFiles,
        handle: bytes,
        version: Version,
        what: str,
        *,
        first: int,
        end: int | None,
        give_back: Callable[[], None],
    ) -> None:
        """Take over an open handle, and read from byte `first` on, up to `end` (None: as long as
        there are bytes). `give_back` is called after the handle was closed."""
        self.side, self.leftover, self.closed = files.side, b"", False
        self._files, self._handle, self._version, self._what = files, handle, version, what
        self._next, self._end = first, end
        self._give_back = give_back
        self._spans: deque[_AskedBytes] = deque()
        self._arrived = Event()
        self._piece = memoryview(b"")
        self._reply: Reply | None = None
        """The reply of which `_piece` is the rest."""
        self._is_at_end = False
        self._read_bytes = files.session.sizes.read

    # -- reading

    def read_now(self, view: memoryview) -> int | None:
        """As Stream's."""
        while not self._piece:
            self._ask()
            if not self._spans:
                return 0
            if not self._spans[0].reply.is_here:
                return None
            self._take()
        count = min(len(view), len(self._piece))
        view[:count] = self._piece[:count]
        self._piece = self._piece[count:]
        if not self._piece:
            self._release_piece()
            self._ask()
        return count

    def wait_for_more(self, seconds: float) -> bool:
        """As Stream's."""
        self._arrived.clear()
        if self._piece or not self._spans or self._spans[0].reply.is_here:
            return True
        return bool(self._arrived.wait(seconds))

    def _ask(self) -> None:
        """Send READs up to the bound."""
        session = self._files.session
        bound = min(WINDOW_BYTES, SESSION_BYTES // max(1, session.transfers))
        if not session.account.options.reads_ahead:
            bound = 0  # one at a time
        under_way = sum(span.length for span in self._spans)
        while not self._is_at_end and (not self._spans or under_way + self._read_bytes <= bound):
            length = self._read_bytes
            if self._end is not None:
                length = min(length, self._end - self._next)
            if length <= 0:
                return
            self._spans.append(self._send(self._next, length))
            self._next += length
            under_way += length

    def _send(self, first: int, length: int) -> _AskedBytes:
        payload = text(self._handle) + number_64(first) + number(length)
        files = self._files
        reply = files.session.send(
            PacketKind.READ,
            payload,
            files.meter,
            files.side,
            arrived=self._arrived,
            most=length,
        )
        return _AskedBytes(first, length, reply)

    def _take(self) -> None:
        """Take the first reply. Raises StoreError for a status other than the end of the file."""
        span = self._spans.popleft()
        if span.reply.kind == PacketKind.DATA:
            self._piece, self._reply = span.reply.data, span.reply
            got = len(self._piece)
            if got < span.length:
                # A server may have a smaller limit than it says: then it has it for each READ.
                self._read_bytes = max(got, 4096) if self._spans else self._read_bytes
                self._spans.appendleft(self._send(span.first + got, span.length - got))
            return
        status = self._files.session.status(span.reply, self.side)
        if status.code != StatusCode.EOF:
            raise status_error(status, self._what, self.side)
        self._is_at_end = True
        self._drop_rest()

    # -- the end

    def check(self) -> None:
        """Raise SourceChanged if the file was changed since it was opened."""
        found = self._files.attributes(self._files.send_stat_of(self._handle), self._what)
        now = version_of_attributes(found)
        was = self._version
        if (now.etag, now.size if was.size is not None else None) != (was.etag, was.size):
            raise SourceChanged("the file was changed while it was read", side=self.side)

    def finish(self) -> None:
        """Close the file after its last byte was read, before the next request: some servers rename
        no file that is open (Windows)."""
        if not self.closed:
            self.closed = True
            self._close_handle()

    def close(self) -> None:
        """As Stream's. The handle is closed in a greenlet of its own, since a server may take no
        request now."""
        if self.closed:
            return
        self.closed = True
        self._release_piece()
        if self._spans and not self._spans[0].reply.is_here:
            # If the server does not answer any more, the retry is to use another session.
            self._files.session.is_late = True
        self._drop_rest()
        gevent.spawn(self._close_handle)

    def _close_handle(self) -> None:
        session, side = self._files.session, self.side
        try:
            meter = Watchdog(self._files.meter.limits)
            session.abandon(RemoteFiles(session, side, meter).close_later(self._handle))
        except RelayError:
            return  # the session has ended, and its handles with it
        finally:
            self._release_piece()
            self._give_back()

    def _release_piece(self) -> None:
        """Return the buffer of the piece that is being taken."""
        self._piece = memoryview(b"")
        if self._reply is not None:
            self._reply.release()
            self._reply = None

    def _drop_rest(self) -> None:
        while self._spans:
            self._files.session.abandon(self._spans.popleft().reply)

    def lost_error(self, error: BaseException) -> ConnectionLost:
        """As Stream's."""
        return ConnectionLost(f"{self._what} can't be read ({error})", side=self.side)
