"""The frame around every page: navigation, banners, the footer's state of this server.

Decided here: what every page shows. Never here: the pages themselves."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any, Final

from flask import Response, g

from relay.api.caller import ANONYMOUS, LOCAL, current_caller
from relay.api.ledger_context import LedgerContext, visible_migration
from relay.api.sessions import Session, Sessions
from relay.engine.transfer_engine import TransferEngine
from relay.errors import LedgerFailed, MigrationUnknown, RelayError, Unauthorized
from relay.ledger.ledger import Ledger
from relay.ledger.migration_values import Migration
from relay.ledger.sample_values import Moving
from relay.ledger.token_values import Scope
from relay.ledger.viewer import Viewer
from relay.ui import words
from relay.ui.estimates import Estimates
from relay.ui.moving_rows import with_rates
from relay.ui.paces import Paces
from relay.ui.rendering import page
from relay.ui.summaries import Pace
from relay.views.problems import problem, retry_after

NOTHING: Final = Moving()


@dataclass(eq=False)
class Outage:
    """Since when the ledger of this process does not answer pages (seconds since 1970)."""

    since: float | None = None

    def begin(self) -> float:
        """Return since when, which is now if it answered the last page."""
        self.since = self.since or time.time()
        return self.since

    def end(self) -> None:
        """Note that the ledger answers."""
        self.since = None


@dataclass(frozen=True)
class PageFrame:
    """What the pages of one process share. `works` returns the access to the ledger; it raises
    LedgerFailed without one."""

    engine: TransferEngine
    works: Callable[[], LedgerContext]
    has_works: bool
    _: KW_ONLY
    sessions: Sessions | None = None
    """The sessions of browsers; None where the server has no ledger."""
    paces: Paces = field(default_factory=Paces)
    estimates: Estimates = field(default_factory=Estimates)
    outage: Outage = field(default_factory=Outage)

    @property
    def ledger(self) -> Ledger:
        """The ledger of this process. Raises LedgerFailed without one."""
        return self.works().ledger

    @property
    def viewer(self) -> Viewer:
        """Whose migrations the caller of this request sees."""
        return current_caller().viewer

    def migration(self, id: str) -> Migration:
        """Return a migration that the caller sees. Raises MigrationUnknown, also for a foreign
        one."""
        return visible_migration(self.works(), id)

    def pace(self, migration: Migration, moving: Moving = NOTHING) -> Pace:
        """Return the pace of a migration; with the rates of what it moves and its time left, if its
        samples were read."""
        left, last = (
            self.estimates.shown_time(migration, moving),
            self.estimates.last_sample(migration.id),
        )
        return replace(with_rates(self.paces.note(migration), moving, last, time.time()), left=left)

    def ledger_away(self, error: LedgerFailed) -> str:
        """Return that the ledger does not answer, and since when."""
        at = time.strftime("%H:%M UTC", time.gmtime(self.outage.begin()))
        return words.ledger_away(at, error.code)

    @property
    def trouble(self) -> RelayError | None:
        """Why the ledger of this process does not answer now, or None."""
        return self.works().worker.trouble if self.has_works else None

    def page(
        self,
        template: str,
        *,
        here: str,
        status: int = 200,
        is_bad: bool = False,
        **values: Any,
    ) -> Response:
        """Return a page; `here` is its entry in the navigation, and `is_bad` whether it shows what
        needs a look itself."""
        # A request that was refused has no caller yet.
        caller = g.get("caller", ANONYMOUS)
        session: Session | None = g.get("session")
        trouble = self.trouble
        if trouble is None and here:  # not the page of an error
            self.outage.end()
        return page(
            template,
            status,
            here=here,
            caller=caller,
            may_look=Scope.READ in caller.scopes,
            may_change=Scope.SUBMIT in caller.scopes,
            is_admin=Scope.ADMIN in caller.scopes,
            banner=words.NO_TOKENS if caller is LOCAL else "",
            draining=self.engine.draining,
            trouble=trouble,
            is_bad=is_bad or trouble is not None or self.engine.draining or not self.has_works,
            has_session=session is not None,
            csrf=session.csrf if session is not None else "",
            **values,
        )

    def error(self, error: RelayError, title: str = "") -> Response:
        """Return the page of an error: its title, detail, hint and instance."""
        members = problem(error) | ({"title": title} if title else {})
        if isinstance(error, MigrationUnknown):  # its own hint is one for the API
            members["hint"] = words.LOOK_IN_LIST
        if isinstance(error, LedgerFailed) and self.has_works:
            members["detail"] = self.ledger_away(error)
        response = self.page("error.html", here="", status=error.status, problem=members)
        seconds = retry_after(error)
        if seconds is not None:
            response.headers["Retry-After"] = str(seconds)
        if isinstance(error, Unauthorized):
            response.headers["WWW-Authenticate"] = 'Bearer realm="relay"'
        return response
