"""A length that is promised outside the framing of the bytes: by a HEAD, a list, or a range.

The framing then has an end of its own (the last chunk, the end of the connection), and only that
end shows whether the promised bytes were all. Until then relay sends nothing that lets the
destination accept its bytes as the whole."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from time import monotonic

import gevent
import pytest

from relay.engine.transfer.context import ObjectHints
from relay.engine.transfer.transfer import Transfer
from relay.errors import SourceOverrun, SourceTruncated
from relay.receipt import State, Version
from relay.transfer_limits import Limits
from tests.conftest import Certificates, Engine
from tests.faults.scripted_peers import Cloud, destination_script, source_script
from tests.faults.scripted_s3 import IN_PARTS, SIZE, Bucket, place, repeat_script
from tests.scripted import Peer, Script, Talk
from tests.unit.test_pump import Bench, bench

OLD = b"THE OLD, WHOLE OBJECT"
DATA = b"0123456789"
HEAD = b'HTTP/1.1 200 OK\r\nContent-Length: %d\r\nETag: "v"\r\n\r\n'


@dataclass(frozen=True)
class Framed:
    """How a source frames its body: its fields, each piece, and its end."""

    fields: bytes
    piece: Callable[[bytes], bytes]
    end: bytes


CHUNKED = Framed(
    b"Transfer-Encoding: chunked\r\n",
    lambda data: b"%x\r\n%b\r\n" % (len(data), data),
    b"0\r\n\r\n",
)
CLOSE = Framed(b"Connection: close\r\n", bytes, b"")
FRAMINGS = pytest.mark.parametrize("framed", [CHUNKED, CLOSE], ids=["chunked", "close"])
TLS = pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
VERIFY = pytest.mark.parametrize("verify", ["auto", "size"])


def answer_in_pieces(
    framed: Framed, *pieces: bytes, late: float = 0.0, status: bytes = b"200 OK"
) -> Callable[[Talk, bytes], None]:
    """Play an answer of these pieces; the later ones, and the end, follow after `late` seconds."""

    def get(talk: Talk, _: bytes) -> None:
        head = b'HTTP/1.1 %b\r\nETag: "v"\r\n%b\r\n' % (status, framed.fields)
        first, *others = [framed.piece(piece) for piece in pieces] + [framed.end]
        talk.send(head + first)
        threading.Event().wait(late)
        talk.send(*others)
        if framed is CLOSE and hasattr(talk.sock, "unwrap"):
            with suppress(OSError, ValueError):  # relay may have hung up
                talk.sock.unwrap()

    return get


def holding_script(cloud: Cloud, piecewise: bool = False) -> Script:
    """A destination that has the old object. A `piecewise` one stores the bytes received when the
    stream ends, as servers do that accept an orderly end as the end of the body."""
    cloud.objects[b"/b"] = OLD
    if not piecewise:
        return destination_script(cloud)

    def script(talk: Talk) -> None:
        while request := talk.head():
            if request.startswith(b"PUT"):
                talk.body(0)
                data = bytearray()
                try:
                    while piece := bytes(talk.received) or talk.sock.recv(1):
                        talk.received.clear()
                        data += piece
                except ConnectionResetError:
                    return
                cloud.objects[b"/b"] = bytes(data)
                return
            talk.send(b"HTTP/1.1 405 No\r\nContent-Length: 0\r\n\r\n")

    return script


OVERRUNS = {
    "in one piece": (DATA + b"more",),
    "one byte": (DATA + b"!",),
    "in another piece": (DATA, b"more"),
    "much": (DATA, b"x" * 300_000),
}


@FRAMINGS
@TLS
@pytest.mark.parametrize("late", [0.0, 0.1], ids=["at once", "late"])
@pytest.mark.parametrize("pieces", OVERRUNS.values(), ids=OVERRUNS)
def test_f10_more_than_a_head_promised_is_never_committed(
    engine: Engine,
    certificates: Certificates,
    framed: Framed,
    tls: bool,
    pieces: tuple[bytes, ...],
    late: float,
) -> None:
    context, cloud = certificates.server if tls else None, Cloud()
    source = source_script(Cloud(), answer_in_pieces(framed, *pieces, late=late), HEAD % len(DATA))
    with Peer(source, context) as here, Peer(holding_script(cloud), context) as there:
        with pytest.raises(SourceOverrun) as caught:
            engine.migrate(here.url("/a"), there.url("/b"))
    assert caught.value.side == "source"
    assert cloud.objects == {b"/b": OLD}


@FRAMINGS
@pytest.mark.parametrize("late", [0.0, 0.1], ids=["at once", "late"])
def test_f10_a_surplus_never_ends_the_upload_regularly(
    engine: Engine, framed: Framed, late: float
) -> None:
    cloud = Cloud()
    source = source_script(
        Cloud(), answer_in_pieces(framed, DATA, b"more", late=late), HEAD % len(DATA)
    )
    with Peer(source) as here, Peer(holding_script(cloud, piecewise=True)) as there:
        with pytest.raises(SourceOverrun):
            engine.migrate(here.url("/a"), there.url("/b"))
    assert cloud.objects == {b"/b": OLD}


@FRAMINGS
@pytest.mark.parametrize("late", [0.0, 0.1], ids=["at once", "late"])
@pytest.mark.parametrize("size", [0, len(DATA)], ids=["an empty object", "ten bytes"])
def test_f10_more_than_a_list_promised_is_never_committed(
    engine: Engine, framed: Framed, late: float, size: int
) -> None:
    """The upload of an empty object is complete with its head."""
    cloud = Cloud()
    with (
        Peer(source_script(Cloud(), answer_in_pieces(framed, DATA, b"more", late=late))) as here,
        Peer(holding_script(cloud)) as there,
    ):
        transfer = promised_transfer(engine, here, there, size)
        with pytest.raises(SourceOverrun) as caught:
            engine.runner.run(transfer)
    assert caught.value.side == "source"
    assert cloud.objects == {b"/b": OLD}


def promised_transfer(engine: Engine, here: Peer, there: Peer, size: int) -> Transfer:
    """Return a transfer of an object whose size comes from a list."""
    transfer = engine.runner.transfer(engine.plan(here.url("/a"), there.url("/b")))
    version = Version(size=size)
    return replace(transfer, known=ObjectHints(listed=version, promised=version))


@FRAMINGS
def test_f10_an_empty_object_that_a_list_promised_arrives(engine: Engine, framed: Framed) -> None:
    cloud = Cloud()
    with (
        Peer(source_script(Cloud(), answer_in_pieces(framed, late=0.1))) as here,
        Peer(holding_script(cloud)) as there,
    ):
        outcome = engine.runner.run(promised_transfer(engine, here, there, 0))
    assert outcome.state is State.VERIFIED
    assert cloud.objects == {b"/b": b""}


@FRAMINGS
@VERIFY
@pytest.mark.parametrize("late", [0.0, 0.1], ids=["at once", "late"])
def test_f10_a_surplus_is_never_an_object_of_a_bucket(
    engine: Engine, framed: Framed, verify: str, late: float
) -> None:
    """With a checksum behind the bytes, and without."""
    bucket = Bucket(whole=OLD, sums=True)
    source = source_script(
        Cloud(), answer_in_pieces(framed, DATA, b"more", late=late), HEAD % len(DATA)
    )
    with Peer(source) as here, Peer(repeat_script(bucket)) as there:
        with pytest.raises(SourceOverrun) as caught:
            engine.migrate(here.url("/a"), place(there), verify=verify)
    assert caught.value.side == "source"
    assert bucket.whole == OLD


@FRAMINGS
@VERIFY
def test_f10_a_part_of_more_bytes_than_its_range_is_never_a_part(
    engine: Engine, framed: Framed, verify: str
) -> None:
    engine.runner.limits = engine.runner.wire.limits = IN_PARTS
    bucket = Bucket(whole=OLD, sums=True)

    def get(talk: Talk, request: bytes) -> None:
        span = request.partition(b"bytes=")[2].partition(b"\r\n")[0]
        first, last = map(int, span.split(b"-"))
        status = b"206 X\r\nContent-Range: bytes %d-%d/%d" % (first, last, SIZE)
        answer_in_pieces(framed, b"x" * (last + 1 - first), b"!", late=0.1, status=status)(
            talk, request
        )

    head = (
        b'HTTP/1.1 200 OK\r\nContent-Length: %d\r\nETag: "v"\r\nAccept-Ranges: bytes\r\n\r\n' % SIZE
    )
    with Peer(source_script(Cloud(), get, head)) as here, Peer(repeat_script(bucket)) as there:
        with pytest.raises(SourceOverrun) as caught:
            engine.migrate(here.url("/a"), place(there), verify=verify)
    assert caught.value.side == "source"
    assert (bucket.whole, bucket.parts) == (OLD, {})
    assert bucket.asked[-1] == "abort"


@FRAMINGS
@TLS
@VERIFY
@pytest.mark.parametrize("late", [0.0, 0.1], ids=["at once", "late"])
def test_f10_an_end_later_than_the_bytes_is_waited_for(
    engine: Engine, certificates: Certificates, framed: Framed, tls: bool, verify: str, late: float
) -> None:
    context, cloud = certificates.server if tls else None, Cloud()
    source = source_script(Cloud(), answer_in_pieces(framed, DATA, late=late), HEAD % len(DATA))
    with Peer(source, context) as here, Peer(holding_script(cloud), context) as there:
        outcome = engine.migrate(here.url("/a"), there.url("/b"), verify=verify)
    assert outcome.receipt is not None
    assert (outcome.receipt.attempts, outcome.receipt.bytes_resent, outcome.receipt.notes) == (
        1,
        0,
        (),
    )
    assert [head[:4] for head in cloud.heads].count(b"PUT ") == 1
    assert cloud.objects == {b"/b": DATA}


@FRAMINGS
@TLS
def test_f01_fewer_bytes_than_a_head_promised(
    engine: Engine, certificates: Certificates, framed: Framed, tls: bool
) -> None:
    context, cloud = certificates.server if tls else None, Cloud()
    source = source_script(Cloud(), answer_in_pieces(framed, DATA[:-1], late=0.1), HEAD % len(DATA))
    with Peer(source, context) as here, Peer(holding_script(cloud), context) as there:
        with pytest.raises(SourceTruncated):
            engine.migrate(here.url("/a"), there.url("/b"))
    assert cloud.objects == {b"/b": OLD}


def head_of(framed: Framed) -> bytes:
    return b"HTTP/1.1 200 OK\r\n" + framed.fields + b"\r\n"


@FRAMINGS
@pytest.mark.parametrize("step", [1, 3, 10])
def test_the_last_promised_byte_comes_with_the_end(framed: Framed, step: int) -> None:
    with bench(head_of(framed)) as made:
        made.body.promise(len(DATA))
        pieces = [DATA[at : at + step] for at in range(0, len(DATA), step)]
        made.source.sendall(b"".join(map(framed.piece, pieces)))
        taken = read_until(made, len(DATA) - 1)
        view = memoryview(bytearray(100))
        assert made.body.read_now(view) is None
        assert taken == DATA[:-1]
        assert not made.body.complete
        made.source.sendall(framed.end)
        made.source.shutdown(1)
        assert made.body.read() == DATA[-1:]
        assert made.body.complete


def read_until(made: Bench, count: int) -> bytes:
    data, view = b"", memoryview(bytearray(4))
    while len(data) < count:
        if (step := made.body.read_now(view)) is None:
            made.body.wait()
        data += view[: step or 0]
    return data


@pytest.mark.parametrize(
    "coming", [b"5", b"5;x", b"5\r\nhello\r", b"5\r\nhello\r\n0\r\nT: "], ids=str
)
def test_half_a_chunk_line_yields_to_others(coming: bytes) -> None:
    """Only the socket can deliver the rest; buffered bytes must not cause a busy loop."""
    whole = b"5;x\r\nhello\r\n0\r\nT: 1\r\n\r\n"
    rest = (
        whole.removeprefix(coming)
        if whole.startswith(coming)
        else b"\r\n" + whole.partition(b"\r\n")[2]
    )
    if coming.startswith(b"5\r\n"):
        rest = b"5\r\nhello\r\n0\r\nT: 1\r\n\r\n".removeprefix(coming)
    with bench(head_of(CHUNKED) + coming, limits=Limits(stall_seconds=30)) as made:
        latest = 0.0

        def tick() -> None:
            nonlocal latest
            while True:
                before = monotonic()
                gevent.sleep(0.01)
                latest = max(latest, monotonic() - before)

        ticking = gevent.spawn(tick)
        later = gevent.spawn_later(0.5, made.source.sendall, rest)
        assert made.body.read() == b"hello"
        gevent.sleep(0.02)
        gevent.killall([ticking, later])
    assert latest < 0.3
