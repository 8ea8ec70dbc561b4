"""Cut at every byte of a small transfer, on both sides: never a success, never an object that looks
whole."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
from gevent.pool import Pool

from relay.errors import RelayError
from tests.conftest import Certificates, Engine
from tests.faults.scripted_peers import (
    Cloud,
    destination_script,
    fixed_answer,
    inspected_script,
    source_script,
)
from tests.scripted import Peer, Script, Talk

AT_ONCE = 8
"""Transfers at a time."""
OBJECT = b"0123456789abcdefghijklmnopqrstuv"
BY_LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(OBJECT) + OBJECT
CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"10\r\n" + OBJECT[:16] + b"\r\n10;x=y\r\n" + OBJECT[16:] + b"\r\n0\r\nT: 1\r\n\r\n"
)


WAYS = pytest.mark.parametrize(
    ("verify", "tls"),
    [("auto", False), ("auto", True), ("size", False)],
    ids=["auto-plain", "auto-tls", "size-plain"],
)
"""The level and the encryption do not depend on each other."""


def cutting_script(count: int) -> Script:
    """A destination that hangs up once it has read `count` bytes of an upload. Inspections before
    it find nothing."""

    def script(talk: Talk) -> None:
        while talk.peek(4) == b"HEAD":
            talk.head()
            talk.send(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
        talk.peek(count)

    return script


def check_at_once(check: Callable[[int], None], cuts: Iterable[int]) -> None:
    """Check each cut; some at a time, since each waits for the engine to look again."""
    for checked in Pool(AT_ONCE).imap_unordered(check, cuts):
        assert checked is None


@WAYS
@pytest.mark.parametrize("answer", [BY_LENGTH, CHUNKED], ids=["length", "chunked"])
def test_the_source_is_cut_at_every_byte(
    engine: Engine, certificates: Certificates, answer: bytes, verify: str, tls: bool
) -> None:
    context = certificates.server if tls else None
    cloud = Cloud()
    with Peer(destination_script(cloud), context) as there:
        for cut in range(len(answer)):
            with (
                Peer(source_script(Cloud(), fixed_answer(answer[:cut])), context) as here,
                pytest.raises(RelayError) as caught,
            ):
                engine.migrate(here.url(), there.url("/b"), verify=verify)
            assert caught.value.side == "source", cut
            assert cloud.objects == {}, cut
        with Peer(source_script(Cloud(), fixed_answer(answer)), context) as here:
            engine.migrate(here.url(), there.url("/b"), verify=verify)
    assert cloud.objects == {b"/b": OBJECT}


@WAYS
def test_the_destination_hangs_up_after_every_byte(
    engine: Engine, certificates: Certificates, verify: str, tls: bool
) -> None:
    context = certificates.server if tls else None
    cloud = Cloud()
    with Peer(source_script(Cloud(), fixed_answer(BY_LENGTH)), context) as here:
        with Peer(destination_script(cloud), context) as there:
            engine.migrate(here.url(), there.url("/b"), verify=verify)
        put = next(head for head in cloud.heads if head.startswith(b"PUT"))

        def check(cut: int) -> None:
            with Peer(cutting_script(cut), context) as there, pytest.raises(RelayError) as caught:
                engine.migrate(here.url(), there.url("/b"), verify=verify)
            assert caught.value.side == "destination", cut

        check_at_once(check, range(len(put) + len(OBJECT) + 1))


@pytest.mark.parametrize("verify", ["auto", "size"])
def test_the_destinations_answer_is_cut_at_every_byte(engine: Engine, verify: str) -> None:
    reply = b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n"
    with Peer(source_script(Cloud(), fixed_answer(BY_LENGTH))) as here:

        def check(cut: int) -> None:
            def script(talk: Talk) -> None:
                talk.head()
                talk.body(len(OBJECT))
                talk.send(reply[:cut])

            with Peer(inspected_script(script)) as there, pytest.raises(RelayError) as caught:
                engine.migrate(here.url(), there.url("/b"), verify=verify)
            assert caught.value.side == "destination", cut

        check_at_once(check, range(len(reply)))
