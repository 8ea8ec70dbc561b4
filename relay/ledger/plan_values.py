"""A plan in the ledger as plain values.

Never here: how it is stored (`plans.py`), and what a report has (`relay/views/dry_runs.py`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from relay.ledger.states import PlanState
from relay.throttle import Bounds


@dataclass(frozen=True, kw_only=True)
class StoredPlan:
    """A request of a migration, with what was found out about it before anything moves. Times are
    seconds since 1970."""

    id: str
    number: int
    """Its place in the order in which the ledger accepted the plans of all tenants."""
    tenant: str
    state: PlanState
    source: str
    destination: str
    options: Mapping[str, Any]
    priority: int
    bounds: Bounds
    report: Mapping[str, Any] | None
    """What was found: so far, while the state is `planning`, and of a plan that was stopped or has
    failed."""
    error: Mapping[str, Any] | None
    migration: str | None
    """The id of the migration that it started."""
    created: float
    ended: float | None
    """When the report was finished, or the plan ended without one."""

    @property
    def recursive(self) -> bool:
        """Whether it is for a tree."""
        return bool(self.options.get("recursive"))


@dataclass(frozen=True, kw_only=True)
class PlanClaim:
    """The right of one worker to make a plan, as long as the fence is the newest."""

    plan: StoredPlan
    fence: int
    secret: Mapping[str, Any] = field(repr=False)
    """The locations of both sides with their credentials."""
