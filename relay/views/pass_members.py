"""Standing migrations and their passes as plain values, for the API, the terminal and reports."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from relay.ledger.standing_values import FeedRow, Pass, StandingState

if TYPE_CHECKING:
    from relay.ledger.migration_values import Migration


def pass_members(one: Pass) -> dict[str, Any]:
    """Return the members of a pass; times are seconds since 1970."""
    return {
        "number": one.number,
        "kind": one.kind,
        "begun": one.begun,
        "listed_at": one.listed_at,
        "ended": one.ended,
        "complete": one.complete,
        "listed": one.listed,
        "changed": one.changed,
        "gone": one.gone,
        "copied": one.copied,
        "bytes": one.bytes,
        "deleted": one.deleted,
        "refused": one.refused,
        "failed": one.failed,
        "p50": one.p50,
        "p90": one.p90,
        "outcome": None if one.outcome is None else dict(one.outcome),
    }


def standing_members(standing: StandingState | None) -> dict[str, Any] | None:
    """Return the members of what makes a migration a standing one, or None."""
    if standing is None:
        return None
    times = standing.times
    return {
        "phase": standing.phase,
        "every": times.every,
        "window": None if times.hours is None else str(times.hours),
        "due": standing.due,
    }


def feed_members(row: FeedRow, migration: Migration) -> dict[str, Any]:
    """Return the members of a row of a migration's feed. The URL has no secrets."""
    shown: dict[str, Any] = dict(row.members)
    folder = migration.destination.removesuffix("/")
    url = f"{folder}/{quote(row.name, safe='/', errors='surrogateescape')}"
    destination = {"url": url, **(shown.pop("destination", None) or {})}
    return {
        "seq": row.seq,
        "at": row.at,
        "name": row.name,
        "event": row.event,
        "source": shown.pop("source", None),
        "destination": destination,
        **shown,
    }
