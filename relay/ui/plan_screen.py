"""Plans: what a migration would do, before anything moves. The page of one plan, with its buttons,
and the list of all.

A plan is a row of the ledger, which a worker makes (`relay/api/planner.py`): a person may leave the
page and come back. Decided here: how a plan is shown. Never here: what it finds out
(`relay/engine/dry_run.py`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from flask import Response, request

from relay.api.plan_routes import (
    act_on_visible_plan,
    remove_visible_plan,
    start_visible_plan,
)
from relay.errors import IllegalTransition, PlanUnknown, RelayError, TooManyRequests
from relay.ledger.plan_values import StoredPlan
from relay.ledger.states import PlanState, PlanVerb
from relay.ui import words
from relay.ui.figures import about, count, duration, plural, size
from relay.ui.form_fields import read_form
from relay.ui.frame import PageFrame
from relay.ui.printable import visible
from relay.ui.queries import link_query
from relay.ui.rendering import redirect
from relay.ui.summaries import order_facts
from relay.views.problems import problem

ROWS: Final = 50
"""Number of plans on a page of the list."""
PAUSED: Final = "paused"
"""The field of the button that starts a migration in which nothing moves yet."""


@dataclass(frozen=True, kw_only=True)
class PlanSummary:
    """A plan in words."""

    found: str
    """The number of objects and bytes, and what becomes of them."""
    expected: str = ""
    """The level of proof, the time and the requests to expect (files of this machine need none)."""
    facts: tuple[tuple[str, str], ...] = ()
    """What else was found: a name and a text each."""
    names: tuple[Mapping[str, str], ...] = ()
    """The first objects that are refused, and why."""
    retry: str = ""
    """Why the listing is retried at the moment."""


@dataclass(frozen=True, kw_only=True)
class PlanRow:
    """A plan in a list."""

    plan: StoredPlan
    found: str


def plan_page(frame: PageFrame, plan: str, error: RelayError | None = None) -> Response:
    """Return the page of one plan; `error` is that of an action that failed. Raises PlanUnknown,
    LedgerFailed."""
    found = frame.ledger.plans.one(plan, frame.viewer)
    return frame.page(
        "plan.html",
        here="new",
        status=200 if error is None else error.status,
        plan=found,
        summary=summary_of(found),
        order=order_facts(found),
        shape=str(found.state),
        live_path=f"/plans/{found.id}",
        problem=_error_of(found) if error is None else problem(error),
        migration=frame.ledger.plans.migration_of(found),
    )


def plans_page(frame: PageFrame) -> Response:
    """Return one page of the list of plans. Raises PlanUnknown for a wrong query, LedgerFailed."""
    before = request.args.get("before")
    found = frame.ledger.plans.newest(ROWS + 1, frame.viewer, before)
    return frame.page(
        "plans.html",
        here="new",
        plans=plan_rows(found[:ROWS]),
        before=before,
        older=found[ROWS - 1].id if len(found) > ROWS else None,
        query=link_query,
    )


def plan_rows(found: Sequence[StoredPlan]) -> list[PlanRow]:
    """Return plans as rows of a list."""
    return [PlanRow(plan=one, found=summary_of(one).found) for one in found]


def plan_update(plan: StoredPlan) -> dict[str, Any]:
    """Return the live values of a plan."""
    summary = summary_of(plan)
    texts = {
        "state": words.PLAN_STATES[plan.state],
        "found": summary.found,
        "retry": visible(summary.retry),
    }
    return {"texts": texts, "bars": {}, "shape": str(plan.state)}


# -- buttons


def act_on_plan(frame: PageFrame, plan: str, verb: PlanVerb) -> Response:
    """Stop a plan or make it again, and lead back to it; an error is shown there. Raises
    PlanUnknown, LedgerFailed."""
    read_form(frame.engine.settings, ())
    try:
        found = act_on_visible_plan(frame.works(), plan, verb)
    except (IllegalTransition, TooManyRequests) as error:
        return plan_page(frame, plan, error)
    return redirect(f"plans/{found.id}")


def start_plan(frame: PageFrame, plan: str) -> Response:
    """Start the migration of a plan, and lead to it: to the same one, if it has started already. An
    error is shown on the plan's page. Raises PlanUnknown, LedgerFailed."""
    fields = read_form(frame.engine.settings, (PAUSED,))
    paused = bool(fields.get(PAUSED))
    try:
        started = start_visible_plan(frame.works(), frame.engine, plan, paused=paused)
    except PlanUnknown:
        raise
    except RelayError as error:
        if error.status >= 500:
            raise
        return plan_page(frame, plan, error)
    return redirect(f"migrations/{started.name}")


def delete_plan(frame: PageFrame, plan: str) -> Response:
    """Delete a plan, and lead to the list. Raises PlanUnknown, LedgerFailed."""
    read_form(frame.engine.settings, ())
    remove_visible_plan(frame.works(), plan)
    return redirect("plans")


# -- words


def summary_of(plan: StoredPlan) -> PlanSummary:
    """Return a plan in words."""
    report = plan.report
    if not report:
        return PlanSummary(found=words.PLAN_WAITS if plan.state == PlanState.PLANNING else "")
    if plan.state in (PlanState.PLANNING, PlanState.CANCELLED, PlanState.FAILED):
        if not report["objects"] and plan.state != PlanState.PLANNING:
            return PlanSummary(found="", names=tuple(report["names"]))
        found = f"{plural(report['objects'], 'object')} so far, {size(report['bytes'])}"
        retry = words.retry_of_listing(report["retry"]) if "retry" in report else ""
        return PlanSummary(found=found, names=tuple(report["names"]), retry=retry)
    decisions = report["decisions"]
    total = sum(one["objects"] for one in decisions.values())
    if not total:
        return PlanSummary(found=words.NOTHING_TO_PLAN)
    return PlanSummary(
        found=f"{plural(total, 'object')}, {size(report['bytes'])}: {_decisions(report)}",
        expected=" · ".join(_expectations(report)),
        facts=tuple(_facts(report)),
        names=tuple(report["names"]),
    )


def _decisions(report: Mapping[str, Any]) -> str:
    roughly = "about " if report["estimated"] else ""
    return " · ".join(
        f"{label} {roughly}{about(report['decisions'][name]['objects'], exact=not roughly)}"
        for name, label in words.DECISIONS.items()
        if name in report["decisions"]
    )


def _expectations(report: Mapping[str, Any]) -> list[str]:
    time = report.get("time")
    requests = [f"{about(report['requests'])} requests"] if report["requests"] else []
    return [
        f"level to expect: {report['level']}",
        words.TIME_UNKNOWN if time is None else f"about {duration(time['about'])}",
        *requests,
    ]


def _facts(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    facts = []
    if report.get("excluded"):  # an older plan does not have it
        facts.append(("Left out", f"{count(report['excluded'])} by the filters"))
    if report["looked"]:
        everything = report["looked"] == report["objects"]
        sample = "all" if everything else f"a random sample of {count(report['looked'])}"
        where = "the destination is empty" if report["destination_empty"] else "on both sides"
        facts.append(("Compared", f"{sample}, {where}"))
    if report["server_copy"]:
        facts.append(("Copied", "by the store itself, if it permits that"))
    if report["in_parts"]["objects"]:
        parts = report["in_parts"]
        facts.append(("In parts", f"{plural(parts['objects'], 'object')}, {size(parts['bytes'])}"))
    if report["unkept"]:
        lose = "loses" if report["unkept"] == 1 else "lose"
        facts.append(("Metadata", f"{plural(report['unkept'], 'compared object')} {lose} metadata"))
    time = report.get("time")
    if time is not None:
        ends = duration(time["low"]), duration(time["high"])
        facts.append(("Time", words.measured_by(time["migration"], *ends)))
    return [*facts, *_newer_facts(report)]


def _newer_facts(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return facts that the report of an older relay does not have."""
    facts = []
    money = report.get("money") or {"totals": {}}
    if money["totals"]:
        known = "at least " if money["unknown"] else "about "
        sums = " + ".join(f"{float(total):,.2f} {name}" for name, total in money["totals"].items())
        facts.append(("Cost", f"{known}{sums}, by prices of {money['oldest']}"))
    if report.get("extra"):
        facts.append(("Only there", f"{count(report['extra'])} names, which stay"))
    if report.get("folds", {}).get("groups"):
        groups = plural(report["folds"]["groups"], "group")
        facts.append(("May fold", f"{groups} of names, if the store folds names"))
    if report.get("incomplete"):
        facts.append(("Incomplete", visible(report["incomplete"][0])))
    return facts


def _error_of(plan: StoredPlan) -> dict[str, str] | None:
    """Return the error of a plan that has failed, as a problem is shown."""
    if plan.error is None:
        return None
    error = plan.error
    return {
        "title": words.reason_title(str(error.get("code", "")), str(error.get("side", ""))),
        "detail": str(error.get("detail", "")),
        "hint": str(error.get("hint", "")),
        "instance": "",
    }
