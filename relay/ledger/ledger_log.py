"""What changes of the ledger look like in the log: a line once the change is committed.

Decided here: the members of these lines. Never here: how many of them there may be
(`relay/logs/event_table.py`), and what the audit log records (`audit_log.py`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from relay.ledger.audit_log import Actor
from relay.ledger.claim_values import Claim, Settlement
from relay.ledger.listing_values import ListingClaim
from relay.ledger.migration_values import Migration
from relay.ledger.states import MigrationVerb
from relay.logs.emitter import emit
from relay.logs.event_table import LogEvent

NOBODY: Final = Actor(name="relay")
"""The actor of a change that relay made, or a command of this machine."""

VERB_EVENTS: Final[Mapping[str, LogEvent]] = {
    MigrationVerb.PAUSE: LogEvent.MIGRATION_PAUSED,
    MigrationVerb.RESUME: LogEvent.MIGRATION_RESUMED,
    MigrationVerb.CANCEL: LogEvent.MIGRATION_CANCELLED,
    MigrationVerb.RETRY: LogEvent.MIGRATION_RETRIED,
    "acknowledge": LogEvent.MIGRATION_ACKNOWLEDGED,
}
"""The events of verbs of a person; all have the same members."""
TOKEN_EVENTS: Final[Mapping[str, LogEvent]] = {
    "token create": LogEvent.TOKEN_CREATED,
    "token limit": LogEvent.TOKEN_LIMITED,
    "token rotate": LogEvent.TOKEN_ROTATED,
    "token revoke": LogEvent.TOKEN_REVOKED,
    "token forget": LogEvent.TOKEN_FORGOTTEN,
}
"""The events of changes of tokens, by the audit log's verb."""
SESSION_EVENTS: Final = {True: LogEvent.SESSION_STARTED, False: LogEvent.SESSION_ENDED}
"""The events of a session's start (True) and end."""


def log_accepted(actor: Actor | None, migration: Migration) -> None:
    """Log a migration that was accepted."""
    by = actor or NOBODY
    emit(
        LogEvent.MIGRATION_ACCEPTED,
        migration=migration.id,
        number=migration.number,
        tenant=migration.tenant,
        token=by.token_id,
        request=by.request,
        who=by.name,
        address=by.address or None,
        source=migration.source,
        destination=migration.destination,
    )


def log_verb(
    actor: Actor | None, verb: str, migration: Migration, reason: str | None = None
) -> None:
    """Log what a person, or relay, has done with a migration."""
    by = actor or NOBODY
    emit(
        VERB_EVENTS[verb],
        migration=migration.id,
        number=migration.number,
        tenant=migration.tenant,
        token=by.token_id,
        request=by.request,
        who=by.name,
        address=by.address or None,
        reason=reason,
    )


def log_limits(actor: Actor | None, migration: Migration) -> None:
    """Log the limits of a migration after they were changed."""
    by = actor or NOBODY
    emit(
        LogEvent.MIGRATION_LIMITED,
        migration=migration.id,
        number=migration.number,
        tenant=migration.tenant,
        token=by.token_id,
        request=by.request,
        who=by.name,
        address=by.address or None,
        change={"priority": migration.priority, **migration.bounds.to_json()},
    )


def log_token(actor: Actor | None, verb: str, name: str, tenant: str | None) -> None:
    """Log a change of a token, by the token's name."""
    by = actor or NOBODY
    emit(
        TOKEN_EVENTS[verb],
        tenant=tenant,
        token=by.token_id,
        request=by.request,
        who=by.name,
        address=by.address or None,
        what=name,
    )


def log_session(actor: Actor | None, *, starts: bool) -> None:
    """Log that a browser has signed in, or out."""
    by = actor or NOBODY
    emit(
        SESSION_EVENTS[starts],
        tenant=by.tenant,
        token=by.token_id,
        request=by.request,
        who=by.name,
        address=by.address or None,
    )


def log_end(migration: Migration) -> None:
    """Log a migration that has ended, with the counts of its objects."""
    seconds = None if migration.ended is None else migration.ended - migration.created
    emit(
        LogEvent.MIGRATION_ENDED,
        migration=migration.id,
        number=migration.number,
        tenant=migration.tenant,
        id=migration.id,
        state=migration.state,
        source=migration.source,
        destination=migration.destination,
        objects={state: count.objects for state, count in sorted(migration.tally.items())},
        bytes=migration.count_in().bytes,
        seconds=None if seconds is None else round(seconds, 3),
        levels=dict(migration.efforts.levels),
        error=migration.error,
    )


def log_listing_failure(listing: ListingClaim, error: Mapping[str, Any]) -> None:
    """Log a listing that has failed, with the members of its error in the ledger."""
    emit(
        LogEvent.LISTING_FAILED,
        migration=listing.migration_id,
        side=error.get("side"),
        code=error.get("code"),
        detail=error.get("detail"),
    )


def log_losses(claims: int, quarantined: int) -> None:
    """Log that workers are gone, with the number of their claims, and of objects that are given
    up."""
    emit(LogEvent.RUNNER_LOST, claims=claims)
    if quarantined:
        emit(LogEvent.TRANSFER_QUARANTINED, objects=quarantined)


def log_failure(claim: Claim, error: Mapping[str, Any]) -> None:
    """Log an object that has failed for good, with the members of its error in the ledger."""
    emit(
        LogEvent.TRANSFER_FAILED,
        migration=claim.migration_id,
        number=claim.number,
        tenant=claim.tenant,
        transfer=claim.id,
        name=claim.name,
        side=error.get("side"),
        code=error.get("code"),
        status=error.get("status"),
        attempts=claim.attempts,
    )


def log_success(end: Settlement) -> None:
    """Log an object that has arrived, or was skipped."""
    claim = end.claim
    emit(
        LogEvent.TRANSFER_SETTLED,
        migration=claim.migration_id,
        number=claim.number,
        tenant=claim.tenant,
        transfer=claim.id,
        name=claim.name,
        state=end.verb,
        proof=end.level,
        bytes=end.bytes,
        seconds=end.seconds,
    )
