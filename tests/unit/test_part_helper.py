"""A helper or an owner gives back every part that it has taken, also one whose commit comes
late."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import gevent
import pytest
from gevent.event import Event

from relay.engine.multipart.part_sizes import ranges_of
from relay.engine.multipart.part_workers import PartContext, PartWorkers
from relay.engine.worker.part_helper import PartHelper
from relay.errors import LedgerFailed, Unavailable
from relay.ledger.ledger import Ledger
from relay.ledger.upload_values import PartLease, StoredPart
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


@pytest.fixture
def fail_while_one_is_taken(monkeypatch: pytest.MonkeyPatch) -> Callable[[Uploads], None]:
    """Return a function after which a part fails while another one is taken, whose commit comes
    only when the greenlets of both have ended."""

    def prepare(uploads: Uploads) -> None:
        drain = PartWorkers._drain

        def move_part(*_: Any) -> StoredPart:
            uploads.asked.wait()
            raise Unavailable("no", side="destination")

        def drain_and_commit(*of: Any) -> None:
            drain(*of)
            gevent.spawn(uploads.commits.set)

        monkeypatch.setattr(PartWorkers, "_move_part", move_part)
        monkeypatch.setattr(PartWorkers, "_drain", drain_and_commit)

    return prepare


PLACE = parse_location("http://a.example/x", destination=True)
CONTEXT = cast(PartContext, SimpleNamespace(place=PLACE, limits=Limits()))


@pytest.mark.parametrize("failure", [None, LedgerFailed("the connection broke")])
def test_a_part_taken_while_its_worker_is_killed_is_released(
    fail_while_one_is_taken: Callable[[Uploads], None], failure: LedgerFailed | None
) -> None:
    uploads = Uploads(failure)
    fail_while_one_is_taken(uploads)
    helper = PartHelper(
        PartLease(claim_of(), UPLOAD, first=1),
        cast(Ledger, SimpleNamespace(uploads=uploads)),
        CONTEXT,
    )
    with gevent.Timeout(10), pytest.raises(LedgerFailed if failure else Unavailable):
        helper.run()
    assert uploads.commits.is_set() and not uploads.held


def test_an_owner_awaits_the_commits_of_its_parts(
    fail_while_one_is_taken: Callable[[Uploads], None],
) -> None:
    """The end of its claim releases the parts, on another connection to PostgreSQL."""
    uploads, first = Uploads(None), iter([1])
    fail_while_one_is_taken(uploads)
    workers = PartWorkers(CONTEXT, ranges_of(UPLOAD.size, UPLOAD.part_bytes))
    upload = Upload(PLACE, "1", checked=True)
    with gevent.Timeout(10), pytest.raises(Unavailable):
        workers.run(upload, lambda _: next(first, None) or uploads.take_part())
    assert uploads.held == {2}
