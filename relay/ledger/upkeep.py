"""What each poll of a worker does besides transfers: it completes cancels, forgets credentials that
are no longer needed, and ends migrations.

Theory of operation. One transaction without a lock looks whether something is due, since nothing is
at nearly every poll; each chore that is due has a transaction of its own then. Credentials that
were deleted may still be in SQLite's write-ahead log, which is emptied in the end.

Decided here: which chores there are, their order, and how often each is looked for. Never here: how
one is done."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from math import inf
from typing import Final

from sqlalchemy import Connection

from relay.ledger import actions, endings, feed, plans
from relay.ledger.ledger_access import LedgerAccess
from relay.ledger.migration_values import Migration


@dataclass(frozen=True, kw_only=True)
class Chore:
    """Something that is due from time to time. Both functions take the time in seconds since
    1970."""

    name: str
    look: Callable[[Connection, float], object]
    """Returns something true if it is due. Reads only."""
    act: Callable[[Connection, float], list[Migration]]
    """Does it; returns the migrations that it has ended."""
    deletes_secrets: bool = False
    seconds: float = 0.0
    """Shortest time between two looks."""


def _complete_cancels(connection: Connection, now: float) -> list[Migration]:
    actions.complete_cancels(connection)
    return []


def _forget_of_migrations(connection: Connection, now: float) -> list[Migration]:
    endings.forget_secrets(connection, now)
    return []


def _forget_of_plans(connection: Connection, now: float) -> list[Migration]:
    plans.forget_secrets(connection, now)
    return []


def _forget_feeds(connection: Connection, now: float) -> list[Migration]:
    feed.forget_rows(connection, now)
    return []


CHORES: Final = (
    Chore(
        name="complete cancels",
        look=lambda connection, _: actions.half_cancelled_ids(connection),
        act=_complete_cancels,
    ),
    Chore(
        name="forget the credentials of migrations",
        look=endings.forgettable_ids,
        act=_forget_of_migrations,
        deletes_secrets=True,
    ),
    Chore(
        # A tenant has hundreds of ended plans, whose credentials stay for a day.
        name="forget the credentials of plans",
        look=plans.has_forgettable,
        act=_forget_of_plans,
        deletes_secrets=True,
        seconds=60.0,
    ),
    Chore(
        name="forget feeds",
        look=feed.has_forgettable,
        act=_forget_feeds,
        seconds=3600.0,
    ),
    Chore(
        name="end migrations",
        look=endings.finishable_ids,
        act=lambda connection, _: endings.finish(connection),
        deletes_secrets=True,
    ),
)


@dataclass(eq=False)
class Upkeep:
    """The chores of one worker's ledger, and when it last looked for each."""

    clock: Callable[[], float] = time.monotonic
    _looked: dict[str, float] = field(default_factory=dict)

    def run(self, access: LedgerAccess) -> list[Migration]:
        """Do what is due; return the migrations that have ended. Raises LedgerFailed.

        Deleted secrets are then in no file. If another process is reading the log, that holds after
        a later call."""
        now, at = time.time(), self.clock()
        known = [
            chore for chore in CHORES if at - self._looked.get(chore.name, -inf) >= chore.seconds
        ]
        due = access.read(lambda c: [one for one in known if one.look(c, now)], operation="look")
        ended: list[Migration] = []
        for chore in due:
            ended += access.write(partial(_act, chore, now))
            access.log.has_secrets |= chore.deletes_secrets
        # Not before all are done: what a failure has left undone is looked for at the next poll.
        self._looked |= {chore.name: at for chore in known}
        if access.log.has_secrets:
            access.log.has_secrets = not access.database.wipe_log()
        return ended


def _act(chore: Chore, now: float, connection: Connection) -> list[Migration]:
    return chore.act(connection, now)
