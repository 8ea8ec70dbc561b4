"""The states of a migration and of a transfer, and every transition between them (law 5).

Decided here: which verb leads from which states to which. Never here: SQL, and who says the verb.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from relay.errors import IllegalTransition


class TransferState(Enum):
    """Where a transfer stands in the ledger."""

    QUEUED = "queued"
    """Anybody may claim it."""
    RUNNING = "running"
    """A runner has claimed it, and its lease has not lapsed as far as anybody noticed."""
    VERIFIED = "verified"
    UNVERIFIED = "unverified"
    SKIPPED = "skipped"
    """The destination had it, unchanged or to be left alone."""
    FAILED = "failed"
    CANCELLED = "cancelled"


class MigrationState(Enum):
    """Where a migration stands."""

    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    """Every object is verified, or was there unchanged."""
    PARTIAL = "partial"
    """Some objects failed, or could not be verified."""
    FAILED = "failed"
    """Nothing arrived, or the source could not be listed."""
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class Transition:
    """From which states a verb leads where."""

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
"""What may happen to a transfer. `hand_back` is a runner's own doing, `lapse` is done to one that
is gone."""

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
"""What may happen to a migration."""

ENDED = frozenset({"succeeded", "partial", "failed", "cancelled"})
"""The states of a migration that nobody works on, until it is told to `retry`."""


def state_after(table: Mapping[str, Transition], verb: str, state: str) -> str | None:
    """Return the state that `verb` leads to; None where `state` is that one already, so that saying
    it twice is harmless. Raises IllegalTransition, which names the state."""
    transition = table[verb]
    if state in transition.origins:
        return transition.to
    if state == transition.to:
        return None
    raise IllegalTransition(f"it is {state}, and can't {verb.replace('_', ' ')} any more")


def ending_verb(tally: Mapping[str, int]) -> str:
    """Return the verb that ends a migration whose transfers are all settled, by their numbers in
    each state."""
    well = tally.get("verified", 0) + tally.get("skipped", 0)
    ill = sum(tally.get(state, 0) for state in ("unverified", "failed", "cancelled"))
    if not ill:
        return "succeed"
    moved = well + tally.get("unverified", 0)
    return "end_partial" if moved else "fail"
