"""What a real server writes of its moving objects, and of what it has moved."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from relay.ledger.ledger import Ledger
from relay.ledger.workers import SERVER
from tests.end_to_end.test_serve import SERVE, gated_source, order, run_server
from tests.faults.scripted_peers import DATA, Cloud, destination_script
from tests.scripted import Peer


def await_true(is_done: Callable[[], bool]) -> None:
    """Wait until a condition holds."""
    until = time.monotonic() + 30
    while not is_done():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_a_watched_object_is_shown_and_its_bytes_are_kept(tmp_path: Path) -> None:
    """While it moves; and the last sample is written when the server stops."""
    address = f"sqlite:///{tmp_path}/ledger.db"
    gate, begun, kept = threading.Event(), threading.Event(), Cloud()
    with (
        Peer(gated_source(Cloud(), gate, begun)) as source,
        Peer(destination_script(kept)) as destination,
        run_server(SERVE, RELAY_LEDGER=address) as server,
        closing(Ledger.connect(address, SERVER)) as ledger,
    ):
        wanted = order(source, destination)
        id = server.ask("POST", "/migrate", wanted, Prefer="respond-async")[1]["id"]
        assert begun.wait(30)
        assert ledger.live.moving(id).count == 0, "nobody watches it"
        ledger.live.watch([id])
        await_true(lambda: bool(ledger.live.moving(id).objects))
        (shown,) = ledger.live.moving(id).objects
        assert (shown.migration_id, shown.name, shown.attempt) == (id, "", 1)
        assert (shown.phase, shown.total, shown.part) == ("piping", len(DATA), None)
        gate.set()
        await_true(lambda: server.ask("GET", f"/migrations/{id}")[1]["state"] == "succeeded")
        assert server.stop() == 0
        samples = ledger.live.samples(id)
        assert sum(sample.moved for sample in samples) == len(DATA)
        assert sum(sample.read_back for sample in samples) == len(DATA)
        assert samples[-1].objects == 1
        assert sum(sample.slot_seconds.get("piping", 0.0) for sample in samples) > 0
