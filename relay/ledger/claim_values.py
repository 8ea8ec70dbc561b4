"""The claim of a transfer as plain values: the right to work on it, its end, and a poll."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Final

from relay.ledger.migration_values import MigrationView
from relay.ledger.prior_state_values import PriorState
from relay.receipt import Version

MARKED: Final = 1
"""The column `twins` of a marked transfer that has not been sent (`folded_names.py`). Once it is
sent, the column is the fence of the sending claim plus 1. If killed attempts have entered two
transfers, neither is running, and the first to enter again runs."""
ARRIVED_EARLIER: Final = 2**31 - 1
"""The column `twins` of a restarted transfer whose object had arrived. No claim resets it: the
object may be at the destination, whatever the restarted transfer finds there."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """The right to work on one transfer, as long as `fence` is the newest. `crash_count` is the
    number of workers that were lost with it; above 0 the destination must be inspected before a new
    attempt."""

    id: int
    migration_id: str
    fence: int
    name: str
    url: str | None
    size: int | None
    etag: str | None
    modified: float | None
    attempts: int
    crash_count: int
    resent: int
    digests: Mapping[str, str] = field(default_factory=dict)
    """The digests from its list, in hex."""
    renewed: int = 0
    """The migration's `renewed`, when the transfer was claimed."""
    before: PriorState | None = None
    """The destination's state before the first byte was sent, or None: no byte was sent, as far as
    the ledger knows."""
    empty: bool = False
    """The destination of its tree was empty within the last EMPTY_SECONDS."""
    remains: Mapping[str, str] = field(default_factory=dict)
    """Leftovers of ours that may be at the destination, by their location, from the last
    settlement."""
    twins: int = 0
    """Above 0: some stores fold its name and another one of its tree into one. MARKED: no byte of
    it was sent yet."""
    rid: int = 0
    """Claims up to this fence have left nothing at the destination."""
    untouched: bool = False
    """No earlier claim has sent anything."""
    number: int | None = None
    """The number of its migration among those of `tenant`, for the log."""
    tenant: str | None = None
    written: Version | None = None
    """The destination's version that an earlier pass had written, before the source changed;
    without values if the object was there before. None if the source is not known to have
    changed."""
    planned: str | None = None
    """As that of ListedObject."""


@dataclass(frozen=True)
class Settlement:
    """The end of a claim, with its verb of `states.TRANSFER` (verified, unverified, skipped,
    failed, hand_back)."""

    claim: Claim
    verb: str
    _: KW_ONLY
    bytes: int | None = None
    resent: int = 0
    seconds: float | None = None
    level: str | None = None
    receipt: Mapping[str, Any] | None = None
    error: Mapping[str, Any] | None = None
    wait: float = 0.0
    """Seconds before the transfer may be claimed again, after a hand_back."""
    unsent: bool = False
    """The ledger may hold a PriorState, but no byte of the object was sent."""
    remains: Mapping[str, str] = field(default_factory=dict)
    """Leftovers of ours that may be at the destination, by their location, until the object arrives
    and is proved."""
    rid: bool = False
    """Earlier claims have left nothing at the destination, so no later one needs to check."""
    untouched: bool = False
    """No byte of the object was sent, by this claim or an earlier one."""
    sent: Version | None = None
    """The destination's version of an object that arrived and was not proved."""
    place: str | None = None
    """The location of a single object that was skipped: its source may have named it."""


@dataclass(frozen=True)
class PollResult:
    """The result of one poll of a worker: its new claims, the settled claims that it had lost
    before, and the state of the migrations that it works on."""

    claims: tuple[Claim, ...]
    lost: tuple[Claim, ...]
    standings: Mapping[str, MigrationView]
