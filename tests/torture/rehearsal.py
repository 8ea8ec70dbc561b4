"""Compile the statements of a ledger in the process that forks commands, once for all of them.

Decided here: which calls of a ledger are made. Never here: a hub or a thread, which no child could
inherit."""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from sqlalchemy import event, make_url

from relay.ledger import opening
from relay.ledger.audit_log import Actor
from relay.ledger.claim_values import Settlement
from relay.ledger.claims import ClaimRequest
from relay.ledger.database import ClockSteps, Database, _begin
from relay.ledger.ledger import Ledger
from relay.ledger.listing_values import ListedObject
from relay.ledger.migration_values import Spec
from relay.ledger.overview import MigrationSearch
from relay.ledger.prior_state_values import PriorState
from relay.ledger.sample_values import Traffic
from relay.ledger.states import TransferState
from relay.ledger.token_values import Scope, TokenLimits
from relay.ledger.viewer import EVERYTHING, Viewer
from relay.ledger.workers import SERVER, TERMINAL, WorkerId
from relay.tallies import Tallies
from tests.compiled import share_statements

TREE = Spec(
    "/from/",
    "/to/",
    options={"recursive": True, "if_exists": "changed"},
    secret={"source": {"url": "/from/"}},
    places=("from", "to"),
    place=("here", "/to/"),
)
OTHER_TREES = (
    replace(TREE, options={**TREE.options, "if_exists": "skip"}),
    replace(TREE, options={**TREE.options, "filters": {"include": ["a"]}}),
)
"""Trees of the same places, whose objects the first one may have left unproved."""
OBJECT = Spec(
    "/from/a",
    "/to/a",
    options={},
    secret={"source": {"url": "/from/a"}},
    places=("from/a", "to/a"),
    place=("here", "/to/a"),
)
ROOM = ClaimRequest(all=1, large=1, only_large=1)
WORKER = WorkerId(id="rehearsal", host="here", boot="now", process="1", kind=TERMINAL)


class ThreadlessDatabase(Database):
    """A SQLite database whose transactions run in the calling thread."""

    def __init__(self, path: Path) -> None:
        """Open a new file."""
        self.url = make_url(f"sqlite:///{path}")
        self._engine = opening._engine(self.url)
        event.listen(self._engine, "begin", _begin)
        self.sqlite, self._thread, self._file, self.tallies = True, None, None, Tallies()
        self._steps = ClockSteps()
        self.run(opening._upgrade)


def rehearse() -> None:
    """Make the calls of a tree and of an object, from their acceptance to their end."""
    share_statements()
    logging.disable()  # a failed object has a line
    with TemporaryDirectory(prefix="relay-rehearsal-") as folder:
        # A fault that is planted in relay is for the judge of its commands.
        with suppress(Exception):
            play(Path(folder))
    logging.disable(logging.NOTSET)


def play(folder: Path) -> None:
    """Make the calls, with a ledger in a folder. Raises its errors."""
    database = ThreadlessDatabase(folder / "ledger.db")
    ledger = Ledger(database, WORKER)
    ledger.leases.renew()
    ledger.leases.reclaim()
    for tree in (TREE, *OTHER_TREES):
        _move_tree(ledger, tree)
    _move_object(ledger)
    ledger.leases.leave()
    _serve(Ledger(database, replace(WORKER, kind=SERVER)).by(Actor(name="tests")))
    database._engine.dispose()


def _move_tree(ledger: Ledger, spec: Spec) -> None:
    made, _ = ledger.create(spec, go_on=True)
    listing = ledger.listings.claim(made.id)
    assert listing is not None
    ledger.listings.learn_empty(listing, spec is TREE)
    ledger.listings.age_origins(listing.migration_id)
    ledger.listings.add_page(
        listing, [ListedObject(name, size=1, modified=1.0) for name in "ab"], "b"
    )
    ledger.listings.end(listing)
    claims = ledger.claims.claim(2, made.id)
    ledger.destinations.note_prior_states([(one, PriorState(known=True)) for one in claims])
    first, second = claims
    ended = Settlement(first, "verified", bytes=1, seconds=0.1, level="size", receipt={})
    failed = Settlement(second, "failed", error={"code": "rejected", "side": "source"})
    ledger.claims.settle_and_claim([ended, failed], ROOM, made.id)
    _look_around(ledger, made.id)
    for verb in ("retry", "cancel"):
        ledger.act(made.id, verb)
        ledger.finish()


def _move_object(ledger: Ledger) -> None:
    made, _ = ledger.create(OBJECT, go_on=True)
    for verb in ("pause", "resume"):
        ledger.act(made.id, verb)
    (claim,) = ledger.claims.claim(1, made.id)
    ledger.claims.settle([Settlement(claim, "skipped", level="size", receipt={})])
    _look_around(ledger, made.id)


def _serve(ledger: Ledger) -> None:
    """Make the calls of a server with one object."""
    ledger.leases.renew()
    ledger.tokens.create("one", tenant="default", scope=Scope.ADMIN, limits=TokenLimits())
    ledger.tokens.every()
    made, _ = ledger.create(OBJECT, "key")
    ledger.plans.is_unmade()
    ledger.listings.claim()
    ledger.destinations.orphans()
    ledger.uploads.join()
    (claim,) = ledger.claims.claim(1)
    ledger.claims.settle([Settlement(claim, "verified", level="size", receipt={})])
    _look_around(ledger, made.id)
    ledger.migrations(viewer=Viewer())
    ledger.overview.group_counts(EVERYTHING)
    ledger.overview.find_migrations(MigrationSearch(limit=51), EVERYTHING)
    ledger.leases.leave()


def _look_around(ledger: Ledger, id: str) -> None:
    ledger.finish()
    ledger.destinations.orphans(id)
    ledger.uploads.join(id)
    ledger.claims.claim(1, id)
    ledger.listings.claim(id)
    ledger.live.write_samples({id: Traffic(moved=1, slot_seconds={"piping": 0.1})})
    ledger.page(id)
    ledger.page(id, [TransferState.FAILED], limit=3)
    ledger.migration(f"{ledger.migration(id).number}")
    ledger.reasons(id)
    ledger.events.all(id)
    ledger.migrations()
    ledger.secret(id)
    ledger.leases.of_migration(id)
    ledger.live.look({id: ledger.migration(id)}, None)
    ledger.events.gone_since(id, time.time())
