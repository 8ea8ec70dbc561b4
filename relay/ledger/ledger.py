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
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from sqlalchemy import Connection

from relay.ledger import (
    acceptance,
    actions,
    audit_log,
    claims,
    endings,
    entries,
    event_log,
    folded_names,
    followed_state,
    leases,
    ledger_log,
    limits,
    listings,
    live_rows,
    local_links,
    migration_lists,
    migration_rows,
    orphans,
    overview,
    pages,
    part_leases,
    plans,
    poll,
    prior_states,
    retried,
    samples,
    session_rows,
    settling,
    stages,
    token_use,
    tokens,
    totals,
    unproved,
    uploads,
)
from relay.ledger.claim_values import Claim, PollResult, Settlement
from relay.ledger.counters import CounterDelta
from relay.ledger.database import Database
from relay.ledger.distrust import distrust_recent_commits
from relay.ledger.event_values import Event, EventCursor
from relay.ledger.listing_values import ListedObject, ListingClaim
from relay.ledger.migration_values import Migration, MigrationView, Spec
from relay.ledger.opening import open_database
from relay.ledger.plan_ledger import PlanLedger
from relay.ledger.prior_state_values import PriorState
from relay.ledger.reasons import Reason, reasons_of
from relay.ledger.releases import release_unknown_claims
from relay.ledger.sample_values import Moving, Sample, Traffic
from relay.ledger.states import MigrationVerb, TransferVerb
from relay.ledger.token_values import Scope, TokenHolder, TokenLimits
from relay.ledger.upload_values import Orphan, PartLease, StoredPart, UploadRecord
from relay.ledger.viewer import DEFAULT_TENANT, EVERYTHING, Viewer
from relay.ledger.workers import LEASE_SECONDS, TERMINAL, WorkerId
from relay.logs.emitter import is_written
from relay.logs.event_table import LogEvent
from relay.process.failpoints import reach
from relay.tallies import Tallies


@dataclass
class _Log:
    """SQLite's write-ahead log, as far as this process knows."""

    has_secrets: bool = False
    """Whether it may still hold secrets that were deleted."""


class Ledger:
    """The ledger, as one `worker` reads and changes it."""

    def __init__(self, database: Database, worker: WorkerId | None = None) -> None:
        """`worker` is this process; tests may give another worker."""
        self.database = database
        self.worker = worker or WorkerId.of_this_process(str(uuid.uuid4()))
        self._log = _Log()
        self._actor: audit_log.Actor | None = None

    @classmethod
    def connect(cls, address: str, kind: str = TERMINAL, tallies: Tallies | None = None) -> Ledger:
        """Open a ledger by its URL, for a worker of one kind. `tallies` are those of the process,
        if others count in them too. Raises ConfigError."""
        database = open_database(address)
        database.tallies = tallies or database.tallies
        return cls(database, WorkerId.of_this_process(str(uuid.uuid4()), kind))

    @property
    def _shown_kind(self) -> str | None:
        """The kind of migrations that are shown, None for all. A terminal owns the file and sees
        all; a server's clients see only the migrations that the server accepted."""
        return None if self.worker.kind == TERMINAL else self.worker.kind

    def close(self) -> None:
        """Close the connections. Claims are not handed back (`leave` does that)."""
        self.database.close()

    # -- the audit log

    def by(self, actor: audit_log.Actor) -> Ledger:
        """Return this ledger for one actor: the audit log records what is changed through it, in
        the change's own transaction."""
        ledger = copy.copy(self)
        ledger._actor = actor
        return ledger

    def note_audit(self, verb: str, object: str, after: Mapping[str, Any] | None = None) -> None:
        """Record an effect outside the ledger by this ledger's actor, if it has one."""
        if self._actor is not None:
            self.database.run(lambda c: self._record(c, verb, object, after=after))

    def audit_rows(self, limit: int) -> list[audit_log.AuditRow]:
        """As audit_log.newest."""
        return self.database.run(lambda c: audit_log.newest(c, limit), write=False)

    def verify_audit(self) -> audit_log.ChainCheck:
        """As audit_log.verify."""
        return self.database.run(audit_log.verify, write=False)

    def _record(
        self,
        connection: Connection,
        verb: str,
        object: str,
        *,
        before: Mapping[str, Any] | None = None,
        after: Mapping[str, Any] | None = None,
    ) -> None:
        """Add a row to the audit log, if this ledger has an actor."""
        if self._actor is not None:
            audit_log.append(
                connection,
                self._actor,
                verb,
                object,
                before=before,
                after=after,
                now=time.time(),
            )

    # -- plans

    @property
    def plans(self) -> PlanLedger:
        """The plans of this ledger, as its worker and its actor read and change them."""
        return PlanLedger(
            self.database,
            self.worker,
            shown_kind=self._shown_kind,
            actor=self._actor,
            record=self._record,
            note_deleted_secret=self._note_deleted_secret,
        )

    def _note_deleted_secret(self) -> None:
        self._log.has_secrets = True

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
                self._record(connection, "migrate", _name_of(made), after=after)
            return made, is_new

        found = self.database.run(create)
        reach("after-accept")
        if found[1]:
            ledger_log.log_accepted(self._actor, found[0])
        return found

    def find_unproved_at(self, spec: Spec, place: str | None = None) -> PriorState | None:
        """As unproved.find_unproved_at."""
        return self.database.run(lambda c: unproved.find_unproved_at(c, spec, place), write=False)

    def migration(self, id: str, viewer: Viewer = EVERYTHING) -> Migration:
        """As migration_rows.one. The other methods take the id of the returned migration, which the
        viewer then sees."""
        return self.database.run(
            lambda c: migration_rows.one(c, id, self._shown_kind, viewer), write=False
        )

    def migrations(
        self,
        limit: int = 100,
        wanted: migration_lists.MigrationFilter = migration_lists.ALL,
        viewer: Viewer = EVERYTHING,
    ) -> list[Migration]:
        """As migration_lists.find_migrations."""
        return self.database.run(
            lambda c: migration_lists.find_migrations(c, limit, wanted, viewer, self._shown_kind),
            write=False,
        )

    def stage_counts(self, viewer: Viewer = EVERYTHING) -> Counter[tuple[str, bool]]:
        """As stages.count_stages."""
        return self.database.run(
            lambda c: stages.count_stages(c, viewer, self._shown_kind), write=False
        )

    def acknowledge(self, id: str) -> Migration:
        """As actions.acknowledge."""

        def acknowledge(connection: Connection) -> Migration:
            found = actions.acknowledge(connection, id)
            self._record(connection, "acknowledge", _name_of(found))
            return found

        done = self.database.run(acknowledge)
        ledger_log.log_verb(self._actor, "acknowledge", done)
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
            if self._actor and verb == MigrationVerb.RETRY:
                acceptance.lock_acceptance(connection)  # before any row, as a creation locks
                token_use.check_retry(connection, id, time.time())
            state = migration_rows.lock_migration(connection, id).state if self._actor else None
            found = actions.act(connection, id, verb, fresh, reason=reason)
            after = {"state": found.state, **({"credentials": "renewed"} if fresh else {})}
            after |= {"reason": reason} if reason is not None else {}
            self._record(connection, verb, _name_of(found), before={"state": state}, after=after)
            if verb not in (MigrationVerb.RESUME, MigrationVerb.RETRY):
                return state, found
            self._resume(connection, found.id)
            return state, migration_rows.one(connection, found.id)

        before, done = self.database.run(act)
        if before != done.state or verb == MigrationVerb.RETRY:
            ledger_log.log_verb(self._actor, verb, done, reason)
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
            held = migration_rows.lock_migration(connection, id) if self._actor else None
            limited = limits.limit(connection, id, change)
            before = None if held is None else {"priority": held.priority, **held.bounds.to_json()}
            after = {"priority": limited.priority, **limited.bounds.to_json()}
            self._record(connection, "limit", _name_of(limited), before=before, after=after)
            return limited

        limited = self.database.run(limit)
        ledger_log.log_limits(self._actor, limited)
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
        self._log.has_secrets = True  # it may still hold the old ones

    def finish(self) -> list[Migration]:
        """As endings.finish, endings.forget_secrets, plans.forget_secrets and
        actions.complete_cancels; reads first.

        Deleted secrets are then in no file. If another process is reading the log, that holds after
        a later call."""
        now = time.time()
        due, over, old_plans, half_cancelled = self.database.run(
            lambda c: (
                endings.finishable_ids(c),
                endings.forgettable_ids(c, now),
                plans.has_forgettable(c, now),
                actions.half_cancelled_ids(c),
            ),
            write=False,
            operation="look",
        )
        if half_cancelled:
            self.database.run(actions.complete_cancels)
        if over:
            self.database.run(lambda c: endings.forget_secrets(c, now))
        if old_plans:
            self.database.run(lambda c: plans.forget_secrets(c, now))
        done = self.database.run(endings.finish) if due else []
        self._log.has_secrets |= bool(over or old_plans or done)
        if self._log.has_secrets:
            self._log.has_secrets = not self.database.wipe_log()
        return done

    def last_pause_error(self, id: str) -> Mapping[str, Any] | None:
        """As event_log.last_pause_error."""
        return self.database.run(lambda c: event_log.last_pause_error(c, id), write=False)

    def gone_since(self, id: str, since: float) -> int:
        """As event_log.gone_since."""
        return self.database.run(lambda c: event_log.gone_since(c, id, since), write=False)

    def totals(self) -> totals.Totals:
        """As totals.read, of the migrations that are shown."""
        return self.database.run(
            lambda c: totals.read(c, self.database, self._shown_kind), write=False
        )

    def events(self, id: str) -> list[dict[str, Any]]:
        """Return all committed events of a migration, as plain values."""
        found = self.events_after(id, event_log.START, event_log.LAST_NUMBER, ended=True)
        return [event.to_json() for event in found]

    def events_after(
        self, id: str, since: EventCursor, limit: int = 1000, *, ended: bool = False
    ) -> list[Event]:
        """As event_log.events_after: the oldest ones."""
        return self.database.run(
            lambda c: event_log.events_after(c, id, since, limit, ended=ended), write=False
        )

    def past_events(
        self, id: str, given: EventCursor, limit: int, *, ended: bool = False
    ) -> tuple[EventCursor, list[Event], bool]:
        """As event_log.past_events."""
        return self.database.run(
            lambda c: event_log.past_events(c, id, given, limit, ended=ended), write=False
        )

    def mark(self) -> EventCursor:
        """As event_log.mark."""
        return self.database.run(event_log.mark, write=False)

    def watch(self, ids: Collection[str]) -> None:
        """As live_rows.watch."""
        self.database.run(lambda c: live_rows.watch(c, ids))

    def moving(self, id: str) -> Moving:
        """Return what the workers move of a migration; nothing unless it is watched."""
        return self.database.run(lambda c: live_rows.moving(c, [id]), write=False)[id]

    def samples(self, id: str, since: int = 0) -> list[Sample]:
        """As samples.samples_of, of one migration."""
        return self.samples_of([id], since)[id]

    def samples_of(self, ids: Collection[str], since: int) -> dict[str, list[Sample]]:
        """As samples.samples_of."""
        return self.database.run(lambda c: samples.samples_of(c, ids, since), write=False)

    def look(
        self,
        known: Mapping[str, Migration],
        since: EventCursor | None,
        watched: Collection[str] = (),
    ) -> followed_state.Look:
        """As followed_state.look."""
        return self.database.run(
            lambda c: followed_state.look(c, known, since, watched),
            write=False,
            operation="watch",
        )

    def page(
        self,
        id: str,
        states: Iterable[str] = (),
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

    # -- the page

    def find_migrations(self, wanted: overview.MigrationSearch, viewer: Viewer) -> list[Migration]:
        """As overview.find_migrations."""
        return self.database.run(
            lambda c: overview.find_migrations(c, wanted, viewer, self._shown_kind), write=False
        )

    def migrations_by_name(self, names: Sequence[str], viewer: Viewer) -> list[Migration]:
        """As overview.migrations_by_name."""
        return self.database.run(
            lambda c: overview.migrations_by_name(c, names, viewer, self._shown_kind), write=False
        )

    def group_counts(self, viewer: Viewer) -> dict[overview.Group, int]:
        """As overview.group_counts."""
        return self.database.run(
            lambda c: overview.group_counts(c, viewer, self._shown_kind), write=False
        )

    def find_objects(self, id: str, wanted: overview.ObjectSearch) -> overview.ObjectPage:
        """As overview.find_objects."""
        return self.database.run(lambda c: overview.find_objects(c, id, wanted), write=False)

    def one_object(self, id: str, transfer: int) -> pages.TransferRow | None:
        """As overview.one_object."""
        return self.database.run(lambda c: overview.one_object(c, id, transfer), write=False)

    def unfinished_uploads(self, id: str) -> int:
        """As overview.unfinished_uploads."""
        return self.database.run(lambda c: overview.unfinished_uploads(c, id), write=False)

    # -- tokens

    def create_token(
        self,
        name: str,
        *,
        tenant: str,
        scope: Scope,
        limits: TokenLimits,
        expires: float | None = None,
    ) -> tuple[tokens.Token, str]:
        """As tokens.create; `expires` is in seconds since 1970."""

        def create(connection: Connection) -> tuple[tokens.Token, str]:
            made, value = tokens.create(
                connection,
                name,
                tenant=tenant,
                scope=scope,
                limits=limits,
                expires=expires,
                now=time.time(),
            )
            self._record(connection, "token create", name, after=made.to_json())
            return made, value

        found = self.database.run(create)
        ledger_log.log_token(self._actor, "token create", name, tenant)
        return found

    def list_tokens(self) -> list[tokens.Token]:
        """As tokens.every."""
        return self.database.run(tokens.every, write=False)

    def live_tokens(self) -> tokens.LiveTokens:
        """As tokens.live, for now."""
        return self.database.run(lambda c: tokens.live(c, time.time()), write=False)

    def limit_token(self, name: str, change: Mapping[str, Any]) -> tokens.Token:
        """As tokens.limit."""
        return self._change_token("token limit", name, lambda c: tokens.limit(c, name, change))

    def rotate_token(self, name: str, overlap: float) -> tuple[tokens.Token, str]:
        """As tokens.rotate."""
        values: list[str] = []

        def rotate(connection: Connection) -> tokens.Token:
            rotated, value = tokens.rotate(connection, name, overlap, time.time())
            values.append(value)
            return rotated

        return self._change_token("token rotate", name, rotate), values[-1]

    def revoke_token(self, name: str) -> tokens.Token:
        """As tokens.revoke."""
        return self._change_token(
            "token revoke", name, lambda c: tokens.revoke(c, name, time.time())
        )

    def forget_token(self, name: str) -> tokens.Token:
        """As tokens.forget."""
        return self._change_token("token forget", name, lambda c: tokens.forget(c, name))

    def _change_token(
        self, verb: str, name: str, change: Callable[[Connection], tokens.Token]
    ) -> tokens.Token:
        def change_recorded(connection: Connection) -> tokens.Token:
            before = tokens.find(connection, name)
            after = change(connection)
            self._record(
                connection, verb, after.name, before=before.to_json(), after=after.to_json()
            )
            return after

        found = self.database.run(change_recorded)
        ledger_log.log_token(self._actor, verb, found.name, found.tenant)
        return found

    def note_token_use(self, id: str, at: float) -> None:
        """As tokens.note_use."""
        self.database.run(lambda c: tokens.note_use(c, id, at))

    # -- sessions of browsers

    def cookie_key(self) -> bytes:
        """As session_rows.cookie_key."""
        return self.database.run(session_rows.cookie_key, write=False)

    def start_session(self, hash: str, token_id: str | None, token_hash: str, now: float) -> None:
        """As session_rows.start."""

        def start(connection: Connection) -> None:
            session_rows.start(connection, hash, token_id, token_hash, now)
            self._record(connection, "sign in", f"session {hash[:8]}")

        self.database.run(start)
        ledger_log.log_session(self._actor, starts=True)

    def session(self, hash: str) -> session_rows.SessionRow | None:
        """As session_rows.look_up."""
        return self.database.run(lambda c: session_rows.look_up(c, hash), write=False)

    def note_session(self, hash: str, at: float) -> None:
        """As session_rows.note_request."""
        self.database.run(lambda c: session_rows.note_request(c, hash, at))

    def end_session(self, hash: str) -> None:
        """As session_rows.end."""

        def end(connection: Connection) -> None:
            session_rows.end(connection, hash)
            self._record(connection, "sign out", f"session {hash[:8]}")

        self.database.run(end)
        ledger_log.log_session(self._actor, starts=False)

    def count_sign_in(self, address: str, now: float) -> float:
        """As session_rows.count_attempt."""
        return self.database.run(lambda c: session_rows.count_attempt(c, address, now))

    # -- live state

    def write_live(self, members: str) -> None:
        """As live_rows.write_live, for this worker."""
        self.database.run(lambda c: live_rows.write_live(c, self.worker.id, members))

    def write_samples(self, done: Mapping[str, Traffic], now: float | None = None) -> set[str]:
        """As samples.write_samples, for this worker."""
        return self.database.run(lambda c: samples.write_samples(c, self.worker.id, done, now))

    # -- workers and claims

    def renew(self, seconds: float = LEASE_SECONDS, slots: int | None = None) -> bool:
        """As leases.renew. Also raises LedgerFailed if the file was removed or replaced."""
        self.database.check_file()
        return self.database.run(
            lambda c: leases.renew(c, self.database, self.worker, seconds, slots)
        )

    def leave(self) -> None:
        """As leases.leave."""
        self.database.run(lambda c: leases.leave(c, self.worker))

    def reclaim(self) -> int:
        """As leases.reclaim; reads first."""
        if not self.database.run(
            lambda c: leases.lost_workers(c, self.database, self.worker), write=False
        ):
            return 0
        try:
            found = self.database.run(lambda c: leases.reclaim(c, self.database, self.worker))
        except leases.RenewedMeanwhile:  # rolled back
            return 0
        self.database.tallies.lapses[()] += found.claims
        self.database.tallies.quarantined[()] += found.quarantined
        ledger_log.log_losses(found.claims, found.quarantined)
        return found.claims

    def leases_of(self, id: str) -> dict[str, float]:
        """As leases.leases_of."""
        return self.database.run(
            lambda c: leases.leases_of(c, self.database, self.worker, id), write=False
        )

    def has_worker(self, id: str) -> bool:
        """As leases.has_worker."""
        return self.database.run(
            lambda c: leases.has_worker(c, self.database, self.worker, id), write=False
        )

    def settle_and_claim(
        self,
        ends: Sequence[Settlement],
        wanted: claims.ClaimRequest,
        only: str | None = None,
        watched: Iterable[str] = (),
    ) -> PollResult:
        """As poll.settle_and_claim; reads first if there is nothing to settle."""
        if not ends:
            seen = self.database.run(
                lambda c: poll.peek(c, self.worker, wanted, only, watched),
                write=False,
                operation="turn",
            )
            if seen is not None:
                return seen
        result = self.database.run(
            lambda c: poll.settle_and_claim(
                c, self.worker, ends, wanted, only=only, watched=watched
            ),
            operation="turn",
        )
        self._count(ends, result.lost)
        return result

    def _count(self, ends: Sequence[Settlement], lost: Collection[Claim]) -> None:
        """Count and log the objects whose settlements were stored: those of claims that were not
        `lost`."""
        tallies, refused = self.database.tallies, {(claim.id, claim.fence) for claim in lost}
        is_shown = is_written(LogEvent.TRANSFER_SETTLED)
        for end in ends:
            settled = end.verb != TransferVerb.HAND_BACK
            if not settled or (end.claim.id, end.claim.fence) in refused:
                continue
            tallies.end_transfer(end.verb, end.level, end.bytes, end.seconds)
            if end.verb == TransferVerb.FAILED and end.error is not None:
                tallies.fail_transfer(end.error.get("side", "relay"), end.error["code"])
                ledger_log.log_failure(end.claim, end.error)
            elif is_shown:
                ledger_log.log_success(end)

    def claim(
        self,
        limit: int,
        only: str | None = None,
        alone: bool = True,
        large: int | None = None,
        only_large: int | None = None,
    ) -> list[Claim]:
        """As claims.claim; by default large transfers are not limited further."""
        wanted = claims.ClaimRequest(
            all=limit,
            large=limit if large is None else large,
            only_large=limit if only_large is None else only_large,
            alone=alone,
        )
        return list(self.settle_and_claim((), wanted, only).claims)

    def settle(self, ends: Sequence[Settlement]) -> list[Claim]:
        """As settling.settle."""

        def settle_claims(connection: Connection) -> list[Claim]:
            changes = CounterDelta()
            lost = settling.settle(connection, self.worker, ends, changes)
            changes.write(connection)
            return lost

        claims = self.database.run(settle_claims)
        self._count(ends, claims)
        return claims

    def check_claim(self, claim: Claim) -> None:
        """As claims.check_claim."""
        self.database.run(lambda c: claims.check_claim(c, self.worker, claim), write=False)

    def release_unknown_claims(self, kept: Iterable[Claim], shared: Iterable[int] = ()) -> int:
        """As release_unknown_claims, and distrust recent commits: the database that failed
        may have been replaced by an older copy."""

        def release(connection: Connection) -> int:
            distrust_recent_commits(connection, ended=False)
            return release_unknown_claims(connection, self.worker, kept, shared)

        return self.database.run(release)

    # -- listings

    def release_unknown_listings(self, doubted: bool) -> None:
        """As listings.release_unknown_listings."""
        self.database.run(lambda c: listings.release_unknown_listings(c, self.worker, doubted))

    def claim_listing(
        self, only: str | None = None, alone: bool = True, without: Collection[str] = ()
    ) -> ListingClaim | None:
        """As listings.claim_listing; reads first."""
        due = listings.DueListing(worker=self.worker, only=only, alone=alone, without=without)
        if not self.database.run(lambda c: listings.has_due_listing(c, due), write=False):
            return None
        return self.database.run(lambda c: listings.claim_listing(c, due))

    def learn_empty(self, listing: ListingClaim, empty: bool) -> None:
        """As listings.learn_empty."""
        self.database.run(lambda c: listings.learn_empty(c, self.worker, listing, empty))

    def add_page(
        self, listing: ListingClaim, page: Sequence[ListedObject], cursor: str | None
    ) -> bool:
        """As listings.add_page. The listing then holds by its next fence."""
        wanted = self.database.run(
            lambda c: listings.add_page(c, self.worker, listing, page, cursor)
        )
        listing.fence += 1
        return wanted

    def unknown_names(self, id: str, names: Sequence[str]) -> set[str]:
        """As listings.unknown_names."""
        return self.database.run(lambda c: listings.unknown_names(c, id, names), write=False)

    def renew_urls(self, id: str, urls: Mapping[str, str]) -> None:
        """As listings.renew_urls."""
        self.database.run(lambda c: listings.renew_urls(c, id, urls))

    def end_listing(self, listing: ListingClaim, error: Mapping[str, Any] | None = None) -> None:
        """As listings.end_listing."""
        self.database.run(lambda c: listings.end_listing(c, self.worker, listing, error))
        if error is not None:
            ledger_log.log_listing_failure(listing, error)

    def hand_back_listing(self, listing: ListingClaim) -> None:
        """As listings.hand_back_listing."""
        self.database.run(lambda c: listings.hand_back_listing(c, self.worker, listing))

    # -- prior states

    def note_prior_states(self, found: Sequence[tuple[Claim, PriorState]]) -> tuple[bool, ...]:
        """As prior_states.note_prior_states."""
        return self.database.run(lambda c: prior_states.note_prior_states(c, self.worker, found))

    def enter_folded(self, claim: Claim) -> tuple[str, ...] | None:
        """As folded_names.enter_folded."""
        return self.database.run(lambda c: folded_names.enter_folded(c, self.worker, claim))

    def leave_folded(self, claim: Claim) -> None:
        """As folded_names.leave_folded."""
        self.database.run(lambda c: folded_names.leave_folded(c, self.worker, claim))

    def keep_link(
        self, claim: Claim, link: str, target: str, there: str, tree: str | None = None
    ) -> dict[str, str]:
        """Record a link as local_links.keep_link does (reads first), and return as
        local_links.objects_at_link. With `tree` the object is skipped."""
        id, skipped = claim.migration_id, tree is not None
        of = partial(local_links.is_kept, id=id, link=link, target=target, skipped=skipped)
        if not self.database.run(of, write=False):
            keep = partial(local_links.keep_link, id=id, link=link, target=target, skipped=skipped)
            self.database.run(keep)
        return self.database.run(
            lambda c: local_links.objects_at_link(c, claim, link, there, tree), write=False
        )

    # -- multipart uploads

    def recorded_upload(self, claim: Claim) -> UploadRecord | None:
        """As uploads.recorded_upload."""
        return self.database.run(lambda c: uploads.recorded_upload(c, claim), write=False)

    def record_upload(self, claim: Claim, upload: UploadRecord) -> None:
        """As uploads.record_upload."""
        self.database.run(lambda c: uploads.record_upload(c, self.worker, claim, upload))

    def resume_upload(
        self, claim: Claim, upload_id: str, gone: Collection[int], total: int
    ) -> None:
        """As uploads.resume_upload."""
        self.database.run(
            lambda c: uploads.resume_upload(
                c, self.worker, claim, upload_id=upload_id, gone=gone, total=total
            )
        )

    def take_part(self, claim: Claim, upload_id: str, done: StoredPart | None) -> int | None:
        """As uploads.take_part."""
        return self.database.run(
            lambda c: uploads.take_part(c, self.worker, claim.id, upload_id, done)
        )

    def outstanding_parts(self, claim: Claim) -> dict[int, bool]:
        """As uploads.outstanding_parts."""
        return self.database.run(
            lambda c: uploads.outstanding_parts(c, self.worker, claim.id), write=False
        )

    def note_retried(self, troubles: Sequence[tuple[Claim, Mapping[str, Any] | None]]) -> None:
        """As retried.note."""
        self.database.run(lambda c: retried.note(c, self.worker.id, troubles))

    def note_listing(self, listing: ListingClaim, trouble: Mapping[str, Any] | None) -> None:
        """As retried.note_listing."""
        self.database.run(lambda c: retried.note_listing(c, self.worker.id, listing, trouble))

    def note_locating(self, id: str, trouble: Mapping[str, Any] | None) -> None:
        """As retried.note_locating."""
        self.database.run(lambda c: retried.note_locating(c, id, trouble))

    def release_parts(self, claim: Claim, resent: int = 0) -> None:
        """As uploads.release_parts."""
        self.database.run(lambda c: uploads.release_parts(c, self.worker, claim.id, resent))

    def commit_upload(self, claim: Claim, digest: str) -> None:
        """As uploads.commit_upload."""
        self.database.run(lambda c: uploads.commit_upload(c, self.worker, claim, digest))

    def forget_upload(self, claim: Claim) -> None:
        """As uploads.forget_upload."""
        self.database.run(lambda c: uploads.forget_upload(c, self.worker, claim))

    def join_upload(self, only: str | None = None, but: Sequence[int] = ()) -> PartLease | None:
        """As part_leases.join_upload; reads first."""
        if not self.database.run(
            lambda c: part_leases.has_joinable(c, self.worker, only, but), write=False
        ):
            return None
        return self.database.run(lambda c: part_leases.join_upload(c, self.worker, only, but))

    # -- orphans

    def orphans(
        self, only: str | None = None, but: Sequence[int] = (), kept: float = orphans.KEPT_SECONDS
    ) -> list[Orphan]:
        """As orphans.find_orphans."""
        return self.database.run(
            lambda c: orphans.find_orphans(c, self.worker, only, but, kept), write=False
        )

    def is_over(self, orphan: Orphan) -> bool:
        """As orphans.is_over."""
        return self.database.run(lambda c: orphans.is_over(c, orphan), write=False)

    def note_removed(
        self,
        orphan: Orphan,
        remains: Mapping[str, str] | None = None,
        is_unproved: bool = False,
    ) -> None:
        """As orphans.note_removed."""
        self.database.run(lambda c: orphans.note_removed(c, orphan, remains or {}, is_unproved))


def _name_of(migration: Migration) -> str:
    """Return how the audit log names a migration."""
    return f"migration {migration.name} {migration.id}"
