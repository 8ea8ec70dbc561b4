"""An arrived object is inspected when its command is repeated: gone, still there, or unknown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from relay.engine.plan import IfExists
from relay.engine.worker.arrived import ArrivalCheck
from relay.ledger.claim_values import Settlement
from relay.ledger.ledger import Ledger
from relay.ledger.states import TransferVerb
from relay.location import Location, parse_location
from relay.stores.local_locations import local_location
from relay.stores.webdav.account import webdav_location
from relay.throttle import Bounds, ConcurrencyLimiter, Throttle
from tests.conftest import Engine
from tests.faults.scripted_http import Shelf, empty_answer
from tests.ledgers import tree, verified_end
from tests.scripted import Peer
from tests.values import tree_job

NAME = b"/to/000"


def inspect_arrival(
    engine: Engine, ledger: Ledger, destination: Location, state: str = "verified"
) -> tuple[int, int]:
    """Let one object of 5 bytes arrive; return the number of objects now gone, and of those in an
    unknown state."""
    id = tree(ledger, 5)
    (claim,) = ledger.claims.claim(1)
    ledger.claims.settle(
        [
            verified_end(claim)
            if state == "verified"
            else Settlement(claim, TransferVerb.SKIPPED, bytes=5)
        ]
    )
    source = parse_location("http://127.0.0.1/from/")
    wish = IfExists.SKIP if state == "skipped" else IfExists.CHANGED
    job = tree_job(source, destination, id=id, if_exists=wish)
    inspection = ArrivalCheck(ledger, engine.runner, job)
    gone = inspection.find_missing()
    assert inspection.answered + inspection.unanswered == 1
    return len(gone), inspection.unanswered


GONE, THERE, UNKNOWN = (1, 0), (0, 0), (0, 1)


@pytest.mark.parametrize(
    ("data", "refused", "state", "expected"),
    [
        (None, {}, "verified", GONE),
        (None, {b"HEAD": empty_answer(410)}, "verified", GONE),
        (None, {b"HEAD": empty_answer(405)}, "verified", GONE),
        (b"12345", {}, "verified", THERE),
        (b"12345", {b"HEAD": empty_answer(403)}, "verified", THERE),
        (b"12345", {b"HEAD": b""}, "verified", THERE),
        (b"1234", {}, "verified", GONE),
        (b"", {}, "verified", GONE),
        (b"1234", {}, "skipped", THERE),
        (b"1234", {}, "unchanged", GONE),
        (None, {}, "skipped", GONE),
        (b"12345", {b"HEAD": empty_answer(403), b"GET": empty_answer(403)}, "verified", UNKNOWN),
        (b"12345", {b"HEAD": empty_answer(401), b"GET": empty_answer(401)}, "verified", UNKNOWN),
        (b"12345", {b"HEAD": empty_answer(503)}, "verified", UNKNOWN),
        (b"12345", {b"HEAD": empty_answer(421)}, "verified", UNKNOWN),
        (
            b"12345",
            {b"HEAD": b"HTTP/1.1 302 X\r\nLocation: /login\r\nContent-Length: 0\r\n\r\n"},
            "verified",
            UNKNOWN,
        ),
    ],
)
def test_a_plain_server(
    engine: Engine,
    ledger: Ledger,
    data: bytes | None,
    refused: dict[bytes, bytes],
    state: str,
    expected: tuple[int, int],
) -> None:
    shelf = Shelf(
        {b"/login": b"who are you?"} | ({NAME: data} if data is not None else {}), refused=refused
    )
    with Peer(shelf) as peer:
        assert (
            inspect_arrival(
                engine, ledger, parse_location(peer.url("/to/"), destination=True), state
            )
            == expected
        )
    assert {method for method in shelf.methods} <= {b"HEAD", b"GET"}


@pytest.mark.parametrize(
    ("there", "expected"), [("file", THERE), ("nothing", GONE), ("folder", GONE), ("cut", GONE)]
)
def test_a_folder_of_this_machine(
    engine: Engine, ledger: Ledger, tmp_path: Path, there: str, expected: tuple[int, int]
) -> None:
    place = tmp_path / "to" / "000"
    place.parent.mkdir()
    if there == "folder":
        place.mkdir()
    elif there != "nothing":
        place.write_bytes(b"12345" if there == "file" else b"123")
    assert (
        inspect_arrival(engine, ledger, local_location(tmp_path / "to", destination=True).folder())
        == expected
    )


def test_a_webdav_folder_that_has_the_name_by_now(engine: Engine, ledger: Ledger) -> None:
    row = b"<response><href>/to/000/</href><propstat><prop><resourcetype><collection/></resourcetype></prop>"
    text = b'<multistatus xmlns="DAV:">%s</propstat></response></multistatus>' % row
    answer = b"HTTP/1.1 207 X\r\nContent-Length: %d\r\n\r\n%s" % (len(text), text)
    shelf = Shelf({NAME: b""}, refused={b"PROPFIND": answer}, tagged=False)
    with Peer(shelf) as peer:
        assert (
            inspect_arrival(engine, ledger, webdav_location(peer.url("/to/"), destination=True))
            == GONE
        )


def test_an_object_created_by_post_cannot_be_inspected(engine: Engine, ledger: Ledger) -> None:
    place = parse_location("http://127.0.0.1:9/to/", method="POST", destination=True)
    assert inspect_arrival(engine, ledger, place) == UNKNOWN
    (id,) = (migration.id for migration in ledger.migrations())
    job = tree_job(parse_location("http://127.0.0.1/a"), place, id=id)
    single = ArrivalCheck(ledger, engine.runner, replace(job, recursive=False))
    assert single.find_missing() == []  # another POST would create another object


def test_a_trouble_that_does_not_pass_is_waited_for_once(engine: Engine, ledger: Ledger) -> None:
    """The wait happens once and not once per object; every page is inspected."""
    id = tree(ledger, *(5 for _ in range(1500)))
    ledger.claims.settle([verified_end(claim) for claim in ledger.claims.claim(1500)])
    with Peer(Shelf(refused={b"HEAD": empty_answer(503)})) as peer:
        place = parse_location(peer.url("/to/"), destination=True)
        job = tree_job(parse_location("http://127.0.0.1/from/"), place, id=id)
        counts: list[int] = []
        inspection = ArrivalCheck(ledger, engine.runner, job)
        assert inspection.find_missing(counts.append) == []
    assert (inspection.unanswered, counts) == (1500, [1000, 1500])
    assert "503" in str(inspection.why)


def test_an_inspection_keeps_the_limit_of_connections(engine: Engine, ledger: Ledger) -> None:
    """A store that takes one connection would refuse the others."""
    id = tree(ledger, *[5] * 8)
    ledger.claims.settle([verified_end(claim) for claim in ledger.claims.claim(8)])
    most = [0]

    class Gate(ConcurrencyLimiter):
        def enter(self, owner: object, look: Callable[[], None], tick_seconds: float) -> None:
            super().enter(owner, look, tick_seconds)
            most[0] = max(most[0], self.under_way)

    throttle = Throttle(gates={"source": Gate(), "destination": Gate()})
    throttle.allow(Bounds(connections=1))
    with Peer(Shelf({f"/to/{number:03}".encode(): b"12345" for number in range(8)})) as peer:
        place = parse_location(peer.url("/to/"), destination=True)
        job = tree_job(parse_location("http://127.0.0.1/from/"), place, id=id)
        inspection = ArrivalCheck(ledger, engine.runner, job, throttle=throttle)
        assert inspection.find_missing() == []
    assert (inspection.answered, most) == (8, [1])
