"""Faults of a destination, over plain TCP and over TLS, spliced (`size`) and copied (`auto`)."""

from __future__ import annotations

import base64
import socket
from dataclasses import dataclass, field

import pytest
from awscrt import checksums

from relay.errors import (
    AlreadyExists,
    CertificateRefused,
    ConnectFailed,
    ConnectionLost,
    DestinationLost,
    DestinationMutates,
    IntegrityMismatch,
    LengthRequired,
    PermissionDenied,
    PreconditionFailed,
    PrematureResponse,
    RedirectRefused,
    Rejected,
    RelayError,
    Stalled,
    Unauthenticated,
    Unavailable,
)
from relay.receipt import Level, State
from tests.conftest import Engine
from tests.faults.scripted_peers import (
    DATA,
    TAGGED,
    Cloud,
    Peers,
    destination_script,
    fixed_answer,
    inspected_script,
    source_script,
)
from tests.scripted import Peer, Script, Talk, answer

BIG = (
    DATA * 40
)  # 12 MB: more than socket buffers hold, so that an early answer arrives while we send
BIG_HEAD = b'HTTP/1.1 200 OK\r\nContent-Length: %d\r\nETag: "v1"\r\n\r\n' % len(BIG)
CRC = base64.b64encode(checksums.crc32c(BIG).to_bytes(4, "big"))


@dataclass
class Pair:
    """A whole source, and a way to start a destination."""

    peers: Peers
    source: Peer

    def start(self, *scripts: Script) -> Peer:
        """Start a destination (or another source)."""
        return self.peers.start(*scripts)


@pytest.fixture
def pair(peers: Peers) -> Pair:
    """Return a source of BIG, over plain TCP and over TLS."""
    return Pair(peers, peers.start(source_script(Cloud(), fixed_answer(BIG_HEAD, BIG))))


def assert_fails(
    engine: Engine,
    pair: Pair,
    kind: type[RelayError] | tuple[type[RelayError], ...],
    *scripts: Script,
    **options: object,
) -> RelayError:
    """Assert that the transfer fails with this error, on the destination's side."""
    with pytest.raises(kind) as caught:
        engine.migrate(pair.source.url("/a"), pair.start(*scripts).url("/b"), **options)
    assert caught.value.side == "destination"
    assert caught.value.hint
    return caught.value


def _stop_reading(talk: Talk) -> None:
    import select

    poll = select.poll()
    poll.register(talk.sock, 0)
    poll.poll(20_000)


ENDS = {
    "close": lambda talk: None,
    "keep": lambda talk: talk.linger(),
    "not reading": _stop_reading,
}


def early_script(status: bytes, after: int, end: str) -> Script:
    """Answer after some bytes of the body, then end in one of three ways."""

    def script(talk: Talk) -> None:
        while request := talk.head():
            if not request.startswith(b"PUT"):
                talk.send(b"HTTP/1.1 404 N\r\nContent-Length: 0\r\n\r\n")
                continue
            if after and b"100-continue" in request:
                talk.send(b"HTTP/1.1 100 Continue\r\n\r\n")
            talk.body(after)
            talk.send(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n\r\n")
            ENDS[end](talk)
            return

    return script


@pytest.mark.parametrize("verify", ["auto", "size"])
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (b"413 Too Large", Rejected),
        (b"507 Insufficient Storage", Rejected),
        (b"401 Who", Unauthenticated),
        (b"403 No", PermissionDenied),
    ],
)
def test_f31_an_early_refusal_is_reported(
    engine: Engine, pair: Pair, status: bytes, kind: type[RelayError], end: str, verify: str
) -> None:
    for after in (0, 65536):
        error = assert_fails(engine, pair, kind, early_script(status, after, end), verify=verify)
        assert status[:3].decode() in error.message
        assert not error.retryable


@pytest.mark.parametrize("verify", ["auto", "size"])
@pytest.mark.parametrize("end", ENDS)
def test_f32_an_early_success_response_is_a_failure(
    engine: Engine, pair: Pair, end: str, verify: str
) -> None:
    for after in (0, 1):
        assert_fails(
            engine, pair, PrematureResponse, early_script(b"201 Created", after, end), verify=verify
        )


@pytest.mark.parametrize("verify", ["auto", "size"])
def test_f33_a_destination_that_stops_reading_is_a_stall(
    engine: Engine, pair: Pair, verify: str
) -> None:
    def script(talk: Talk) -> None:
        talk.head()
        talk.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        talk.body(1000)
        _stop_reading(talk)

    assert_fails(engine, pair, Stalled, inspected_script(script), verify=verify)


@pytest.mark.parametrize("verify", ["auto", "size"])
@pytest.mark.parametrize("reset", [False, True])
def test_f34_a_connection_that_breaks_in_the_upload(
    engine: Engine, pair: Pair, reset: bool, verify: str
) -> None:
    assert_fails(engine, pair, ConnectionLost, breaking_script(reset), verify=verify)


def breaking_script(reset: bool) -> Script:
    """Break the connection after some of the upload."""

    def script(talk: Talk) -> None:
        talk.head()
        talk.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        talk.body(100_000)
        if reset:
            talk.reset()

    return inspected_script(script)


def test_f34_a_fresh_body_is_sent_after_it(patient_engine: Engine, pair: Pair) -> None:
    cloud = Cloud()
    there = pair.start(breaking_script(True), destination_script(cloud))
    outcome = patient_engine.migrate(pair.source.url("/a"), there.url("/b"))
    assert cloud.objects == {b"/b": BIG}
    assert outcome.receipt is not None
    assert (outcome.receipt.attempts, outcome.receipt.level) == (2, Level.READ_BACK)


MANGLED = {
    "truncated": lambda data: data[:-1],
    "flipped": lambda data: data[:5] + bytes([data[5] ^ 1]) + data[6:],
    "zero tail": lambda data: data[:-9] + bytes(9),
    "longer": lambda data: data + b"!",
}


CREATED = b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n"


def mangling_script(cloud: Cloud, kind: str, tagged: bool = True) -> Script:
    """Keep a mangled object; `tagged` says that the answer to its upload has an entity tag."""

    class Objects(dict[bytes, bytes]):
        def __setitem__(self, key: bytes, value: bytes) -> None:
            super().__setitem__(key, MANGLED[kind](value))

    cloud.objects = Objects()
    return destination_script(cloud, TAGGED if tagged else CREATED)


@pytest.mark.parametrize("kind", MANGLED)
def test_f35_f36_a_wrong_object_is_found_and_deleted(engine: Engine, pair: Pair, kind: str) -> None:
    cloud = Cloud()
    error = assert_fails(engine, pair, IntegrityMismatch, mangling_script(cloud, kind))
    assert error.retryable
    assert cloud.objects == {}
    assert b"DELETE" in cloud.methods


@pytest.mark.parametrize("kind", MANGLED)
def test_f45_an_object_of_unknown_writer_is_left_and_named(
    engine: Engine, pair: Pair, kind: str
) -> None:
    """The answer to the upload had no entity tag: the current object may be another writer's."""
    cloud = Cloud()
    error = assert_fails(
        engine, pair, IntegrityMismatch, mangling_script(cloud, kind, tagged=False)
    )
    assert b"/b" in cloud.objects
    assert b"DELETE" not in cloud.methods
    assert "A damaged object may remain" in (error.hint or "")


def test_f35_a_size_that_differs_is_found_at_level_size_too(engine: Engine, pair: Pair) -> None:
    cloud = Cloud()
    assert_fails(
        engine, pair, IntegrityMismatch, mangling_script(cloud, "truncated"), verify="size"
    )
    assert cloud.objects == {}


def test_f36_a_damaged_object_that_can_not_be_deleted_is_named(engine: Engine, pair: Pair) -> None:
    cloud = Cloud()
    keep = mangling_script(cloud, "flipped")

    def no_delete(talk: Talk) -> None:
        read = talk.head

        def head() -> bytes:
            request = read()
            if request.startswith(b"DELETE"):
                talk.send(b"HTTP/1.1 405 Not Allowed\r\nContent-Length: 0\r\n\r\n")
                return head()
            return request

        talk.head = head  # type: ignore[method-assign]
        keep(talk)

    assert "may remain" in assert_fails(engine, pair, IntegrityMismatch, no_delete).hint


def test_f37_an_acknowledgement_without_an_object(engine: Engine, pair: Pair) -> None:
    def forgetful(talk: Talk) -> None:
        cloud = Cloud()
        cloud.objects = type("Nothing", (dict,), {"__setitem__": lambda *_: None})()
        destination_script(cloud)(talk)

    assert_fails(engine, pair, DestinationLost, forgetful)


@dataclass
class Foreign:
    """Acknowledges an upload as version v1, and shows an object of another writer: one that was
    there before (`is_prior`), or one that appears with the upload."""

    data: bytes
    tag: bytes
    is_prior: bool
    asked: list[bytes] = field(default_factory=list)
    """The methods of the requests, in order."""

    def __call__(self, talk: Talk) -> None:
        while request := talk.head():
            self.asked.append(request.split()[0])
            if request.startswith(b"PUT"):
                talk.send(b"HTTP/1.1 100 Continue\r\n\r\n")
                talk.body(len(BIG))
                status = b"200 OK" if self.is_prior else b"201 Created"
                talk.send(b'HTTP/1.1 %s\r\nETag: "v1"\r\nContent-Length: 0\r\n\r\n' % status)
            elif not self.is_prior and b"PUT" not in self.asked:
                talk.send(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            else:
                fields = b'ETag: "%s"\r\nContent-Length: %d' % (self.tag, len(self.data))
                is_read = request.startswith(b"GET")
                talk.send(b"HTTP/1.1 200 OK\r\n%s\r\n\r\n" % fields, self.data if is_read else b"")


@pytest.mark.parametrize(
    "theirs", [b"theirs", b"t" * len(BIG)], ids=["another size", "the same size"]
)
def test_f45_an_object_of_another_writer_is_left_and_named(
    engine: Engine, pair: Pair, theirs: bytes
) -> None:
    """The server named ours v1; the object that we inspect is v2."""
    store = Foreign(theirs, tag=b"v2", is_prior=False)
    error = assert_fails(engine, pair, PreconditionFailed, store)
    assert "Another writer" in error.hint
    assert b"DELETE" not in store.asked


@pytest.mark.parametrize("policy", ["overwrite", "changed"])
@pytest.mark.parametrize(
    "theirs", [b"theirs", b"t" * len(BIG)], ids=["another size", "the same size"]
)
def test_an_upload_that_was_not_stored_deletes_no_older_object(
    engine: Engine, pair: Pair, theirs: bytes, policy: str
) -> None:
    """The server acknowledges the upload, and still names and has the old object."""
    store = Foreign(theirs, tag=b"v1", is_prior=True)
    error = assert_fails(engine, pair, IntegrityMismatch, store, if_exists=policy)
    assert "may remain" in error.hint
    assert b"DELETE" not in store.asked


@pytest.mark.parametrize("kind", ["truncated", "longer"])
def test_f52_equal_damage_twice_blames_the_destination(
    patient_engine: Engine, pair: Pair, kind: str
) -> None:
    cloud = Cloud()
    script = source_script(Cloud(), fixed_answer(BIG_HEAD, BIG))
    source = pair.start(script)
    with pytest.raises(DestinationMutates) as caught:
        patient_engine.migrate(source.url("/a"), pair.start(mangling_script(cloud, kind)).url("/b"))
    assert not caught.value.retryable
    assert cloud.methods.count(b"PUT") == 2
    assert cloud.objects == {}


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("after", [0, 65536])
def test_f46_an_upload_is_never_redirected(
    engine: Engine, pair: Pair, status: int, after: int
) -> None:
    elsewhere = Cloud()
    other = pair.start(destination_script(elsewhere))
    reply = b"%d Moved\r\nLocation: %s" % (status, other.url("/x").encode())
    error = assert_fails(engine, pair, RedirectRefused, early_script(reply, after, "close"))
    assert str(status) in error.message
    assert elsewhere.heads == []


def test_f47_417_and_silence_to_expect(engine: Engine, pair: Pair) -> None:
    cloud = Cloud()
    refuse = inspected_script(
        answer(b"HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\n\r\n")
    )
    outcome = engine.migrate(
        pair.source.url("/a"), pair.start(refuse, destination_script(cloud)).url("/b")
    )
    assert outcome.state is State.VERIFIED
    silent = Cloud()

    def no_100(talk: Talk) -> None:
        send = talk.send
        talk.send = lambda *pieces: send(*(p for p in pieces if b"100 Continue" not in p))  # type: ignore[method-assign]
        destination_script(silent)(talk)

    again = pair.start(source_script(Cloud(), fixed_answer(BIG_HEAD, BIG)))
    outcome = engine.migrate(again.url("/a"), pair.start(no_100).url("/b"))
    assert silent.objects == cloud.objects == {b"/b": BIG}


def test_f56_idle_connections_that_the_destination_closed(engine: Engine, pair: Pair) -> None:
    cloud = Cloud()

    def one_each(talk: Talk) -> None:
        heads = iter([1])
        read = talk.head
        talk.head = lambda: read() if next(heads, None) else b""  # type: ignore[method-assign]
        destination_script(cloud)(talk)

    there = pair.start(one_each)
    for name in ("/1", "/2", "/3"):
        source = pair.start(source_script(Cloud(), fixed_answer(BIG_HEAD, BIG)))
        outcome = engine.migrate(source.url("/a"), there.url(name))
        assert outcome.receipt is not None
        assert outcome.receipt.attempts == 1
    assert set(cloud.objects) == {b"/1", b"/2", b"/3"}


def test_f57_a_certificate_that_is_not_right(engine: Engine, pair: Pair) -> None:
    import ssl

    import trustme

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    cloud = Cloud()
    with (
        Peer(destination_script(cloud), context) as there,
        pytest.raises(CertificateRefused) as caught,
    ):
        engine.migrate(pair.source.url("/a"), there.url("/b"))
    assert caught.value.side == "destination"
    assert cloud.heads == []


def test_f90_a_closed_port(engine: Engine, pair: Pair) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(ConnectFailed) as caught:
        engine.migrate(pair.source.url("/a"), f"http://127.0.0.1:{port}/b")
    assert caught.value.side == "destination"


# -- lengths, methods, statuses


def test_a_destination_needs_the_length_of_an_endless_source(engine: Engine, pair: Pair) -> None:
    chunked = fixed_answer(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
    )
    source = pair.start(source_script(Cloud(), chunked))
    there = pair.start(early_script(b"411 Length Required", 0, "close"))
    with pytest.raises(LengthRequired) as caught:
        engine.migrate(source.url("/a"), there.url("/b"))
    assert "length" in caught.value.hint.lower()


@pytest.mark.parametrize(
    "status", [b"202 Accepted", b"207 Multi-Status", b"206 Partial", b"205 Reset", b"299 X"]
)
def test_a_2xx_without_a_finished_upload_is_not_believed(
    engine: Engine, pair: Pair, status: bytes
) -> None:
    cloud = Cloud()
    script = destination_script(cloud, b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n\r\n")
    assert_fails(engine, pair, Rejected, script)


@pytest.mark.parametrize("status", [500, 502, 503, 504, 408])
def test_a_passing_failure_is_retryable(engine: Engine, pair: Pair, status: int) -> None:
    cloud = Cloud()
    script = destination_script(cloud, b"HTTP/1.1 %d Later\r\nContent-Length: 0\r\n\r\n" % status)
    assert assert_fails(engine, pair, Unavailable, script).retryable


def digesting_script(cloud: Cloud, value: bytes) -> Script:
    """Answer uploads with a Repr-Digest, and nothing else: the object cannot be inspected."""
    reply = (
        b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\nRepr-Digest: crc32c=:" + value + b":\r\n\r\n"
    )
    keep = destination_script(cloud, reply)

    def script(talk: Talk) -> None:
        read = talk.head

        def head() -> bytes:
            request = read()
            if request.startswith((b"HEAD", b"GET")):
                talk.send(b"HTTP/1.1 403 Write only\r\nContent-Length: 0\r\n\r\n")
                return head()
            return request

        talk.head = head  # type: ignore[method-assign]
        keep(talk)

    return script


@pytest.mark.parametrize("method", ["PUT", "POST"])
def test_the_destinations_own_digest_is_whole_digest(
    engine: Engine, pair: Pair, method: str
) -> None:
    cloud = Cloud()
    there = pair.start(digesting_script(cloud, CRC))
    outcome = engine.migrate(pair.source.url("/a"), there.url("/b"), method=method)
    assert outcome.receipt is not None
    assert (outcome.state, outcome.receipt.level) == (State.VERIFIED, Level.WHOLE_DIGEST)
    assert b"Want-Repr-Digest" in cloud.heads[-1]
    assert cloud.methods == [method.encode()]


@pytest.mark.parametrize("method", ["PUT", "POST"])
def test_a_destinations_digest_that_differs_is_a_failure(
    engine: Engine, pair: Pair, method: str
) -> None:
    assert_fails(
        engine, pair, IntegrityMismatch, digesting_script(Cloud(), b"AAAAAQ=="), method=method
    )


def test_an_unverifiable_object_is_never_a_success(engine: Engine, pair: Pair) -> None:
    outcome = engine.migrate(
        pair.source.url("/a"), pair.start(digesting_script(Cloud(), b"not a digest")).url("/b")
    )
    assert outcome.receipt is not None
    assert (outcome.state, outcome.receipt.level) == (State.UNVERIFIED, Level.SIZE)
    assert outcome.receipt.notes


# -- if_exists


@pytest.mark.parametrize(
    ("policy", "state"), [("overwrite", State.VERIFIED), ("skip", State.SKIPPED), ("fail", None)]
)
def test_if_exists_where_the_destination_can_be_inspected(
    engine: Engine, pair: Pair, policy: str, state: State | None
) -> None:
    cloud = Cloud()
    cloud.objects[b"/b"] = b"old"
    there = pair.start(destination_script(cloud))
    if state is None:
        with pytest.raises(AlreadyExists) as caught:
            engine.migrate(pair.source.url("/a"), there.url("/b"), if_exists=policy)
        assert not caught.value.retryable
    else:
        assert (
            engine.migrate(pair.source.url("/a"), there.url("/b"), if_exists=policy).state is state
        )
    assert cloud.objects == {b"/b": BIG if policy == "overwrite" else b"old"}


@pytest.mark.parametrize(("policy", "state"), [("skip", State.SKIPPED), ("fail", None)])
def test_if_exists_by_precondition_alone(
    engine: Engine, pair: Pair, policy: str, state: State | None
) -> None:
    """HEAD is useless, GET reports an absent object, and another writer is faster: from then on
    their object exists."""
    heads: list[bytes] = []

    def script(talk: Talk) -> None:
        while request := talk.head():
            heads.append(request)
            refused = any(one.startswith(b"PUT") for one in heads)
            answers = {b"HEAD": b"405 No HEAD", b"GET": b"200 OK" if refused else b"404 Not Found"}
            status = answers.get(request.split()[0], b"412 Precondition Failed")
            talk.send(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n\r\n")

    there = pair.start(script)
    if state is None:
        with pytest.raises(AlreadyExists):
            engine.migrate(pair.source.url("/a"), there.url("/b"), if_exists=policy)
    else:
        assert (
            engine.migrate(pair.source.url("/a"), there.url("/b"), if_exists=policy).state is state
        )
    puts = [one for one in heads if one.startswith(b"PUT")]
    assert len(puts) == 1
    assert b"If-None-Match: *" in puts[0]


def test_a_folder_takes_the_sources_name(engine: Engine, pair: Pair) -> None:
    cloud = Cloud()
    head = BIG_HEAD[:-2] + b'Content-Disposition: attachment; filename="../../my file.bin"\r\n\r\n'
    source = pair.start(source_script(Cloud(), fixed_answer(head, BIG)))
    outcome = engine.migrate(
        source.url("/a"), pair.start(destination_script(cloud)).url("/folder/")
    )
    assert list(cloud.objects) == [b"/folder/my%20file.bin"]
    assert str(outcome.destination).endswith("/folder/my%20file.bin")


@pytest.mark.parametrize(
    "field",
    [
        b"Content-MD5: 1B2M2Y8AsgTpgAmY7PhCfg==",
        b"Digest: md5=1B2M2Y8AsgTpgAmY7PhCfg==",
        b"Repr-Digest: crc32c=:AAAAAA==:",
    ],
)
@pytest.mark.parametrize("size", [0, 5000])
def test_a_digest_of_an_answer_without_content_is_not_used(
    engine: Engine, field: bytes, size: int
) -> None:
    cloud = Cloud()
    taken = b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n" + field + b"\r\n\r\n"
    source = source_script(
        Cloud(), fixed_answer(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size, bytes(size))
    )
    with Peer(source) as here, Peer(destination_script(cloud, taken)) as there:
        outcome = engine.migrate(here.url("/a"), there.url("/b"))
    assert outcome.state is State.VERIFIED
    assert cloud.objects == {b"/b": bytes(size)}
    assert b"DELETE" not in cloud.methods
