"""A helper gives back every part that it has taken, also one whose commit comes late."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import gevent
import pytest
from gevent.event import Event

from relay.engine.multipart.part_workers import PartContext, PartWorkers
from relay.engine.worker.part_helper import PartHelper
from relay.errors import LedgerFailed, Unavailable
from relay.ledger.ledger import Ledger
from relay.ledger.upload_values import PartLease
from relay.location import parse_location
from relay.stores.interfaces import Upload
from relay.transfer_limits import Limits
from tests.values import UPLOAD, claim_of


class Uploads:
    """A ledger whose commit of a taken part takes a while."""

    def __init__(self, failure: LedgerFailed | None) -> None:
        self.held: set[int] = set()
        self.asked, self.commits = Event(), Event()
        self._failure = failure

    def take_part(self, *_: Any) -> int:
        self.asked.set()
        self.commits.wait()
        self.held.add(2)
        if self._failure is not None:
            raise self._failure
        return 2

    def release_parts(self, *_: Any, **__: Any) -> None:
        self.held.clear()


@pytest.mark.parametrize("failure", [None, LedgerFailed("the connection broke")])
def test_a_part_taken_while_its_worker_is_killed_is_released(
    monkeypatch: pytest.MonkeyPatch, failure: LedgerFailed | None
) -> None:
    uploads, failed = Uploads(failure), Unavailable("no", side="destination")
    place = parse_location("http://a.example/x", destination=True)

    def run(self: PartWorkers, upload: Upload, take: Any) -> None:
        """Another part fails while this one is taken."""
        working = gevent.spawn(take, None)
        uploads.asked.wait()
        working.kill()
        gevent.spawn(uploads.commits.set)
        raise failed

    monkeypatch.setattr(PartWorkers, "run", run)
    helper = PartHelper(
        PartLease(claim_of(), UPLOAD, first=1),
        cast(Ledger, SimpleNamespace(uploads=uploads)),
        cast(PartContext, SimpleNamespace(place=place, limits=Limits())),
    )
    assert helper._take(None) == 1
    with gevent.Timeout(10), pytest.raises(LedgerFailed if failure else Unavailable):
        helper.run()
    assert uploads.commits.is_set() and not uploads.held
