"""Symbolic links in a local destination through which objects of a tree are written, or skipped,
elsewhere.

Theory of operation. A link is recorded before the first object is written or skipped through it,
and then the other recorded links are read. If two objects reach one location through two links, the
second finds the first, in any process and after a kill. A skip finds uploads alone: an object that
was there before may be left there for both. Of the sibling migrations (`siblings.py`) only objects
that are there, or are being sent, count.

Decided here: which objects of a tree reach the same location. Never here: the target of a link (the
local store), and what follows from it (the engine)."""

from __future__ import annotations

from urllib.parse import unquote

from sqlalchemy import Connection, case, insert, select, update

from relay.ledger.claim_values import Claim
from relay.ledger.names import has_name, md5
from relay.ledger.prior_state_values import ARRIVED, DOUBTED, HAD_ARRIVED, SENT
from relay.ledger.schema import LAPSED, links, migrations, transfers
from relay.ledger.siblings import siblings_of
from relay.ledger.states import PRESENT, TransferState

_UPLOADED = ~links.c.mark.startswith("s")
"""Condition on a link: an object is written through it, and not only skipped."""
_THERE = transfers.c.state.in_(sorted(PRESENT | {TransferState.RUNNING}))
"""Condition on a transfer: its object is at the destination, or is being sent there."""
_BEFORE = transfers.c.before
_HAD_ARRIVED = (
    (_BEFORE == ARRIVED)
    | _BEFORE.contains(HAD_ARRIVED)
    | _BEFORE.contains(DOUBTED)
    | _BEFORE.contains(SENT)
)
"""Condition on a transfer: an earlier claim may have stored its object. (In a local folder, where
objects are published whole, no claim that has sent nothing leaves such a note.)"""


def is_kept(
    connection: Connection, id: str, link: str, target: str, *, skipped: bool = False
) -> bool:
    """Return whether a link of a migration is recorded with this target."""
    of = (links.c.migration_id == id) & (links.c.mark == _mark(link, skipped=skipped))
    return connection.execute(select(links.c.target).where(of)).scalar() == target


def keep_link(
    connection: Connection, id: str, link: str, target: str, *, skipped: bool = False
) -> None:
    """Record the target of a migration's link, which leads an uploaded or a skipped object to its
    place."""
    connection.execute(
        select(migrations.c.id).where(migrations.c.id == id).with_for_update(key_share=True)
    )  # so that workers record links one at a time
    mark = _mark(link, skipped=skipped)
    of = (links.c.migration_id == id) & (links.c.mark == mark)
    if not connection.execute(update(links).where(of).values(target=target)).rowcount:
        values = {"migration_id": id, "mark": mark, "path": link, "target": target}
        connection.execute(insert(links).values(**values))


def objects_at_link(
    connection: Connection, claim: Claim, link: str, there: str, tree: str | None = None
) -> dict[str, str]:
    """Return the states, by name, of the other objects of a tree, and of its sibling migrations,
    that reach the location `there`, which a claimed object reaches through a `link`. With `tree`,
    the path of the tree itself, the claimed object is skipped: objects that reach the location
    without a link are included, and those that are skipped themselves are not. An object that had
    arrived, and is to move again, counts as unverified."""
    among = [claim.migration_id, *siblings_of(connection, claim.migration_id)]
    kept = select(links.c.path, links.c.target).where(
        links.c.migration_id.in_(among), links.c.path != link
    )
    if tree is not None:
        kept = kept.where(_UPLOADED)
    others = {(row.path, row.target) for row in connection.execute(kept)}
    if tree is not None:
        others.add(("", tree))
    # The names that lead to `there` through the other links: a link's path, and the rest of
    # `there` below the link's target.
    names = {
        unquote(path + there[len(to) :]).lstrip("/") for path, to in others if _is_below(there, to)
    }
    if not names:
        return {}
    ours = transfers.c.migration_id == claim.migration_id
    of = (ours | _THERE | _HAD_ARRIVED | LAPSED) & transfers.c.migration_id.in_(among)
    again = (_HAD_ARRIVED, TransferState.UNVERIFIED.value)
    state = case((_THERE, transfers.c.state), again, else_=transfers.c.state).label("state")
    query = select(transfers.c.name, state).where(of, has_name(connection, names))
    # The state of its own tree counts; of the others that of an object which is there.
    rows = connection.execute(query.order_by(ours, _THERE)).all()
    return {row.name: row.state for row in rows if row.name in names - {claim.name}}


def _mark(link: str, *, skipped: bool) -> str:
    return f"s{md5(link)[1:]}" if skipped else md5(link)


def _is_below(there: str, target: str) -> bool:
    return there == target or there.startswith(f"{target}/")
