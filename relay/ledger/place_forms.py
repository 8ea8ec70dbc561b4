"""The forms in which migrations' destinations are compared.

Theory of operation. A destination has a place: a hash of its server, and the path there with one
spelling for each name (`relay.identity.place_in_server`). A remote's name, an alias and a URL may
lead to one place, and one remote to another place later, so a printed form identifies nothing. In
rows of an older relay only the printed destination is known. It is compared with such rows, with
the name as it is written and percent-encoded, as programs and as browsers do.

Decided here: which texts stand for one place. Never here: which object of another migration is
there (`nested.py`)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, unquote

from sqlalchemy import ColumnElement, Connection, exists, or_, select, true

from relay.ledger.schema import WITHOUT_PLACE, migrations

_PLAIN: Final = re.compile(r"[A-Za-z0-9_.~/-]*")
"""A name that percent-encoding does not change."""
_BROWSERS: Final = "/!$&'()*+,;=:@[]|~"
"""The characters of a path that browsers do not encode, besides letters, digits and "-._" (URL
standard, path percent-encode set)."""
_SCHEME: Final = re.compile(r"[^/:]+:")
_FOLDERS: Final = ("/", ":")
"""Ends of the printed form of a folder."""


@dataclass(frozen=True)
class Form:
    """One form of the destinations: their places, or their printed texts. A text of one form never
    equals one of the other: a printed form has a ':' or begins with '/'."""

    column: ColumnElement[Any]
    among: ColumnElement[bool]
    """The migrations that are compared so."""
    is_place: bool

    def of(self, row: Any) -> str:
        """Return the destination of a migration in this form."""
        return str(row.place if self.is_place else row.destination)

    def is_at(self, some: Sequence[str]) -> ColumnElement[bool]:
        """Return the condition for migrations to some destinations in this form."""
        return self.among & self.column.in_(some)

    def spellings(self, name: str) -> tuple[str, ...]:
        """Return a name below a folder in each possible spelling, the name itself first if that is
        one."""
        if _PLAIN.fullmatch(name):
            return (name,)
        encoded = quote(name, safe="/")
        return (encoded,) if self.is_place else (name, encoded, quote(name, safe=_BROWSERS))

    def in_folder(self, folder: str, place: str | None) -> set[str]:
        """Return the object at a printed `place` in its folder, in each possible spelling."""
        last = (place or "").rpartition("/")[2]
        names = {last, unquote(last)} if last else set()
        return {folder + (quote(one, safe="") if self.is_place else one) for one in names}

    def above(self, places: Iterable[str]) -> set[str]:
        """Return the parent folders of some places, each with a '/' at the end and without."""
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


def forms_of(connection: Connection, mine: Any) -> list[Form]:
    """Return the forms in which the other migrations are compared with `mine`: none without others,
    and the printed one only where no place is known."""
    is_other = migrations.c.id != mine.id
    older = exists().where(is_other, WITHOUT_PLACE)
    has_others, has_older = connection.execute(select(exists().where(is_other), older)).one()
    if not has_others:
        return []
    if mine.place is None:
        return [Form(migrations.c.destination, true(), is_place=False)]
    by_place = Form(migrations.c.place, true(), is_place=True)
    if not has_older:
        return [by_place]
    return [by_place, Form(migrations.c.destination, WITHOUT_PLACE, is_place=False)]


def is_same_place(mine: Any) -> ColumnElement[bool]:
    """Return the condition for migrations to the destination of `mine`."""
    printed: ColumnElement[bool] = migrations.c.destination == mine.destination
    if mine.place is None:
        return printed
    return or_(migrations.c.place == mine.place, printed & WITHOUT_PLACE)


def names_later(migration: Any) -> bool:
    """Return whether a migration moves a single object that gets its source's name: its location is
    unknown here."""
    there = migration.destination if migration.place is None else migration.place
    return not is_tree(migration) and str(there).endswith(_FOLDERS)


def is_tree(migration: Any) -> bool:
    """Return whether a migration moves a tree."""
    return bool(json.loads(migration.options).get("recursive"))


def base_of(folder: str) -> str:
    """Return what the places below a folder begin with."""
    return folder if folder.endswith(_FOLDERS) else f"{folder}/"
