"""The body of an upload: read from the connection, digested or dropped, never on a disk.

Decided here: how a body is framed and read, at which byte a fault strikes, and which bytes count as
stored. Never here: whether the object may be stored."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from awscrt import checksums

from simulators.message import BadRequest
from simulators.wire import Connection, Gone, TooLarge

ALGORITHMS: Final = ("crc32c", "crc64nvme", "md5", "sha256")
_BUFFER_BYTES: Final = 512 * 1024
_CHUNK_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]*)?")


class _Hash(Protocol):
    def update(self, block: memoryview, /) -> None: ...
    def hexdigest(self) -> str: ...


class _Crc:
    """A running CRC with the methods of a hashlib object."""

    def __init__(self, step: Callable[[memoryview, int], int], digits: int) -> None:
        self._step, self._digits, self._value = step, digits, 0

    def update(self, block: memoryview, /) -> None:
        self._value = self._step(block, self._value)

    def hexdigest(self) -> str:
        return f"{self._value:0{self._digits}x}"


class Body:
    """Reads one request body, framed by a length or, when that is None, by chunks (RFC 9112
    §7.1)."""

    def __init__(self, connection: Connection, length: int | None) -> None:
        self._connection = connection
        self._chunked = length is None
        self._left = length or 0
        self._first = True
        self._over = length == 0

    def ready(self) -> int:
        """Return the number of bytes that may be read next; 0 at the end. Raises Gone,
        BadRequest."""
        if self._left == 0 and self._chunked and not self._over:
            self._left = self._next_chunk()
            self._over = self._left == 0
        return self._left

    def read(self, view: memoryview) -> int:
        """Read some of the ready bytes into `view`; return their number. Raises Gone."""
        count = self._connection.receive_into(view[: self._left])
        self._left -= count
        return count

    def discard(self, limit: int) -> int:
        """Drop at most `limit` of the ready bytes; return their number. Raises Gone."""
        count = self._connection.discard(min(limit, self._left))
        self._left -= count
        return count

    def _next_chunk(self) -> int:
        try:
            if not self._first and self._connection.read_line():
                raise BadRequest(400, "a chunk does not end at its declared size")
            self._first = False
            line = _CHUNK_LINE.fullmatch(self._connection.read_line())
            if line is None:
                raise BadRequest(400, "not a chunk size")
            size = int(line[1], 16)
            while size == 0 and self._connection.read_line():
                pass  # trailers
        except TooLarge as error:
            raise BadRequest(400, "a chunk line too long") from error
        return size


class Sink:
    """Digests and keeps the bytes of an upload. `edit` may change a block before it is digested or
    kept."""

    def __init__(self, algorithms: Sequence[str], keep: bool, edit: Edit | None = None) -> None:
        self._hashes = {name: _hash(name) for name in algorithms}
        self._edit = edit
        self.kept = bytearray() if keep else None
        self.size = 0
        self.blind = not (algorithms or keep or edit)

    def take(self, view: memoryview) -> None:
        """Digest and keep a block."""
        if self._edit is not None:
            view = self._edit.change(view, self.size)
        for state in self._hashes.values():
            state.update(view)
        if self.kept is not None:
            self.kept += view
        self.size += len(view)

    def skip(self, count: int) -> None:
        """Count bytes that were dropped unread."""
        self.size += count

    def finish(self) -> dict[str, str]:
        """Return the hex digests, including the bytes that the edit adds."""
        if self._edit is not None and self._edit.append:
            # Once: a second call returns the same digests.
            added, self._edit = bytes(self._edit.append), None
            self.take(memoryview(added))
        return {name: state.hexdigest() for name, state in self._hashes.items()}


class Edit:
    """A corruption of the stored bytes: keep at most `keep` bytes, flip a bit of byte `flip`, write
    zeros from byte `zero` on, append `append` bytes."""

    def __init__(
        self,
        keep: int | None = None,
        flip: int | None = None,
        zero: int | None = None,
        append: int = 0,
    ) -> None:
        self._keep, self._flip, self._zero, self.append = keep, flip, zero, append

    def change(self, view: memoryview, offset: int) -> memoryview:
        """Return the block at `offset` as it will be stored."""
        block = bytearray(view)
        if self._flip is not None and offset <= self._flip < offset + len(block):
            block[self._flip - offset] ^= 1
        if self._zero is not None and self._zero < offset + len(block):
            start = max(0, self._zero - offset)
            block[start:] = bytes(len(block) - start)
        if self._keep is not None:
            del block[max(0, self._keep - offset) :]
        return memoryview(block)


Gate = tuple[int, Callable[[], None]]


def receive(body: Body, sink: Sink, gates: Sequence[Gate], pace: Callable[[int], int]) -> int:
    """Move a whole body into the sink and return its bytes.

    Each gate is called once, at exactly its number of bytes; it may raise. `pace` gets the number
    of ready bytes, may wait, and returns the number to take. Raises Gone, BadRequest, and the
    errors of the gates."""
    taken, waiting = 0, sorted(gates, key=lambda gate: gate[0])
    scratch = memoryview(b"")
    while True:
        while waiting and waiting[0][0] <= taken:
            waiting.pop(0)[1]()
        ready = body.ready()
        if ready == 0:
            return taken
        if waiting:
            ready = min(ready, waiting[0][0] - taken)
        ready = pace(ready)
        if sink.blind:
            count = body.discard(ready)
            sink.skip(count)
        else:
            if len(scratch) < min(ready, _BUFFER_BYTES):
                scratch = memoryview(bytearray(min(ready, _BUFFER_BYTES)))
            count = body.read(scratch[:ready])
            sink.take(scratch[:count])
        taken += count


def paced_reader(connection: Connection, bytes_per_second: float) -> Callable[[int], int]:
    """Return a `pace` that limits the rate to `bytes_per_second`: in steps of 50 ms, or of one byte
    where the rate is below twenty."""
    size = max(1, int(bytes_per_second * 0.05))
    due = time.monotonic()

    def pace(ready: int) -> int:
        nonlocal due
        due += min(size, ready) / bytes_per_second
        # The close of a peer after its last byte is noticed when the bytes run out.
        try:
            connection.wait(max(0.0, due - time.monotonic()))
        except Gone:
            pass
        return min(size, ready)

    return pace


def _hash(name: str) -> _Hash:
    if name == "crc32c":
        return _Crc(checksums.crc32c, 8)
    if name == "crc64nvme":
        return _Crc(checksums.crc64nvme, 16)
    return hashlib.new(name)
