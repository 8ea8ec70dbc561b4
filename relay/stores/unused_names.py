"""Find out with names that never existed whether a server cuts a name, or decodes it twice.

Theory of operation. Something answers for a name that never existed if the server takes it for
another name. Some servers answer for any name: a second unused name, which no server cuts, shows
that.

Decided here: what two such names show, and which characters may cut a name. Never here: how an
unused name is made, how the server is asked, and what follows (`engine/transfer/cut_names.py` for
objects, `webdav/whole_names.py` for folders)."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from relay.location import Location

OBJECT_DELIMITER: Final = re.compile("%(?:3f|23|3b|26)", re.I)
"""An encoded '?', '#', ';' or '&', which may cut the name of an object. (A proxy may put a path
into a query.)"""
FOLDER_DELIMITER: Final = re.compile("%(?:25)*(?:3f|23|26)", re.I)
"""A '?', '#' or '&', encoded any number of times, which may cut the name of a folder and all behind
it. (A server that cuts a parameter at a ';' keeps the names behind it.)"""


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
