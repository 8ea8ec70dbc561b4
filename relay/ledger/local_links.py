"""Symbolic links in a local destination through which objects of a tree are written elsewhere.

Theory of operation. A link is recorded before the first object is written through it, and then the
other recorded links are read. If two objects reach one location through two links, the second finds
the first, in any process and after a kill.

Decided here: which objects of a tree reach the same location. Never here: the target of a link (the
local store), and what follows from it (the engine)."""

from __future__ import annotations

from urllib.parse import unquote

from sqlalchemy import ColumnElement, Connection, insert, select, update

from relay.ledger.names import has_name, md5
from relay.ledger.rows import Claim
from relay.ledger.schema import links, migrations, transfers


def is_kept(connection: Connection, id: str, link: str, target: str) -> bool:
    """Return whether a link of a migration is recorded with this target."""
    return connection.execute(select(links.c.target).where(_of(id, link))).scalar() == target


def keep_link(connection: Connection, id: str, link: str, target: str) -> None:
    """Record the target of a migration's link."""
    connection.execute(
        select(migrations.c.id).where(migrations.c.id == id).with_for_update(key_share=True)
    )  # so that workers record links one at a time
    if not connection.execute(update(links).where(_of(id, link)).values(target=target)).rowcount:
        connection.execute(
            insert(links).values(migration_id=id, mark=md5(link), path=link, target=target)
        )


def objects_at_link(
    connection: Connection, claim: Claim, link: str, there: str, tree: str | None = None
) -> dict[str, str]:
    """Return the states, by name, of the other objects of a tree that reach the location `there`,
    which a claimed object reaches through a `link`. With `tree`, the path of the tree itself,
    objects that reach it without a link are included."""
    kept = select(links.c.path, links.c.target).where(links.c.migration_id == claim.migration_id)
    others = {
        row.path: row.target for row in connection.execute(kept.where(links.c.mark != md5(link)))
    }
    if tree is not None:
        others[""] = tree
    names = {
        unquote(path + there[len(to) :]).lstrip("/")
        for path, to in others.items()
        if _is_below(there, to)
    }
    if not names:
        return {}
    of = (transfers.c.migration_id == claim.migration_id) & (transfers.c.id != claim.id)
    columns = (transfers.c.name, transfers.c.state)
    rows = connection.execute(select(*columns).where(of, has_name(connection, names))).all()
    return {row.name: row.state for row in rows if row.name in names}


def _of(id: str, link: str) -> ColumnElement[bool]:
    return (links.c.migration_id == id) & (links.c.mark == md5(link))


def _is_below(there: str, target: str) -> bool:
    return there == target or there.startswith(f"{target}/")
