"""The public interface of the ledger for plans: every call is one transaction, and raises as those
of `Ledger`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from relay.errors import IllegalTransition
from relay.ledger import acceptance, ledger_log, migration_rows, plans, samples
from relay.ledger.ledger_access import LedgerAccess
from relay.ledger.migration_values import Migration, Spec
from relay.ledger.plan_values import PlanClaim, StoredPlan
from relay.ledger.sample_values import Sample
from relay.ledger.states import PlanVerb
from relay.ledger.token_values import TokenHolder
from relay.ledger.viewer import Viewer


@dataclass(frozen=True)
class PlanLedger:
    """The plans of a ledger, as one worker and one actor read and change them."""

    access: LedgerAccess

    # -- for people

    def create(self, spec: Spec, key: str | None, *, tenant: str) -> StoredPlan:
        """As plans.create. Also raises LedgerFailed if the file was removed or replaced."""
        self.access.database.check_file()

        def create(connection: Connection) -> StoredPlan:
            made = plans.create(
                connection, spec, key, runner=self.access.worker.kind, tenant=tenant
            )
            ends = {"source": made.source, "destination": made.destination}
            self.access.record(connection, "plan", _name_of(made), after=ends)
            return made

        found = self.access.write(create)
        self.access.note_deleted_secret()  # that of the tenant's oldest plans
        return found

    def one(self, id: str, viewer: Viewer) -> StoredPlan:
        """As plans.one. The other methods take the id of the returned plan, which the viewer then
        sees."""
        return self.access.read(lambda c: plans.one(c, id, self.access.shown_kind, viewer))

    def newest(self, limit: int, viewer: Viewer, before: str | None = None) -> list[StoredPlan]:
        """As plans.newest."""
        return self.access.read(
            lambda c: plans.newest(c, limit, before, runner=self.access.shown_kind, viewer=viewer)
        )

    def secret(self, id: str) -> Mapping[str, Any] | None:
        """As plans.secret."""
        return self.access.read(lambda c: plans.secret(c, id))

    def migration_of(self, plan: StoredPlan) -> Migration | None:
        """Return the migration that a plan has started, or None."""
        id = plan.migration
        if id is None:
            return None
        return self.access.read(lambda c: migration_rows.one(c, id))

    def act(self, id: str, verb: PlanVerb) -> StoredPlan:
        """As plans.act."""

        def act(connection: Connection) -> StoredPlan:
            before = plans.lock(connection, id)
            found = plans.act(connection, id, verb)
            if before.state != found.state:
                states = {"before": {"state": before.state}, "after": {"state": found.state}}
                self.access.record(connection, f"plan {verb}", _name_of(found), **states)
            return found

        return self.access.write(act)

    def start(self, id: str, spec: Spec, *, holder: TokenHolder | None = None) -> Migration:
        """Start the migration of a plan; if that was done before, return the same migration. Raises
        PlanUnknown; IllegalTransition, also if its locations are no longer those of `spec`; and as
        acceptance.create. Also raises LedgerFailed if the file was removed or replaced."""
        self.access.database.check_file()

        def start(connection: Connection) -> tuple[Migration, bool]:
            plan = plans.lock(connection, id)
            if plan.migration is not None:
                return migration_rows.one(connection, plan.migration), False
            if not plans.is_at(connection, plan, spec):
                raise IllegalTransition(plans.LEADS_ELSEWHERE, hint=plans.LEADS_ELSEWHERE_HINT)
            made, _ = acceptance.create(
                connection, spec, runner=self.access.worker.kind, holder=holder, tenant=plan.tenant
            )
            plans.start(connection, id, made.id)
            after = {"migration": f"migration {made.name} {made.id}", "source": made.source}
            after |= {"destination": made.destination, "state": made.state}
            self.access.record(connection, "plan start", _name_of(plan), after=after)
            return made, True

        started, is_new = self.access.write(start)
        self.access.note_deleted_secret()
        if is_new:
            ledger_log.log_accepted(self.access.actor, started)
        return started

    def remove(self, id: str) -> None:
        """As plans.remove."""

        def remove(connection: Connection) -> None:
            plans.remove(connection, id)
            self.access.record(connection, "plan delete", f"plan {id}")

        self.access.write(remove)
        self.access.note_deleted_secret()

    # -- for the worker

    def claim(self) -> PlanClaim | None:
        """As plans.claim; reads first."""
        if not self.is_unmade():
            return None
        return self.access.write(
            lambda c: plans.claim(c, self.access.worker.id, self.access.worker.kind)
        )

    def is_unmade(self) -> bool:
        """As plans.is_unmade, for this worker's kind."""
        return self.access.read(lambda c: plans.is_unmade(c, self.access.worker.kind))

    def is_at(self, plan: StoredPlan, spec: Spec) -> bool:
        """As plans.is_at."""
        return self.access.read(lambda c: plans.is_at(c, plan, spec))

    def note(self, claim: PlanClaim, report: Mapping[str, Any]) -> bool:
        """As plans.note."""
        return self.access.write(lambda c: plans.note(c, claim, report))

    def end(
        self,
        claim: PlanClaim,
        report: Mapping[str, Any],
        error: Mapping[str, Any] | None = None,
    ) -> bool:
        """As plans.end."""
        return self.access.write(lambda c: plans.end(c, claim, report, error))

    def hand_back(self, claim: PlanClaim) -> None:
        """As plans.hand_back."""
        self.access.write(lambda c: plans.hand_back(c, claim))

    def find_measured(self, plan: StoredPlan) -> list[tuple[Migration, list[Sample]]]:
        """Return as `find_measured_between`, for the tenant and the places of a plan."""
        return self.find_measured_between(plan.tenant, (plan.source, plan.destination))

    def find_measured_between(
        self, tenant: str, places: tuple[str, str]
    ) -> list[tuple[Migration, list[Sample]]]:
        """Return the migrations of plans.find_measured with their samples, newest first."""

        def look_up(connection: Connection) -> list[tuple[Migration, list[Sample]]]:
            ids = plans.find_measured(connection, tenant, places, self.access.shown_kind)
            found = samples.samples_of(connection, ids)
            return [(migration_rows.one(connection, id), found[id]) for id in ids if found[id]]

        return self.access.read(look_up)


def _name_of(plan: StoredPlan) -> str:
    """Return how the audit log names a plan."""
    return f"plan {plan.id}"
