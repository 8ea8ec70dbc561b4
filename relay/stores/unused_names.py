"""Names that never existed: what a server answers for one shows what it does with any name.

Theory of operation. A server that cuts names, or decodes them twice, takes such a name for another
one, and something answers for it. Some servers answer for any name, with a page or a redirect: then
an answer proves no object. If a server may do both, a second unused name, which no server cuts,
tells the two apart.

Decided here: how an unused name beside an object is made, which characters may cut a name, and what
two unused names show. Never here: how the server is asked, and what follows
(`engine/transfer/cut_names.py` and `wrong_pages.py` for objects, `webdav/whole_names.py` for
folders, `http_reads.py` for redirects)."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from uuid import uuid4

from relay.location import Location

OBJECT_DELIMITER: Final = re.compile("%(?:3f|23|3b|26)", re.I)
"""An encoded '?', '#', ';' or '&', which may cut the name of an object. (A proxy may put a path
into a query.)"""
FOLDER_DELIMITER: Final = re.compile("%(?:25)*(?:3f|23|26)", re.I)
"""A '?', '#' or '&', encoded any number of times, which may cut the name of a folder and all behind
it. (A server that cuts a parameter at a ';' keeps the names behind it.)"""


def unused_name_beside(place: Location, *, keeps_stem: bool = False) -> Location:
    """Return the location of a name that never existed, in the folder of `place`. It has the ending
    of that name, by which a server may decide, and the query, without whose token it may refuse any
    name. Unless it `keeps_stem`, it is short, so that no server refuses its length."""
    path = place.path.rstrip("/")
    slashes, query = place.path[len(path) :], place.target[len(place.path) :]
    folder, _, name = path.rpartition("/")
    stem, dot, ending = name.rpartition(".") if "." in name else (name, "", "")
    unused = f"{stem}-{uuid4().hex}" if keeps_stem else uuid4().hex
    return place.with_target(f"{folder}/{unused}{dot}{ending}{slashes}{query}")


@dataclass(frozen=True)
class UnusedNames:
    """Two names that never existed: a server that cuts names takes `cut` for another name, and
    none takes `plain` for another one."""

    cut: Location
    plain: Location


def is_name_cut(names: UnusedNames, is_there: Callable[[Location], bool | None]) -> bool | None:
    """Return whether a server cuts names; None if the two do not show it.

    `is_there` returns whether something has a name, None if the server does not show that; its
    errors are raised."""
    found = is_there(names.cut)
    if found and is_there(names.plain) is not False:
        return None
    return found
