"""Names that differ here, and that a store may fold into one (case, Unicode form, trailing
characters).

Theory of operation. A name that differs from its folded form is stored with a digest of that form.
Names of a page that share a folded form are marked when they are listed, with the names of other
trees of the destination (`siblings.py`). A worker enters a marked transfer before it sends it. So
two transfers of one folded form never run at the same time, and the second one knows the first
one's name, to check if the destination keeps them apart. A name that is its own folded form costs
only one look-up in an index. Rows of an older relay have the digests of that one's forms, and are
looked up by these too.

Decided here: which transfers may be of one object. Never here: which names a store may fold into
one (`relay/name_folding.py`), and whether it does (`relay/engine/transfer/folded_names.py`)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, case, select, update

from relay.caseless import DOTLESS_I, former_form
from relay.errors import LeaseLost
from relay.ledger.claim_values import ARRIVED_EARLIER, Claim
from relay.ledger.claim_values import MARKED as MARKED
from relay.ledger.names import has_name, in_chunks, md5
from relay.ledger.schema import FOLDED, RUNNING, transfers
from relay.ledger.siblings import siblings_of
from relay.ledger.states import PRESENT, TransferState
from relay.ledger.workers import WorkerId
from relay.name_folding import fold

_COLUMNS: Final = (
    transfers.c.id,
    transfers.c.migration_id,
    transfers.c.name,
    transfers.c.folded,
    transfers.c.state,
    transfers.c.fence,
    transfers.c.twins,
    transfers.c.ended,
)


def _keys(name: str) -> set[str]:
    """Return the forms under which transfers of a name's folded form are looked up: this one, and
    that of an older relay. (A transfer that the older one wrote under a third form is missed.)"""
    former = fold(name, former_form)
    return {former, fold(name)} if DOTLESS_I in former else {former}


def folded_digest(name: str) -> str | None:
    """Return a digest of a name's folded form, or None if the name is its own folded form."""
    key = fold(name)
    return None if key == name else md5(key)


def mark_folded(connection: Connection, migration: str, names: Sequence[str]) -> None:
    """Mark the transfers whose folded forms coincide, among the `names` just written and all names
    written before, here and in the sibling migrations. The caller has locked the place's names.

    A transfer that was claimed before its counterpart was listed is entered at once: it may be
    running, or have run."""
    siblings = siblings_of(connection, migration)
    all_ids = [migration, *siblings]
    of = transfers.c.migration_id.in_(all_ids) & FOLDED
    if connection.execute(select(transfers.c.id).where(of).limit(1)).first() is None:
        return  # every name is its own folded form, so no two coincide
    groups: dict[str, dict[str, set[int]]] = defaultdict(lambda: defaultdict(set))
    odd = _rows(connection, [migration], keys=_union(names))
    odd += _other_rows(connection, siblings, names)
    plain = _rows(connection, all_ids, plain=_union(row.name for row in odd))
    for row in (*odd, *plain):
        groups[fold(row.name)][row.name].add(row.id)
    suspects = [group for group in groups.values() if len(group) > 1]
    ids = {id for group in suspects for some in group.values() for id in some}
    if siblings:  # their transfers of the same names were not needed before
        same = {name for group in suspects for name in group}
        ids |= {row.id for row in _rows(connection, siblings, plain=same) if row.name in same}
    for some in in_chunks(sorted(ids)):
        fresh = transfers.c.id.in_(some) & (transfers.c.twins == 0)
        begun = case((transfers.c.fence > 0, transfers.c.fence + 1), else_=MARKED)
        connection.execute(update(transfers).where(fresh).values(twins=begun))


def names_folded_with(connection: Connection, migration: str, names: Sequence[str]) -> set[str]:
    """Return those of some names of a destination that it may have folded from another name of a
    migration's transfers."""
    found: set[str] = set()
    for some in in_chunks(sorted(set(names))):
        keys = _union(some)
        rows = _rows(connection, [migration], keys=keys, plain=keys)
        sent: dict[str, set[str]] = defaultdict(set)
        for row in rows:
            for key in _keys(row.name):
                sent[key].add(row.name)
        found |= {name for name in some if any(sent[key] - {name} for key in _keys(name))}
    return found


def _other_rows(connection: Connection, siblings: Sequence[str], names: Sequence[str]) -> list[Any]:
    """Return the transfers of sibling migrations whose folded form differs from their name, and is
    that of one of `names` with which they are not listed. Most of them have those very names."""
    found: list[Any] = []
    for some in in_chunks(names) if siblings else ():
        found += _rows(connection, siblings, keys=_union(some), but=some)
    return found


def _union(names: Iterable[str]) -> set[str]:
    """Return the forms of some names."""
    return {key for name in names for key in _keys(name)}


def _rows(
    connection: Connection,
    ids: Sequence[str],
    keys: Collection[str] = (),
    plain: Collection[str] = (),
    but: Collection[str] = (),
) -> list[Any]:
    """Return the transfers of some migrations whose folded form differs from their name and is in
    `keys`, and those whose name is in `plain`; without those whose name is in `but`."""
    of = [transfers.c.migration_id.in_(ids)]
    if but:
        of.append(transfers.c.name.not_in(sorted(but)))
    found: list[Any] = []
    conditions: list[ColumnElement[bool]] = []
    for some in in_chunks(sorted(keys)):
        conditions.append(FOLDED & transfers.c.folded.in_([md5(key) for key in some]))
    conditions += [has_name(connection, some) for some in in_chunks(sorted(plain))]
    for condition in conditions:
        found += connection.execute(select(*_COLUMNS).where(*of, condition))
    return found


def enter_folded(connection: Connection, worker: WorkerId, claim: Claim) -> tuple[str, ...] | None:
    """Record that a marked transfer is being sent; return the names of the transfers with the same
    folded form that may have arrived. Returns None, and records nothing, while one of them runs.
    Raises LeaseLost."""
    key, keys = fold(claim.name), _keys(claim.name)
    among = [claim.migration_id, *siblings_of(connection, claim.migration_id)]
    ids = [row.id for row in _rows(connection, among, keys, keys) if fold(row.name) == key]
    # Rows are locked in the order that every transaction uses, and read after that.
    locked = (
        select(*_COLUMNS).where(transfers.c.id.in_(ids)).order_by(transfers.c.id).with_for_update()
    )
    rows = [row for row in connection.execute(locked) if row.id != claim.id]
    others = [row for row in rows if row.name != claim.name]
    # Entered by the present claim. A running one that has not entered yet waits for this one.
    if any(row.state == TransferState.RUNNING and row.twins == row.fence + 1 for row in others):
        return None
    _write(connection, worker, claim, claim.fence + 1)
    mine = (row for row in rows if row.name == claim.name and row.state in PRESENT)
    arrived = max((row.ended or 0.0 for row in mine), default=0.0)
    there = (row for row in others if row.twins > MARKED or row.state in PRESENT)
    return tuple(
        dict.fromkeys(row.name for row in there if not _is_past(row, claim.migration_id, arrived))
    )


def _is_past(row: Any, migration: str, arrived: float) -> bool:
    """Return whether a transfer of a sibling migration ended before another one had `arrived` under
    the name in question, which proves that its object is elsewhere, or was removed."""
    return row.migration_id != migration and row.ended is not None and row.ended <= arrived


def leave_folded(connection: Connection, worker: WorkerId, claim: Claim) -> None:
    """Record that an entered transfer has sent nothing. An object that had arrived before its
    transfer restarted may still be there, so its entry stays. Raises LeaseLost."""
    _write(connection, worker, claim, claim.twins if claim.twins == ARRIVED_EARLIER else MARKED)


def _write(connection: Connection, worker: WorkerId, claim: Claim, twins: int) -> None:
    ours = (
        (transfers.c.id == claim.id)
        & (transfers.c.fence == claim.fence)
        & (transfers.c.owner == worker.id)
        & RUNNING
    )
    if not connection.execute(update(transfers).where(ours).values(twins=twins)).rowcount:
        raise LeaseLost(f"the claim on {claim.name!a} was given to another worker")
