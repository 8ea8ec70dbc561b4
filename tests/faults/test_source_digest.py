"""A source whose own digest is wrong: equal bytes in two readings rule out damage in transit, and
that digest proves nothing."""

from __future__ import annotations

import base64
import hashlib
import re

import pytest

from relay.digest import Digester
from relay.engine.plan import Verify
from relay.engine.transfer.verify import Sent, Verification
from relay.errors import IntegrityMismatch, SourceDigestWrong
from relay.ledger.prior_state_values import PriorState
from relay.location import parse_location
from relay.receipt import State, Version
from relay.stores.interfaces import PutResult
from tests.conftest import Certificates, Engine
from tests.end_to_end.terminal import eventually
from tests.faults.scripted_peers import (
    DATA,
    GET_HEAD,
    Cloud,
    destination_script,
    fixed_answer,
    source_script,
)
from tests.faults.scripted_s3 import IN_PARTS, SIZE, Bucket, place, repeat_script
from tests.scripted import Peer, Talk

WRONG = base64.b64encode(hashlib.sha256(b"the composite of some parts").digest()).decode()
FALSE = {
    "repr-digest": f"Repr-Digest: sha-256=:{WRONG}:",
    "digest": f"Digest: SHA-256={WRONG}",
    "content-md5": f"Content-MD5: {base64.b64encode(bytes(16)).decode()}",
    "cheap": "Repr-Digest: crc32c=:AAAAAA==:",
}
"""Fields in which a source gives a wrong digest of DATA: like that of an object made of parts."""


@pytest.mark.parametrize("field", FALSE.values(), ids=FALSE)
def test_a_wrong_source_digest_shows_after_two_readings(
    certificates: Certificates, field: str
) -> None:
    """The error comes before the end of the budget, and is not reported as damage in transit; the
    object there stays, and proves nothing."""
    engine = Engine(certificates.ca_file, retry_budget=60)
    head = GET_HEAD.removesuffix(b"\r\n") + field.encode() + b"\r\n\r\n"
    cloud, there = Cloud(), Cloud(objects={b"/a": b"old"})
    with (
        Peer([source_script(cloud, fixed_answer(head, DATA))] * 9) as source,
        Peer(destination_script(there)) as destination,
    ):
        with pytest.raises(SourceDigestWrong) as caught:
            engine.migrate(source.url("/a"), destination.url("/a"))
        assert cloud.methods.count(b"GET") == 2
        eventually(lambda: there.broken == 2)
        assert (caught.value.side, caught.value.retryable) == ("source", False)
        assert "'verify': 'size'" in caught.value.hint
        assert there.objects == {b"/a": b"old"}
        outcome = engine.migrate(source.url("/a"), destination.url("/a"), verify="size")
        assert outcome.state is State.UNVERIFIED
    assert there.objects == {b"/a": DATA}


def test_a_source_that_is_damaged_on_the_way_arrives(certificates: Certificates) -> None:
    """Two different damages: those are accidents."""
    engine = Engine(certificates.ca_file, retry_budget=60)
    digest = base64.b64encode(hashlib.sha256(DATA).digest())
    head = GET_HEAD.removesuffix(b"\r\n") + b"Repr-Digest: sha-256=:%s:\r\n\r\n" % digest
    pieces, there = [DATA[:-1] + b"?", DATA[:-1] + b"!", DATA], Cloud()

    def get(talk: Talk, request: bytes) -> None:
        talk.send(head.replace(b'"v1"', b'"%d"' % len(pieces)), pieces.pop(0))

    with (
        Peer(source_script(Cloud(), get)) as source,
        Peer(destination_script(there)) as destination,
    ):
        assert engine.migrate(source.url("/a"), destination.url("/a")).state is State.VERIFIED
    assert there.objects == {b"/a": DATA}


@pytest.mark.parametrize("ours", [True, False])
def test_a_digest_that_contradicts_the_bytes_blames_the_source(ours: bool) -> None:
    """If our own digest agrees with the destination's, a different one is not the destination's
    fault."""
    theirs = {"crc64nvme": b"12345678", "sha-256": b"right" * 6 + b"xx"}
    sent = Sent(
        5,
        {"crc64nvme": theirs["crc64nvme"] if ours else b"87654321"},
        {"sha-256": b"wrong" * 6 + b"xx"},
    )
    place = parse_location("http://a.example/a", destination=True)
    with pytest.raises(IntegrityMismatch) as caught:
        Verification(
            destination=None,  # type: ignore[arg-type]
            stored=PutResult(Version(), place, theirs),
            sent=sent,
            verify=Verify.AUTO,
            before=PriorState(known=True),
            poll=lambda: False,
        ).prove()
    assert caught.value.side == ("source" if ours else "destination")


WHOLE = (bytes(range(250)) * (SIZE // 250 + 1))[:SIZE]


@pytest.mark.parametrize(
    ("name", "verify", "noted"),
    [("sha-256", "auto", True), ("crc64nvme", "auto", False), ("sha-256", "size", False)],
)
def test_a_digest_that_parts_cannot_prove_is_noted(
    certificates: Certificates, name: str, verify: str, noted: bool
) -> None:
    digester = Digester((name,))
    digester.update(WHOLE)
    value = base64.b64encode(digester.digests()[name]).decode()

    def source(talk: Talk) -> None:
        while request := talk.head():
            span = re.search(rb"Range: bytes=(\d+)-(\d+)", request)
            first, last = map(int, span.groups()) if span else (0, SIZE - 1)
            printed = (
                f"Content-Range: bytes {first}-{last}/{SIZE}" if span else "Accept-Ranges: bytes"
            )
            head = f'Content-Length: {last + 1 - first}\r\nETag: "v1"\r\nRepr-Digest: {name}=:{value}:\r\n{printed}'
            data = b"" if request.startswith(b"HEAD") else WHOLE[first : last + 1]
            talk.send(f"HTTP/1.1 {206 if span else 200} X\r\n{head}\r\n\r\n".encode(), data)

    engine, bucket = Engine(certificates.ca_file, IN_PARTS), Bucket(sums=True)
    with Peer([source] * 9) as peer, Peer(repeat_script(bucket)) as there:
        outcome = engine.migrate(peer.url("/a"), place(there), verify=verify)
    assert outcome.receipt is not None
    assert (
        any(f"the {name} that the source declares" in note for note in outcome.receipt.notes)
        == noted
    )
    assert "part" in bucket.asked
