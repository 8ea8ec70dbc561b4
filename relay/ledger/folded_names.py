"""Names that differ here, and that a store may fold into one (case, Unicode form, trailing
characters).

Theory of operation. Each name that is another in its folded form is kept with a digest of that; the
names of a page that share one are marked when they are listed. Whoever has claimed a marked one
enters it before it is sent: no two of one form are ever under way at a time, and the second learns
of the first, to look if the destination tells them apart. A name that is its own folded form costs
nothing but a look into an index of the others.

Decided here: which names may be one. Never here: whether they are
(`relay/engine/transfer/folded_names.py`)."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import Any, Final
from unicodedata import normalize
from urllib.parse import unquote

from sqlalchemy import ColumnElement, Connection, case, select, update

from relay.errors import LeaseLost
from relay.ledger.claims import WorkerId, in_chunks
from relay.ledger.names import has_name, md5
from relay.ledger.rows import MARKED as MARKED
from relay.ledger.rows import Claim
from relay.ledger.schema import FOLDED, RUNNING, transfers

LONGEST: Final = 1024
"""So many letters a segment may have, and be folded: the stores that compose take 255."""
DECODINGS: Final = 4
"""So often a name is decoded: each server and proxy on its way may do it once."""
_OWN: Final = re.compile(r"[a-z0-9_-]+(?:[./][a-z0-9_-]+)*+")
"""Names that are their own folded form, as most are: it takes a tenth of the time to see that at
once."""
_THERE: Final = frozenset({"verified", "unverified", "skipped"})
_COLUMNS: Final = (
    transfers.c.id,
    transfers.c.name,
    transfers.c.folded,
    transfers.c.state,
    transfers.c.fence,
    transfers.c.twins,
)


def fold(name: str) -> str:
    """Return the form in which a name is the same as all that any store may take for it: without
    case (NTFS, APFS, SMB), composed (APFS, HFS+), decoded once more (servers behind proxies), with
    '+' for a blank (servers that decode a path as a form), without empty segments (file systems),
    and without dots and blanks at the end of a segment (Windows), or blanks at its begin (servers
    that trim what they read)."""
    if _OWN.fullmatch(name):
        return name
    plain = name.isascii() and not any(mark in name for mark in ("%", "+", "\\", "//"))
    text = name.lower() if plain else "/".join(map(_compose, _decode(name).split("/")))
    if not (text.startswith(" ") or any(end in f"{text}/" for end in ("./", " /", "//", "/ "))):
        return text
    segments = (segment.rstrip(". ").lstrip(" ") or segment for segment in text.split("/"))
    return "/".join(segment for segment in segments if segment)


def _compose(segment: str) -> str:
    """Longer ones are as they are: no store that composes takes them, and marks are put in order in
    quadratic time."""
    return (
        segment
        if len(segment) > LONGEST
        else normalize("NFC", normalize("NFD", segment).casefold())
    )


def _decode(name: str) -> str:
    """What is no UTF-8 then is all one: names that only may be the same are looked at
    (`relay/engine/transfer/folded_names.py`)."""
    for _ in range(DECODINGS):
        text = unquote(name)
        if text == name:
            break
        name = text
    return name.replace("\\", "/").replace("+", " ")


def folded_digest(name: str) -> str | None:
    """Return what is kept of a name that is another in its folded form: a digest of that. None of
    any other."""
    key = fold(name)
    return None if key == name else md5(key)


def mark_folded(connection: Connection, migration: str, names: Sequence[str]) -> None:
    """Mark those of some names that were just written, and of those that were written before, of
    which two are one.

    One that was claimed before anybody knew of the other is entered with that: it may be under way,
    or have been."""
    of = (transfers.c.migration_id == migration) & FOLDED
    if connection.execute(select(transfers.c.id).where(of).limit(1)).first() is None:
        return  # no name has another form, so no two have the same
    groups: dict[str, set[int]] = defaultdict(set)
    odd = _rows(connection, migration, keys={fold(name) for name in names})
    plain = _rows(connection, migration, plain={fold(row.name) for row in odd})
    for row in (*odd, *plain):
        groups[fold(row.name)].add(row.id)
    ids = [id for group in groups.values() if len(group) > 1 for id in group]
    for some in in_chunks(ids):
        fresh = transfers.c.id.in_(some) & (transfers.c.twins == 0)
        begun = case((transfers.c.fence > 0, transfers.c.fence + 1), else_=MARKED)
        connection.execute(update(transfers).where(fresh).values(twins=begun))


def _rows(
    connection: Connection,
    migration: str,
    keys: Collection[str] = (),
    plain: Collection[str] = (),
) -> list[Any]:
    """Return the transfers of which the folded forms, other than their names, are some `keys`, and
    those that have some `plain` names."""
    of = transfers.c.migration_id == migration
    found: list[Any] = []
    conditions: list[ColumnElement[bool]] = []
    for some in in_chunks(sorted(keys)):
        conditions.append(FOLDED & transfers.c.folded.in_([md5(key) for key in some]))
    conditions += [has_name(connection, some) for some in in_chunks(sorted(plain))]
    for condition in conditions:
        found += connection.execute(select(*_COLUMNS).where(of, condition))
    return found


def enter_folded(connection: Connection, who: WorkerId, claim: Claim) -> tuple[str, ...] | None:
    """Write that a marked transfer goes to its destination now; return the names of those that may
    be there already under the same one. None, and nothing is written, while one of them is under
    way. Raises LeaseLost."""
    key = fold(claim.name)
    ids = [
        row.id
        for row in _rows(connection, claim.migration_id, {key}, {key})
        if fold(row.name) == key
    ]
    # In the order in which everybody locks them, and as they are then.
    locked = (
        select(*_COLUMNS).where(transfers.c.id.in_(ids)).order_by(transfers.c.id).with_for_update()
    )
    others = [row for row in connection.execute(locked) if row.id != claim.id]
    if any(row.state == "running" and row.twins == row.fence + 1 for row in others):
        return None
    _write(connection, who, claim, claim.fence + 1)
    return tuple(row.name for row in others if row.twins > MARKED or row.state in _THERE)


def leave_folded(connection: Connection, who: WorkerId, claim: Claim) -> None:
    """Write that one that was entered has put nothing there. Raises LeaseLost."""
    _write(connection, who, claim, MARKED)


def _write(connection: Connection, who: WorkerId, claim: Claim, twins: int) -> None:
    ours = (
        (transfers.c.id == claim.id)
        & (transfers.c.fence == claim.fence)
        & (transfers.c.owner == who.id)
        & RUNNING
    )
    if not connection.execute(update(transfers).where(ours).values(twins=twins)).rowcount:
        raise LeaseLost(f"the claim on {claim.name!a} was given to another worker")
