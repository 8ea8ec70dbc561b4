"""`relay audit log`: who changed what on a server, from the ledger of this machine."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from relay.cli.exits import Exit
from relay.cli.terminal import confirm, plain, tell, tell_empty
from relay.settings_sources import load_settings, trusted_ledger_url

# SQLAlchemy takes a fifth of a second, for which the help should not wait.
if TYPE_CHECKING:
    from relay.ledger.audit_log import AuditRow


@click.group()
def audit() -> None:
    """Show the audit log of a server, which its ledger keeps for 400 days."""


@audit.command("log")
@click.option(
    "--limit",
    type=click.IntRange(1, 100_000),
    default=100,
    help="Number of rows to show (default: 100).",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@click.option(
    "--verify",
    is_flag=True,
    help="Check the whole log instead: exit 1 if a row was changed, added or taken out.",
)
def log(limit: int, as_json: bool, verify: bool) -> int:
    """Print the newest rows, the newest first: when, who, from which address, what, and what it
    changed. It has migrations that clients began and steered, tokens and sign-ins; not those of
    commands in a terminal, except `relay token`."""
    from relay.ledger.ledger import Ledger

    ledger = Ledger.connect(trusted_ledger_url(load_settings()))
    try:
        if verify:
            return _verify(ledger)
        rows = ledger.audit.newest(limit)
        where = ledger.database.where
    finally:
        ledger.close()
    for row in rows:
        tell(json.dumps(_members(row)) if as_json else plain(_line(row)))
    if not rows:
        tell_empty(f"no audit log in {where}")
    return Exit.VERIFIED


def _verify(ledger: Any) -> int:
    """Print what a check of the whole log found. The last hash proves everything before it, if it
    is kept in another place."""
    found = ledger.audit.verify()
    if found.fault is not None:
        confirm(f"the audit log was changed by hand: {found.fault}")
        return Exit.FAILED
    confirm(f"{found.rows:,} rows are as they were written; the last hash is {found.hash}")
    return Exit.VERIFIED


def _members(row: AuditRow) -> dict[str, Any]:
    actor = row.actor
    return {
        "id": row.id,
        "at": row.at,
        "actor": actor.name,
        "token_id": actor.token_id,
        "tenant": actor.tenant,
        "address": actor.address,
        "verb": row.verb,
        "object": row.object,
        "before": row.before,
        "after": row.after,
        "hash": row.hash,
    }


def _line(row: AuditRow) -> str:
    at = f"{datetime.fromtimestamp(row.at, UTC):%Y-%m-%d %H:%M:%S}Z"
    who = (
        row.actor.name if row.actor.token_id is None else f"{row.actor.name} ({row.actor.token_id})"
    )
    changed = _changes(row.before or {}, row.after or {})
    return f"{at}  {who}  {row.actor.address or '-'}  {row.verb}  {row.object}  {changed}".rstrip()


def _changes(before: Any, after: Any) -> str:
    """Return the members that differ: `slots none -> 3`."""
    names = [name for name in after if before.get(name) != after[name]]
    return ", ".join(f"{name} {_text(before.get(name))} -> {_text(after[name])}" for name in names)


def _text(value: Any) -> str:
    return "none" if value is None else str(value)
