"""The description of one type of store: everything that the rest of relay needs to know about it.

Decided here: what such a description contains. Never here: which types there are
(`stores/table.py`)."""

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
    """A named store. `options` contain secrets; `origin` names the file or settings it is from."""

    name: str
    type: str
    origin: str
    options: Options = field(repr=False, default_factory=dict)


@dataclass(frozen=True)
class LocateOptions:
    """The request's options for a text that is to be located: the upload's method, the caller's
    headers, and whether it is a destination or a folder."""

    method: str | None = None
    headers: Given = ()
    destination: bool = False
    folder: bool = False


@dataclass(frozen=True)
class StoreType:
    """One type of store.

    `name` is the `store` of the accounts of its Locations. `opens` creates the Store of one
    transfer. `schemes` make a Location of a text with that scheme ("az": `az://…`), `types` of a
    remote of that type and the path after its name. Both raise a RequestError, or ConfigError if
    the remote's own options are wrong."""

    name: str
    opens: Callable[[Wire, Side, Watchdog], Any]
    schemes: Mapping[str, Callable[[str, LocateOptions], Location]] = field(default_factory=dict)
    types: Mapping[str, Callable[[Remote, str, LocateOptions], Location]] = field(
        default_factory=dict
    )
