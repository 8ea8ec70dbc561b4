"""Plans over HTTP: accept, show, list, stop, make again, start, delete.

A plan is answered 202 as soon as it is written to the ledger; a worker of the server makes it
(`planner.py`), and the client asks for it again. The page (`relay/ui/plan_screen.py`) accepts and
starts plans by the same functions.

Decided here: the operations and their answers. Never here: what a plan finds
(`relay/engine/dry_run.py`), and which plans are kept (`relay/ledger/plans.py`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Final
from urllib.parse import urlencode

from flask import Response, request

from relay.api.answers import json_answer
from relay.api.caller import current_caller
from relay.api.ledger_context import LedgerContext
from relay.api.migration_routes import View, request_within_limits
from relay.api.request_bodies import check_empty, is_paused_start, parse_plan
from relay.api.request_parts import (
    idempotency_key,
    members_of_body,
    optional_members,
    rows_of_page,
)
from relay.engine.migration_request import MigrationRequest, stored_request
from relay.engine.transfer_engine import TransferEngine
from relay.errors import IllegalTransition
from relay.ledger import plans
from relay.ledger.migration_values import Migration
from relay.ledger.plan_values import StoredPlan
from relay.ledger.states import ENDED, PlanState, PlanVerb
from relay.views.migrations import summary
from relay.views.stored_plans import plan_summary

VERBS: Final = (PlanVerb.CANCEL, PlanVerb.AGAIN)
"""The verbs that only change a plan's state."""


def accept_plan(
    works: LedgerContext, engine: TransferEngine, order: MigrationRequest, key: str | None
) -> StoredPlan:
    """Write a plan of this request's caller to the ledger, and wake the planner. Raises as
    request_within_limits, and TooManyRequests."""
    spec = request_within_limits(engine, order).spec(engine.remotes)
    plan = works.ledger.plans.create(spec, key, tenant=current_caller().viewer.tenant)
    works.planner.wake()
    return plan


def act_on_visible_plan(works: LedgerContext, id: str, verb: PlanVerb) -> StoredPlan:
    """Stop a plan that the caller sees, or make it again. Raises PlanUnknown,
    IllegalTransition."""
    found = works.ledger.plans.one(id, current_caller().viewer)
    changed = works.ledger.plans.act(found.id, verb)
    works.planner.wake()
    return changed


def start_visible_plan(
    works: LedgerContext, engine: TransferEngine, id: str, *, paused: bool
) -> Migration:
    """Start the migration of a plan that the caller sees, and wake the worker; return the same
    migration if it has started already. Raises PlanUnknown, IllegalTransition, and as
    request_within_limits."""
    caller = current_caller()
    found = works.ledger.plans.one(id, caller.viewer)
    secret = works.ledger.plans.secret(found.id)
    # Read again: another request may have started it, and deleted its secret, since.
    found = works.ledger.plans.one(found.id, caller.viewer)
    started = works.ledger.plans.migration_of(found)
    if started is not None:
        return started
    if secret is None:
        raise _no_secret(found)
    order = replace(
        stored_request(found, secret),
        priority=found.priority,
        bounds=found.bounds,
        paused=paused,
    )
    spec = request_within_limits(engine, order).spec(engine.remotes)
    started = works.ledger.plans.start(found.id, spec, holder=caller.holder)
    works.worker.wake()
    return started


def remove_visible_plan(works: LedgerContext, id: str) -> None:
    """Delete a plan that the caller sees. Raises PlanUnknown."""
    works.ledger.plans.remove(works.ledger.plans.one(id, current_caller().viewer).id)


@dataclass(frozen=True)
class PlanViews:
    """The views of the operations on plans; `works` is as that of MigrationViews."""

    works: Callable[[], LedgerContext]
    engine: TransferEngine

    def create(self) -> Response:
        """Accept a plan."""
        order = parse_plan(members_of_body(self.engine))
        plan = accept_plan(self.works(), self.engine, order, idempotency_key())
        answer = json_answer(plan_summary(plan), 202 if plan.state == PlanState.PLANNING else 200)
        answer.headers["Location"] = f"{request.script_root}/plans/{plan.id}"
        return answer

    def list_plans(self) -> Response:
        """Answer a page of the plans."""
        limit, viewer = rows_of_page(), current_caller().viewer
        found = self.works().ledger.plans.newest(limit, viewer, request.args.get("before"))
        more = None
        if len(found) == limit:  # a full page may be the last one; the next is empty then
            place = urlencode({"before": found[-1].id, "limit": limit})
            more = f"{request.script_root}/plans?{place}"
        return json_answer({"plans": [plan_summary(plan) for plan in found], "next": more})

    def show(self, plan: str) -> Response:
        """Answer one plan."""
        found = self.works().ledger.plans.one(plan, current_caller().viewer)
        return json_answer(plan_summary(found))

    def act(self, plan: str, *, verb: PlanVerb) -> Response:
        """Apply one of VERBS."""
        check_empty(optional_members(self.engine))
        return json_answer(plan_summary(act_on_visible_plan(self.works(), plan, verb)))

    def start(self, plan: str) -> Response:
        """Start the migration of a plan."""
        paused = is_paused_start(optional_members(self.engine))
        started = start_visible_plan(self.works(), self.engine, plan, paused=paused)
        answer = json_answer(summary(started), 200 if started.state in ENDED else 202)
        answer.headers["Location"] = f"{request.script_root}/migrations/{started.id}"
        return answer

    def remove(self, plan: str) -> Response:
        """Delete a plan."""
        check_empty(optional_members(self.engine))
        remove_visible_plan(self.works(), plan)
        return Response(status=204, headers={"Cache-Control": "no-store"})


def plan_routes(
    works: Callable[[], LedgerContext], engine: TransferEngine
) -> tuple[tuple[str, str, View], ...]:
    """Return the paths, methods and views of the operations on plans."""
    views = PlanViews(works, engine)
    return (
        ("/plans", "POST", views.create),
        ("/plans", "GET", views.list_plans),
        ("/plans/<plan>", "GET", views.show),
        ("/plans/<plan>", "DELETE", views.remove),
        *((f"/plans/<plan>/{verb}", "POST", partial(views.act, verb=verb)) for verb in VERBS),
        ("/plans/<plan>/start", "POST", views.start),
    )


def _no_secret(plan: StoredPlan) -> IllegalTransition:
    """Return why a plan without secrets, and without a migration, does not start."""
    if plan.state == PlanState.STARTED:
        return IllegalTransition("its migration was started, and is gone")
    return plans.forgotten()
