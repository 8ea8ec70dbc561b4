"""When the wire repeats an exchange on a second connection: never if the first one may have
executed it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

import pytest

from relay.errors import ConnectionLost, ProtocolViolation
from relay.location import parse_location
from relay.wire import dial
from relay.wire.adapter import wire_session
from relay.wire.exchange import HEADS, Payload, Request, Response, Wire
from relay.wire.watchdog import Watchdog
from tests.conftest import QUICK, Certificates
from tests.scripted import Peer, Script, Talk, answer, length_of

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
TLS = pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])


def do(wire: Wire, url: str, method: str = "GET", body: Payload = None) -> Response:
    there = parse_location(url)
    side = "source" if method in ("GET", "HEAD") else "destination"
    return wire.exchange(
        Request(
            method,
            there.origin,
            there.host_header,
            there.target,
            side=side,
            meter=Watchdog(QUICK),
            fields=(),
            body=body,
        )
    )


def read(wire: Wire, url: str, method: str = "GET", body: Payload = None) -> bytes:
    return do(wire, url, method, body).body.read()


def recording_script(done: list[bytes], end: Callable[[Talk], None]) -> Script:
    """Answer the first request; read the whole next one, record that it was executed, and end in
    this way without an answer."""

    def script(talk: Talk) -> None:
        talk.head()
        talk.send(OK)
        head = talk.head()
        if head:
            body = talk.body(length_of(head))
            done.append(head.split(b" ")[0] + b" " + body)
            end(talk)

    return script


ONCE: list[tuple[str, Payload]] = [
    ("POST", b"an order"),
    ("POST", b""),
    ("PUT", b"an object"),
    ("PUT", b""),
    ("PUT", memoryview(b"an object")),
    ("PUT", (b"pieces", b" of one")),
    ("PATCH", b"a change"),
    ("DELETE", None),
    ("MOVE", None),
    ("COPY", None),
    ("MKCOL", None),
]
END = pytest.mark.parametrize("end", [lambda talk: None, Talk.reset], ids=["fin", "reset"])


@TLS
@END
@pytest.mark.parametrize(("method", "body"), ONCE)
def test_a_possibly_executed_request_is_not_resent(
    wire: Wire,
    certificates: Certificates,
    method: str,
    body: Payload,
    end: Callable[[Talk], None],
    tls: bool,
) -> None:
    done: list[bytes] = []
    script = recording_script(done, end)
    with Peer([script, script], certificates.server if tls else None) as peer:
        read(wire, peer.url())
        with pytest.raises(ConnectionLost) as caught:
            do(wire, peer.url(), method, body)
        assert len(done) == 1 or (isinstance(body, tuple) and not done)
        assert peer.connections == 1
    assert caught.value.retryable


def test_an_empty_object_is_not_sent_again(wire: Wire) -> None:
    """Its upload is complete with its head."""
    done: list[bytes] = []
    script = recording_script(done, Talk.reset)
    empty = answer(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    with Peer([script, script]) as peer, Peer(empty) as here:
        read(wire, peer.url())
        with pytest.raises(ConnectionLost):
            do(wire, peer.url(), "PUT", do(wire, here.url()).body)
    assert done == [b"PUT "]


@END
@pytest.mark.parametrize(
    ("method", "body"), [("GET", None), ("HEAD", None), ("OPTIONS", None), ("PROPFIND", b"<a/>")]
)
def test_a_read_is_repeated(
    wire: Wire, method: str, body: Payload, end: Callable[[Talk], None]
) -> None:
    done: list[bytes] = []
    with Peer([recording_script(done, end), answer(OK)]) as peer:
        read(wire, peer.url())
        assert read(wire, peer.url(), method, body) == (b"" if method == "HEAD" else b"ok")
        assert peer.connections == 2


@pytest.mark.parametrize(("method", "body"), [*ONCE[:5], *ONCE[6:]])
def test_an_unsent_request_gets_a_fresh_connection(
    wire: Wire, monkeypatch: pytest.MonkeyPatch, method: str, body: Payload
) -> None:
    """The connection broke before, unnoticed."""
    monkeypatch.setattr(dial, "_has_spoken", lambda stream: False)
    done: list[bytes] = []

    def once(talk: Talk) -> None:
        talk.head()
        talk.send(OK)
        talk.reset()

    def takes(talk: Talk) -> None:
        head = talk.head()
        done.append(head.split(b" ")[0] + b" " + talk.body(length_of(head)))
        talk.send(OK)

    with Peer([once, takes]) as peer:
        response = do(wire, peer.url())
        response.body.read()
        while not any(stream.has_arrived() for stream in wire.pool._open):
            pass
        assert read(wire, peer.url(), method, body) == b"ok"
    assert done == [method.encode() + b" " + bytes(body or b"")]  # type: ignore[arg-type]


# -- a connection that is out of step


def late_body(talk: Talk) -> None:
    """Answer HEAD as GET, as some servers do, the bytes a moment later than the head; then continue
    normally."""
    talk.head()
    talk.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
    head = talk.head()
    talk.send(b"hello")
    talk.body(length_of(head))
    talk.send(OK)


def test_the_rest_of_an_earlier_answer_is_not_a_violation(wire: Wire) -> None:
    with Peer([late_body, answer(OK)]) as peer:
        do(wire, peer.url(), "HEAD").body.close()
        assert read(wire, peer.url()) == b"ok"
        assert peer.connections == 2


def test_an_upload_on_a_desynchronized_connection_retries(wire: Wire) -> None:
    with Peer([late_body, answer(OK)]) as peer:
        do(wire, peer.url(), "HEAD").body.close()
        with pytest.raises(ConnectionLost) as caught:
            do(wire, peer.url(), "PUT", b"data")
    assert caught.value.retryable
    assert caught.value.side == "destination"


def test_a_peer_that_never_speaks_http_is_a_violation(wire: Wire) -> None:
    def script(talk: Talk) -> None:
        talk.head()
        talk.send(OK)
        talk.head()
        talk.send(b"SSH-2.0-OpenSSH\r\n\r\n")

    with Peer([script, answer(b"SSH-2.0-OpenSSH\r\n\r\n")]) as peer:
        read(wire, peer.url())
        with pytest.raises(ProtocolViolation):
            read(wire, peer.url())


def test_a_session_sends_an_order_once(wire: Wire) -> None:
    done: list[bytes] = []
    script = recording_script(done, lambda talk: None)
    with Peer([script, script]) as peer:
        session = wire_session(wire)
        assert session.get(peer.url()).content == b"ok"
        with pytest.raises(ConnectionLost):
            session.post(peer.url(), data=b"order")
    assert done == [b"POST order"]


# -- bodies behind answers to HEAD


LATE = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfake"
NO_METHOD = b"HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\n\r\n"
HEADED = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(LATE)


def lag_behind(talk: Talk) -> None:
    """Send the body for a HEAD, but only after the next request has arrived."""
    while head := talk.head():
        talk.body(length_of(head))
        method, path = head.split(b" ")[:2]
        if method != b"HEAD":
            talk.send(LATE.replace(b"fake", b"true") if path == b"/other" else HEADED + LATE)
            continue
        talk.send(HEADED)
        talk.peek(1)
        talk.send(LATE)


@TLS
@pytest.mark.parametrize("path", ["/object", "/other"])
def test_a_late_body_behind_head_is_not_an_answer(
    wire: Wire, certificates: Certificates, tls: bool, path: str
) -> None:
    """It looks like one: the writer of the object may have chosen its bytes."""
    with Peer(lag_behind, certificates.server if tls else None) as peer:
        for _ in range(3):
            assert read(wire, peer.url("/object"), "HEAD") == b""
            assert read(wire, peer.url(path)) == (LATE if path == "/object" else b"true")


@pytest.mark.parametrize("when", ["with the answer", "before the next request"])
def test_an_origin_with_bodies_behind_head_gets_connections(wire: Wire, when: str) -> None:
    go = threading.Event()

    def script(talk: Talk) -> None:
        while head := talk.head():
            path = head.split(b" ")[1]
            if not head.startswith(b"HEAD"):
                talk.send(OK)
                continue
            talk.send(HEADED + (LATE if path == b"/loud" and when == "with the answer" else b""))
            if path == b"/loud" and when != "with the answer":
                go.wait(10)
                talk.send(LATE)

    with Peer(script) as peer:
        read(wire, peer.url("/loud"), "HEAD")
        if when != "with the answer":
            go.set()
            (stream,) = wire.pool._idle
            assert stream.wait_for_more(10)
        assert read(wire, peer.url("/a")) == b"ok"
        for number in range(3):
            assert peer.connections == 2 + number
            read(wire, peer.url("/quiet"), "HEAD")  # uses the idle one, which is closed then
            assert read(wire, peer.url("/quiet/other")) == b"ok"


def test_an_honest_origin_gets_one_connection_more_at_most(wire: Wire) -> None:
    """Then it is known: a GET was as long as its HEAD reported."""

    def script(talk: Talk) -> None:
        while head := talk.head():
            talk.send(HEADED + (b"" if head.startswith(b"HEAD") else LATE))

    with Peer(script) as peer:
        read(wire, peer.url("/a"), "HEAD")
        read(wire, peer.url("/b"), "HEAD")
        assert peer.connections == 2
        for name in "abcdef":
            read(wire, peer.url(f"/{name}"), "HEAD")
            assert read(wire, peer.url(f"/{name}")) == LATE
        assert peer.connections == 2


def test_a_source_with_another_length_for_head_is_asked_once(wire: Wire) -> None:
    asked: list[bytes] = []

    def script(talk: Talk) -> None:
        while head := talk.head():
            asked.append(head.split(b" ")[0])
            talk.send(HEADED if head.startswith(b"HEAD") else OK)

    with Peer(script) as peer:
        for name in "abc":
            read(wire, peer.url(f"/{name}"), "HEAD")
            assert read(wire, peer.url(f"/{name}")) == b"ok"
    assert (asked.count(b"HEAD"), asked.count(b"GET")) == (3, 4)


def test_a_quiet_origin_is_remembered(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    def script(talk: Talk) -> None:
        while head := talk.head():
            talk.send(HEADED if head.startswith(b"HEAD") else OK)

    monkeypatch.setattr(dial, "QUIET_SECONDS", 0.0)
    with Peer(script) as peer:
        for name in "abc":
            read(wire, peer.url(f"/{name}"), "HEAD")
        assert peer.connections == 1


def test_a_busy_origin_becomes_known_by_its_oldest_connection(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    def script(talk: Talk) -> None:
        while head := talk.head():
            talk.send(HEADED if head.startswith(b"HEAD") else NO_METHOD)

    clock = [0.0]
    monkeypatch.setattr(dial, "monotonic", lambda: clock[0])
    with Peer(script) as peer:
        a_moment = 2 * dial.LOOKED_AT
        for number in range(2 * a_moment):
            clock[0] = number * dial.QUIET_SECONDS / a_moment
            read(wire, peer.url(f"/{number}"), "HEAD")
        assert peer.connections == a_moment


def test_a_pool_of_few_connections_keeps_the_one_that_will_tell(
    wire: Wire,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def script(talk: Talk) -> None:
        while head := talk.head():
            talk.send(HEADED if head.startswith(b"HEAD") else NO_METHOD)

    clock = [0.0]
    monkeypatch.setattr(dial, "monotonic", lambda: clock[0])
    monkeypatch.setattr(wire.pool, "_limits", replace(QUICK, idle_connections=2))
    with Peer(script) as peer:
        for number in range(40):
            clock[0] = number * dial.QUIET_SECONDS / 20
            read(wire, peer.url(f"/{number}"), "HEAD")
        assert peer.connections == 20
        assert wire.pool.open <= 2


RANGED = b"HTTP/1.1 206 Partial Content\r\nContent-Length: 1\r\nContent-Range: bytes %s/%d\r\n\r\nx"


def test_a_byte_of_an_object_shows_that_heads_have_no_bodies(wire: Wire) -> None:
    asked: list[bytes] = []

    def script(talk: Talk) -> None:
        while head := talk.head():
            asked.append(head.split(b" ")[0])
            wanted = field_of(head, b"range")
            talk.send(RANGED % (wanted[6:], len(LATE)) if wanted else HEADED)

    with Peer(script) as peer:
        for number in range(40):
            read(wire, peer.url(f"/{number}"), "HEAD")
        assert peer.connections == HEADS
    assert asked.count(b"GET") == 1


@pytest.mark.parametrize(
    "forged",
    [
        RANGED % (b"0-0", len(LATE)),
        b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(LATE),
        b"an object that looks like nothing, as most do",
    ],
    ids=["another byte", "the whole", "no answer"],
)
def test_a_late_body_behind_head_can_not_forge_the_byte(wire: Wire, forged: bytes) -> None:
    length = max(len(forged), 1000)

    def script(talk: Talk) -> None:
        while head := talk.head():
            if head.startswith(b"HEAD"):
                talk.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % length)
                talk.peek(1)
                talk.send(forged)

    with Peer(script) as peer:
        for number in range(HEADS + 3):
            read(wire, peer.url(f"/{number}"), "HEAD")
        assert parse_location(peer.url()).origin not in wire.pool._quiet_origins


def field_of(head: bytes, name: bytes) -> bytes:
    """Return the value of a field of a request's head, empty without it."""
    for line in head.split(b"\r\n"):
        key, _, value = line.partition(b":")
        if key.lower() == name:
            return value.strip()
    return b""
