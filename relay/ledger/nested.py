"""Find migrations whose destination is inside that of another one: a single object in a tree, or a
tree in a tree.

Theory of operation. Destinations are compared by their places (`place_forms.py`). For each object
its place and every parent folder are looked up in an index. A single object whose destination is a
folder has its source's name there, which the ledger knows once a byte was sent.

Decided here: which object of another migration has the same location. Never here: leftovers there
(`unproved.py`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any
from urllib.parse import unquote

from sqlalchemy import Connection, Select, func, or_, select

from relay.ledger.names import in_chunks
from relay.ledger.place_forms import Form, base_of, forms_of, is_tree, names_later
from relay.ledger.prior_state_values import ARRIVED, PriorState
from relay.ledger.schema import migrations, transfers


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
    if is_named_later and place is None:
        return []
    query = query.add_columns(migrations.c.place)
    found: list[tuple[Any, Mapping[str, str]]] = []
    for form in forms_of(connection, mine):
        if is_named_later:
            places = dict.fromkeys(form.in_folder(form.of(mine), place), "")
            found += _rows_at(connection, form, query, places)
        else:
            places = _places(form, mine, names)
            # Migrations to the same destination are not nested.
            found += _rows_at(connection, form, query, places, but={form.of(mine)})
    return found


def _rows_at(
    connection: Connection,
    form: Form,
    query: Select[Any],
    places: Mapping[str, str],
    but: Set[str] = frozenset(),
) -> list[tuple[Any, Mapping[str, str]]]:
    """Return as `nested_rows`, by one form of the destinations: for some `places`, with our names
    of the objects there, and `but` for the migrations to some destinations."""
    found: list[tuple[Any, Mapping[str, str]]] = []
    above = form.above(places)
    # Step 1: migrations of the same single object, or of a tree above it.
    for some in in_chunks(sorted({*places, *above} - but)):
        for row in connection.execute(query.where(form.is_at(some))).all():
            theirs = _theirs(form, row, places)
            found += [(row, theirs)] if theirs else []
    # Step 2: single objects that were sent into a folder above, by the names in their rows.
    of = query.add_columns(transfers.c.before).select_from(
        migrations.join(transfers, transfers.c.migration_id == migrations.c.id)
    )
    noted = (transfers.c.name == "") & (transfers.c.before != ARRIVED)
    for some in in_chunks(sorted(above)):
        for row in connection.execute(of.where(noted, form.is_at(some))).all():
            ours = {places[one] for one in _named_places(form, row) if one in places}
            found += [(row, {"": name}) for name in ours]
    return found


def left_near(connection: Connection, mine: Any, is_left: Any) -> set[str]:
    """Return names that include every object of a migration for which a nested migration may have
    left something. `is_left` is the condition of such transfers."""
    if names_later(mine):
        return set()
    if not is_tree(mine):
        return {""}
    names: set[str] = set()
    for form in forms_of(connection, mine):
        names |= _left_by(connection, form, mine, is_left)
    return names


def _left_by(connection: Connection, form: Form, mine: Any, is_left: Any) -> set[str]:
    """Return as `left_near` for a tree, by one form of the destinations."""
    here = form.of(mine)
    base = base_of(here)
    columns = (transfers.c.name, transfers.c.before, migrations.c.destination, migrations.c.place)
    of = select(*columns, migrations.c.options)
    of = of.join(migrations, migrations.c.id == transfers.c.migration_id)
    below = form.among & (func.substr(form.column, 1, len(base)) == base)
    other = (form.column != here) | (transfers.c.name == "")
    places: set[str] = set()
    near = or_(below, form.is_at(sorted(form.above([here]))))
    for row in connection.execute(of.where(near, other, is_left)).all():
        there = form.of(row)
        if row.name:
            places.add(base_of(there) + form.spellings(row.name)[0])
        else:
            places |= {there, *_named_places(form, row)}
    names = {place.removeprefix(base) for place in places if place.startswith(base)}
    return names | {unquote(name) for name in names}


def _named_places(form: Form, row: Any) -> set[str]:
    """Return the places, in each possible spelling, at which a single object may have been sent
    into a folder, by the state that its transfer recorded."""
    kept = PriorState.from_text(row.before)
    if kept is None or not names_later(row):
        return set()
    found = (form.in_folder(form.of(row), place) for place in (kept.place, *kept.remains))
    return {one for some in found for one in some}


def _places(form: Form, mine: Any, names: Iterable[str]) -> dict[str, str]:
    """Return the names of some objects by their places in each possible spelling."""
    here = form.of(mine)
    if not is_tree(mine):
        return {here: ""}
    base = base_of(here)
    spelled = [(name, form.spellings(name)) for name in names]
    places = {base + some[0]: name for name, some in spelled}
    # A name as it is written may be another one's encoded form.
    return places | {base + one: name for name, some in spelled for one in some[1:]}


def _theirs(form: Form, other: Any, places: Mapping[str, str]) -> dict[str, str]:
    """Return our names of the objects that another migration has as well, by its names for them."""
    there = form.of(other)
    if not is_tree(other):
        return {"": places[there]} if there in places else {}
    base = base_of(there)
    names = {
        place.removeprefix(base): ours for place, ours in places.items() if place.startswith(base)
    }
    plain = {} if form.is_place else names
    return plain | {unquote(name): ours for name, ours in names.items()}
