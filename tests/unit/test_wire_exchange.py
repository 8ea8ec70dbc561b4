"""One exchange against a scripted peer: its outcome, and the state of the connection."""

from __future__ import annotations

import select
import socket
import ssl
from collections.abc import Callable

import pytest

from relay.errors import (
    CertificateRefused,
    ConnectFailed,
    ConnectionLost,
    EgressDenied,
    PrematureResponse,
    ProtocolViolation,
    RelayError,
    SourceTruncated,
    Stalled,
    StoreTimeout,
    Unsupported,
)
from relay.location import parse_location
from relay.wire.adapter import wire_session
from relay.wire.exchange import Payload, Request, Response, Wire
from relay.wire.watchdog import Watchdog
from tests.conftest import QUICK, Certificates
from tests.scripted import Peer, Script, Talk, answer

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
CREATED = b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n"


def do(
    wire: Wire, url: str, method: str = "GET", body: Payload = None, expect: bool = False
) -> Response:
    location = parse_location(url)
    side = "source" if method in ("GET", "HEAD") else "destination"
    request = Request(
        method,
        location.origin,
        location.host_header,
        location.target,
        side=side,
        meter=Watchdog(QUICK),
        fields=(),
        body=body,
        expect=expect,
    )
    return wire.exchange(request)


def text(wire: Wire, *pieces: bytes) -> bytes:
    with Peer(answer(*pieces)) as peer:
        return do(wire, peer.url()).body.read()


@pytest.mark.parametrize(
    "data",
    [
        OK,
        OK + b"surplus",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nhe\r\n3\r\nllo\r\n0\r\nT: 1\r\n\r\n",
        b"HTTP/1.0 200 OK\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\n\r\nhello",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n"
        + OK,
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 5\r\n\r\nhello",
    ],
    ids=["length", "surplus", "chunked", "http1.0", "close", "interim", "coded"],
)
def test_every_framing_gives_the_body_whole_and_byte_by_byte(wire: Wire, data: bytes) -> None:
    assert text(wire, data) == b"hello"
    assert text(wire, *(data[i : i + 1] for i in range(len(data)))) == b"hello"


@pytest.mark.parametrize(
    "head", [b"HTTP/1.1 204 No Content\r\n\r\n", b"HTTP/1.1 304 N\r\nContent-Length: 7\r\n\r\n"]
)
def test_answers_without_a_body_keep_the_connection(wire: Wire, head: bytes) -> None:
    with Peer(answer(head, keep=True)) as peer:
        assert do(wire, peer.url()).body.read() == b""
        assert do(wire, peer.url()).body.read() == b""
        assert peer.connections == 1


def test_head_has_a_length_and_no_body(wire: Wire) -> None:
    with Peer(answer(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n", keep=True)) as peer:
        for _ in range(2):
            response = do(wire, peer.url(), "HEAD")
            assert (response.head.length, response.body.read()) == (7, b"")
        assert peer.connections == 1


@pytest.mark.parametrize(
    ("data", "reused"),
    [
        (OK, True),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", True),
        (OK + b"x", False),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello", False),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nhello", False),
    ],
)
def test_a_connection_is_used_again_only_when_that_is_safe(
    wire: Wire, data: bytes, reused: bool
) -> None:
    with Peer(answer(data, keep=True)) as peer:
        for _ in range(3):
            assert do(wire, peer.url()).body.read() == b"hello"
        assert peer.connections == (1 if reused else 3)


@pytest.mark.parametrize(
    ("data", "reused"),
    [
        (OK, True),
        (OK[:-1], False),
        (OK + b"x", False),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", False),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello", False),
    ],
    ids=["whole", "cut", "more", "chunked", "closes"],
)
def test_an_unread_body_is_skipped_only_when_it_is_here(
    wire: Wire, data: bytes, reused: bool
) -> None:
    with Peer(answer(data, keep=True)) as peer:
        for number in range(3):
            do(wire, peer.url()).body.close()
            assert wire.pool.open == int(reused)
            assert peer.connections == (1 if reused else 1 + number)


def test_a_body_that_was_begun_closes_its_connection(wire: Wire) -> None:
    with Peer(answer(OK, keep=True)) as peer:
        body = do(wire, peer.url()).body
        assert body.read(1) == b"h"
        body.close()
        assert wire.pool.open == 0


def test_a_stale_connection_costs_a_fresh_one_and_nothing_else(wire: Wire) -> None:
    def once_then_close(talk: Talk) -> None:
        talk.head()
        talk.send(OK)  # and close without announcing it

    with Peer(once_then_close) as peer:
        for _ in range(5):
            assert do(wire, peer.url()).body.read() == b"hello"
        assert peer.connections == 5


def test_a_connection_dead_before_the_request_is_replaced(
    wire: Wire,
) -> None:
    def answers_once_then_dies_on_the_next(talk: Talk) -> None:
        talk.head()
        talk.send(OK)
        talk.head()
        talk.reset()

    with Peer([answers_once_then_dies_on_the_next, answer(OK)]) as peer:
        assert do(wire, peer.url()).body.read() == b"hello"
        assert do(wire, peer.url()).body.read() == b"hello"
        assert peer.connections == 2


@pytest.mark.parametrize(
    ("pieces", "kind"),
    [
        ([], ConnectionLost),
        ([b"HTTP/1.1 200 OK\r\nContent-Le"], ConnectionLost),
        (
            [b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello"],
            ProtocolViolation,
        ),
        ([b"HTTP/1.1 200 OK\r\nX: " + b"a" * 100_000], ProtocolViolation),
        ([b"HTTP/1.1 100 Continue\r\n\r\n" * 9 + OK], ProtocolViolation),
        ([b"HTTP/1.1 103 Early Hints\r\n\r\n"], ConnectionLost),
        (
            [b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"],
            ProtocolViolation,
        ),
    ],
    ids=[
        "nothing",
        "half a head",
        "two lengths",
        "huge head",
        "nine interim",
        "only interim",
        "101",
    ],
)
def test_a_broken_head_is_an_error_that_names_the_side(
    wire: Wire, pieces: list[bytes], kind: type[RelayError]
) -> None:
    with Peer(answer(*pieces)) as peer, pytest.raises(kind) as caught:
        do(wire, peer.url())
    assert caught.value.side == "source"


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nhello",
    ],
)
def test_a_body_never_just_ends(wire: Wire, data: bytes) -> None:
    with pytest.raises(SourceTruncated):
        text(wire, data)


def test_no_answer_is_a_timeout_and_a_silent_body_a_stall(wire: Wire) -> None:
    with Peer(lambda talk: talk.linger()) as peer, pytest.raises(StoreTimeout):
        do(wire, peer.url())

    def half(talk: Talk) -> None:
        talk.head()
        talk.send(OK[:-2])
        talk.linger()

    with Peer(half) as peer, pytest.raises(Stalled) as caught:
        do(wire, peer.url()).body.read()
    assert caught.value.side == "source"


# -- uploads


def upload(reply: bytes, seen: list[bytes]) -> Script:
    """Read an upload of any framing to the end of its bytes, then answer."""

    def script(talk: Talk) -> None:
        head = talk.head()
        seen.append(head)
        if b"chunked" in head:
            body = b""
            while not body.endswith(b"0\r\n\r\n"):
                piece = talk.body(1)
                if not piece:
                    return
                body += piece
        else:
            body = talk.body(int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))
        seen.append(body)
        talk.send(reply)

    return script


@pytest.mark.parametrize(
    ("body", "announced", "coded"),
    [
        (b"hello", b"Content-Length: 5", b"hello"),
        (b"", b"Content-Length: 0", b""),
        (
            iter([b"he", b"", b"llo"]),
            b"Transfer-Encoding: chunked",
            b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
        ),
    ],
)
def test_an_upload_is_framed_by_its_known_length(
    wire: Wire, body: Payload, announced: bytes, coded: bytes
) -> None:
    seen: list[bytes] = []
    with Peer(upload(CREATED, seen)) as peer:
        assert do(wire, peer.url(), "PUT", body).head.status == 201
    assert announced in seen[0]
    assert b"".join(seen[1:]) == coded


def big() -> bytes:
    return bytes(range(256)) * 65536  # 16 MiB: more than any socket buffer holds


def early_script(reply: bytes, after: int, end: Callable[[Talk], None]) -> Script:
    def script(talk: Talk) -> None:
        talk.head()
        talk.body(after)
        talk.send(reply)
        end(talk)

    return script


ENDS: dict[str, Callable[[Talk], None]] = {
    "keeps open": lambda talk: talk.linger(),
    "stops reading": lambda talk: _await_hang_up(talk),
    "closes": lambda talk: None,
    "resets": lambda talk: talk.reset(),
}


def _await_hang_up(talk: Talk) -> None:
    """Wait, without reading, until the other side has hung up."""
    poll = select.poll()
    poll.register(talk.sock, 0)
    poll.poll(20_000)


@pytest.mark.parametrize("end", [e for e in ENDS if e != "resets"])
@pytest.mark.parametrize("after", [0, 1, 100_000])
def test_an_early_refusal_is_reported(wire: Wire, end: str, after: int) -> None:
    reply = b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n"
    with Peer(early_script(reply, after, ENDS[end])) as peer:
        response = do(wire, peer.url(), "PUT", big())
        response.body.close()
        assert (response.head.status, response.early) == (413, True)
        assert response.sent < len(big())
    assert wire.pool.open == 0


@pytest.mark.parametrize("end", ENDS)
def test_an_early_success_response_is_a_failure(wire: Wire, end: str) -> None:
    with (
        Peer(early_script(CREATED, 1, ENDS[end])) as peer,
        pytest.raises((PrematureResponse, ConnectionLost)) as caught,
    ):
        do(wire, peer.url(), "PUT", big())
    assert caught.value.side == "destination"
    if end != "resets":  # a reset may overtake the answer; then the loss is known instead
        assert isinstance(caught.value, PrematureResponse)


def test_a_late_continue_in_the_middle_of_an_upload_is_borne(wire: Wire) -> None:
    def script(talk: Talk) -> None:
        talk.head()
        talk.body(1000)
        talk.send(b"HTTP/1.1 100 Contin", b"ue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n")
        talk.body(len(big()) - 1000)
        talk.send(CREATED)

    with Peer(script) as peer:
        response = do(wire, peer.url(), "PUT", big())
    assert (response.head.status, response.sent) == (201, len(big()))


def test_an_upload_ends_when_its_destination_hangs_up(wire: Wire) -> None:
    with (
        Peer(early_script(b"", 1000, lambda talk: None)) as peer,
        pytest.raises(ConnectionLost) as caught,
    ):
        do(wire, peer.url(), "PUT", big())
    assert caught.value.side == "destination"


# -- Expect: 100-continue


def test_expect_waits_for_100_continue(wire: Wire) -> None:
    heads: list[bytes] = []

    def script(talk: Talk) -> None:
        heads.append(talk.head())
        assert not talk.received
        talk.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert talk.body(5) == b"hello"
        talk.send(CREATED)

    with Peer(script) as peer:
        assert do(wire, peer.url(), "PUT", b"hello", expect=True).head.status == 201
    assert b"Expect: 100-continue" in heads[0]


def test_expect_spares_the_body_of_a_refused_upload(wire: Wire) -> None:
    with Peer(answer(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")) as peer:
        response = do(wire, peer.url(), "PUT", b"hello", expect=True)
    assert (response.head.status, response.sent) == (403, 0)


def test_silence_to_expect_means_continue_and_is_remembered(wire: Wire) -> None:
    seen: list[bytes] = []
    closing = CREATED.replace(
        b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"
    )  # otherwise the second may meet the end of it
    with Peer(upload(closing, seen)) as peer:
        for _ in range(2):
            assert do(wire, peer.url(), "PUT", b"hello", expect=True).head.status == 201
    assert b"Expect" in seen[0]
    assert b"Expect" not in seen[2]


def test_417_is_answered_by_asking_without_expect(wire: Wire) -> None:
    seen: list[bytes] = []
    refuse = answer(b"HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\n\r\n")
    with Peer([refuse, upload(CREATED, seen)]) as peer:
        assert do(wire, peer.url(), "PUT", b"hello", expect=True).head.status == 201
    assert b"Expect" not in seen[0]


def test_an_early_success_response_to_expect_is_a_failure(wire: Wire) -> None:
    with Peer(answer(CREATED)) as peer, pytest.raises(PrematureResponse):
        do(wire, peer.url(), "PUT", b"hello", expect=True)


# -- connecting


def test_a_closed_port_fails_fast(wire: Wire) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(ConnectFailed):
        do(wire, f"http://127.0.0.1:{port}/")


def test_the_policy_is_asked_before_the_connect(wire: Wire) -> None:
    with pytest.raises(EgressDenied) as caught:
        do(wire, "http://10.0.0.1/")
    assert caught.value.side == "source"


# -- TLS


def test_tls_carries_both_ways(wire: Wire, certificates: Certificates) -> None:
    seen: list[bytes] = []
    with Peer(upload(CREATED, seen), certificates.server) as peer:
        assert do(wire, peer.url(), "PUT", big()).head.status == 201
    assert seen[1] == big()


def test_an_early_refusal_over_tls_is_reported(wire: Wire, certificates: Certificates) -> None:
    reply = b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n"
    with Peer(early_script(reply, 1, ENDS["keeps open"]), certificates.server) as peer:
        response = do(wire, peer.url(), "PUT", big())
        response.body.close()
    assert response.head.status == 413


@pytest.mark.parametrize("framing", [b"Content-Length: 9\r\n\r\nhello", b"\r\nhello"])
def test_tls_without_close_notify_is_not_an_end(
    wire: Wire, certificates: Certificates, framing: bytes
) -> None:
    # A server socket that is closed without `unwrap` sends no close_notify: Python's own default.
    with Peer(answer(b"HTTP/1.1 200 OK\r\n" + framing), certificates.server) as peer:
        with pytest.raises((SourceTruncated, ConnectionLost)):
            do(wire, peer.url()).body.read()


def test_tls_that_ends_with_close_notify_ends_a_body(
    wire: Wire, certificates: Certificates
) -> None:
    def script(talk: Talk) -> None:
        talk.head()
        talk.send(b"HTTP/1.1 200 OK\r\n\r\nhello")
        assert isinstance(talk.sock, ssl.SSLSocket)
        talk.sock.unwrap()

    with Peer(script, certificates.server) as peer:
        assert do(wire, peer.url()).body.read() == b"hello"


@pytest.mark.parametrize("fault", ["self-signed", "wrong name", "expired", "old"])
def test_a_certificate_that_is_not_right_is_refused(
    wire: Wire, certificates: Certificates, fault: str
) -> None:
    import datetime

    import trustme

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if fault == "self-signed":
        trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    elif fault == "wrong name":
        certificates.authority.issue_cert("elsewhere.example").configure_cert(context)
    elif fault == "expired":
        past = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
        certificates.authority.issue_cert("127.0.0.1", not_after=past).configure_cert(context)
    else:
        certificates.authority.issue_cert("127.0.0.1").configure_cert(context)
        with pytest.warns(DeprecationWarning):
            context.minimum_version = ssl.TLSVersion.TLSv1
            context.maximum_version = ssl.TLSVersion.TLSv1_1
    with Peer(answer(OK), context) as peer, pytest.raises(CertificateRefused) as caught:
        do(wire, peer.url())
    assert not caught.value.retryable


def test_a_handshake_that_stalls_is_a_timeout(wire: Wire) -> None:
    with Peer(lambda talk: talk.linger()) as peer, pytest.raises(StoreTimeout):
        do(wire, peer.url().replace("http:", "https:"))


def test_plain_http_on_a_tls_port_is_refused_clearly(wire: Wire) -> None:
    with (
        Peer(lambda talk: talk.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as peer,
        pytest.raises(CertificateRefused),
    ):
        do(wire, peer.url().replace("http:", "https:"))


def test_an_internal_error_of_a_handshake_is_retryable(wire: Wire) -> None:
    alert = b"\x15\x03\x03\x00\x02\x02\x50"
    with Peer(lambda talk: talk.send(alert)) as peer, pytest.raises(ConnectFailed) as caught:
        do(wire, peer.url().replace("http:", "https:"))
    assert caught.value.retryable


# -- the interface of requests


def test_requests_two_lines_move_an_object(wire: Wire) -> None:
    seen: list[bytes] = []
    data = big()
    source = answer(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nX-A: 1\r\n\r\n" % len(data), data)
    session = wire_session(wire)
    with Peer(source) as here, Peer(upload(CREATED, seen)) as there:
        with session.get(here.url(), stream=True) as response:
            assert response.headers["x-a"] == "1"
            assert session.put(there.url(), data=response.raw).status_code == 201
    assert seen[1] == data
    assert b"Transfer-Encoding" not in seen[0]


def test_requests_empty_object_has_a_length(wire: Wire) -> None:
    seen: list[bytes] = []
    session = wire_session(wire)
    with (
        Peer(answer(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")) as here,
        Peer(upload(CREATED, seen)) as there,
    ):
        with session.get(here.url(), stream=True) as response:
            assert session.put(there.url(), data=response.raw).status_code == 201
    assert b"Content-Length: 0" in seen[0]
    assert b"Transfer-Encoding" not in seen[0]


def test_requests_reads_text_undecoded_and_json(wire: Wire) -> None:
    data = (
        b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"a": 12}'
    )
    with Peer(answer(data)) as peer:
        assert wire_session(wire).get(peer.url()).json() == {"a": 12}


def test_requests_can_not_switch_verification_off(wire: Wire) -> None:
    with pytest.raises(Unsupported):
        wire_session(wire).get("https://127.0.0.1/", verify=False)


def test_requests_never_redirects_an_upload(wire: Wire) -> None:
    reply = b"HTTP/1.1 307 Temporary Redirect\r\nLocation: /other\r\nContent-Length: 0\r\n\r\n"
    with Peer(answer(reply)) as peer:
        assert wire_session(wire).put(peer.url(), data=b"hello").status_code == 307
        assert peer.connections == 1
