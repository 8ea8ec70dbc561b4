"""The pump on real TCP pairs: the path that it takes, the state it leaves behind, and that it lets
others run."""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import socket
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from time import monotonic

import gevent
import pytest

from relay.digest import Digester
from relay.errors import (
    Cancelled,
    ConnectionLost,
    IntegrityMismatch,
    LeaseLost,
    SourceTruncated,
    Stalled,
)
from relay.transfer_limits import Limits
from relay.wire import pump as pumping
from relay.wire.body import Body
from relay.wire.buffers import BUFFERS, PIPES, Buffers, Loan, Pipes
from relay.wire.http1 import framing_of
from relay.wire.pump import SMALLEST_PIECE, BodyWriter, drain, pump
from relay.wire.response_reader import ResponseReader
from relay.wire.stream import RECEIVE_BYTES, Stream
from relay.wire.watchdog import Watchdog
from tests.conftest import Certificates, Engine
from tests.faults.scripted_peers import DATA as CLOUD_DATA
from tests.faults.scripted_peers import (
    GET_HEAD,
    Cloud,
    destination_script,
    fixed_answer,
    source_script,
)
from tests.scripted import Peer

LIMITS = Limits(stall_seconds=1, head_seconds=2, tick_seconds=0.1)
DATA = random.Random(5).randbytes(3_000_000)
MIB = 1024 * 1024
BY_LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
CLOSED = b"HTTP/1.1 200 OK\r\n\r\n"
TOO_LARGE = b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n"
WAYS = pytest.mark.parametrize("way", ["splice", "copy"])


def chunk_data(data: bytes, size: int = 70_000) -> bytes:
    """Return data in chunks of `size`, and the last chunk."""
    pieces = [data[i : i + size] for i in range(0, len(data), size)]
    return b"".join(b"%x\r\n" % len(piece) + piece + b"\r\n" for piece in pieces) + b"0\r\n\r\n"


@contextmanager
def connected_sockets() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Return the two ends of a TCP connection over loopback."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    with near, far:
        yield near, far


@dataclass
class Bench:
    """A pump's two connections: the bytes of the far source, and the reads of the far
    destination."""

    body: Body
    outlet: BodyWriter
    source: socket.socket
    """The far end of the source's connection."""
    destination: socket.socket
    """The far end of the destination's connection."""
    received: bytearray = field(default_factory=bytearray)
    threads: list[threading.Thread] = field(default_factory=list)

    def start(self, work: Callable[[], None]) -> None:
        """Run a far end's work in a native thread of its own; that its connection breaks is no
        error of it."""

        def run() -> None:
            with contextlib.suppress(OSError):
                work()

        thread = threading.Thread(target=run, daemon=True)
        self.threads.append(thread)
        thread.start()

    def take_all(self) -> None:
        """Let the far destination read to the end."""

        def work() -> None:
            while piece := self.destination.recv(1 << 20):
                self.received += piece

        self.start(work)

    def end(self) -> bytes:
        """End both connections and return the bytes that the far destination received."""
        self.body.connection.close()
        self.outlet.stream.close()
        for thread in self.threads:
            thread.join(5)
            assert not thread.is_alive()
        return bytes(self.received)


@contextmanager
def bench(
    head: bytes, *pieces: bytes, chunked: bool = False, limits: Limits = LIMITS
) -> Iterator[Bench]:
    """Set up a source that answers with `head` and sends `pieces` (and then its FIN), and a silent
    destination."""
    with (
        connected_sockets() as (near_source, far_source),
        connected_sockets() as (near_destination, far_destination),
    ):
        meter = Watchdog(limits)
        far_source.sendall(head)
        stream, out = Stream(near_source, "source"), Stream(near_destination, "destination")
        answer = ResponseReader(stream, meter).wait(2)
        assert answer is not None
        body = Body(stream, framing_of("GET", answer, "source"), answer, meter, lambda *_: None)
        made = Bench(
            body,
            BodyWriter(out, meter, ResponseReader(out, meter), chunked),
            far_source,
            far_destination,
        )

        def feed() -> None:
            for piece in pieces:
                far_source.sendall(piece)
            far_source.shutdown(socket.SHUT_WR)

        if pieces:
            made.start(feed)
        try:
            yield made
        finally:
            for sock in (far_source, far_destination):
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
            made.end()


def take_path(way: str, body: Body) -> None:
    """Make the pump take this path: a digest has to see the bytes."""
    if way == "copy":
        body.digest_with(("crc64nvme",))


@pytest.fixture(autouse=True)
def leak_check() -> Iterator[None]:
    """Fail a test that leaves a new descriptor open, or a borrowed buffer unreturned."""
    PIPES.close()
    before = set(os.listdir("/proc/self/fd"))
    yield
    PIPES.close()
    assert len(set(os.listdir("/proc/self/fd"))) <= len(before)


# -- the path


@pytest.mark.parametrize(
    ("head", "feed", "to_chunked", "digest", "splices"),
    [
        (BY_LENGTH % len(DATA), DATA, False, False, True),
        (BY_LENGTH % len(DATA), DATA, False, True, False),
        (BY_LENGTH % len(DATA), DATA, True, False, False),
        (CHUNKED, chunk_data(DATA), False, False, False),
        (CHUNKED, chunk_data(DATA), True, True, False),
        (CLOSED, DATA, True, False, False),
    ],
    ids=["length", "digest", "to chunked", "from chunked", "chunked and digest", "from close"],
)
def test_unread_bytes_are_spliced(
    splice_counts: list[int],
    head: bytes,
    feed: bytes,
    to_chunked: bool,
    digest: bool,
    splices: bool,
) -> None:
    with bench(head, feed, chunked=to_chunked) as made:
        if digest:
            made.body.digest_with(("crc32c",))
        made.take_all()
        assert pump(made.body, made.outlet)
        received = made.end()
    assert made.body.count == made.outlet.sent == made.outlet.meter.moved == len(DATA)
    assert made.body.complete
    assert (join_chunks(received) if to_chunked else received) == DATA
    assert sum(splice_counts) == (2 * len(DATA) if splices else 0)  # into the pipe, and out of it


def join_chunks(received: bytes) -> bytes:
    data, place = b"", 0
    while True:
        end = received.index(b"\r\n", place)
        size = int(received[place:end], 16)
        if not size:
            assert received[end:] == b"\r\n\r\n"
            return data
        data += received[end + 2 : end + 2 + size]
        place = end + 2 + size + 2


def test_bytes_that_came_with_the_head_are_not_lost(splice_counts: list[int]) -> None:
    with bench(BY_LENGTH % len(DATA) + DATA[:1000], DATA[1000:]) as made:
        made.take_all()
        assert pump(made.body, made.outlet)
        assert made.end() == DATA
    assert 0 < sum(splice_counts) < 2 * len(DATA)


@pytest.mark.parametrize("verify", ["size", "auto"])
@pytest.mark.parametrize(
    ("here", "there"), [(False, False), (True, False), (False, True), (True, True)]
)
def test_only_plain_transfers_at_level_size_are_spliced(
    engine: Engine,
    certificates: Certificates,
    splice_counts: list[int],
    here: bool,
    there: bool,
    verify: str,
) -> None:
    cloud = Cloud()
    with (
        Peer(
            source_script(Cloud(), fixed_answer(GET_HEAD, CLOUD_DATA)),
            certificates.server if here else None,
        ) as source,
        Peer(destination_script(cloud), certificates.server if there else None) as destination,
    ):
        engine.migrate(source.url(), destination.url("/b"), verify=verify)
    assert cloud.objects == {b"/b": CLOUD_DATA}
    assert bool(splice_counts) == (verify == "size" and not here and not there)


# -- the size of a piece


@pytest.fixture
def lent_sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the sizes of the buffers that the pump borrows, as it does."""
    sizes: list[int] = []

    class Recording(Buffers):
        """Records the borrowed buffers."""

        def lend(self, size: int) -> Loan:
            """Lend as usual."""
            sizes.append(size)
            return super().lend(size)

    monkeypatch.setattr(pumping, "BUFFERS", Recording())
    return sizes


def test_the_piece_grows_while_all_is_taken_at_once(lent_sizes: list[int]) -> None:
    data = DATA[:300_000]  # fits into the socket's own buffer
    with bench(BY_LENGTH % len(data)) as made:
        made.body.connection.leftover = data  # all of it is in memory: only the destination decides
        take_path("copy", made.body)
        made.take_all()
        assert pump(made.body, made.outlet)
        assert made.end() == data
    assert lent_sizes[:2] == [RECEIVE_BYTES, 2 * RECEIVE_BYTES]


def test_the_piece_never_grows_beyond_its_limit(lent_sizes: list[int]) -> None:
    limits = replace(LIMITS, buffer_bytes=2 * SMALLEST_PIECE)
    with bench(BY_LENGTH % len(DATA), limits=limits) as made:
        made.body.connection.leftover = DATA
        take_path("copy", made.body)
        made.take_all()
        assert pump(made.body, made.outlet)
        assert made.end() == DATA
    assert max(lent_sizes) == limits.buffer_bytes


def test_the_piece_shrinks_while_the_destination_is_slow(lent_sizes: list[int]) -> None:
    """The sockets between hold less than one piece, so that every larger one makes the pump
    wait."""
    data = DATA[: 20 * SMALLEST_PIECE]  # windows this small are slow: the kernel acknowledges late
    with bench(BY_LENGTH % len(data), limits=replace(LIMITS, stall_seconds=30)) as made:
        made.body.connection.leftover = data
        take_path("copy", made.body)
        made.outlet.stream._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        made.destination.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)

        def work() -> None:
            while piece := made.destination.recv(2048):
                made.received += piece

        made.start(work)
        assert pump(made.body, made.outlet)
        assert made.end() == data
    assert lent_sizes[0] == RECEIVE_BYTES
    assert min(lent_sizes) == SMALLEST_PIECE
    assert sum(lent_sizes[4:]) / len(lent_sizes[4:]) < 2 * SMALLEST_PIECE


# -- what ends the wrapping of a body


@pytest.mark.parametrize("size", [0, 1, 5000, len(DATA)])
@pytest.mark.parametrize("room", [4096, 1 << 20])
def test_the_tail_follows_the_last_byte_once(size: int, room: int) -> None:
    """The socket accepts everything at once, or a little at a time; and only the payload counts as
    sent."""
    data, asked = DATA[:size], []
    with bench(BY_LENGTH % size, data, limits=replace(LIMITS, stall_seconds=30)) as made:
        made.outlet.stream._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, room)
        take_path("copy", made.body)

        def tail() -> bytes:
            asked.append(made.body.complete)
            return b"the end"

        made.outlet.tail = tail
        made.take_all()
        assert pump(made.body, made.outlet)
        assert made.end() == data + b"the end"
        assert (asked, made.outlet.sent) == ([True], size)


def test_no_tail_follows_a_body_that_is_cut_off() -> None:
    with bench(BY_LENGTH % 5000, DATA[:4999]) as made:
        take_path("copy", made.body)
        made.outlet.tail = lambda: b"the end"
        made.take_all()
        with pytest.raises(SourceTruncated):
            pump(made.body, made.outlet)
        assert made.end() == DATA[:4999]


def test_a_tail_that_the_socket_does_not_take_comes_later() -> None:
    """The text before the body, the body and the tail are three pieces of one call, which may end
    in any of them."""
    for taken in range(12):
        with connected_sockets() as (near, far):
            stream = Stream(near, "destination")
            assert stream.write_now(memoryview(b"before"), more=True) == 6
            whole = stream._push
            stream._push = lambda pieces, flags=0, n=taken, push=whole: push(
                (b"".join(pieces)[:n],)
            )  # type: ignore[method-assign]
            count = stream.write_both(memoryview(b"body"), b"tail")
            stream._push = whole  # type: ignore[method-assign]
            assert count == max(0, taken - 6)
            assert stream.write_now(memoryview(b"bodytail"[count:])) == 8 - count
            assert far.recv(14, socket.MSG_WAITALL) == b"beforebodytail"
            stream.close()


# -- letting others run


FEEDER = "import socket, sys; s = socket.socket(fileno=int(sys.argv[1])); b = bytes(1 << 20)\n"
FEEDING = FEEDER + "for _ in range(int(sys.argv[2])): s.sendall(b)\n"
TAKING = (
    FEEDER
    + "n = 0; v = memoryview(bytearray(1 << 20))\nwhile c := s.recv_into(v): n += c\nprint(n)"
)


def starved_seconds() -> float:
    """Return the seconds for which this thread was ready to run and the kernel ran others (proc(5):
    schedstat)."""
    with open(f"/proc/self/task/{threading.get_native_id()}/schedstat") as file:
        return int(file.read().split()[1]) / 1e9


class Ticker:
    """Wakes every 5 ms, and keeps its longest delay.

    Wall time alone would be wrong: with more busy processes than cores the kernel delays every
    thread. The time for which this thread waited for a core is subtracted; its computing, and its
    waits in system calls, are not."""

    def __init__(self) -> None:
        self.latest, self.ticks = 0.0, 0

    def run(self) -> None:
        """Tick until killed."""
        while True:
            wall, others = monotonic(), starved_seconds()
            gevent.sleep(0.005)
            self.latest = max(
                self.latest, monotonic() - wall - 0.005 - (starved_seconds() - others)
            )
            self.ticks += 1


def test_the_ticker_finds_greenlets_that_do_not_yield() -> None:
    ticker = Ticker()
    ticking = gevent.spawn(ticker.run)
    gevent.sleep(0.02)
    threading.Event().wait(0.08)  # blocks the hub without any work: as much a fault as a busy loop
    gevent.sleep(0.02)
    ticking.kill()
    assert ticker.latest > 0.06


@WAYS
def test_a_pump_that_never_waits_lets_others_run(way: str) -> None:
    """256 MiB at full speed between two other processes, while a greenlet wakes every 5 ms."""
    mebibytes = 256
    with bench(BY_LENGTH % (mebibytes * MIB), limits=Limits()) as made:
        take_path(way, made.body)
        ends = (made.source, FEEDING, str(mebibytes)), (made.destination, TAKING)
        feeder, taker = (
            subprocess.Popen(
                [sys.executable, "-c", program, str(sock.fileno()), *more],
                pass_fds=[sock.fileno()],
                stdout=subprocess.PIPE,
                text=True,
            )
            for sock, program, *more in ends
        )
        made.source.close()
        made.destination.close()
        ticker = Ticker()
        ticking = gevent.spawn(ticker.run)
        try:
            assert pump(made.body, made.outlet)
        finally:
            ticking.kill()
            made.end()
            feeder.communicate(timeout=10)
            taken = taker.communicate(timeout=10)[0]
    assert int(taken) == mebibytes * MIB
    assert ticker.ticks > 3
    assert ticker.latest < 0.05


def test_two_pumps_take_turns() -> None:
    """All bytes of both are ready, so neither ever waits for its source: still the two
    alternate."""
    order: list[str] = []
    limits = replace(Limits(), yield_seconds=0.0005, buffer_bytes=SMALLEST_PIECE)
    with (
        bench(BY_LENGTH % len(DATA), limits=limits) as one,
        bench(BY_LENGTH % len(DATA), limits=limits) as two,
    ):

        def run(name: str, made: Bench) -> bool:
            write = made.outlet.write

            def noting(view: memoryview, more: bool = False, last: bool = False) -> bool:
                order.append(name)
                return write(view, more, last)

            made.outlet.write = noting  # type: ignore[method-assign]
            made.body.connection.leftover = DATA
            take_path("copy", made.body)
            made.take_all()
            return pump(made.body, made.outlet)

        runs = [gevent.spawn(run, "one", one), gevent.spawn(run, "two", two)]
        assert [job.get(timeout=10) for job in runs] == [True, True]
    assert order.index("two") < len(order) - 1 - order[::-1].index("one")
    assert order.index("one") < len(order) - 1 - order[::-1].index("two")


def test_draining_lets_others_run_and_counts() -> None:
    with bench(BY_LENGTH % len(DATA), DATA) as made:
        take_path("copy", made.body)
        drain(made.body)
        expected = Digester(("crc64nvme",))
        expected.update(DATA)
        assert made.body.digests == expected.digests()
        assert made.body.complete
        assert made.outlet.meter.moved == len(DATA)


# -- the last bytes


@WAYS
@pytest.mark.parametrize("good", [True, False])
@pytest.mark.parametrize("size", [len(DATA), 1000])
def test_the_last_bytes_wait_for_the_guard_which_is_asked_once(
    way: str, good: bool, size: int
) -> None:
    """If the guard refuses, they are never sent, and neither connection can be used again."""
    asked: list[int] = []
    with bench(BY_LENGTH % size, DATA[:size]) as made:

        def guard() -> None:
            asked.append(made.outlet.sent)
            if not good:
                raise LeaseLost("another has it")

        take_path(way, made.body)
        made.body.guard = guard
        made.take_all()
        if good:
            assert pump(made.body, made.outlet)
        else:
            with pytest.raises(LeaseLost):
                pump(made.body, made.outlet)
        assert len(asked) == 1 and asked[0] < size
        assert made.body.complete is good
        taken = made.end()
    assert taken == DATA[: size if good else asked[0]]


# -- early answers


@WAYS
def test_a_response_that_arrived_already_spares_every_byte(way: str) -> None:
    with bench(BY_LENGTH % len(DATA), DATA) as made:
        take_path(way, made.body)
        made.destination.sendall(TOO_LARGE)
        assert made.outlet.stream.wait_for_more(2)
        assert not pump(made.body, made.outlet)
        assert made.outlet.answers.final is not None
        assert (made.outlet.answers.final.status, made.outlet.sent) == (413, 0)


@WAYS
@pytest.mark.parametrize("goes", ["stays", "hangs up"])
def test_an_answer_in_the_middle_stops_the_pump(way: str, goes: str) -> None:
    """The destination stops reading; the pump waits for room to write when the answer arrives, and
    is woken."""
    with bench(BY_LENGTH % (100 * len(DATA)), *[DATA] * 100) as made:
        take_path(way, made.body)

        def work() -> None:
            made.received += made.destination.recv(1 << 16)
            made.destination.sendall(TOO_LARGE)
            if goes == "hangs up":
                made.destination.shutdown(socket.SHUT_WR)

        made.start(work)
        began = monotonic()
        assert not pump(made.body, made.outlet)
        assert monotonic() - began < 1  # by the answer, not by the stall clock
        assert made.outlet.answers.final is not None
        assert made.outlet.answers.final.status == 413
        assert not made.body.complete


@WAYS
def test_a_destination_that_hangs_up_stops_the_pump(way: str) -> None:
    with bench(BY_LENGTH % (100 * len(DATA)), *[DATA] * 100) as made:
        take_path(way, made.body)

        def work() -> None:
            made.received += made.destination.recv(1 << 16)
            made.destination.shutdown(socket.SHUT_WR)

        made.start(work)
        assert not pump(made.body, made.outlet)
        assert made.outlet.answers.closed_early
        assert made.outlet.answers.final is None


@WAYS
def test_an_answer_while_the_source_is_silent_stops_the_pump(way: str) -> None:
    """Not at once (the pump does not check while it waits for the source), but before the next byte
    is written."""
    with bench(BY_LENGTH % len(DATA)) as made:
        take_path(way, made.body)

        def work() -> None:
            made.source.sendall(DATA[:1000])
            made.received += made.destination.recv(1000)
            made.destination.sendall(TOO_LARGE)
            made.source.sendall(DATA[1000:2000])

        made.start(work)
        assert not pump(made.body, made.outlet)
        assert made.outlet.answers.final is not None
        assert len(made.received) <= 1000


# -- broken ends


@WAYS
def test_a_source_that_ends_early_raises(way: str) -> None:
    with bench(BY_LENGTH % (len(DATA) + 1), DATA) as made:
        take_path(way, made.body)
        made.take_all()
        with pytest.raises(SourceTruncated) as caught:
            pump(made.body, made.outlet)
        assert len(made.end()) <= len(DATA)
    assert caught.value.side == "source"


def reset(sock: socket.socket) -> None:
    """End a connection with a RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@WAYS
def test_a_source_that_is_reset_is_lost(way: str) -> None:
    with bench(BY_LENGTH % len(DATA)) as made:
        take_path(way, made.body)

        def work() -> None:
            made.source.sendall(DATA[:1000])
            made.received += made.destination.recv(
                1000
            )  # the pump waits for more now, or soon will
            reset(made.source)

        made.start(work)
        with pytest.raises(ConnectionLost) as caught:
            pump(made.body, made.outlet)
    assert caught.value.side == "source"


@WAYS
def test_a_destination_that_is_reset_is_lost(way: str) -> None:
    """A check for an answer or a write may notice the RST first; it is never a whole upload."""
    with bench(BY_LENGTH % (100 * len(DATA)), *[DATA] * 100) as made:
        take_path(way, made.body)

        def work() -> None:
            made.received += made.destination.recv(1 << 16)
            reset(made.destination)

        made.start(work)
        lost: ConnectionLost | None = None
        try:
            assert not pump(made.body, made.outlet)
        except ConnectionLost as error:
            lost = error
    assert made.outlet.answers.closed_early if lost is None else lost.side == "destination"


@WAYS
@pytest.mark.parametrize("side", ["source", "destination"])
def test_silence_is_a_stall_of_the_side_that_is_silent(way: str, side: str) -> None:
    pieces = [DATA[:1000]] if side == "source" else [DATA] * 10
    with bench(BY_LENGTH % (10 * len(DATA)), limits=replace(LIMITS, stall_seconds=0.3)) as made:
        take_path(way, made.body)
        if side == "source":
            made.take_all()
        made.start(lambda: [made.source.sendall(piece) for piece in pieces] and None)
        with pytest.raises(Stalled) as caught:
            pump(made.body, made.outlet)
        assert caught.value.side == side


@WAYS
@pytest.mark.parametrize("pieces", [1000, 1], ids=["never waits", "waits"])
def test_a_cancel_is_seen_by_a_pump(way: str, pieces: int) -> None:
    with bench(BY_LENGTH % (1000 * len(DATA))) as made:
        take_path(way, made.body)
        made.take_all()
        made.start(lambda: [made.source.sendall(DATA) for _ in range(pieces)] and None)
        canceller = gevent.spawn_later(0.05, made.outlet.meter.cancel)
        began = monotonic()
        with pytest.raises(Cancelled):
            pump(made.body, made.outlet)
        assert monotonic() - began < 1
        canceller.get()


# -- digests


@pytest.mark.parametrize("size", [1, 50_000, len(DATA)])
@pytest.mark.parametrize(
    ("framing", "to_chunked"),
    [
        ("length", False),
        ("length", True),
        ("chunked", True),
        ("promised", False),
        ("promised", True),
    ],
)
def test_damage_is_found_before_the_upload_can_be_whole(
    framing: str, size: int, to_chunked: bool
) -> None:
    """The source's declared digest differs: the sent bytes lack the last one, or the last chunk."""
    data = DATA[:size]
    head, feed = (BY_LENGTH % size, data) if framing == "length" else (CHUNKED, chunk_data(data))
    with bench(head, feed, chunked=to_chunked) as made:
        if framing == "promised":
            made.body.promise(size)
        made.body.digest_with(("crc64nvme",), {"crc32c": b"none"})
        made.take_all()
        with pytest.raises(IntegrityMismatch) as caught:
            pump(made.body, made.outlet)
        received = made.end()
    assert caught.value.side == "source"
    assert not received.endswith(b"0\r\n\r\n")
    assert made.outlet.sent < size or framing == "chunked"
    if not to_chunked:
        assert len(received) < size


def test_the_same_bytes_with_the_right_digest_go_through() -> None:
    expected = Digester(("crc32c",))
    expected.update(DATA)
    with bench(BY_LENGTH % len(DATA), DATA) as made:
        made.body.digest_with(("crc64nvme",), expected.digests())
        made.take_all()
        assert pump(made.body, made.outlet)
        assert made.end() == DATA


# -- borrowed buffers and pipes are returned


def bytes_in(end: int) -> int:
    """Return how many bytes wait in a pipe."""
    return int(struct.unpack("i", fcntl.ioctl(end, termios.FIONREAD, b"\0\0\0\0"))[0])


def test_an_empty_pipe_is_kept_for_the_next() -> None:
    for _ in range(3):
        with bench(BY_LENGTH % len(DATA), DATA) as made:
            made.take_all()
            assert pump(made.body, made.outlet)
        assert len(PIPES._free) == 1
        assert bytes_in(PIPES._free[0][0]) == 0


def test_a_pipe_with_bytes_in_it_is_never_used_again() -> None:
    """Aborted while bytes were in the pipe: another object would receive them."""
    with bench(BY_LENGTH % (10 * len(DATA)), *[DATA] * 10) as made:
        job = gevent.spawn(pump, made.body, made.outlet)
        while not made.outlet.waited:  # nothing reads: it will wait with a full pipe
            gevent.sleep(0.01)
        job.kill()
    assert not PIPES._free


@WAYS
def test_a_waiting_source_holds_no_pipe_and_no_buffer(way: str) -> None:
    with bench(BY_LENGTH % len(DATA)) as made:
        take_path(way, made.body)
        open_before, kept_before = len(os.listdir("/proc/self/fd")), BUFFERS._kept
        job = gevent.spawn(pump, made.body, made.outlet)
        gevent.sleep(0.05)
        assert len(os.listdir("/proc/self/fd")) == open_before + 2 * len(PIPES._free)
        assert BUFFERS._kept >= kept_before
        job.kill()


def test_buffers_are_always_returned_and_bounded() -> None:
    buffers = Buffers(kept_bytes=100_000)
    with pytest.raises(gevent.GreenletExit), buffers.lend(40_000) as view:
        assert len(view) == 40_000
        raise gevent.GreenletExit
    with buffers.lend(65_536) as one, buffers.lend(65_536) as two:
        assert one.obj is view.obj
        assert two.obj is not one.obj
    assert buffers._kept == 65_536


def test_pipes_are_kept_up_to_a_bound() -> None:
    pipes = Pipes(kept=2)
    taken = [pipes.take() for _ in range(4)]
    before = len(os.listdir("/proc/self/fd"))
    for ends in taken:
        pipes.give(ends, empty=True)
    assert len(os.listdir("/proc/self/fd")) == before - 4
    assert pipes.take() in taken[:2]
    pipes.give(taken[1], empty=True)
    pipes.close()
    assert len(os.listdir("/proc/self/fd")) == before - 8
