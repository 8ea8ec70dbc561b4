"""The public interface of the ledger: every call is one transaction, and is durable when it
returns.

Every method raises LedgerFailed or LedgerBusy if the database does not answer; its transaction then
counts as not done.

Many methods read first, in a transaction without a lock, and take the write lock only if there is
something to write."""

from __future__ import annotations

import copy
import time
import uuid
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection

from relay.ledger import (
    acceptance,
    actions,
    entries,
    ledger_log,
    limits,
    migration_lists,
    migration_rows,
    pages,
    retried,
    stages,
    token_use,
    totals,
    unproved,
)
from relay.ledger.audit_ledger import AuditLedger
from relay.ledger.audit_log import Actor
from relay.ledger.claim_ledger import ClaimLedger
from relay.ledger.database import Database
from relay.ledger.deletion_ledger import DeletionLedger
from relay.ledger.destination_ledger import DestinationLedger
from relay.ledger.event_ledger import EventLedger
from relay.ledger.lease_ledger import LeaseLedger
from relay.ledger.ledger_access import LedgerAccess
from relay.ledger.listing_ledger import ListingLedger
from relay.ledger.live_ledger import LiveLedger
from relay.ledger.migration_values import Migration, MigrationView, Spec
from relay.ledger.opening import open_database
from relay.ledger.overview_ledger import OverviewLedger
from relay.ledger.plan_ledger import PlanLedger
from relay.ledger.reasons import Reason, reasons_of
from relay.ledger.report_ledger import ReportLedger
from relay.ledger.session_ledger import SessionLedger
from relay.ledger.standing_ledger import StandingLedger
from relay.ledger.states import MigrationVerb
from relay.ledger.token_ledger import TokenLedger
from relay.ledger.token_values import TokenHolder
from relay.ledger.upkeep import Upkeep
from relay.ledger.upload_ledger import UploadLedger
from relay.ledger.viewer import DEFAULT_TENANT, EVERYTHING, Viewer
from relay.ledger.workers import TERMINAL, WorkerId
from relay.process.failpoints import reach
from relay.tallies import Tallies


class Ledger:
    """The ledger, as one `worker` reads and changes it."""

    def __init__(self, database: Database, worker: WorkerId | None = None) -> None:
        """`worker` is this process; tests may give another worker."""
        worker = worker or WorkerId.of_this_process(str(uuid.uuid4()))
        self.access = LedgerAccess(database=database, worker=worker)
        self._upkeep = Upkeep()

    @classmethod
    def connect(cls, address: str, kind: str = TERMINAL, tallies: Tallies | None = None) -> Ledger:
        """Open a ledger by its URL, for a worker of one kind. `tallies` are those of the process,
        if others count in them too. Raises ConfigError."""
        database = open_database(address)
        database.tallies = tallies or database.tallies
        return cls(database, WorkerId.of_this_process(str(uuid.uuid4()), kind))

    @property
    def database(self) -> Database:
        """The database of this ledger."""
        return self.access.database

    @property
    def worker(self) -> WorkerId:
        """This process, as it claims transfers."""
        return self.access.worker

    def close(self) -> None:
        """Close the connections. Claims are not handed back (`leave` does that)."""
        self.database.close()

    def by(self, actor: Actor) -> Ledger:
        """Return this ledger for one actor: the audit log records what is changed through it, in
        the change's own transaction."""
        ledger = copy.copy(self)
        ledger.access = replace(self.access, actor=actor)
        return ledger

    # -- its parts

    @property
    def audit(self) -> AuditLedger:
        """The audit log."""
        return AuditLedger(self.access)

    @property
    def claims(self) -> ClaimLedger:
        """The claims of transfers."""
        return ClaimLedger(self.access)

    @property
    def deletions(self) -> DeletionLedger:
        """The deletions of moves and mirrors."""
        return DeletionLedger(self.access)

    @property
    def destinations(self) -> DestinationLedger:
        """What lies at destinations."""
        return DestinationLedger(self.access)

    @property
    def events(self) -> EventLedger:
        """The events of migrations."""
        return EventLedger(self.access)

    @property
    def leases(self) -> LeaseLedger:
        """The leases of workers."""
        return LeaseLedger(self.access)

    @property
    def listings(self) -> ListingLedger:
        """The listings of trees."""
        return ListingLedger(self.access)

    @property
    def live(self) -> LiveLedger:
        """What moves at the moment, and the samples of the past."""
        return LiveLedger(self.access)

    @property
    def overview(self) -> OverviewLedger:
        """The lists of the page."""
        return OverviewLedger(self.access)

    @property
    def plans(self) -> PlanLedger:
        """The plans."""
        return PlanLedger(self.access)

    @property
    def reports(self) -> ReportLedger:
        """The signed reports."""
        return ReportLedger(self.access)

    @property
    def sessions(self) -> SessionLedger:
        """The sessions of browsers."""
        return SessionLedger(self.access)

    @property
    def standing(self) -> StandingLedger:
        """The standing migrations."""
        return StandingLedger(self.access)

    @property
    def tokens(self) -> TokenLedger:
        """The tokens of the API."""
        return TokenLedger(self.access)

    @property
    def uploads(self) -> UploadLedger:
        """The multipart uploads."""
        return UploadLedger(self.access)

    # -- migrations

    def check_file(self) -> None:
        """As Database.check_file."""
        self.database.check_file()

    def create(
        self,
        spec: Spec,
        key: str | None = None,
        go_on: bool = False,
        holder: TokenHolder | None = None,
        *,
        tenant: str = DEFAULT_TENANT,
    ) -> tuple[Migration, bool]:
        """As acceptance.create. Also raises LedgerFailed if the file was removed or replaced: no
        process would find the migration."""
        self.database.check_file()

        def create(connection: Connection) -> tuple[Migration, bool]:
            made, is_new = acceptance.create(
                connection, spec, key, go_on, runner=self.worker.kind, holder=holder, tenant=tenant
            )
            if is_new:
                after = {"source": made.source, "destination": made.destination}
                after |= {"state": made.state} if spec.paused else {}
                self.access.record(connection, "migrate", _name_of(made), after=after)
            return made, is_new

        found = self.database.run(create)
        reach("after-accept")
        if found[1]:
            ledger_log.log_accepted(self.access.actor, found[0])
        return found

    def migration(self, id: str, viewer: Viewer = EVERYTHING) -> Migration:
        """As migration_rows.one. The other methods take the id of the returned migration, which the
        viewer then sees."""
        return self.database.run(
            lambda c: migration_rows.one(c, id, self.access.shown_kind, viewer), write=False
        )

    def migrations(
        self,
        limit: int = 100,
        wanted: migration_lists.MigrationFilter = migration_lists.ALL,
        viewer: Viewer = EVERYTHING,
    ) -> list[Migration]:
        """As migration_lists.find_migrations."""
        return self.database.run(
            lambda c: migration_lists.find_migrations(
                c, limit, wanted, viewer, self.access.shown_kind
            ),
            write=False,
        )

    def stage_counts(self, viewer: Viewer = EVERYTHING) -> Counter[tuple[str, bool]]:
        """As stages.count_stages."""
        return self.database.run(
            lambda c: stages.count_stages(c, viewer, self.access.shown_kind), write=False
        )

    def acknowledge(self, id: str) -> Migration:
        """As actions.acknowledge."""

        def acknowledge(connection: Connection) -> Migration:
            found = actions.acknowledge(connection, id)
            self.access.record(connection, "acknowledge", _name_of(found))
            return found

        done = self.database.run(acknowledge)
        ledger_log.log_verb(self.access.actor, "acknowledge", done)
        return done

    def secret(self, id: str) -> Mapping[str, Any] | None:
        """As migration_rows.secret."""
        return self.database.run(lambda c: migration_rows.secret(c, id), write=False)

    def is_at(self, id: str, spec: Spec) -> bool:
        """As acceptance.is_at."""
        return self.database.run(lambda c: acceptance.is_at(c, id, spec), write=False)

    def act(
        self,
        id: str,
        verb: str,
        fresh: Spec | Mapping[str, Any] | None = None,
        reason: str | None = None,
    ) -> Migration:
        """As actions.act; a resumed migration learns of other migrations first (`_resume`). Raises
        TooManyRequests as token_use.check_retry, unless a terminal or a worker acts."""

        def act(connection: Connection) -> tuple[str | None, Migration]:
            if self.access.actor and verb == MigrationVerb.RETRY:
                acceptance.lock_acceptance(connection)  # before any row, as a creation locks
                token_use.check_retry(connection, id, time.time())
            state = (
                migration_rows.lock_migration(connection, id).state if self.access.actor else None
            )
            found = actions.act(connection, id, verb, fresh, reason=reason)
            after = {"state": found.state, **({"credentials": "renewed"} if fresh else {})}
            after |= {"reason": reason} if reason is not None else {}
            self.access.record(
                connection, verb, _name_of(found), before={"state": state}, after=after
            )
            if verb not in (MigrationVerb.RESUME, MigrationVerb.RETRY):
                return state, found
            self._resume(connection, found.id)
            return state, migration_rows.one(connection, found.id)

        before, done = self.database.run(act)
        if before != done.state or verb == MigrationVerb.RETRY:
            ledger_log.log_verb(self.access.actor, verb, done, reason)
        return done

    def list_again(self, id: str, anyway: bool = False) -> Migration:
        """As actions.list_again."""
        return self.database.run(lambda c: actions.list_again(c, id, anyway))

    def begin_again(self, id: str, gone: Sequence[int]) -> None:
        """As entries.begin_again for the `gone` objects, and for those that another migration has
        left unproved since they arrived. Raises as actions.lock_unended; nothing has changed
        then."""

        def begin(connection: Connection) -> None:
            self._resume(connection, actions.lock_unended(connection, id).id, gone)

        self.database.run(begin)

    @staticmethod
    def _resume(connection: Connection, id: str, gone: Sequence[int] = ()) -> None:
        """Restart the objects that had arrived and do not count any longer; the source is listed
        again if that is necessary. Adopt the states that other migrations recorded meanwhile."""
        names = unproved.names_left(connection, id)
        again = sorted({*gone, *unproved.find_overwritten(connection, id, names)})
        if again and entries.begin_again(connection, id, again):
            actions.list_again(connection, id, anyway=True)
        unproved.adopt_unproved(connection, id, names)

    def limit(self, id: str, change: Mapping[str, int | None]) -> Migration:
        """As limits.limit."""

        def limit(connection: Connection) -> Migration:
            held = migration_rows.lock_migration(connection, id) if self.access.actor else None
            limited = limits.limit(connection, id, change)
            before = None if held is None else {"priority": held.priority, **held.bounds.to_json()}
            after = {"priority": limited.priority, **limited.bounds.to_json()}
            self.access.record(connection, "limit", _name_of(limited), before=before, after=after)
            return limited

        limited = self.database.run(limit)
        ledger_log.log_limits(self.access.actor, limited)
        return limited

    def migration_views(self, ids: Sequence[str]) -> dict[str, MigrationView]:
        """As limits.migration_views, for this worker."""
        return self.database.run(
            lambda c: limits.migration_views(c, self.worker.id, ids), write=False
        )

    def reset_crash_counts(self, id: str) -> None:
        """As actions.reset_crash_counts."""
        self.database.run(lambda c: actions.reset_crash_counts(c, id))

    def pause_for(self, id: str, error: Mapping[str, Any]) -> Migration:
        """As actions.pause_for."""

        def pause(connection: Connection) -> tuple[str, Migration]:
            before = migration_rows.lock_migration(connection, id).state
            return before, actions.pause_for(connection, id, error)

        before, found = self.database.run(pause)
        if found.state != before:
            ledger_log.log_verb(None, MigrationVerb.PAUSE, found, error.get("code"))
        return found

    def renew_secret(self, id: str, secret: Mapping[str, Any]) -> None:
        """As actions.renew_secret. Raises as actions.lock_unended: a migration that has
        succeeded keeps no secrets."""

        def renew(connection: Connection) -> None:
            actions.lock_unended(connection, id)
            actions.renew_secret(connection, id, secret)

        self.database.run(renew)
        self.access.log.has_secrets = True  # it may still hold the old ones

    def note_locating(self, id: str, trouble: Mapping[str, Any] | None) -> None:
        """As retried.note_locating."""
        self.database.run(lambda c: retried.note_locating(c, id, trouble))

    def finish(self) -> list[Migration]:
        """As Upkeep.run."""
        return self._upkeep.run(self.access)

    def totals(self) -> totals.Totals:
        """As totals.read, of the migrations that are shown."""
        return self.database.run(
            lambda c: totals.read(c, self.database, self.access.shown_kind), write=False
        )

    def page(
        self,
        id: str,
        states: Collection[str] = (),
        after: int = 0,
        limit: int = 1000,
        reason: str | None = None,
    ) -> list[pages.TransferRow]:
        """As pages.page."""
        return self.database.run(
            lambda c: pages.page(c, id, states, after, limit, reason=reason), write=False
        )

    def reasons(self, id: str) -> list[Reason]:
        """As reasons.reasons_of."""
        return self.database.run(lambda c: reasons_of(c, id), write=False)


def _name_of(migration: Migration) -> str:
    """Return how the audit log names a migration."""
    return f"migration {migration.name} {migration.id}"
