"""The states of a migration and of a transfer, and the transitions by verbs (law 5).

Decided here: which verb leads from which states to which. Never here: SQL, and the choice of verb.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from relay.errors import IllegalTransition


class TransferState(StrEnum):
    """The state of a transfer in the ledger."""

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


class MigrationState(StrEnum):
    """The state of a migration."""

    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    """Every object is verified or skipped."""
    PARTIAL = "partial"
    """Some objects failed, or could not be verified."""
    FAILED = "failed"
    """No object arrived, or the source could not be listed."""
    CANCELLED = "cancelled"


class ListingState(StrEnum):
    """The state of the listing of a migration's source."""

    NONE = "none"
    """The migration is of one object."""
    DUE = "due"
    """Any worker may claim it."""
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


UNLISTED = frozenset({ListingState.DUE, ListingState.RUNNING})
"""The states of a listing that has not named every object."""


class TransferVerb(StrEnum):
    """The verbs of a transfer."""

    CLAIM = "claim"
    HAND_BACK = "hand_back"
    """A worker releases its own claim."""
    LAPSE = "lapse"
    """Another worker releases the claim of a lost worker."""
    QUARANTINE = "quarantine"
    """Too many workers were lost with it."""
    VERIFIED = "verified"
    UNVERIFIED = "unverified"
    SKIPPED = "skipped"
    FAILED = "failed"
    CANCEL = "cancel"
    RETRY = "retry"


class MigrationVerb(StrEnum):
    """The verbs of a migration. A user gives the first four, the ledger the others."""

    PAUSE = "pause"
    RESUME = "resume"
    CANCEL = "cancel"
    RETRY = "retry"
    SUCCEED = "succeed"
    END_PARTIAL = "end_partial"
    FAIL = "fail"


class PlanState(StrEnum):
    """The state of a plan."""

    PLANNING = "planning"
    """A worker of a server makes it, or will."""
    READY = "ready"
    FAILED = "failed"
    """The source could not be listed to its end."""
    CANCELLED = "cancelled"
    """A person has stopped it."""
    STARTED = "started"
    """A migration was started from it."""


class PlanVerb(StrEnum):
    """The verbs of a plan. A user gives the first three, a worker the others."""

    CANCEL = "cancel"
    AGAIN = "again"
    """Plan the same request again."""
    START = "start"
    FINISH = "finish"
    FAIL = "fail"


class Phase(StrEnum):
    """The phase of a standing migration. Its state (running, paused ...) is apart from that."""

    FIRST = "first"
    """The first pass moves everything."""
    STEADY = "steady"
    """Between two passes."""
    DELTA = "delta"
    """A pass looks for changes."""
    REHEARSAL = "rehearsal"
    """As `final`, and nothing follows from it."""
    FINAL = "final"
    """The writers were stopped: passes, until two listings are equal; then the audit."""
    REPORTED = "reported"
    """The audit was good, and the report is signed. The readers may be switched."""
    FINISHED = "finished"
    """The migration stands no longer: it ends as any other does."""


class PhaseEvent(StrEnum):
    """What changes the phase of a standing migration."""

    SETTLE = "settle"
    """A pass is settled."""
    DUE = "due"
    """The next pass begins."""
    REHEARSE = "rehearse"
    REHEARSED = "rehearsed"
    CUTOVER = "cutover"
    REPORT = "report"
    ABORT = "abort"
    REOPEN = "reopen"
    FINISH = "finish"


class PassKind(StrEnum):
    """The kind of a pass: the phase in which it began."""

    FIRST = "first"
    DELTA = "delta"
    REHEARSAL = "rehearsal"
    FINAL = "final"


class FeedEvent(StrEnum):
    """What became of an object, in the feed of a standing migration."""

    COPIED = "copied"
    REPLACED = "replaced"
    """Its copy has replaced the one of an earlier version of the source."""
    SKIPPED = "skipped"
    """The destination had it already."""
    REFUSED = "refused"
    """Another writer has changed it at the destination."""


class EventKind(StrEnum):
    """What an event of a migration tells: a change that a user made, or one that the ledger noted.
    Stored, and sent as the names of server-sent events."""

    ACCEPTED = "accepted"
    PAUSE = "pause"
    RESUME = "resume"
    CANCEL = "cancel"
    RETRY = "retry"
    ACKNOWLEDGE = "acknowledge"
    """A person has seen the failures of an ended migration."""
    LIMITED = "limited"
    LIST_AGAIN = "list_again"
    """The source is listed from the beginning, and what did not arrive is moved."""
    PAUSED = "paused"
    """The migration waits for other credentials."""
    FAILED = "failed"
    """One object failed."""
    LISTING_DONE = "listing_done"
    LISTING_FAILED = "listing_failed"
    ENDED = "ended"
    REPORT_SIGNED = "report_signed"
    """A report was signed (`report_ledger.py`)."""
    PASS_SETTLED = "pass_settled"
    """A pass of a standing migration has listed the source and moved what it found."""
    PHASE = "phase"
    """A standing migration has another phase."""


PENDING = frozenset({TransferState.QUEUED, TransferState.RUNNING})
"""The states of a transfer that has not ended."""
COMPLETED = frozenset({TransferState.VERIFIED, TransferState.SKIPPED})
"""The states of a transfer after which its object needs no more work."""
PRESENT = COMPLETED | {TransferState.UNVERIFIED}
"""The states of a transfer whose object is at the destination."""


@dataclass(frozen=True)
class Transition:
    """The states in which a verb is legal, and the state that it leads to."""

    origins: frozenset[str]
    to: str


def _from(*origins: StrEnum, to: StrEnum) -> Transition:
    return Transition(frozenset(origin.value for origin in origins), to.value)


TRANSFER: Mapping[str, Transition] = {
    TransferVerb.CLAIM: _from(TransferState.QUEUED, to=TransferState.RUNNING),
    TransferVerb.HAND_BACK: _from(TransferState.RUNNING, to=TransferState.QUEUED),
    TransferVerb.LAPSE: _from(TransferState.RUNNING, to=TransferState.QUEUED),
    TransferVerb.QUARANTINE: _from(TransferState.RUNNING, to=TransferState.FAILED),
    TransferVerb.VERIFIED: _from(TransferState.RUNNING, to=TransferState.VERIFIED),
    TransferVerb.UNVERIFIED: _from(TransferState.RUNNING, to=TransferState.UNVERIFIED),
    TransferVerb.SKIPPED: _from(TransferState.RUNNING, to=TransferState.SKIPPED),
    TransferVerb.FAILED: _from(TransferState.RUNNING, to=TransferState.FAILED),
    TransferVerb.CANCEL: _from(
        TransferState.QUEUED, TransferState.RUNNING, to=TransferState.CANCELLED
    ),
    TransferVerb.RETRY: _from(
        TransferState.FAILED,
        TransferState.CANCELLED,
        TransferState.UNVERIFIED,
        to=TransferState.QUEUED,
    ),
}
"""The transitions of a transfer, by `TransferVerb`."""

MIGRATION: Mapping[str, Transition] = {
    MigrationVerb.PAUSE: _from(MigrationState.RUNNING, to=MigrationState.PAUSED),
    MigrationVerb.RESUME: _from(MigrationState.PAUSED, to=MigrationState.RUNNING),
    MigrationVerb.CANCEL: _from(
        MigrationState.RUNNING,
        MigrationState.PAUSED,
        MigrationState.PARTIAL,
        MigrationState.FAILED,
        to=MigrationState.CANCELLED,
    ),
    MigrationVerb.SUCCEED: _from(MigrationState.RUNNING, to=MigrationState.SUCCEEDED),
    MigrationVerb.END_PARTIAL: _from(MigrationState.RUNNING, to=MigrationState.PARTIAL),
    MigrationVerb.FAIL: _from(MigrationState.RUNNING, to=MigrationState.FAILED),
    MigrationVerb.RETRY: _from(
        MigrationState.PARTIAL,
        MigrationState.FAILED,
        MigrationState.CANCELLED,
        to=MigrationState.RUNNING,
    ),
}
"""The transitions of a migration, by `MigrationVerb`."""

PLAN: Mapping[str, Transition] = {
    PlanVerb.CANCEL: _from(PlanState.PLANNING, to=PlanState.CANCELLED),
    PlanVerb.AGAIN: _from(
        PlanState.READY, PlanState.FAILED, PlanState.CANCELLED, to=PlanState.PLANNING
    ),
    PlanVerb.START: _from(
        PlanState.READY, PlanState.FAILED, PlanState.CANCELLED, to=PlanState.STARTED
    ),
    PlanVerb.FINISH: _from(PlanState.PLANNING, to=PlanState.READY),
    PlanVerb.FAIL: _from(PlanState.PLANNING, to=PlanState.FAILED),
}
"""The transitions of a plan, by `PlanVerb`."""

PHASE: Mapping[str, Transition] = {
    PhaseEvent.SETTLE: _from(Phase.FIRST, Phase.DELTA, to=Phase.STEADY),
    PhaseEvent.DUE: _from(Phase.STEADY, to=Phase.DELTA),
    PhaseEvent.REHEARSE: _from(Phase.STEADY, to=Phase.REHEARSAL),
    PhaseEvent.REHEARSED: _from(Phase.REHEARSAL, to=Phase.STEADY),
    PhaseEvent.CUTOVER: _from(Phase.STEADY, to=Phase.FINAL),
    PhaseEvent.REPORT: _from(Phase.FINAL, to=Phase.REPORTED),
    PhaseEvent.ABORT: _from(Phase.REHEARSAL, Phase.FINAL, to=Phase.STEADY),
    PhaseEvent.REOPEN: _from(Phase.REPORTED, to=Phase.STEADY),
    PhaseEvent.FINISH: _from(Phase.REPORTED, to=Phase.FINISHED),
}
"""The transitions of the phase of a standing migration, by `PhaseEvent`."""

STOPPED = frozenset({MigrationState.PAUSED, MigrationState.CANCELLED})
"""The states of a migration whose running transfers and listing are stopped."""
ENDED = frozenset(
    {
        MigrationState.SUCCEEDED,
        MigrationState.PARTIAL,
        MigrationState.FAILED,
        MigrationState.CANCELLED,
    }
)
"""The final states of a migration: no worker works on it, unless it is retried."""

FAULTY = frozenset({MigrationState.PARTIAL, MigrationState.FAILED})
"""The final states of a migration whose failures a person should see."""


def state_after(table: Mapping[str, Transition], verb: str, state: str) -> str | None:
    """Return the state that `verb` leads to, or None if `state` is that state already: a repeated
    verb is harmless. Raises IllegalTransition, which names the state."""
    transition = table[verb]
    if state in transition.origins:
        return transition.to
    if state == transition.to:
        return None
    raise IllegalTransition(f"its state is {state}, which does not allow: {verb.replace('_', ' ')}")


def ending_verb(tally: Mapping[str, int]) -> MigrationVerb:
    """Return the verb that ends a migration whose transfers are all settled. `tally` is the number
    of transfers in each state."""
    lost = (TransferState.FAILED, TransferState.CANCELLED)
    unverified = tally.get(TransferState.UNVERIFIED, 0)
    if not unverified + sum(tally.get(state, 0) for state in lost):
        return MigrationVerb.SUCCEED
    arrived = unverified + sum(tally.get(state, 0) for state in COMPLETED)
    return MigrationVerb.END_PARTIAL if arrived else MigrationVerb.FAIL
