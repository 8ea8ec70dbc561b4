"""What a list of URLs promises of an object, held against what the source tells.

Decided here: when an object is not the one that was promised. Never here: what a list looks like (`stores/urls.py`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from relay.digest import Digests
from relay.engine.parts import COMBINED
from relay.errors import SourceChanged
from relay.receipt import Version
from relay.stores.interfaces import Found, PartLimits

F = TypeVar("F", bound=Found)

UNCOMPARED = "the digest that the list gives was not compared: the object is so large that it went in parts"


def as_promised(found: F, promised: Version | None) -> F:
    """Return what was found with the digests and the size that it was promised with.

    Raises SourceChanged where the source has another size than was promised.
    """
    if promised is None:
        return found
    size = found.version.size
    if None not in (promised.size, size) and promised.size != size:
        raise SourceChanged(
            f"the list says {promised.size} bytes, and the source has {size}",
            side="source",
            retryable=False,
            hint="Correct the list, or leave the size out; nothing was moved.",
        )
    digests: Digests = {**found.version.digests, **promised.digests}
    return replace(found, version=replace(found.version, digests=digests, size=promised.size if size is None else size))


def one_piece(promised: Version | None, limits: PartLimits | None, size: int | None) -> bool:
    """Say if an object must go in one piece, since only then what was promised can be compared, and it can."""
    if promised is None or limits is None or not promised.digests or COMBINED in promised.digests:
        return False
    return size is not None and size <= limits.largest


def uncompared(promised: Version | None) -> tuple[str, ...]:
    """Return the note of an object that went in parts, if what was promised could not be compared then."""
    return (UNCOMPARED,) if promised and promised.digests and COMBINED not in promised.digests else ()
