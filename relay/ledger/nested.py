"""Find migrations whose destination is inside that of another one: a single object in a tree, or a
tree in a tree.

Theory of operation. Destinations are compared in their printed form. For each object its location
and every parent folder are looked up in the index of destinations, with the name as it is written
and percent-encoded, as programs and as browsers do. A single object whose destination is a folder
has its source's name there, which the ledger knows once a byte was sent.

Decided here: which object of another migration has the same location. Never here: leftovers there
(`unproved.py`)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote, unquote

from sqlalchemy import Connection, Select, exists, func, or_, select

from relay.ledger.names import in_chunks
from relay.ledger.rows import ARRIVED, PriorState
from relay.ledger.schema import migrations, transfers

_PLAIN: Final = re.compile(r"[A-Za-z0-9_.~/-]*")
"""A name that percent-encoding does not change."""
_BROWSERS: Final = "/!$&'()*+,;=:@[]|~"
"""The characters of a path that browsers do not encode, besides letters, digits and "-._" (URL
standard, path percent-encode set)."""
_SCHEME: Final = re.compile(r"[^/:]+:")
_FOLDERS: Final = ("/", ":")
"""Ends of the printed form of a folder."""


def nested_rows(
    connection: Connection,
    mine: Any,
    names: Sequence[str],
    query: Select[Any],
    place: str | None = None,
) -> list[tuple[Any, Mapping[str, str]]]:
    """Return the rows of a `query` for migrations whose destination contains some of a migration's
    objects, or is inside its own. Each row comes with a mapping from the other migration's names of
    these objects to ours. `place` is the location of an object that has its source's name."""
    is_named_later = names_later(mine)
    if (is_named_later and place is None) or not connection.execute(
        select(exists().where(migrations.c.id != mine.id))
    ).scalar():
        return []
    places = (
        dict.fromkeys(_in_folder(mine.destination, place), "")
        if is_named_later
        else _places(mine, names)
    )
    own: set[str] = set() if is_named_later else {mine.destination}
    found: list[tuple[Any, Mapping[str, str]]] = []
    above = _above(places)
    # Step 1: migrations of the same single object, or of a tree above it.
    for some in in_chunks(sorted({*places, *above} - own)):
        for row in connection.execute(query.where(migrations.c.destination.in_(some))).all():
            theirs = _theirs(row, places)
            found += [(row, theirs)] if theirs else []
    # Step 2: single objects that were sent into a folder above, by the names in their rows.
    of = query.add_columns(transfers.c.before).select_from(
        migrations.join(transfers, transfers.c.migration_id == migrations.c.id)
    )
    noted = (transfers.c.name == "") & (transfers.c.before != ARRIVED)
    for some in in_chunks(sorted(above)):
        for row in connection.execute(of.where(noted, migrations.c.destination.in_(some))).all():
            ours = {places[one] for one in _named_places(row) if one in places}
            found += [(row, {"": name}) for name in ours]
    return found


def left_near(connection: Connection, mine: Any, is_left: Any) -> set[str]:
    """Return names that include every object of a migration for which a nested migration may have
    left something. `is_left` is the condition of such transfers."""
    if names_later(mine):
        return set()
    if not _is_tree(mine):
        return {""}
    base = _base(mine.destination)
    of = select(transfers.c.name, transfers.c.before, migrations.c.destination).join(
        migrations, migrations.c.id == transfers.c.migration_id
    )
    below = func.substr(migrations.c.destination, 1, len(base)) == base
    above = migrations.c.destination.in_(sorted(_above([mine.destination])))
    other = (migrations.c.destination != mine.destination) | (transfers.c.name == "")
    places: set[str] = set()
    for row in connection.execute(of.where(or_(below, above), other, is_left)).all():
        if row.name:
            places.add(_base(row.destination) + row.name)
        else:
            places |= {row.destination, *_named_places(row)}
    names = {place.removeprefix(base) for place in places if place.startswith(base)}
    return names | {unquote(name) for name in names}


def names_later(migration: Any) -> bool:
    """Return whether a migration moves a single object that gets its source's name: its location is
    unknown here."""
    return not _is_tree(migration) and str(migration.destination).endswith(_FOLDERS)


def _named_places(row: Any) -> set[str]:
    """Return the locations, in each possible printed form, at which a single object may have been
    sent into a folder, by the state that its transfer recorded."""
    kept = PriorState.from_text(row.before)
    if kept is None or not row.destination.endswith(_FOLDERS):
        return set()
    places = (_in_folder(row.destination, place) for place in (kept.place, *kept.remains))
    return {one for some in places for one in some}


def _in_folder(folder: str, place: str | None) -> tuple[str, ...]:
    """Return the location of the object at `place` in its folder, in each possible printed form."""
    last = (place or "").rpartition("/")[2]
    return (folder + last, folder + unquote(last)) if last else ()


def _is_tree(migration: Any) -> bool:
    return bool(json.loads(migration.options).get("recursive"))


def _base(destination: str) -> str:
    return destination if destination.endswith(("/", ":")) else f"{destination}/"


def _places(mine: Any, names: Iterable[str]) -> dict[str, str]:
    """Return the names of some objects by their locations in each possible printed form."""
    if not _is_tree(mine):
        return {mine.destination: ""}
    base = _base(mine.destination)
    places = {base + name: name for name in names}
    odd = [name for name in names if not _PLAIN.fullmatch(name)]
    for safe in ("/", _BROWSERS):
        places |= {base + quote(name, safe=safe): name for name in odd}
    return places


def _above(places: Iterable[str]) -> set[str]:
    """Return the parent folders of some locations, each with a '/' at the end and without."""
    found: set[str] = set()
    for place in places:
        while "/" in place:
            place = place.rpartition("/")[0]
            if place in found:
                break
            found |= {place, f"{place}/"}
        if scheme := _SCHEME.match(place):
            found.add(scheme[0])
    return found


def _theirs(other: Any, places: Mapping[str, str]) -> dict[str, str]:
    """Return our names of the objects that another migration has as well, by its names for them."""
    if not _is_tree(other):
        return {"": places[other.destination]} if other.destination in places else {}
    base = _base(other.destination)
    names = {
        place.removeprefix(base): ours for place, ours in places.items() if place.startswith(base)
    }
    return names | {unquote(name): ours for name, ours in names.items()}
