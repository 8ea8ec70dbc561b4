"""The bad network: a TCP proxy that delays, throttles, cuts, swallows and flips bytes.

`up` is from the client to the target, `down` the way back. Decided here: when each byte is
forwarded. Never here: the meaning of the bytes; TLS passes unchanged."""

from __future__ import annotations

import random
import select
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal, Self

from simulators.listener import Listener
from simulators.wire import Connection

Direction = Literal["up", "down", "both"]
DIRECTIONS: Final = ("up", "down", "both")

_BLOCK_BYTES: Final = 256 * 1024
_QUEUE_BYTES: Final = 16 * 1024 * 1024
_CONNECT_SECONDS: Final = 10.0
_RESET: Final = struct.pack("ii", 1, 0)
_TICK_SECONDS: Final = 0.02


@dataclass(frozen=True)
class Toxics:
    """The effects of a proxy on each connection; every one that is set applies.

    Latency, jitter, rate, slice and slow_close act both ways; the others in `direction`. Seconds:
    latency and jitter (of each block), stall_seconds (None: forever), slow_close (before an end is
    passed on). Bytes a second, each way: rate. Counts of bytes from the start: cut_after (a FIN
    both ways), reset_after (an RST both ways), stall_after (no more is read), half_close (a FIN one
    way, the other lives on), flip (the lowest bit of that byte), slice (the largest write).
    `blackhole` is its own direction: from byte `blackhole_after` on all bytes are swallowed
    silently."""

    direction: Direction = "down"
    latency: float = 0.0
    jitter: float = 0.0
    rate: float | None = None
    cut_after: int | None = None
    reset_after: int | None = None
    stall_after: int | None = None
    stall_seconds: float | None = None
    blackhole: Direction | None = None
    blackhole_after: int = 0
    slice: int | None = None
    flip: int | None = None
    half_close: int | None = None
    slow_close: float | None = None


class Proxy:
    """A proxy on a port, from construction until `stop`; the keywords are those of Toxics.

    `target` is HOST:PORT. Raises OSError when the port is taken, ValueError for a target without a
    port, TypeError for a toxic that does not exist."""

    def __init__(
        self, target: str, port: int = 0, *, bind: str = "127.0.0.1", seed: int = 1, **toxics: Any
    ) -> None:
        host, _, number = target.rpartition(":")
        self._target = (host.strip("[]"), int(number))
        self._toxics = Toxics(**toxics)
        self._random = random.Random(seed)
        self._stopped = threading.Event()
        self._upstreams: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._carried: dict[Direction, int] = {"up": 0, "down": 0}
        self._turns: list[_Turns] = []
        self._listener = Listener(self._serve, bind, port)
        self.port = self._listener.port
        self._bind = bind

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def connections(self) -> int:
        """The number of connections accepted so far."""
        return self._listener.accepted

    def bytes_carried(self, direction: Direction) -> int:
        """Return the number of bytes forwarded so far: `up` to the target, or `down` from it."""
        with self._lock:
            return self._carried[direction]

    @property
    def round_trips(self) -> int:
        """The number of times that a client has sent bytes after it had received some, or at
        first. The opening of TCP connections is not counted."""
        with self._lock:
            return sum(turns.count for turns in self._turns)

    def _count(self, direction: Direction, size: int) -> None:
        with self._lock:
            self._carried[direction] += size

    def url(self, path: str = "", scheme: str = "http") -> str:
        """Return the URL of a path on the target, by way of this proxy."""
        host = f"[{self._bind}]" if ":" in self._bind else self._bind
        return f"{scheme}://{host}:{self.port}{path}"

    def stop(self) -> None:
        """Close everything and wait for the threads."""
        self._stopped.set()
        with self._lock:
            upstreams = list(self._upstreams)
        for upstream in upstreams:
            _shut_down(upstream, socket.SHUT_RDWR)
        self._listener.stop()

    def _serve(self, connection: Connection) -> None:
        client = connection.socket
        try:
            upstream = socket.create_connection(self._target, _CONNECT_SECONDS)
        except OSError:
            # The target refused the connection; an RST says the same to the client.
            _reset(client)
            return
        # create_connection leaves its timeout on the socket, and a stall may last longer.
        upstream.settimeout(None)
        upstream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._lock:
            self._upstreams.add(upstream)
        try:
            self._link(client, upstream)
        finally:
            upstream.close()
            with self._lock:
                self._upstreams.discard(upstream)

    def _link(self, client: socket.socket, upstream: socket.socket) -> None:
        dead, turns = threading.Event(), _Turns()
        with self._lock:
            self._turns.append(turns)
        common = self._toxics, self._stopped, dead, self._random, self._count, turns
        up = _Lane(client, upstream, "up", *common)
        down = _Lane(upstream, client, "down", *common)
        thread = threading.Thread(target=up.run, daemon=True)
        thread.start()
        down.run()
        thread.join()


class _Turns:
    """Counts how often bytes go up after others came down, on one connection."""

    def __init__(self) -> None:
        self.count = 0
        self._last: Direction | None = None
        self._lock = threading.Lock()

    def note(self, direction: Direction) -> None:
        """Note bytes, before they are forwarded: the answer to them may come at once."""
        with self._lock:
            self.count += direction == "up" and self._last != "up"
            self._last = direction


class _Over(Exception):
    """This direction is over: cut, reset, or a socket broke."""


class _Lane:
    """One direction of one connection."""

    def __init__(
        self,
        reads: socket.socket,
        writes: socket.socket,
        direction: Direction,
        toxics: Toxics,
        stopped: threading.Event,
        dead: threading.Event,
        chance: random.Random,
        count: Callable[[Direction, int], None],
        turns: _Turns,
    ) -> None:
        self._reads, self._writes, self._toxics = reads, writes, toxics
        self._count = partial(count, direction)
        self._turn = partial(turns.note, direction)
        self._stopped, self._dead, self._chance = stopped, dead, chance
        self._passed, self._due = 0, time.monotonic()
        self._swallows = False
        struck = toxics.direction in (direction, "both")
        self._flip = toxics.flip if struck else None
        self._gates = sorted(self._places(direction, struck), key=lambda gate: gate[0])

    def run(self) -> None:
        """Move bytes until an end, and pass the end on."""
        try:
            if self._toxics.latency or self._toxics.jitter:
                self._run_late()
            else:
                for block in self._blocks():
                    self._pass(block)
            if self._toxics.slow_close is not None:
                self._sleep(self._toxics.slow_close)
            # A black hole swallows the end of the stream too.
            if not (self._swallows or self._dead.is_set()):
                _shut_down(self._writes, socket.SHUT_WR)
        except (_Over, OSError):
            if not self._dead.is_set():
                _shut_down(self._reads, socket.SHUT_RDWR)
                _shut_down(self._writes, socket.SHUT_RDWR)

    def _places(
        self, direction: Direction, struck: bool
    ) -> Iterator[tuple[int, Callable[[], None]]]:
        """Yield the offsets in the stream at which toxics act."""
        toxics = self._toxics
        if toxics.blackhole in (direction, "both"):
            yield toxics.blackhole_after, self._swallow
        if not struck:
            return
        for place, act in (
            (toxics.stall_after, self._stall),
            (toxics.half_close, self._half_close),
            (toxics.cut_after, self._cut),
            (toxics.reset_after, self._reset),
        ):
            if place is not None:
                yield place, act

    def _blocks(self) -> Iterator[bytes]:
        while block := self._reads.recv(_BLOCK_BYTES):
            yield block

    def _run_late(self) -> None:
        """Read ahead into a bounded queue, so that latency does not become a limit on the rate."""
        queue = _Late(self._toxics, self._chance)
        reader = threading.Thread(target=queue.fill, args=(self._blocks,), daemon=True)
        reader.start()
        try:
            while (late := queue.take()) is not None:
                due, block = late
                self._sleep(due - time.monotonic())
                self._pass(block)
        except BaseException:
            # The reader waits in recv(2); without a shutdown `join` would wait for it.
            _shut_down(self._reads, socket.SHUT_RDWR)
            raise
        finally:
            queue.close()
            reader.join()

    def _pass(self, block: bytes) -> None:
        """Forward a block, and stop at each gate in it."""
        while self._gates and self._gates[0][0] <= self._passed + len(block):
            place, act = self._gates.pop(0)
            count = place - self._passed
            self._write(block[:count])
            block = block[count:]
            act()
        self._write(block)

    def _write(self, block: bytes) -> None:
        start, self._passed = self._passed, self._passed + len(block)
        if self._swallows or not block:
            return
        if self._flip is not None and start <= self._flip < self._passed:
            place = self._flip - start
            block = block[:place] + bytes((block[place] ^ 1,)) + block[place + 1 :]
        self._turn()
        size = self._toxics.slice or len(block)
        if self._toxics.rate is not None:
            size = min(size, max(1, int(self._toxics.rate * _TICK_SECONDS)))
        for place in range(0, len(block), size):
            piece = block[place : place + size]
            self._writes.sendall(piece)
            self._count(len(piece))
            if self._toxics.rate is not None:
                # After a pause at most one tick is sent at once, not all that the rate allowed
                # meanwhile.
                self._due = (
                    max(self._due, time.monotonic() - _TICK_SECONDS)
                    + len(piece) / self._toxics.rate
                )
                self._sleep(self._due - time.monotonic())

    def _sleep(self, seconds: float | None) -> None:
        if self._stopped.wait(None if seconds is None else max(0.0, seconds)):
            raise _Over

    def _swallow(self) -> None:
        self._swallows = True

    def _stall(self) -> None:
        """Stop reading for a while, unless the other side has closed or the proxy stops."""
        seconds = self._toxics.stall_seconds
        poll = select.poll()
        poll.register(self._writes.fileno(), select.POLLRDHUP | select.POLLHUP | select.POLLERR)
        if poll.poll(None if seconds is None else seconds * 1000):
            raise _Over

    def _half_close(self) -> None:
        _shut_down(self._writes, socket.SHUT_WR)
        self._swallows = True

    def _cut(self) -> None:
        raise _Over

    def _reset(self) -> None:
        self._dead.set()  # before the other direction wakes up and ends with a FIN
        _reset(self._reads)
        _reset(self._writes)
        raise _Over


class _Late:
    """A bounded queue of blocks, each with the time from which it may be forwarded; order is
    kept."""

    def __init__(self, toxics: Toxics, chance: random.Random) -> None:
        self._toxics, self._chance = toxics, chance
        self._blocks: deque[tuple[float, bytes]] = deque()
        self._bytes, self._over, self._latest = 0, False, 0.0
        self._changed = threading.Condition()

    def fill(self, blocks: Callable[[], Iterator[bytes]]) -> None:
        """Take blocks until they end or `close`."""
        try:
            for block in blocks():
                if not self._put(block):
                    return
        except OSError:
            pass
        finally:
            self.close()

    def take(self) -> tuple[float, bytes] | None:
        """Return the next block and its time; None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._blocks or self._over)
            if not self._blocks:
                return None
            due, block = self._blocks.popleft()
            self._bytes -= len(block)
            self._changed.notify_all()
            return due, block

    def close(self) -> None:
        """Accept no further blocks."""
        with self._changed:
            self._over = True
            self._changed.notify_all()

    def _put(self, block: bytes) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._bytes < _QUEUE_BYTES or self._over)
            late = self._toxics.latency + self._chance.uniform(
                -self._toxics.jitter, self._toxics.jitter
            )
            # TCP keeps order: jitter never lets a block overtake the one before.
            self._latest = max(self._latest, time.monotonic() + max(0.0, late))
            self._blocks.append((self._latest, block))
            self._bytes += len(block)
            self._changed.notify_all()
            return not self._over


def _shut_down(sock: socket.socket, how: int) -> None:
    try:
        sock.shutdown(how)
    except OSError:
        pass  # it is closed already


def _reset(sock: socket.socket) -> None:
    """Send an RST. The other direction may wait in recv, which would delay close(2): SHUT_RD wakes
    it, silently."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        sock.shutdown(socket.SHUT_RD)
    except OSError:
        pass  # it is closed already
    sock.close()
