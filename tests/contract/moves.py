"""The steps of the contract's suites: put an object by a whole transfer, and inspect the
destination."""

from __future__ import annotations

import random

from relay.errors import NotFound
from relay.location import Location
from relay.receipt import State
from relay.stores.interfaces import Destination
from tests.conftest import Engine
from tests.faults.scripted_peers import Cloud, fixed_answer, source_script
from tests.scripted import Peer

DATA = random.Random(11).randbytes(200_000)


def put(engine: Engine, place: Location, data: bytes = DATA, **options: object) -> State:
    """Put an object by a whole transfer from a scripted source."""
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(data)
    with Peer(source_script(Cloud(), fixed_answer(head, data))) as source:
        return engine.migrate(source.url(), place, **options).state


def content(store: Destination, place: Location) -> bytes | None:
    """Return the object at a place, or None."""
    try:
        opened = store.get(place)
    except NotFound:
        return None
    assert opened.body is not None
    return opened.body.read()
