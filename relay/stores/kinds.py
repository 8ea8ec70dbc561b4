"""The description of one kind of store: all that the rest of relay needs to know of it.

Decided here: what a kind consists of. Never here: which kinds there are (`stores/table.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from relay.errors import Side
from relay.location import Location
from relay.wire.exchange import Wire
from relay.wire.watchdog import Watchdog

Options = Mapping[str, str]
Given = Mapping[str, str] | Iterable[tuple[str, str]]


@dataclass(frozen=True)
class Remote:
    """A named store. `options` hold secrets; `origin` says where it was found."""

    name: str
    type: str
    origin: str
    options: Options = field(repr=False, default_factory=dict)


@dataclass(frozen=True)
class LocateOptions:
    """What came with a text that is to be located: the upload's method, headers of the caller's,
    and for what it is."""

    method: str | None = None
    headers: Given = ()
    destination: bool = False
    folder: bool = False


@dataclass(frozen=True)
class StoreType:
    """One kind of store.

    `name` is what the accounts of its Locations call it. `opens` makes the Store of one transfer.
    `schemes` make a Location of a whole text that begins so ("az": `az://…`), `types` one of a
    remote of that type and the path behind its name; both raise a RequestError, or ConfigError
    where the remote's own options are at fault."""

    name: str
    opens: Callable[[Wire, Side, Watchdog], Any]
    schemes: Mapping[str, Callable[[str, LocateOptions], Location]] = field(default_factory=dict)
    types: Mapping[str, Callable[[Remote, str, LocateOptions], Location]] = field(
        default_factory=dict
    )
