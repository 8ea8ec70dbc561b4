"""Faults of a source, over plain TCP and over TLS. G1 and G2 hold in every row: no success unless
the bytes are the source's, and nothing at the destination that looks like a whole object."""

from __future__ import annotations

import gzip
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
from awscrt.checksums import crc32c

from relay.engine.transfer.context import ObjectHints
from relay.errors import (
    ConnectionLost,
    EgressDenied,
    IntegrityMismatch,
    NotFound,
    PermissionDenied,
    ProtocolViolation,
    RedirectRefused,
    RelayError,
    SourceChanged,
    SourceTruncated,
    Stalled,
    StoreTimeout,
    Throttled,
    TooManyRedirects,
    Unavailable,
)
from relay.ledger.prior_state_values import PriorState
from relay.receipt import Level, State
from tests.conftest import Engine
from tests.faults.scripted_peers import (
    DATA,
    GET_HEAD,
    Cloud,
    Peers,
    destination_script,
    fixed_answer,
    source_script,
)
from tests.scripted import Peer, Script, Talk, answer

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
ONE_CHUNK = b"%x\r\n" % len(DATA) + DATA + b"\r\n"


@dataclass
class Pair:
    """A scripted source and a keeping destination, over TCP or TLS."""

    peers: Peers
    destination: Cloud
    there: Peer

    @property
    def tls(self) -> bool:
        return self.peers.context is not None

    def source(self, *scripts: Script) -> Peer:
        """Start the source."""
        return self.peers.start(*scripts)


@pytest.fixture
def pair(peers: Peers) -> Pair:
    """Return both clouds, over plain TCP and over TLS."""
    cloud = Cloud()
    return Pair(peers, cloud, peers.start(destination_script(cloud)))


def assert_fails(
    engine: Engine, pair: Pair, kind: type[RelayError], *scripts: Script, **options: object
) -> RelayError:
    """Assert that the transfer fails with this error, on the source's side, and leaves nothing."""
    with pytest.raises(kind) as caught:
        engine.migrate(pair.source(*scripts).url("/a"), pair.there.url("/b"), **options)
    assert caught.value.side == "source"
    assert pair.destination.objects == {}
    assert caught.value.hint
    return caught.value


def assert_works(engine: Engine, pair: Pair, *scripts: Script, **options: object) -> State:
    """Assert that the transfer succeeds and the object is whole, and return the state."""
    outcome = engine.migrate(pair.source(*scripts).url("/a"), pair.there.url("/b"), **options)
    assert pair.destination.objects == {b"/b": DATA}
    assert outcome.bytes == len(DATA)
    return outcome.state


CUTS = {"60%": int(len(DATA) * 0.6), "CL-1": len(DATA) - 1, "0": 0, "1": 1}


@pytest.mark.parametrize("verify", ["auto", "size"])
@pytest.mark.parametrize("cut", CUTS)
def test_f01_fin_before_the_length(engine: Engine, pair: Pair, cut: str, verify: str) -> None:
    get = fixed_answer(GET_HEAD, DATA[: CUTS[cut]])
    error = assert_fails(engine, pair, RelayError, source_script(Cloud(), get), verify=verify)
    # TLS without close_notify is its own loss; both are retryable and blame the source.
    assert isinstance(error, SourceTruncated | ConnectionLost)
    assert error.retryable


@pytest.mark.parametrize("verify", ["auto", "size"])
def test_f02_reset_in_the_middle(engine: Engine, pair: Pair, verify: str) -> None:
    assert_fails(
        engine,
        pair,
        ConnectionLost,
        source_script(Cloud(), fixed_answer(GET_HEAD, DATA[:-9], reset=True)),
        verify=verify,
    )


def test_f01_f02_a_second_attempt_with_a_fresh_body_succeeds(
    patient_engine: Engine, pair: Pair
) -> None:
    cut = source_script(Cloud(), fixed_answer(GET_HEAD, DATA[:1000]))
    reset = source_script(Cloud(), fixed_answer(GET_HEAD, DATA[:2000], reset=True))
    whole = source_script(Cloud(), fixed_answer(GET_HEAD, DATA))
    outcome = patient_engine.migrate(
        pair.source(cut, reset, whole, whole, whole).url(), pair.there.url("/b")
    )
    assert pair.destination.objects == {b"/b": DATA}
    assert outcome.receipt is not None
    # The reset may come before a byte of the answer, on a kept-alive connection: a fresh one is no
    # new attempt.
    assert outcome.receipt.attempts in (2, 3)
    assert outcome.receipt.bytes_resent > 0


def close_delimited(pair: Pair, text: bytes, field: bytes = b"") -> Callable[[Talk, bytes], None]:
    """Answer without a length, and end properly: FIN, or close_notify and FIN."""

    def get(talk: Talk, _: bytes) -> None:
        talk.send(b"HTTP/1.1 200 OK\r\n" + field + b"\r\n", text)
        if pair.tls:
            talk.sock.unwrap()  # type: ignore[attr-defined]

    return get


def test_f03_close_delimited_is_never_more_than_unverified(engine: Engine, pair: Pair) -> None:
    assert (
        assert_works(engine, pair, source_script(Cloud(), close_delimited(pair, DATA)))
        is State.UNVERIFIED
    )


@pytest.mark.parametrize("declared", [False, True], ids=["nothing declared", "a digest declared"])
def test_f27_a_prior_object_proves_no_endless_source(
    engine: Engine, pair: Pair, declared: bool
) -> None:
    """The destination has the bytes of the first reading, which may have been cut at the same
    byte."""
    pair.destination.objects[b"/b"] = DATA
    crc = crc32c(DATA)
    field = b"Repr-Digest: crc32c=:%s:\r\n" % b64encode(crc.to_bytes(4, "big")) if declared else b""
    source = pair.source(source_script(Cloud(), close_delimited(pair, DATA, field)))
    transfer = engine.runner.transfer(engine.plan(source.url("/a"), pair.there.url("/b")))
    outcome = engine.runner.run(
        replace(transfer, known=ObjectHints(begun=True, before=PriorState(known=True)))
    )
    assert b"PUT" not in pair.destination.methods
    assert outcome.state is (State.VERIFIED if declared else State.UNVERIFIED)
    assert outcome.receipt is not None
    assert (
        any("neither a length nor a digest" in note for note in outcome.receipt.notes)
        is not declared
    )


def test_f03_close_delimited_is_compared_with_the_size_of_head(engine: Engine, pair: Pair) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(DATA)
    assert (
        assert_works(engine, pair, source_script(Cloud(), close_delimited(pair, DATA), head))
        is State.VERIFIED
    )


def test_f03_close_delimited_shorter_than_the_size_of_head(engine: Engine, pair: Pair) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(DATA)
    assert_fails(
        engine,
        pair,
        SourceTruncated,
        source_script(Cloud(), close_delimited(pair, DATA[:-1]), head),
    )


def test_f04_ragged_tls_end_of_a_close_delimited_body(engine: Engine, pair: Pair) -> None:
    if pair.tls:
        assert_fails(
            engine,
            pair,
            ConnectionLost,
            source_script(Cloud(), fixed_answer(b"HTTP/1.1 200 OK\r\n\r\n", DATA)),
        )


@pytest.mark.parametrize(
    "coded",
    [
        ONE_CHUNK,  # F05
        ONE_CHUNK[:-10],
        ONE_CHUNK + b"0\r\n",  # F06
        ONE_CHUNK + b"0\r\nRepr-Digest: ",
    ],
    ids=["no last chunk", "cut chunk", "no final crlf", "cut trailers"],
)
def test_f05_f06_chunked_that_is_cut(engine: Engine, pair: Pair, coded: bytes) -> None:
    error = assert_fails(
        engine, pair, RelayError, source_script(Cloud(), fixed_answer(CHUNKED, coded))
    )
    assert isinstance(error, SourceTruncated | ConnectionLost)


@pytest.mark.parametrize(
    "coded",
    [
        b"-1\r\n",
        b"11111111111111111\r\nx",
        b"5;" + b"e" * 1_000_000,
        ONE_CHUNK + b"0\r\n" + b"T: 1\r\n" * 100_000,
        ONE_CHUNK[:-2] + b"\n",
        b"5\nhello\n0\n\n",
        b"0x5\r\nhello\r\n",
        b"5 5\r\nhello\r\n",
        b"\r\n",
        b"5\r\nhello!!0\r\n\r\n",
        b"5;\x00\r\nhello\r\n",
        b"zz\r\n",
    ],
)
def test_f07_invalid_chunks(engine: Engine, pair: Pair, coded: bytes) -> None:
    assert_fails(
        engine, pair, ProtocolViolation, source_script(Cloud(), fixed_answer(CHUNKED, coded))
    )


def test_chunked_whole_goes_to_a_destination_that_takes_chunked(engine: Engine, pair: Pair) -> None:
    assert (
        assert_works(
            engine, pair, source_script(Cloud(), fixed_answer(CHUNKED, ONE_CHUNK, b"0\r\n\r\n"))
        )
        is State.VERIFIED
    )


def test_f08_surplus_is_not_forwarded_and_ends_the_connection(engine: Engine, pair: Pair) -> None:
    whole = source_script(
        Cloud(), fixed_answer(GET_HEAD, DATA + b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    )
    assert assert_works(engine, pair, whole) is State.VERIFIED


@pytest.mark.parametrize(
    "fields",
    [
        b"Content-Length: 5\r\nContent-Length: 6",
        b"Content-Length: 5\r\nTransfer-Encoding: chunked",
        b"Content-Length: 1_0",
        b"Content-Length: +5",
        b"Content-Length: -5",
        b"Content-Length: 5, 5",
        b"Content-Length: \xd9\xa5",
    ],
)
def test_f09_contradictory_lengths(engine: Engine, pair: Pair, fields: bytes) -> None:
    head = b"HTTP/1.1 200 OK\r\n" + fields + b"\r\n\r\n"
    assert_fails(engine, pair, ProtocolViolation, source_script(Cloud(), fixed_answer(head, DATA)))


@pytest.mark.parametrize("off", [-1, 1])
def test_f10_another_size_than_that_of_head(engine: Engine, pair: Pair, off: int) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (len(DATA) + off)
    assert_fails(
        engine, pair, SourceChanged, source_script(Cloud(), fixed_answer(GET_HEAD, DATA), head)
    )


@pytest.mark.parametrize(
    "status", [b"206 Partial Content", b"202 Accepted", b"207 Multi", b"203 Changed"]
)
def test_f11_an_answer_that_is_not_200(engine: Engine, pair: Pair, status: bytes) -> None:
    get = fixed_answer(b"HTTP/1.1 " + status + b"\r\nContent-Length: 5\r\n\r\nhello")
    error = assert_fails(engine, pair, RelayError, source_script(Cloud(), get))
    assert not error.retryable


def test_f12_f13_the_version_changes_between_head_and_get(engine: Engine, pair: Pair) -> None:
    head = b'HTTP/1.1 200 OK\r\nETag: "v0"\r\nContent-Length: %d\r\n\r\n' % len(DATA)
    seen = Cloud()
    assert_fails(
        engine, pair, SourceChanged, source_script(seen, fixed_answer(GET_HEAD, DATA), head)
    )
    assert b'If-Match: "v0"' in seen.heads[-1]
    refuse = fixed_answer(b"HTTP/1.1 412 Precondition Failed\r\nContent-Length: 0\r\n\r\n")
    assert_fails(engine, pair, SourceChanged, source_script(Cloud(), refuse, head))


def test_f13_a_changed_source_is_read_from_its_first_byte(
    patient_engine: Engine, pair: Pair
) -> None:
    old = b'HTTP/1.1 200 OK\r\nETag: "v0"\r\nContent-Length: %d\r\n\r\n' % len(DATA)
    new = old.replace(b"v0", b"v1")
    changed = source_script(Cloud(), fixed_answer(GET_HEAD, DATA), old)
    same = source_script(Cloud(), fixed_answer(GET_HEAD, DATA), new)
    outcome = patient_engine.migrate(pair.source(changed, same, same).url(), pair.there.url("/b"))
    assert outcome.receipt is not None
    assert (outcome.receipt.source.etag, outcome.receipt.attempts) == ('"v1"', 2)


def test_f14_a_weak_tag_is_never_a_precondition(engine: Engine, pair: Pair) -> None:
    head = b'HTTP/1.1 200 OK\r\nETag: W/"v1"\r\nContent-Length: %d\r\n\r\n' % len(DATA)
    seen = Cloud()
    whole = head.replace(b"HTTP/1.1 200 OK", b"HTTP/1.1 200 OK")
    assert (
        assert_works(engine, pair, source_script(seen, fixed_answer(whole, DATA), head))
        is State.VERIFIED
    )
    assert b"If-Match" not in b"".join(seen.heads)


def test_f15_f89_bytes_that_are_not_those_of_the_declared_digest(
    engine: Engine, pair: Pair
) -> None:
    import base64
    import hashlib

    digest = base64.b64encode(hashlib.sha256(DATA).digest())
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nRepr-Digest: sha-256=:%s:\r\n\r\n" % (
        len(DATA),
        digest,
    )
    flipped = bytes([DATA[0] ^ 1]) + DATA[1:]
    assert_fails(
        engine, pair, IntegrityMismatch, source_script(Cloud(), fixed_answer(head, flipped))
    )
    assert (
        assert_works(engine, pair, source_script(Cloud(), fixed_answer(head, DATA)))
        is State.VERIFIED
    )


@pytest.mark.parametrize("field", [b"Content-MD5: %s", b"Digest: md5=%s", b"Digest: MD5=%s"])
def test_the_older_digest_fields_are_heeded(engine: Engine, pair: Pair, field: bytes) -> None:
    import base64
    import hashlib

    digest = base64.b64encode(hashlib.md5(DATA, usedforsecurity=False).digest())
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n" % len(DATA) + field % digest + b"\r\n\r\n"
    assert_fails(
        engine, pair, IntegrityMismatch, source_script(Cloud(), fixed_answer(head, DATA[::-1]))
    )


def test_f16_a_content_coding_is_passed_through_untouched(engine: Engine, pair: Pair) -> None:
    coded = gzip.compress(b"\0" * 10_000_000)
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(coded)
    engine.migrate(
        pair.source(source_script(Cloud(), fixed_answer(head, coded))).url(), pair.there.url("/b")
    )
    assert pair.destination.objects == {b"/b": coded}
    put = next(head for head in pair.destination.heads if head.startswith(b"PUT"))
    assert b"Content-Encoding: gzip" in put


def redirect_script(target: str, status: int = 302) -> Script:
    """Answer everything with a redirect."""
    return answer(
        b"HTTP/1.1 %d Moved\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n"
        % (status, target.encode()),
        keep=True,
    )


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_f18_a_read_is_redirected(engine: Engine, pair: Pair, status: int) -> None:
    final = pair.source(source_script(Cloud(), fixed_answer(GET_HEAD, DATA)))
    assert assert_works(engine, pair, redirect_script(final.url("/x"), status)) is State.VERIFIED


def test_f18_a_loop_and_a_long_chain_end(engine: Engine, pair: Pair) -> None:
    assert_fails(engine, pair, TooManyRedirects, redirect_script("/a"))


@pytest.mark.parametrize(
    "target",
    ["javascript:alert(1)", "ftp://127.0.0.1/", "http://a@127.0.0.1/", "http://[::1", "//"],
)
def test_f18_a_redirect_to_another_scheme_is_refused(
    engine: Engine, pair: Pair, target: str
) -> None:
    assert_fails(engine, pair, RedirectRefused, redirect_script(target))


@pytest.mark.parametrize(
    "target",
    ["http://10.0.0.1/", "http://169.254.169.254/latest/meta-data/", "//[::ffff:10.0.0.1]/"],
)
def test_f18_a_redirect_to_a_closed_address_is_denied(
    engine: Engine, pair: Pair, target: str
) -> None:
    kind = RedirectRefused if pair.tls and target.startswith("http:") else EgressDenied
    assert_fails(engine, pair, kind, redirect_script(target))


def test_f18_credentials_never_cross_an_origin(engine: Engine, pair: Pair) -> None:
    from relay.engine.plan import Plan
    from relay.location import parse_location

    near, far = Cloud(), Cloud()
    other = pair.source(source_script(far, fixed_answer(GET_HEAD, DATA)))
    here = pair.source(_noting_script(near, redirect_script(other.url("/x"))))
    secret = {"Authorization": "Bearer hunter2hunter2", "X-Api-Key": "hunter3"}
    plan = Plan(parse_location(here.url(), headers=secret), parse_location(pair.there.url("/b")))
    engine.runner.run(engine.runner.transfer(plan))
    assert all(b"hunter2" in head and b"hunter3" in head for head in near.heads)
    assert far.heads
    assert not any(b"hunter" in head for head in far.heads)


def _noting_script(cloud: Cloud, script: Script) -> Script:
    def noting(talk: Talk) -> None:
        read = talk.head

        def head() -> bytes:
            request = read()
            if request:
                cloud.heads.append(request)
            return request

        talk.head = head  # type: ignore[method-assign]
        script(talk)

    return noting


def test_f19_the_endless_body_of_a_redirect_is_not_read(engine: Engine, pair: Pair) -> None:
    final = pair.source(source_script(Cloud(), fixed_answer(GET_HEAD, DATA)))

    def endless(talk: Talk) -> None:
        while talk.head():
            talk.send(b"HTTP/1.1 302 Found\r\nLocation: %s\r\n\r\n" % final.url("/x").encode())
            try:
                while True:
                    talk.sock.sendall(b"\0" * 65536)
            except OSError:
                return

    assert assert_works(engine, pair, endless) is State.VERIFIED


@pytest.mark.parametrize(
    "interim", [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\n\r\n"]
)
def test_f20_interim_answers(engine: Engine, pair: Pair, interim: bytes) -> None:
    assert (
        assert_works(
            engine, pair, source_script(Cloud(), fixed_answer(interim * 8, GET_HEAD, DATA))
        )
        is State.VERIFIED
    )
    assert_fails_clean(
        engine, pair, source_script(Cloud(), fixed_answer(interim * 100_000, GET_HEAD, DATA))
    )


def assert_fails_clean(engine: Engine, pair: Pair, script: Script) -> None:
    """As `assert_fails` with a ProtocolViolation, at a destination that has an object already: it keeps
    that one."""
    before = dict(pair.destination.objects)
    with pytest.raises(ProtocolViolation):
        engine.migrate(pair.source(script).url("/a"), pair.there.url("/b"))
    assert pair.destination.objects == before


@pytest.mark.parametrize(
    "fields",
    [b"X: 1\r\n" * 1001, b"X: " + b"a" * 70_000 + b"\r\n", b"X: a\x00b\r\n", b"X: a\r\n b\r\n"],
    ids=["1001 fields", "70 KB line", "NUL", "obs-fold"],
)
def test_f21_header_bombs(engine: Engine, pair: Pair, fields: bytes) -> None:
    head = b"HTTP/1.1 200 OK\r\n" + fields + b"Content-Length: 5\r\n\r\nhello"
    assert_fails(engine, pair, ProtocolViolation, source_script(Cloud(), fixed_answer(head)))


def test_f22_a_slow_drip_is_a_stall(engine: Engine, pair: Pair) -> None:
    def drip(talk: Talk, _: bytes) -> None:
        talk.send(GET_HEAD)
        talk.sock.settimeout(0.1)
        for index in range(200):
            talk.sock.sendall(DATA[index : index + 1])
            try:
                if not talk.sock.recv(1):
                    return
            except TimeoutError:
                continue

    assert_fails(engine, pair, Stalled, source_script(Cloud(), drip))


def test_f23_no_answer_and_no_body(engine: Engine, pair: Pair) -> None:
    assert_fails(engine, pair, StoreTimeout, lambda talk: talk.linger())

    def head_only(talk: Talk, _: bytes) -> None:
        talk.send(GET_HEAD)
        talk.linger()

    assert_fails(engine, pair, Stalled, source_script(Cloud(), head_only))


@pytest.mark.parametrize(
    ("after", "seconds"),
    [
        (b"5", 5.0),
        (b"-1", None),
        (b"1000000000", 1e9),
        (b"garbage", None),
        (b"Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
    ],
)
def test_f24_retry_after_is_read(
    engine: Engine, pair: Pair, after: bytes, seconds: float | None
) -> None:
    reply = b"HTTP/1.1 429 Slow Down\r\nRetry-After: " + after + b"\r\nContent-Length: 0\r\n\r\n"
    error = assert_fails(engine, pair, Throttled, source_script(Cloud(), fixed_answer(reply)))
    assert error.retry_after == seconds
    assert error.retryable


def test_f24_a_short_retry_after_is_kept_and_a_long_one_ends(
    patient_engine: Engine, pair: Pair
) -> None:
    def busy_source(after: bytes) -> Script:
        return source_script(
            Cloud(),
            fixed_answer(
                b"HTTP/1.1 503 B\r\nRetry-After: " + after + b"\r\nContent-Length: 0\r\n\r\n"
            ),
        )

    whole = source_script(Cloud(), fixed_answer(GET_HEAD, DATA))
    outcome = patient_engine.migrate(
        pair.source(busy_source(b"1"), whole, whole).url(), pair.there.url("/b")
    )
    assert outcome.seconds >= 1
    with pytest.raises(Throttled):
        patient_engine.migrate(pair.source(busy_source(b"1000000000")).url(), pair.there.url("/c"))


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (404, NotFound),
        (410, NotFound),
        (403, PermissionDenied),
        (500, Unavailable),
        (502, Unavailable),
    ],
)
def test_the_message_of_a_source_is_reported(
    engine: Engine, pair: Pair, status: int, kind: type[RelayError]
) -> None:
    reply = fixed_answer(b"HTTP/1.1 %d Said\r\nContent-Length: 0\r\n\r\n" % status)
    assert str(status) in assert_fails(engine, pair, kind, source_script(Cloud(), reply)).message


def test_f28_an_empty_body_where_head_announced_bytes(engine: Engine, pair: Pair) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"
    assert_fails(
        engine,
        pair,
        SourceChanged,
        source_script(Cloud(), fixed_answer(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"), head),
    )


@pytest.mark.parametrize("verify", ["auto", "size", "read_back"])
def test_f29_an_empty_object_is_an_object(engine: Engine, pair: Pair, verify: str) -> None:
    empty = source_script(Cloud(), fixed_answer(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"))
    outcome = engine.migrate(pair.source(empty).url(), pair.there.url("/b"), verify=verify)
    assert pair.destination.objects == {b"/b": b""}
    put = next(head for head in pair.destination.heads if head.startswith(b"PUT"))
    assert b"Content-Length: 0\r\n" in put
    assert outcome.receipt is not None
    assert outcome.receipt.level is (Level.SIZE if verify == "size" else Level.READ_BACK)
