"""Plans in the ledger as plain values, for the API.

Never here: what a plan finds (`dry_runs.py`), and how the page shows it (`relay/ui/`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from relay.ledger.plan_values import StoredPlan

_OF_PLAN: Final = frozenset({"source", "destination"})
"""Members of a report that the plan has itself."""


def plan_summary(plan: StoredPlan) -> dict[str, Any]:
    """Return all members of a plan as plain values."""
    return {
        "id": plan.id,
        "tenant": plan.tenant,
        "state": plan.state,
        "source": plan.source,
        "destination": plan.destination,
        "options": dict(plan.options),
        "priority": plan.priority,
        "limits": plan.bounds.to_json(),
        "created": plan.created,
        "ended": plan.ended,
        "findings": _findings(plan.report) if plan.report else None,
        "error": plan.error,
        "migration": plan.migration,
    }


def _findings(report: Mapping[str, Any]) -> dict[str, Any]:
    found = {name: value for name, value in report.items() if name not in _OF_PLAN}
    return {"time": None, "retry": None, "excluded": 0, **found}
