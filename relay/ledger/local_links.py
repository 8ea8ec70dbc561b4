"""Links of a destination on this machine by which objects of a tree are written elsewhere.

Theory of operation. A link is written down before the first object goes through it, and then the
others are read: of two objects that go to one place by two links, the second learns of the first,
in whichever process, and after a kill.

Decided here: which objects of a tree go to one place. Never here: where a link leads
(`stores/local.py`), and what follows (`engine/links.py`)."""

from __future__ import annotations

from urllib.parse import unquote

from sqlalchemy import ColumnElement, Connection, insert, select, update

from relay.ledger.names import has_name, md5
from relay.ledger.rows import Claim
from relay.ledger.schema import links, migrations, transfers


def is_kept(connection: Connection, id: str, link: str, target: str) -> bool:
    """Say if a link of a migration is written down as it leads now."""
    return connection.execute(select(links.c.target).where(_of(id, link))).scalar() == target


def keep_link(connection: Connection, id: str, link: str, target: str) -> None:
    """Write down where a link of a migration leads."""
    connection.execute(
        select(migrations.c.id).where(migrations.c.id == id).with_for_update(key_share=True)
    )  # in turn
    if not connection.execute(update(links).where(_of(id, link)).values(target=target)).rowcount:
        connection.execute(
            insert(links).values(migration_id=id, mark=md5(link), path=link, target=target)
        )


def objects_at_link(
    connection: Connection, claim: Claim, link: str, there: str, tree: str | None = None
) -> dict[str, str]:
    """Return the states, by their names, of the other objects of a tree that go to the place
    `there`, to which a `link` leads a claimed one; of those that lie in the `tree` itself, too."""
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
    of = (transfers.c.migration_id == claim.migration_id) & (transfers.c.id != claim.id)
    columns = (transfers.c.name, transfers.c.state)
    rows = (
        connection.execute(select(*columns).where(of, has_name(connection, names))).all()
        if names
        else []
    )
    return {row.name: row.state for row in rows if row.name in names}


def _of(id: str, link: str) -> ColumnElement[bool]:
    return (links.c.migration_id == id) & (links.c.mark == md5(link))


def _is_below(there: str, target: str) -> bool:
    return there == target or there.startswith(f"{target}/")
