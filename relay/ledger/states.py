"""The states of a migration and of a transfer, and every transition between them (law 5).

Decided here: which verb leads from which states to which. Never here: SQL, and the choice of verb.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from relay.errors import IllegalTransition


class TransferState(Enum):
    """Where a transfer stands in the ledger."""

    QUEUED = "queued"
    """Any worker may claim it."""
    RUNNING = "running"
    """A worker has claimed it, and no other worker has found that worker's lease expired."""
    VERIFIED = "verified"
    UNVERIFIED = "unverified"
    SKIPPED = "skipped"
    """The destination already had the object: unchanged, or kept because of `if_exists`."""
    FAILED = "failed"
    CANCELLED = "cancelled"


class MigrationState(Enum):
    """Where a migration stands."""

    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    """Every object is verified or skipped."""
    PARTIAL = "partial"
    """Some objects failed, or could not be verified."""
    FAILED = "failed"
    """No object arrived, or the source could not be listed."""
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class Transition:
    """The states in which a verb is legal, and the state that it leads to."""

    origins: frozenset[str]
    to: str


def _from(*origins: Enum, to: Enum) -> Transition:
    return Transition(frozenset(origin.value for origin in origins), to.value)


TRANSFER: Mapping[str, Transition] = {
    "claim": _from(TransferState.QUEUED, to=TransferState.RUNNING),
    "hand_back": _from(TransferState.RUNNING, to=TransferState.QUEUED),
    "lapse": _from(TransferState.RUNNING, to=TransferState.QUEUED),
    "quarantine": _from(TransferState.RUNNING, to=TransferState.FAILED),
    "verified": _from(TransferState.RUNNING, to=TransferState.VERIFIED),
    "unverified": _from(TransferState.RUNNING, to=TransferState.UNVERIFIED),
    "skipped": _from(TransferState.RUNNING, to=TransferState.SKIPPED),
    "failed": _from(TransferState.RUNNING, to=TransferState.FAILED),
    "cancel": _from(TransferState.QUEUED, TransferState.RUNNING, to=TransferState.CANCELLED),
    "retry": _from(
        TransferState.FAILED,
        TransferState.CANCELLED,
        TransferState.UNVERIFIED,
        to=TransferState.QUEUED,
    ),
}
"""The verbs of a transfer. A worker says `hand_back` of its own claim; another worker says `lapse`
of the claim of a lost worker."""

MIGRATION: Mapping[str, Transition] = {
    "pause": _from(MigrationState.RUNNING, to=MigrationState.PAUSED),
    "resume": _from(MigrationState.PAUSED, to=MigrationState.RUNNING),
    "cancel": _from(
        MigrationState.RUNNING,
        MigrationState.PAUSED,
        MigrationState.PARTIAL,
        MigrationState.FAILED,
        to=MigrationState.CANCELLED,
    ),
    "succeed": _from(MigrationState.RUNNING, to=MigrationState.SUCCEEDED),
    "end_partial": _from(MigrationState.RUNNING, to=MigrationState.PARTIAL),
    "fail": _from(MigrationState.RUNNING, to=MigrationState.FAILED),
    "retry": _from(
        MigrationState.PARTIAL,
        MigrationState.FAILED,
        MigrationState.CANCELLED,
        to=MigrationState.RUNNING,
    ),
}
"""The verbs of a migration."""

ENDED = frozenset({"succeeded", "partial", "failed", "cancelled"})
"""The final states of a migration: no worker works on it, unless it is retried."""


def state_after(table: Mapping[str, Transition], verb: str, state: str) -> str | None:
    """Return the state that `verb` leads to, or None if `state` is that state already: a repeated
    verb is harmless. Raises IllegalTransition, which names the state."""
    transition = table[verb]
    if state in transition.origins:
        return transition.to
    if state == transition.to:
        return None
    raise IllegalTransition(f"its state is {state}, which does not allow: {verb.replace('_', ' ')}")


def ending_verb(tally: Mapping[str, int]) -> str:
    """Return the verb that ends a migration whose transfers are all settled. `tally` is the number
    of transfers in each state."""
    succeeded = tally.get("verified", 0) + tally.get("skipped", 0)
    others = sum(tally.get(state, 0) for state in ("unverified", "failed", "cancelled"))
    if not others:
        return "succeed"
    arrived = succeeded + tally.get("unverified", 0)
    return "end_partial" if arrived else "fail"
