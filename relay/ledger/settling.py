"""End claims: verified, failed, handed back.

Theory of operation. This worker's claims are read and locked. Then all settlements are written at
once, except those of claims that are no longer ours. Receipts are stored, and data that an arrived
object no longer needs is deleted. A skipped object that another migration has begun to send since
it was listed here is handed back, and adopts that migration's state. An object that arrived is
handed back too, if a listing has named another version of it meanwhile than the one that was read.

Decided here: what a settlement changes. Never here: which worker has a claim (`claims.py`), and how
a transfer ended."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import itemgetter
from typing import Any, Final

from sqlalchemy import Connection, bindparam, delete, select, text, update

from relay.errors import DestinationChanged
from relay.ledger.claim_values import Claim, Settlement
from relay.ledger.counters import CounterDelta
from relay.ledger.event_log import write_event
from relay.ledger.listed_objects import was_read
from relay.ledger.names import in_chunks
from relay.ledger.prior_state_values import ARRIVED, REMAINING, PriorState
from relay.ledger.reasons import mark_failed
from relay.ledger.releases import free_parts
from relay.ledger.schema import RUNNING, migrations, parts, receipts, transfers, uploads
from relay.ledger.states import (
    COMPLETED,
    PRESENT,
    TRANSFER,
    EventKind,
    FeedEvent,
    MigrationState,
    TransferState,
    TransferVerb,
)
from relay.ledger.unproved import adopt, find_unproved_skips
from relay.ledger.workers import WorkerId
from relay.receipt import Version

_SENT: Final = PRESENT - {TransferState.SKIPPED}
"""The states of a transfer that has sent its object."""
_COMPACT: Final = json.JSONEncoder(separators=(",", ":"))
MANY: Final = 10
"""Maximum number of earlier claims whose leftovers are searched for at a destination. With more,
the ledger records the claims that have left nothing."""
_ENDS: Final = (
    "UPDATE transfers SET state = ?, owner = NULL, bytes = ?, size = ?, resent = resent + ?,"
    " seconds = ?, level = ?, error = ?, not_before = ?, ended = ?, lapses = coalesce(?, lapses),"
    " before = ? WHERE id = ? AND fence = ? AND owner = ? AND state = 'running'"
)
_IN_ORDER: Final = itemgetter(
    *("new_state", "new_bytes", "new_size", "more_resent", "new_seconds", "new_level"),
    *("new_error", "new_not_before", "new_ended", "new_lapses", "new_before"),
    *("the_id", "the_fence", "the_owner"),
)
_PROOFS: Final = (
    "INSERT INTO receipts (transfer_id, receipt) VALUES (?, ?)"
    " ON CONFLICT (transfer_id) DO UPDATE SET receipt = excluded.receipt"
)
"""Statements for SQLite's driver: SQLAlchemy would process the values of each row once more, which
takes twice as long as SQLite's own work."""
_HELD = (
    select(
        transfers.c.id,
        transfers.c.fence,
        transfers.c.size,
        transfers.c.level,
        migrations.c.state.label("stage"),
        migrations.c.phase,
    )
    .add_columns(transfers.c.etag, transfers.c.modified, transfers.c.digests)
    .add_columns(uploads.c.transfer_id.label("begun"), transfers.c.before)
    .join(migrations, migrations.c.id == transfers.c.migration_id)
    .outerjoin(uploads, uploads.c.transfer_id == transfers.c.id)
    .where(transfers.c.owner == bindparam("the_owner"), RUNNING)
    .order_by(transfers.c.id)
    .with_for_update(of=transfers)
)
"""The rows are locked, so that no other worker can reclaim them until this transaction ends; every
transaction locks them in the same order."""
_ALL = text(
    "WITH ends AS (SELECT * FROM json_to_recordset(CAST(:ends AS json)) AS rows(the_id bigint,"
    " the_fence integer, the_owner text, new_state text, new_bytes bigint, new_size bigint,"
    " more_resent bigint, new_seconds float8, new_level text, new_error text, new_not_before"
    " float8, new_ended float8, new_lapses integer, new_before text, receipt text)), settled AS"
    " (UPDATE transfers SET state = new_state, owner = NULL, bytes = new_bytes, size = new_size,"
    " resent = resent + more_resent, seconds = new_seconds, level = new_level, error = new_error,"
    " not_before = new_not_before, ended = new_ended, before = new_before, lapses ="
    " coalesce(new_lapses, lapses) FROM ends WHERE id = the_id AND fence = the_fence AND owner ="
    " the_owner AND state = 'running' RETURNING id) INSERT INTO receipts (transfer_id, receipt)"
    " SELECT the_id, receipt FROM ends JOIN settled ON id = the_id WHERE receipt IS NOT NULL ON"
    " CONFLICT (transfer_id) DO UPDATE SET receipt = excluded.receipt"
)
"""Both statements for all settlements at once, for PostgreSQL, where each statement costs a round
trip."""


@dataclass(eq=False, kw_only=True)
class _Ending:
    """The changes of some settlements."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    receipts: dict[int, str] = field(default_factory=dict)
    back: list[int] = field(default_factory=list)
    """Transfers whose multipart upload may be resumed, also by another worker."""
    arrived: list[int] = field(default_factory=list)
    """Transfers that no longer need the record of their multipart upload."""
    urls: list[int] = field(default_factory=list)
    outdated: list[int] = field(default_factory=list)
    """Transfers whose receipt is of an earlier run."""
    failed: dict[str, list[int]] = field(default_factory=dict)
    """Transfers that failed, by the reason."""
    lost: list[Claim] = field(default_factory=list)


def settle(
    connection: Connection, worker: WorkerId, ends: Sequence[Settlement], changes: CounterDelta
) -> list[Claim]:
    """Write the settlements of claims; return the claims that were no longer ours, of which nothing
    is written. Add the change of the tallies to `changes`."""
    if not ends:
        return []
    # Step 1: hand back the skips of objects that another migration has begun to send.
    skipped = [end for end in ends if end.verb == TransferVerb.SKIPPED]
    unproved = find_unproved_skips(connection, skipped) if skipped else {}
    if unproved:
        ends = [
            Settlement(end.claim, TransferVerb.HAND_BACK, resent=end.resent, remains=end.remains)
            if end.claim.name in unproved.get(end.claim.migration_id, ())
            else end
            for end in ends
        ]
    # Step 2: lock this worker's claims, and write the settlements of those it still has.
    ending = _end_of(connection, worker, ends, changes)
    if ending.rows:
        _write(connection, ending)
        mark_failed(connection, ending.failed)
    # Step 3: prepare the next claims: adopted states, and parts that any worker may take.
    for id, left in unproved.items():
        adopt(connection, id, left, over_sent=True)
    free_parts(connection, worker, ending.back)
    # Step 4: delete what is not needed any longer.
    _forget_parts(connection, ending.arrived)
    _forget_urls(connection, ending.urls)
    for some in in_chunks(ending.outdated):
        connection.execute(delete(receipts).where(receipts.c.transfer_id.in_(some)))
    return ending.lost


def _write(connection: Connection, ending: _Ending) -> None:
    if connection.dialect.name != "sqlite":
        rows = [{**row, "receipt": ending.receipts.get(row["the_id"])} for row in ending.rows]
        connection.execute(_ALL, {"ends": json.dumps(rows)})
        return
    connection.exec_driver_sql(_ENDS, [_IN_ORDER(row) for row in ending.rows])
    if ending.receipts:
        connection.exec_driver_sql(_PROOFS, list(ending.receipts.items()))


def _end_of(
    connection: Connection, worker: WorkerId, ends: Sequence[Settlement], changes: CounterDelta
) -> _Ending:
    rows = connection.execute(_HELD, {"the_owner": worker.id}).all()
    held = {(row.id, row.fence): row for row in rows}
    now, ending = time.time(), _Ending()
    for end in ends:
        claim = end.claim
        row = held.get((claim.id, claim.fence))
        if row is None:
            ending.lost.append(claim)
            continue
        has_arrived = end.verb in PRESENT
        if end.verb in COMPLETED and _is_listed_again(row, claim, end.receipt):
            end = _handed_back(end)
        verb = end.verb
        # No worker claims from a cancelled migration, so the row would stay queued for ever.
        if verb == TransferVerb.HAND_BACK and row.stage == MigrationState.CANCELLED:
            verb = TransferVerb.CANCEL
        state = TRANSFER[verb].to
        size = end.bytes if end.bytes is not None else row.size
        changes.count_transition(claim.migration_id, TransferState.RUNNING, state, row.size, size)
        changes.count_proof(claim.migration_id, row.level, end.level)
        changes.count_resent_bytes(claim.migration_id, end.resent)
        _note_for_standing(row, end, state, size or 0, changes=changes, now=now)
        ending.rows.append(
            _settled_columns(end, worker, state=state, size=size, now=now, was=row.before)
        )
        if end.receipt is not None:
            ending.receipts[claim.id] = _COMPACT.encode(end.receipt)
        elif row.level is not None:
            ending.outdated.append(claim.id)
        if row.begun is not None:
            (ending.arrived if has_arrived else ending.back).append(claim.id)
        if claim.url:
            ending.urls.append(claim.id)
        if state == TransferState.FAILED:
            reason = _record_failure(connection, end, size or 0, changes)
            ending.failed.setdefault(reason, []).append(claim.id)
    return ending


def _note_for_standing(
    row: Any, end: Settlement, state: str, size: int, *, changes: CounterDelta, now: float
) -> None:
    """Count an object of a standing migration that was sent, and write its row of the feed."""
    if row.phase is None:
        return
    id = end.claim.migration_id
    if state in _SENT:
        changes.passes.add(id, "copied", 1)
        changes.passes.add(id, "bytes", size)
    event = _feed_event(end, state)
    if event is not None:
        changes.feed.add(id, end.claim.name, event, _feed_members(end), now)


def _feed_event(end: Settlement, state: str) -> FeedEvent | None:
    if state == TransferState.SKIPPED:
        return FeedEvent.SKIPPED
    if state in _SENT:
        return FeedEvent.COPIED if end.claim.written is None else FeedEvent.REPLACED
    is_refused = (end.error or {}).get("code") == DestinationChanged.code
    return FeedEvent.REFUSED if state == TransferState.FAILED and is_refused else None


def _feed_members(end: Settlement) -> dict[str, Any]:
    receipt = end.receipt or {}
    members: dict[str, Any] = {}
    for side in ("source", "destination"):
        version = receipt.get(side)
        if version is not None:
            members[side] = {name: version.get(name) for name in ("etag", "version")}
    return {**members, "level": end.level, "digests": receipt.get("digests") or {}}


def _handed_back(end: Settlement) -> Settlement:
    """Return the settlement of an arrived object that is listed as another version: it is moved
    again. One that was proved is ours, in its next claim too. After a skip the destination's state
    is recorded again, as for an object that had arrived."""
    sent = _version_of((end.receipt or {}).get("destination"))
    return Settlement(
        end.claim,
        TransferVerb.HAND_BACK,
        resent=end.resent,
        remains=end.remains,
        unsent=sent is None,
        sent=sent,
    )


def _record_failure(
    connection: Connection, end: Settlement, size: int, changes: CounterDelta
) -> str:
    """Count a failed object by its reason, which is returned, and write its event."""
    claim = end.claim
    event = {"name": claim.name, **(end.error or {})}
    reason = changes.failures.add(connection, claim.migration_id, claim.name, end.error, size)
    write_event(connection, claim.migration_id, EventKind.FAILED, event)
    return reason


def _version_of(members: Any) -> Version | None:
    """Return the version in a receipt, without its digests; None gives None."""
    if not members:
        return None
    return Version(
        size=members["size"],
        etag=members["etag"],
        last_modified=members["last_modified"],
        id=members["version"],
    )


def _is_listed_again(row: Any, claim: Claim, receipt: Mapping[str, Any] | None) -> bool:
    """Say if a listing has named another version of an object since it was claimed, and the version
    that arrived may be an older one. A transfer reads the version that the source has at that time:
    if the listing names the same one, it has arrived, and another upload would send it twice."""
    digests = json.loads(row.digests) if row.digests else {}
    listed = (row.size, row.etag, row.modified, digests)
    if listed == (claim.size, claim.etag, claim.modified, claim.digests):
        return False
    return digests != claim.digests or not was_read(receipt, row.size, row.etag)


def _settled_columns(
    end: Settlement, worker: WorkerId, *, state: str, size: int | None, now: float, was: str | None
) -> dict[str, Any]:
    return {
        "the_id": end.claim.id,
        "the_fence": end.claim.fence,
        "the_owner": worker.id,
        "new_state": state,
        "new_bytes": end.bytes,
        "new_size": size,
        "more_resent": end.resent,
        "new_seconds": end.seconds,
        "new_level": end.level,
        "new_error": None if end.error is None else _COMPACT.encode(end.error),
        "new_not_before": now + end.wait if end.wait else 0.0,
        "new_ended": now,
        "new_lapses": _lapses(end, state),
        "new_before": _kept_prior_state(was if state not in COMPLETED else ARRIVED, end),
    }


def _lapses(end: Settlement, state: str) -> int | None:
    """Return the new crash count, or None to keep it. A count above 0 marks a transfer that may
    have left something: after a hand_back it may be cancelled, or no longer listed, before the next
    claim. A proved object has replaced it."""
    if state == TransferState.VERIFIED and not end.remains:
        return 0
    if end.remains and state not in PRESENT:
        return max(1, end.claim.crash_count)
    return 0 if end.rid and state == TransferState.FAILED else None


def _kept_prior_state(was: str | None, end: Settlement) -> str | None:
    """Return the text of the PriorState to store, with the leftovers that may remain, and the
    version of an object that arrived unproved."""
    if end.unsent:
        was = ARRIVED
    elif end.untouched:
        earlier = PriorState.from_text(was)
        if earlier is None or earlier.unsent:
            was = PriorState(known=False, noted=False, unsent=end.claim.fence).to_text()
    rid = end.claim.fence - 1 if end.rid and end.claim.fence > MANY else end.claim.rid
    frees_more = end.rid and REMAINING in (was or "")  # what this claim has found to be gone
    leaves_more = bool(end.remains) or end.sent is not None
    if not (leaves_more or frees_more) and (not rid or was == ARRIVED):
        return was
    kept = PriorState.from_text(was) or PriorState(known=False, noted=False)
    # A claim that has not freed the place knows nothing of what earlier ones have left there.
    remains = dict(end.remains) if end.remains or end.rid else kept.remains
    kept = replace(kept, remains=remains, rid=rid, doubted=kept.doubted and not remains)
    if end.sent is not None:
        kept = replace(kept, sent=end.sent, noted=True, arrived=False, doubted=False)
    return kept.to_text()


def _forget_parts(connection: Connection, ids: Sequence[int]) -> None:
    """Delete the records of multipart uploads: an arrived object does not need them."""
    for some in in_chunks(ids):
        connection.execute(delete(parts).where(parts.c.transfer_id.in_(some)))
        connection.execute(delete(uploads).where(uploads.c.transfer_id.in_(some)))


def _forget_urls(connection: Connection, ids: Sequence[int]) -> None:
    """Delete the URLs of arrived objects, which may hold signatures."""
    arrived = transfers.c.state.in_(COMPLETED)
    for some in in_chunks(ids):
        connection.execute(
            update(transfers).where(transfers.c.id.in_(some), arrived).values(url=None)
        )
